"""Events by group and time, in memory: what came before a moment, and one more event.

The events known at the start lie in sorted arrays, which a binary search reads; those
that come later in a dict of short lists beside them. So neither a question nor a new
event costs more when the log is longer, but for the logarithm.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

BITS = 34
"""Of a time in seconds; `OFFSET` makes those of the years 1700 to 2200 positive."""

OFFSET = 2**33


class Timeline:
    """Events of many groups, those of a group in order of time, ties as they came.

    Parameters
    ----------
    groups, times : array of int, shape (events,)
        The group of each event, 0 or above, and its second since 1970.
    payload : array, shape (events, columns), optional
        What `last` shall return of an event.

    Examples
    --------
    >>> line = Timeline([7, 7, 9], [10, 30, 20])
    >>> line.add(7, 20)
    >>> counts, last = line.before([7, 8], [25, 15])
    >>> counts.tolist(), last.tolist()
    ([[2, 1], [0, 0]], [20, -8589934592])
    """

    def __init__(
        self, groups: Any, times: Any, payload: np.ndarray | None = None
    ) -> None:
        groups, times = np.asarray(groups, "int64"), np.asarray(times, "int64")
        order = np.lexsort((times, groups))
        self._groups, start, number = np.unique(
            groups[order], return_index=True, return_inverse=True
        )
        self._start = np.append(start, len(order))
        self._key = (number.astype("int64") << BITS) + times[order] + OFFSET
        self._payload = None if payload is None else payload[order]
        self._new: dict[int, list[int]] = {}
        self._new_payload: dict[int, list[Sequence[int]]] = {}

    def add(self, group: int, time: int, payload: Sequence[int] = ()) -> None:
        """Put in one more event; it may be late."""
        times = self._new.setdefault(group, [])
        at = bisect_right(times, time)
        times.insert(at, time)
        if self._payload is not None:
            self._new_payload.setdefault(group, []).insert(at, payload)

    def _find(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each group among those of the start, and if it is."""
        at = np.searchsorted(self._groups, groups)
        found = at < len(self._groups)
        found[found] = self._groups[at[found]] == groups[found]
        return np.where(found, at, 0), found

    def before(self, groups: Any, moments: Any) -> tuple[np.ndarray, np.ndarray]:
        """Count the events before moments; and find the last before the first moment.

        Parameters
        ----------
        groups : array of int, shape (n,)
        moments : array of int, shape (m,)

        Returns
        -------
        counts : ndarray of int64, shape (n, m)
        last : ndarray of int64, shape (n,)
            Its time; -`OFFSET` where there is none.
        """
        groups, moments = np.asarray(groups, "int64"), np.asarray(moments, "int64")
        counts = np.zeros((len(groups), len(moments)), "int64")
        last = np.full(len(groups), -OFFSET)
        if len(self._groups):
            at, found = self._find(groups)
            end = np.searchsorted(self._key, (at << BITS)[:, None] + moments + OFFSET)
            counts = np.where(found[:, None], end - self._start[at][:, None], 0)
            newest = self._key[np.maximum(end[:, 0] - 1, 0)] & ((1 << BITS) - 1)
            last = np.where(counts[:, 0] > 0, newest - OFFSET, last)
        if self._new:
            for row, group in enumerate(groups.tolist()):
                if times := self._new.get(group):
                    ends = [bisect_left(times, moment) for moment in moments.tolist()]
                    counts[row] += ends
                    if ends[0]:
                        last[row] = max(last[row], times[ends[0] - 1])
        return counts, last

    def last(
        self, group: int, moment: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return times and payloads of a group's last events before a moment."""
        assert self._payload is not None
        times, payload = np.zeros(0, "int64"), self._payload[:0]
        at, found = self._find(np.array([group]))
        if found[0]:
            key = (int(at[0]) << BITS) + moment + OFFSET
            end = int(np.searchsorted(self._key, key))
            start = max(int(self._start[at[0]]), end - length)
            times = (self._key[start:end] & ((1 << BITS) - 1)) - OFFSET
            payload = self._payload[start:end]
        new = self._new.get(group, [])
        if end := bisect_left(new, moment):
            start = max(0, end - length)
            times = np.append(times, new[start:end])
            payload = np.vstack([payload, self._new_payload[group][start:end]])
            order = np.argsort(times, kind="stable")[-length:]  # ties as they came
            times, payload = times[order], payload[order]
        return times, payload
