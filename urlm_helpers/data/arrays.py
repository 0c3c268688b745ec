"""Kinds of arrays, as signatures name them, and checks of their values and size."""

import numpy as np
import psutil
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Booleans = NDArray[np.bool_]

GIB = 2**30


def refuse(values: Floats, wrong: Booleans, rule: str) -> None:
    """Raise a ValueError that shows the first wrong value and its row."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{rule}, got {values[row]} in row {row}")


def available_memory() -> int:
    """Return the bytes that can still be had, of the machine and of a container."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            with open(limit) as most, open(used) as now:
                free = min(free, int(most.read()) - int(now.read()))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return max(free, 0)


def check_room(needed: int, what: str, otherwise: str) -> None:
    """Refuse what would not fit, before it is made: a file may claim any size.

    Parameters
    ----------
    needed : int
        Bytes.
    what, otherwise : str
        What needs them, and what would be right.

    Raises
    ------
    MemoryError
        If there is less.

    Examples
    --------
    >>> check_room(2**62, "this table", "lower dim")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    MemoryError: this table needs 4,294,967,296.0 GiB, ... GiB are free: lower dim
    """
    if needed > (free := available_memory()):
        raise MemoryError(
            f"{what} needs {needed / GIB:,.1f} GiB, {free / GIB:,.1f} GiB are free: "
            f"{otherwise}"
        )
