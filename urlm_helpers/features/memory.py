"""Whether a table fits in memory, before it is made."""

from urlm_helpers.data.arrays import check_room


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
    check_room(
        rows * dim * bytes_each,
        f"a table of {rows:,} rows x {dim}",
        "raise min_count of the encoder (fewer rows), lower dim, or put large "
        "vocabularies into a CompactEmbedding; if the model comes from a file, the "
        "file is damaged or not what it says",
    )
