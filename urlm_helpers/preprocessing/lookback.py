"""Looking back: counts, recency and histories from strictly earlier events."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def seconds(table: pd.DataFrame) -> np.ndarray:
    """Return the column ``time`` in whole seconds since 1970, int64."""
    return table["time"].to_numpy("datetime64[s]").astype("int64")


def _group_codes(
    events: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Number the groups of ``by`` alike in both tables (int64, from 0)."""
    codes, width = np.zeros(len(events) + len(rows), dtype="int64"), 1
    for column in by:
        both = pd.concat([events[column], rows[column]], ignore_index=True)
        own, uniques = pd.factorize(both)
        if width * (len(uniques) + 1) > 2**31:  # keep room for the time in 64 bits
            codes, known = pd.factorize(codes)
            codes, width = codes.astype("int64"), len(known)
        codes = codes * (len(uniques) + 1) + own + 1  # own is -1 where missing
        width *= len(uniques) + 1
    return codes[: len(events)], codes[len(events) :]


class LookBack:
    """What happened before: counts, recency and sequences from strictly earlier events.

    Events are sorted once by group and time; for each row a binary search finds the
    end of its past. An event at the very time of the row is not in its past.

    Parameters
    ----------
    events : DataFrame
        Columns ``time`` and ``by``.
    rows : DataFrame
        The impressions to look back from, with the same columns.
    by : sequence of str
        What an event and a row must share, such as ``["user", "item"]``.

    Examples
    --------
    >>> day = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-05"])
    >>> events = pd.DataFrame({"user": [1, 1, 2], "time": day})
    >>> rows = pd.DataFrame({"user": [1, 1, 3], "time": day})
    >>> back = LookBack(events, rows, by=["user"])
    >>> back.count().tolist(), back.days_since_last(never=99.0).tolist()
    ([0, 1, 0], [99.0, 2.0, 99.0])
    """

    def __init__(
        self, events: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]
    ) -> None:
        missing = [
            f"{column} in {label}"
            for label, table in (("events", events), ("rows", rows))
            for column in [*by, "time"]
            if column not in table
        ]
        if missing:
            raise KeyError(f"LookBack needs the columns {missing}")
        group, self._row_group = _group_codes(events, rows, by)
        time, row_time = seconds(events), seconds(rows)
        low = min(time.min(initial=0), row_time.min(initial=0))
        high = max(time.max(initial=0), row_time.max(initial=0))
        self._span = int(high - low) + 2
        key = group * self._span + (time - low)
        self.order = np.argsort(key, kind="stable")
        self._key = key[self.order]
        self._row_time = row_time - low
        self._row_order = np.argsort(self._row_group * self._span + self._row_time)
        self.start = self._position(self._row_time)
        self.end = self._position(0)

    def _position(self, seconds_ago: int | np.ndarray) -> np.ndarray:
        """Where each row's group reaches the moment so long before the row's own."""
        moment = np.maximum(self._row_time - seconds_ago, 0)
        wanted = self._row_group * self._span + moment
        at = np.empty(len(wanted), dtype="int64")
        # looked up in order, the search stays in the cache: three times faster
        at[self._row_order] = np.searchsorted(self._key, wanted[self._row_order])
        return at

    def count(self, days: float | None = None) -> np.ndarray:
        """Count earlier events, ``(rows,)``; of the last ``days`` days if given."""
        if days is None:
            return self.end - self.start
        return self.end - self._position(int(days * 86_400))

    def days_since_last(self, never: float) -> np.ndarray:
        """Return days since the last earlier event, ``(rows,)``; ``never`` if none."""
        last = np.maximum(self.end - 1, 0)
        if len(self._key) == 0:
            return np.full(len(self._row_time), never)
        days = (self._row_time - self._key[last] % self._span) / 86_400
        return np.where(self.end > self.start, days, never)

    def last(self, length: int) -> np.ndarray:
        """Return the positions of the last ``length`` earlier events of each row.

        Returns
        -------
        ndarray of int64, shape (rows, length)
            Row numbers of ``events``, oldest first, right-aligned; -1 is padding.
        """
        at = self.end[:, None] - np.arange(length, 0, -1)
        inside = at >= self.start[:, None]
        if len(self.order) == 0:
            return np.full(at.shape, -1, dtype="int64")
        return np.where(inside, self.order[np.where(inside, at, 0)], -1)
