"""Dropping rows that are missing, invalid or duplicate, with a report."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd


def clean(
    table: pd.DataFrame,
    *,
    name: str = "table",
    required: Sequence[str] = (),
    valid: Mapping[str, Callable[[pd.Series], pd.Series]] | None = None,
    key: Sequence[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop rows that are missing, invalid or duplicate, and say how many and why.

    Parameters
    ----------
    table : DataFrame
        Any table; it is not modified.
    name : str
        What the report calls the table.
    required : sequence of str
        Columns in which a missing value makes the row useless.
    valid : mapping of str to function
        Column -> a function from its values to a boolean series, True where valid.
    key : sequence of str, optional
        Columns that identify a row; of several rows with one key the first stays.

    Returns
    -------
    table : DataFrame
        The rows that stay, with a fresh index.
    report : DataFrame
        One row per check, in the order they ran: ``table``, ``check``, ``dropped``,
        ``left``.

    Raises
    ------
    KeyError
        If a column named in a check is not in the table.

    Examples
    --------
    >>> log = pd.DataFrame({"user": [1, 1, None, 2], "amount": [2, 2, 1, 0]})
    >>> kept, report = clean(
    ...     log, name="log", required=["user"],
    ...     valid={"amount": lambda a: a > 0}, key=["user", "amount"],
    ... )
    >>> len(kept), report["dropped"].tolist()
    (1, [1, 1, 1])
    """
    valid = valid or {}
    named = [*required, *valid, *(key or ())]
    absent = sorted(set(named) - set(table.columns))
    if absent:
        raise KeyError(
            f"{name} has no column {absent}; it has {table.columns.tolist()}"
        )
    lines: list[tuple[str, str, int, int]] = []

    def keep(mask: np.ndarray, check: str) -> None:
        nonlocal table
        dropped = int((~mask).sum())
        if dropped:
            table = table.loc[mask]
        lines.append((name, check, dropped, len(table)))

    for column in required:
        keep(table[column].notna().to_numpy(), f"missing {column}")
    for column, is_valid in valid.items():
        mask = np.asarray(is_valid(table[column]), dtype=bool)
        keep(mask, f"invalid {column}")
    if key is not None:
        mask = ~table.duplicated(list(key)).to_numpy()
        keep(mask, f"duplicate {', '.join(key)}")
    report = pd.DataFrame(lines, columns=["table", "check", "dropped", "left"])
    return table.reset_index(drop=True), report
