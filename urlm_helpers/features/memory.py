"""How much memory there is, and whether a table fits before it is made."""

import psutil

GIB = 2**30


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


def check_table(rows: int, dim: int, bytes_each: int = 4) -> None:
    """Refuse a table that would not fit: a file may claim any number of rows.

    Parameters
    ----------
    rows, dim : int
        Of the table.
    bytes_each : int
        Of a number.

    Raises
    ------
    MemoryError
        If it takes more than there is.

    Examples
    --------
    >>> check_table(1_000, 8)
    >>> check_table(10**12, 8)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    MemoryError: a table of 1,000,000,000,000 rows x 8 needs 29,802.3 GiB, ...
    """
    needed, free = rows * dim * bytes_each, available_memory()
    if needed > free:
        raise MemoryError(
            f"a table of {rows:,} rows x {dim} needs {needed / GIB:,.1f} GiB, "
            f"{free / GIB:,.1f} GiB are free: raise min_count of the encoder (fewer "
            "rows), lower dim, or put large vocabularies into a CompactEmbedding; if "
            "the model comes from a file, the file is damaged or not what it says"
        )
