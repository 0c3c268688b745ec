"""The checks of every door: each names the column, the bad row and what would be right.

A door is where tables come in: `urlm_helpers.data.from_frames` for a log,
`urlm_helpers.preprocessing.Encoder.transform`, `urlm_helpers.recommendation.candidates`
and the service for rows to be scored. What one of them refuses, all refuse, in the
same words.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Schema, SchemaError

TYPES = {
    "integer": "whole numbers",
    "floating": "numbers",
    "string": "text",
    "boolean": "True and False",
}
"""How messages call the types that pandas tells apart; another has pandas' name."""

NUMBERS = {"integer", "floating"}


class Kind(NamedTuple):
    """What type of values a column has ("empty" if there are none), and one of them."""

    name: str
    example: str

    @classmethod
    def of(cls, values: pd.Series) -> "Kind":
        """Look at a column; gaps do not count."""
        there = values.notna().to_numpy()
        if not there.any():
            return cls("empty", "")
        return cls(kind_of(values), show(values.iloc[there.argmax()]))

    def __str__(self) -> str:
        return f"{TYPES.get(self.name, self.name)} such as {self.example}"


def kind_of(values: pd.Series) -> str:
    """Name the type of a column's values as pandas does; gaps do not count."""
    plain: Any = values
    if isinstance(values.dtype, pd.CategoricalDtype):
        plain = values.cat.categories
    kind = pd.api.types.infer_dtype(plain, skipna=True)
    return "floating" if kind == "mixed-integer-float" else kind


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


def check_log(
    name: str, log: pd.DataFrame, schema: Schema, labels: tuple[str, ...] = ()
) -> None:
    """Check the columns of a log or of rows to be scored, and what their cells hold."""
    time = ("time",) if schema.timed else ()
    context = schema.features("context")
    needed = ("user", "item", "scenario", *time, *labels, *context)
    check_columns(name, log, needed)
    for side in ("user", "item"):
        if both := [c for c in schema.features(side) if c in log.columns]:
            raise SchemaError(
                f"{name} has a column {both}, which is a feature of the {side}s and "
                f"comes from their table: drop it here, .drop(columns={both}); a value "
                "that changes with time is a context column, and not in that table"
            )
    if log.empty:
        raise SchemaError(f"{name} has no rows: there is nothing to learn or to score")
    check_ids(name, log, ("user", "item"))
    check_cells(name, log, needed)
    check_types(name, log, schema.context_categorical)


def check_timed(name: str, schema: Schema) -> None:
    """Check that a log has times, or at least an order."""
    if not schema.timed:
        raise SchemaError(
            f"{name} has no times: no past can be told from a future. If its rows have "
            "an order (terms, rounds), number the steps in a column 'time' and say "
            "Schema(time_unit='D'): the cuts are numbers of steps then"
        )


def check_ids(name: str, log: pd.DataFrame, keys: Iterable[str]) -> None:
    """Check that no id is missing, and that the ids of a column are of one type."""
    for key in keys:
        if (missing := log[key].isna()).any():
            raise SchemaError(
                f"{name}: no {key!r} in {rows(log, missing)}: fill in the id or drop "
                "the row"
            )
        check_cells(name, log, [key])
        check_types(name, log, [key])


def check_cells(name: str, frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Check that a cell holds one value, not a list, a set or an array of them."""
    for column in columns:
        if not kind_of(frame[column]).startswith(("mixed", "unknown")):
            continue
        several = frame[column].map(pd.api.types.is_list_like).astype(bool)
        if several.any():
            found = show(frame[column][several.to_numpy()].iloc[0])
            raise SchemaError(
                f"{name}: {column!r} is {found} in {rows(frame, several)}: a cell "
                "holds one value. Give several as one 0/1 column for each, or joined "
                "to one text ('a|b') if the combination is what counts"
            )


def check_types(name: str, frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Check that ids and categories are of one type each, numbers exact."""
    for column in columns:
        values, kind = frame[column], kind_of(frame[column])
        if kind.startswith(("mixed", "unknown")):
            types = values.map(lambda value: type(value).__name__)
            several = types[values.notna()].unique().tolist()
            bad = values.notna() & (types != several[0])
            if not bad.any():  # one type that pandas has no name for
                continue
            raise SchemaError(
                f"{name}: {column!r} has values of several types, {several}, such as "
                f"{show(values.dropna().iloc[0])} and "
                f"{show(values[bad.to_numpy()].iloc[0])} in {rows(frame, bad)}: make "
                "them one type, such as text with .astype(str)"
            )
        if kind not in NUMBERS or values.dtype.kind == "i":
            continue
        exact = 24 if values.dtype in ("float32", "Float32") else 53
        limit = 2**63 if kind == "integer" else 2**exact
        bad = (values >= limit) | (values < -limit)
        if (bad := bad.fillna(False).astype(bool)).any():
            raise SchemaError(
                f"{name}: {column!r} is {show(values[bad.to_numpy()].iloc[0])} in "
                f"{rows(frame, bad)}: too large for {TYPES[kind]} of this type, which "
                "would be rounded. Read the column as text"
            )


def alike(name: str, frame: pd.DataFrame, column: str, known: Kind) -> pd.Series:
    """Return a column in the type of the known values; refuse what would change.

    The number 7.0 is the id 7, but no text is: ``"7"`` and ``"007"`` may be two ids.
    """
    values = frame[column]
    came = Kind.of(values).name
    if came == known.name or "empty" in (came, known.name):
        bad = pd.Series(False, frame.index)
    elif {came, known.name} <= NUMBERS:
        number = pd.to_numeric(values, errors="coerce").astype("float64")
        bad = values.notna() & (number % 1 != 0)
    else:
        bad = values.notna()
    if bad.any():
        raise SchemaError(
            f"{name}: {column!r} is {TYPES.get(came, came)}, "
            f"{show(values[bad.to_numpy()].iloc[0])} in {rows(frame, bad)}, but the "
            f"values known are {known}: convert the column, the same values must have "
            "the same type"
        )
    if known.name == "integer" and values.dtype.kind != "i" and values.notna().all():
        return values.astype("int64")
    return values


def check_keys(key: str, table: pd.DataFrame) -> None:
    """Check that the ids of a table are there, of one type, and unique."""
    ids = table[key]
    if (bad := ids.isna()).any():
        raise SchemaError(f"{key}s: {rows(table, bad)} have no id: drop the row")
    check_ids(f"{key}s", table, [key])
    if (bad := ids.duplicated()).any():
        raise SchemaError(
            f"{key}s: id not unique in {rows(table, bad)}: keep one row per {key}"
        )


def check_known(name: str, log: pd.DataFrame, table: pd.DataFrame, key: str) -> None:
    """Check that the table knows all ids of a log."""
    if (bad := ~log[key].isin(table[key])).any():
        raise SchemaError(
            f"{name}: unknown {key!r} in {rows(log, bad)}: add the id to "
            f"{key}s or drop the row ({name}[{key!r}] is {log[key].dtype}, "
            f"{key}s[{key!r}] is {table[key].dtype})"
        )


def check_scenarios(name: str, log: pd.DataFrame, schema: Schema) -> None:
    """Check that the schema has every scenario of a log."""
    if (bad := ~log["scenario"].isin(schema.scenarios)).any():
        found = log.loc[bad.to_numpy(), "scenario"].iloc[0]
        raise SchemaError(
            f"{name}: unknown scenario {show(found)} in {rows(log, bad)}: the "
            f"schema has {schema.scenarios}"
        )


def check_flags(
    name: str, frame: pd.DataFrame, columns: Iterable[str], what: str
) -> None:
    """Check that columns of 0 and 1 hold nothing else."""
    for column in columns:
        if (bad := ~frame[column].isin([0, 1])).any():
            found = frame.loc[bad.to_numpy(), column].iloc[0]
            raise SchemaError(
                f"{name}: {what} {column!r} is {show(found)} in {rows(frame, bad)}: a "
                f"{what} must be 0 or 1, and never missing"
            )


def check_labels(log: pd.DataFrame, schema: Schema) -> None:
    """Check 0/1 labels and the funnel of the interactions."""
    check_flags("interactions", log, schema.tasks, "label")
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
