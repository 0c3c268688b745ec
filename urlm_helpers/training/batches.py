"""Data larger than memory: Parquet shards, read ahead and shuffled as they pass."""

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq

from urlm_helpers.preprocessing.shards import LABELS, WEIGHTS, read_shard


def of_mean_one(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Divide weights of rows by their mean, so that a step keeps its size.

    Parameters
    ----------
    weights : ndarray, shape (n,)
        What each row counts.

    Returns
    -------
    ndarray of float32, float
        The same with the mean 1, and the mean that they had.

    Raises
    ------
    ValueError
        If they are not one finite number, 0 or more, a row, or all are 0.

    Examples
    --------
    >>> of_mean_one(np.array([1, 3]))[0].tolist()
    [0.5, 1.5]
    """
    weights = np.asarray(weights, "float64")
    mean = float(weights.mean()) if weights.ndim == 1 and len(weights) else 0.0
    if not (np.isfinite(mean) and mean > 0 and weights.min() >= 0):
        raise ValueError(
            "sample_weight must be one finite number per row, none below 0 and not all "
            f"0; got shape {weights.shape}, {np.isnan(weights).sum()} NaN, "
            f"{np.isinf(weights).sum()} infinite, {(weights < 0).sum()} below 0"
        )
    return (weights / mean).astype("float32"), mean


class Batches(keras.utils.PyDataset):
    """Batches of a dict of arrays, in a new random order each epoch.

    Only row numbers are shuffled; the rows of a batch are then gathered at once. Every
    batch has the same size: the few rows that do not fill one more are left out of the
    pass.

    Parameters
    ----------
    x : mapping of str to ndarray
        Inputs, each with ``n`` rows.
    y : ndarray, shape (n, tasks)
        Labels.
    rows : ndarray of int
        Which rows to go through.
    batch_size : int
        Rows in a batch.
    seed : int
        Of the order.
    sample_weight : ndarray, shape (n,), optional
        What each row counts in the loss, relative to the mean over ``rows``.

    Raises
    ------
    ValueError
        If there is not one weight per row of ``y``, or as of :func:`of_mean_one`.

    Examples
    --------
    >>> x = {"numeric": np.arange(5.0)[:, None]}
    >>> batches = Batches(x, np.zeros((5, 1)), np.array([4, 4, 4]), batch_size=2)
    >>> len(batches), batches[0][0]["numeric"].tolist()
    (1, [[4.0], [4.0]])
    """

    def __init__(
        self,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        rows: np.ndarray,
        batch_size: int = 2048,
        seed: int = 0,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.weights: list[np.ndarray] = []
        self.rows = np.array(rows)
        if sample_weight is not None:
            if np.shape(sample_weight) != (len(y),):
                raise ValueError(
                    f"{len(y):,} rows need a sample_weight of shape ({len(y)},), got "
                    f"{np.shape(sample_weight)}"
                )
            own = np.zeros(len(y), "float32")
            own[self.rows] = of_mean_one(np.asarray(sample_weight)[self.rows])[0]
            self.weights = [own]
        self.batch_size = min(batch_size, len(self.rows))
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __getitem__(self, batch: int) -> tuple[Any, ...]:
        rows = self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        inputs = {name: array[rows] for name, array in self.x.items()}
        return inputs, self.y[rows], *(weights[rows] for weights in self.weights)

    def on_epoch_end(self) -> None:
        """Shuffle the row numbers."""
        self._rng.shuffle(self.rows)

    def order(self) -> list[int]:
        """Draw the order of a pass's batches as Keras's ``fit`` does, from Python."""
        order = list(range(len(self)))
        random.shuffle(order)
        return order


class _Part(keras.utils.PyDataset):
    """Some of the batches, in the order of ``numbers``."""

    def __init__(self, batches: keras.utils.PyDataset, numbers: Sequence[int]) -> None:
        super().__init__()
        self.batches, self.numbers = batches, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, batch: int) -> Any:
        return self.batches[self.numbers[batch]]


def feed(batches: keras.utils.PyDataset, numbers: Sequence[int] | None = None) -> Any:
    """Turn batches into what Keras's ``fit`` should read them from.

    On TensorFlow ``fit`` reads a ``PyDataset`` through ``tf.data``, whose autotuner
    looks at the reading 10 ms after the start and then after twice the time of before.
    The end of a pass may wait for its next look: a pass that is done after six seconds
    then takes ten. So here two batches are read ahead and nothing is tuned.

    Parameters
    ----------
    batches : PyDataset
        Such as :class:`Batches`; all batches of one shape.
    numbers : sequence of int, optional
        Which batches, in which order; by default all, in theirs.

    Returns
    -------
    tf.data.Dataset or PyDataset
        The latter on other backends, which do not read through ``tf.data``.

    Examples
    --------
    >>> x = {"numeric": np.arange(4.0)[:, None]}
    >>> batches = Batches(x, np.zeros((4, 1)), np.array([3, 3]), batch_size=1)
    >>> data = feed(batches)
    >>> len(data), [inputs["numeric"].numpy().tolist() for inputs, _ in data]
    (2, [[[3.0]], [[3.0]]])
    """
    numbers = range(len(batches)) if numbers is None else numbers
    if keras.backend.backend() != "tensorflow":
        return _Part(batches, numbers)
    import tensorflow as tf

    like = tf.nest.map_structure(
        lambda a: tf.TensorSpec(a.shape, a.dtype), batches[numbers[0]]
    )
    data = tf.data.Dataset.from_generator(
        lambda: (batches[b] for b in numbers), output_signature=like
    ).apply(tf.data.experimental.assert_cardinality(len(numbers)))
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


class ShardBatches(keras.utils.PyDataset):
    """Batches from a folder of shards, in a new random order each epoch.

    The shards are put in random order and read in groups of ``mix``; the rows of a
    group are shuffled together. So a batch mixes rows of ``mix`` shards, at most two
    groups and the next one are in memory, and the next one is read while the
    current one is used.

    Parameters
    ----------
    folder : path
        Of :func:`write_shards`, with weights of the rows or without.
    batch_size : int
        Rows in a batch.
    seed : int
        Of the order.
    mix : int
        Shards that are shuffled together. Logs are sorted by time: with ``mix=1`` a
        batch would hold the rows of one hour.

    Raises
    ------
    FileNotFoundError
        If there is no shard in the folder.
    ValueError
        If there are fewer rows than a batch needs, or as of :func:`of_mean_one`.

    Examples
    --------
    >>> import tempfile
    >>> from urlm_helpers.preprocessing import write_shards
    >>> folder = tempfile.mkdtemp()
    >>> x = {"numeric": np.arange(10.0)[:, None]}
    >>> _ = write_shards(folder, x, np.zeros((10, 1)), shard_rows=3)
    >>> batches = ShardBatches(folder, batch_size=5, mix=2)
    >>> sorted(int(v) for b in range(2) for v in batches[b][0]["numeric"][:, 0])
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self, folder: str | Path, batch_size: int = 2048, seed: int = 0, mix: int = 8
    ) -> None:
        super().__init__()
        self.paths = sorted(Path(folder).glob("*.parquet"))
        if not self.paths:
            raise FileNotFoundError(f"no Parquet file in {folder}")
        self.sizes = np.array([pq.read_metadata(p).num_rows for p in self.paths])
        if self.sizes.sum() < batch_size:
            raise ValueError(
                f"{self.sizes.sum():,} rows do not fill a batch of {batch_size:,}"
            )
        self.batch_size, self.mix = batch_size, mix
        self._mean: float | None = None
        if WEIGHTS in pq.read_schema(self.paths[0]).names:
            columns = [pq.read_table(p, columns=[WEIGHTS]) for p in self.paths]
            weights = [c[WEIGHTS].combine_chunks().flatten() for c in columns]
            self._mean = of_mean_one(np.concatenate(weights))[1]
        self._rng = np.random.default_rng(seed)
        self._reader = ThreadPoolExecutor(max_workers=1)
        self.on_epoch_end()

    def __len__(self) -> int:
        return int(self.sizes.sum()) // self.batch_size

    def on_epoch_end(self) -> None:
        """Draw a new order of the shards, and of the rows of each group."""
        order = self._rng.permutation(len(self.paths))
        self._groups = [
            order[at : at + self.mix] for at in range(0, len(order), self.mix)
        ]
        self._seeds = self._rng.integers(0, 2**63, len(self._groups))
        rows = [self.sizes[group].sum() for group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._loaded: dict[int, Future[dict[str, np.ndarray]]] = {}

    def order(self) -> list[int]:
        """Return the batches as they stand: out of turn, a group would be read anew."""
        return list(range(len(self)))

    def _load(self, group: int) -> dict[str, np.ndarray]:
        shards = [read_shard(self.paths[shard]) for shard in self._groups[group]]
        size = self._starts[group + 1] - self._starts[group]
        order = np.random.default_rng(self._seeds[group]).permutation(size)
        return {
            name: np.concatenate([shard[name] for shard in shards])[order]
            for name in shards[0]
        }

    def _get(self, group: int) -> dict[str, np.ndarray]:
        for wanted in (group, group + 1):
            if wanted < len(self._groups) and wanted not in self._loaded:
                self._loaded[wanted] = self._reader.submit(self._load, wanted)
        for old in [g for g in self._loaded if g < group - 1]:
            del self._loaded[old]
        return self._loaded[group].result()

    def _pieces(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._starts[group + 1]))
            arrays, offset = self._get(group), int(self._starts[group])
            yield {n: a[start - offset : end - offset] for n, a in arrays.items()}
            start, group = end, group + 1

    def __getitem__(self, batch: int) -> tuple[Any, ...]:
        start = batch * self.batch_size
        pieces = list(self._pieces(start, start + self.batch_size))
        arrays = {n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}
        labels = arrays.pop(LABELS)
        if self._mean is None:
            return arrays, labels
        return arrays, labels, (arrays.pop(WEIGHTS) / self._mean).astype("float32")
