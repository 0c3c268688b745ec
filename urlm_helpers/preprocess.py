"""From tidy tables to numbers: clean, integrate, encode, split by time.

The steps of section 3.2.1 of the source document (数据预处理), each a plain function
that a reader can call on a table of their own. :mod:`urlm_helpers.lookback` counts what
happened before, :func:`urlm_helpers.encode.prepare` chains everything. One rule holds
everywhere: what is learned from data (a vocabulary, a scale, a count, a history) is
learned from the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from urlm_helpers.schema import Dataset

UNSEEN = 0
"""Index of a value that the vocabulary has not seen, and of a padded position."""


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


def integrate(dataset: Dataset) -> pd.DataFrame:
    """Join each impression with the features of its user and of its item.

    Parameters
    ----------
    dataset : Dataset
        The three tables.

    Returns
    -------
    DataFrame
        One row per row of ``dataset.interactions``, in the same order, with the
        user's and the item's feature columns beside the impression's own.

    Examples
    --------
    >>> from urlm_helpers.schema import Schema, from_frames
    >>> log = pd.DataFrame({"user": [7], "item": [1], "scenario": ["shop"],
    ...                     "time": ["2024-01-01"], "click": [1]})
    >>> users = pd.DataFrame({"user": [7], "age": ["18-24"]})
    >>> schema = Schema(scenarios=("shop",), tasks=("click",),
    ...                 user_categorical=("age",))
    >>> integrate(from_frames(log, users, schema=schema))["age"].tolist()
    ['18-24']
    """
    schema = dataset.schema
    joined = dataset.interactions
    for key, table, columns in (
        ("user", dataset.users, schema.user_categorical + schema.user_numeric),
        ("item", dataset.items, schema.item_categorical + schema.item_numeric),
    ):
        if columns:
            features = table[[key, *columns]]
            joined = joined.merge(features, on=key, how="left", validate="m:1")
    return joined


@dataclass(frozen=True)
class Vocabulary:
    """The known values of one column, numbered from 1; anything else is 0.

    Parameters
    ----------
    values : Index
        Known values; ``values[k]`` has the index ``k + 1``.

    Examples
    --------
    >>> words = Vocabulary.fit(pd.Series(["b", "a", "b", "c"]), min_count=2)
    >>> words.encode(pd.Series(["a", "b", None])).tolist()
    [0, 1, 0]
    """

    values: pd.Index

    @classmethod
    def fit(cls, past: pd.Series, min_count: int = 1) -> Vocabulary:
        """Collect the values seen at least ``min_count`` times in ``past``.

        Parameters
        ----------
        past : Series
            Values from the training period only.
        min_count : int
            Rarer values share the index 0 with unseen ones: a row of an embedding
            that is trained a handful of times is noise.
        """
        counts = past.value_counts(sort=False)
        return cls(pd.Index(counts.index[counts.to_numpy() >= min_count]).sort_values())

    def encode(self, values: pd.Series) -> np.ndarray:
        """Return the int32 index of each value, ``(n,)``; 0 for unseen or missing."""
        return (self.values.get_indexer(pd.Index(values)) + 1).astype("int32")

    @property
    def size(self) -> int:
        """Number of indices, the unseen one included."""
        return len(self.values) + 1


@dataclass(frozen=True)
class Scaler:
    """Centers and scales numeric columns with the mean and deviation of the past.

    Parameters
    ----------
    mean, std : ndarray, shape (columns,)
        Of the past rows; a constant column gets ``std`` 1. Missing numbers are not
        counted, and become 0, the mean.

    Examples
    --------
    >>> scaler = Scaler.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaler.transform(np.array([[2.0, 6.0], [3.0, np.nan]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, past: np.ndarray) -> Scaler:
        """Measure ``past``, ``(rows, columns)``: rows of the training period only."""
        if len(past) == 0:
            raise ValueError("a Scaler needs at least one row of the past")
        missing = np.isnan(past)
        if missing.any():
            known = np.maximum((~missing).sum(axis=0), 1)
            mean = np.where(missing, 0.0, past).sum(axis=0) / known
            apart = np.where(missing, 0.0, past - mean)
            std = np.sqrt((apart**2).sum(axis=0) / known)
        else:
            mean, std = past.mean(axis=0), past.std(axis=0)
        return cls(mean, np.where(std > 0, std, 1.0))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return ``(values - mean) / std`` as float32, ``(rows, columns)``."""
        scaled = ((values - self.mean) / self.std).astype("float32")
        scaled[np.isnan(scaled)] = 0.0
        return scaled


@dataclass(frozen=True)
class Buckets:
    """Cuts a numeric column into buckets of the past, for use as a category.

    A value that many rows share (no purchase yet: 0) has a bucket of its own; the
    rest are cut at quantiles. A missing number is unseen.

    Parameters
    ----------
    edges : ndarray
        Inner edges, increasing; bucket ``k`` holds ``edges[k-1] <= value < edges[k]``.

    Examples
    --------
    >>> buckets = Buckets.fit(np.array([0, 0, 0, 1, 2, 9]), count=3)
    >>> buckets.encode(np.array([0, 1, 2, 100])).tolist()
    [1, 2, 3, 3]
    >>> Buckets.fit(np.array([1, 2, 5, 5, 5, 6, 7, 8]), count=3).edges.tolist()
    [2, 5, 6]
    >>> buckets = Buckets.fit(np.array([1, np.nan, 2, 3]), count=2)
    >>> buckets.encode(np.array([np.nan, 1.0, 2.0])).tolist()
    [0, 1, 2]
    """

    edges: np.ndarray

    @classmethod
    def fit(cls, past: np.ndarray, count: int = 16) -> Buckets:
        """Place edges so that some ``count`` buckets hold about as many rows each."""
        past = past[~np.isnan(past)]
        if not len(past):
            return cls(np.zeros(0))
        values, rows = np.unique(past, return_counts=True)
        often = np.flatnonzero(rows > len(past) / count)
        common = values[often]
        rest = past[~np.isin(past, common)]
        at = np.arange(count) / count
        quantiles = np.quantile(rest, at, method="lower") if len(rest) else rest
        after = values[often[often + 1 < len(values)] + 1]  # where the next one begins
        edges = np.unique(np.concatenate([common, after, quantiles]))
        return cls(edges[edges > values[0]])

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the int32 bucket of each value, from 1 (0 stays for "unseen")."""
        bucket = np.searchsorted(self.edges, values, side="right") + 1
        return np.where(np.isnan(values), UNSEEN, bucket).astype("int32")

    @property
    def size(self) -> int:
        """Number of indices, the unseen one included."""
        return len(self.edges) + 2


def split_by_time(
    time: pd.Series, valid_from: str | pd.Timestamp, test_from: str | pd.Timestamp
) -> dict[str, np.ndarray]:
    """Cut rows at two moments that are the same for every user.

    Parameters
    ----------
    time : Series of datetime
        When each row happened.
    valid_from, test_from : str or Timestamp
        First moment of the validation and of the test period.

    Returns
    -------
    dict of str to ndarray
        Row numbers of ``"train"``, ``"valid"`` and ``"test"``.

    Raises
    ------
    ValueError
        If the cuts are in the wrong order or a part is empty.

    Notes
    -----
    A random or leave-one-out split lets a model learn from the future [1]_.

    References
    ----------
    .. [1] Y. Ji, A. Sun, J. Zhang, C. Li, "A Critical Study on Data Leakage in
       Recommender System Offline Evaluation", 2020. arXiv:2010.11060.

    Examples
    --------
    >>> days = pd.Series(pd.date_range("2024-01-01", periods=5))
    >>> parts = split_by_time(days, "2024-01-03", "2024-01-05")
    >>> {name: rows.tolist() for name, rows in parts.items()}
    {'train': [0, 1], 'valid': [2, 3], 'test': [4]}
    """
    first, second = pd.Timestamp(valid_from), pd.Timestamp(test_from)
    if not first < second:
        raise ValueError(f"valid_from ({first}) must lie before test_from ({second})")
    before_first = (time < first).to_numpy()
    before_second = (time < second).to_numpy()
    parts = {
        "train": np.flatnonzero(before_first),
        "valid": np.flatnonzero(~before_first & before_second),
        "test": np.flatnonzero(~before_second),
    }
    empty = [name for name, rows in parts.items() if len(rows) == 0]
    if empty:
        raise ValueError(
            f"no row falls into {empty}: the rows run from {time.min()} to "
            f"{time.max()}, the cuts are {first} and {second}"
        )
    return parts
