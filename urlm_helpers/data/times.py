"""Times of a log, and the moments that cut it: read or refused, never guessed."""

from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.checks import kind_of, rows, show
from urlm_helpers.data.schema import TIME_UNITS, SchemaError

YEAR = 31_536_000
"""Seconds. A number nearer to 1970 is no time: a term from 1 to 6, or 20260131."""


def _read(raw: pd.Series, unit: str | None) -> tuple[pd.Series, np.ndarray, str]:
    """Return times, which of them can't be read, and what would be right."""
    kind = kind_of(raw)
    remedy = (
        "give datetimes, ISO 8601 strings such as '2026-01-31 18:00:00', or whole "
        "seconds since 1970"
    )
    if kind in ("integer", "floating"):
        number = pd.to_numeric(raw).astype("float64") * TIME_UNITS[unit or "s"]
        limit = pd.Timestamp.max.timestamp() - 1
        bad = ~number.between(-limit, limit) | (number % 1 != 0)
        parsed = pd.to_datetime(number.where(~bad, 0).astype("int64"), unit="s")
        near = number.abs() < YEAR
        if raw.dtype in ("float16", "float32"):
            bad |= True
            remedy = f"{raw.dtype} rounds seconds to minutes: read them as int64"
        elif unit is None and not bad.any() and near.any():
            bad = near
            remedy = (
                "as seconds since 1970 that is a time of that year. A day is written "
                "'2026-01-31'; if the numbers count days or steps, such as terms 1 to "
                "6, say so with Schema(time_unit='D')"
            )
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
    return parsed, bad.to_numpy(dtype=bool), remedy


def parse_time(name: str, frame: pd.DataFrame, unit: str | None = None) -> pd.Series:
    """Return the column `time` as datetime64[ns] without a zone (UTC).

    Parameters
    ----------
    name : str
        What messages call the table.
    frame : DataFrame
    unit : str, optional
        What a whole number counts, as ``Schema.time_unit``.
    """
    raw = frame["time"]
    parsed, bad, remedy = _read(raw, unit)
    if bad.any():
        raise SchemaError(
            f"{name}: can't read 'time' = {show(raw[bad].iloc[0])} ({kind_of(raw)}) in "
            f"{rows(frame, pd.Series(bad))}: {remedy}"
        )
    return parsed.astype("datetime64[ns]")


def moment(name: str, value: Any, unit: str | None = None) -> pd.Timestamp:
    """Read one moment, such as a cut, as `parse_time` reads those of a log.

    Parameters
    ----------
    name : str
        What messages call the value.
    value : str, datetime, Timestamp or int
    unit : str, optional
        What a whole number counts, as ``Schema.time_unit``.

    Examples
    --------
    >>> moment("valid_from", "2026-01-31T01:00+01:00"), moment("valid_from", 5, "D")
    (Timestamp('2026-01-31 00:00:00'), Timestamp('1970-01-06 00:00:00'))
    >>> moment("valid_from", "03.01.2026")
    Traceback (most recent call last):
        ...
    urlm_helpers.data.schema.SchemaError: valid_from: can't read '03.01.2026' \
(string): give datetimes, ISO 8601 strings such as '2026-01-31 18:00:00', or whole \
seconds since 1970
    """
    raw = pd.Series([value])
    parsed, bad, remedy = _read(raw, unit)
    if bad.any():
        raise SchemaError(
            f"{name}: can't read {show(value)} ({kind_of(raw)}): {remedy}"
        )
    return parsed.astype("datetime64[ns]").iloc[0]
