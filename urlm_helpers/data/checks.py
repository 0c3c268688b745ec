"""The checks behind `urlm_helpers.data.from_frames`: each names the bad row."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Schema, SchemaError


def rows(frame: pd.DataFrame, bad: pd.Series) -> str:
    """Say how many rows are bad and show the first one."""
    where = np.flatnonzero(bad.to_numpy(dtype=bool))
    at = where[0]
    ids = ", ".join(
        f"{c}={show(frame[c].iloc[at])}" for c in ("user", "item") if c in frame.columns
    )
    count = f"{len(where):,} row{'s' if len(where) > 1 else ''}"
    return f"{count}, e.g. at index {show(frame.index[at])} ({ids})"


def show(value: object) -> str:
    """Write a value as Python does (``2``, not ``np.int64(2)``)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def check_columns(
    name: str, frame: pd.DataFrame, needed: tuple[str, ...], hint: str = ""
) -> None:
    """Check that a table is one, has the columns needed, and none twice."""
    if not isinstance(frame, pd.DataFrame):
        raise SchemaError(f"{name} must be a pandas DataFrame, got {type(frame)}")
    columns = list(frame.columns)
    if missing := [c for c in needed if c not in columns]:
        raise SchemaError(
            f"{name}{hint} has no column {missing}: the schema needs {list(needed)}, "
            f"the table has {columns}"
        )
    if twice := list(frame.columns[frame.columns.duplicated()]):
        raise SchemaError(f"{name} has more than one column named {twice}: rename them")


def check_ids(key: str, table: pd.DataFrame, logs: dict[str, pd.DataFrame]) -> None:
    """Check that ids are there, unique, and know all ids of the logs."""
    ids = table[key]
    if (bad := ids.isna()).any():
        raise SchemaError(f"{key}s: {rows(table, bad)} have no id: drop the row")
    if (bad := ids.duplicated()).any():
        raise SchemaError(
            f"{key}s: id not unique in {rows(table, bad)}: keep one row per {key}"
        )
    for log_name, log in logs.items():
        if (bad := ~log[key].isin(ids)).any():
            raise SchemaError(
                f"{log_name}: unknown {key!r} in {rows(log, bad)}: add the id to "
                f"{key}s or drop the row ({log_name}[{key!r}] is {log[key].dtype}, "
                f"{key}s[{key!r}] is {ids.dtype})"
            )


def check_values(log: pd.DataFrame, schema: Schema) -> None:
    """Check scenarios, 0/1 labels and the funnel of the interactions."""
    if (bad := ~log["scenario"].isin(schema.scenarios)).any():
        found = log.loc[bad.to_numpy(), "scenario"].iloc[0]
        raise SchemaError(
            f"interactions: unknown scenario {show(found)} in {rows(log, bad)}: the "
            f"schema has {schema.scenarios}"
        )
    for task in schema.tasks:
        if (bad := ~log[task].isin([0, 1])).any():
            found = log.loc[bad.to_numpy(), task].iloc[0]
            raise SchemaError(
                f"interactions: label {task!r} is {show(found)} in {rows(log, bad)}: a "
                "label must be 0 or 1, and never missing"
            )
    for child, parent in schema.funnel.items():
        if (bad := (log[child] == 1) & (log[parent] == 0)).any():
            raise SchemaError(
                f"interactions: {child!r} is 1 where {parent!r} is 0 in "
                f"{rows(log, bad)}; {child!r} needs {parent!r}, so set {parent!r} to "
                f"1 there or leave {child!r} out of the funnel"
            )


def check_numbers(name: str, frame: pd.DataFrame, numeric: Sequence[str]) -> None:
    """Check that numeric features are numbers; they may be missing, not infinite."""
    for column in numeric:
        found = frame[column]
        if not pd.api.types.is_numeric_dtype(found):
            bad = found.notna() & pd.to_numeric(found, errors="coerce").isna()
            bad = bad if bad.any() else pd.Series(True, found.index)
            raise SchemaError(
                f"{name}: numeric feature {column!r} has dtype {found.dtype}, with "
                f"{show(found[bad.to_numpy()].iloc[0])} in {rows(frame, bad)}: convert "
                "it with pd.to_numeric, or declare it categorical"
            )
        if (bad := found.isin([np.inf, -np.inf])).any():
            raise SchemaError(
                f"{name}: numeric feature {column!r} is infinite in "
                f"{rows(frame, bad)}: give a number, or leave it missing"
            )


def parse_time(name: str, frame: pd.DataFrame) -> pd.Series:
    """Return the column `time` as datetime64[ns] without a zone (UTC)."""
    raw = frame["time"]
    kind = pd.api.types.infer_dtype(raw, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float"):
        seconds = pd.to_numeric(raw).astype("float64")
        limit = pd.Timestamp.max.timestamp() - 1
        bad = ~seconds.between(-limit, limit) | (seconds % 1 != 0)
        parsed = pd.to_datetime(raw.where(~bad, 0).astype("int64"), unit="s")
    else:
        if kind not in ("string", "datetime", "datetime64", "date"):  # a mixture
            raw = raw.astype(object)
            strange = ~raw.map(lambda value: isinstance(value, str | date))
        else:
            strange = pd.Series(False, index=raw.index)
        text = raw.where(~strange, None)
        parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
        parsed = parsed.dt.tz_localize(None)
        bad = ~parsed.between(pd.Timestamp.min, pd.Timestamp.max)
    if bad.any():
        found = show(raw[bad.to_numpy()].iloc[0])
        raise SchemaError(
            f"{name}: can't read 'time' = {found} ({kind}) in "
            f"{rows(frame, bad)}: give datetimes, ISO 8601 strings such as "
            "'2026-01-31 18:00:00', or whole seconds since 1970"
        )
    return parsed.astype("datetime64[ns]")
