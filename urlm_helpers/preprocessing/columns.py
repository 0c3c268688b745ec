"""What is learned from single columns of the past: vocabularies, scales, buckets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

UNSEEN = 0
"""Index of a value that the vocabulary has not seen, and of a padded position."""

MANY = 0.8
"""Share of the training rows, lost by counting among the events, that is warned of."""


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

    def __or__(self, other: Vocabulary) -> Vocabulary:
        """Know what either of two knows."""
        return Vocabulary(self.values.union(other.values))

    @property
    def size(self) -> int:
        """Number of indices, the unseen one included."""
        return len(self.values) + 1


def unseen(
    past: pd.DataFrame, vocabularies: Mapping[str, Vocabulary], min_count: int
) -> pd.DataFrame:
    """Count what rows show and the vocabularies do not know.

    Parameters
    ----------
    past : DataFrame
        Columns of the training rows.
    vocabularies : mapping of str to Vocabulary
        Of these columns, among others.
    min_count : int
        What the vocabularies ask of a value.

    Returns
    -------
    DataFrame
        One row per column: ``values``, how many the rows have; ``known``, how many of
        them are known; ``unseen rows``, the share whose value is not; ``rare rows``,
        the part of that share whose value is rare among the rows too.

    Warns
    -----
    UserWarning
        If four rows of five have an unseen value that is not rare among them.

    Examples
    --------
    >>> shown = pd.DataFrame({"item": ["a", "a", "b", "b", "c"]})
    >>> chosen = Vocabulary.fit(pd.Series(["a", "a"]), min_count=2)
    >>> unseen(shown, {"item": chosen}, min_count=2).loc["item"].round(2).tolist()
    [3.0, 1.0, 0.6, 0.2]
    """
    table = {}
    for name, shown in past.items():
        count = shown.value_counts()
        known = count.index.isin(vocabularies[str(name)].values)
        rare = (count < min_count).to_numpy()
        lost, hidden = (count[~known & of].sum() / len(past) for of in (~rare, rare))
        table[name] = (len(count), known.sum(), lost + hidden, hidden)
        if lost >= MANY:
            warnings.warn(
                f"{lost + hidden:.0%} of the training rows have an unseen {name!r}: "
                f"{known.sum():,} of {len(count):,} values are known, because they are "
                "counted among the events; Encoder(..., counted_on='rows') would leave "
                f"{hidden:.0%}",
                stacklevel=3,
            )
    columns = ["values", "known", "unseen rows", "rare rows"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns)


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
        known = np.maximum((~missing).sum(axis=0), 1)
        mean = np.where(missing, 0.0, past).sum(axis=0) / known
        apart = np.where(missing, 0.0, past - mean)
        std = np.sqrt((apart**2).sum(axis=0) / known)
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
