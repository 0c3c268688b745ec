"""Data larger than memory: Parquet shards, read ahead and shuffled as they pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

LABELS = "labels"
SHAPES = b"urlm_shapes"


def _table(arrays: Mapping[str, np.ndarray]) -> pa.Table:
    """Put arrays into columns, a row's values as a list of fixed size."""
    columns = {}
    shapes = {}
    for name, array in arrays.items():
        shapes[name] = [*array.shape[1:]]
        width = int(np.prod(array.shape[1:]))
        if width:
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, width)
    described = json.dumps(
        {name: [shapes[name], arrays[name].dtype.str] for name in arrays}
    )
    return pa.table(columns).replace_schema_metadata({SHAPES: described.encode()})


def write_shards(
    folder: str | Path,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    rows: np.ndarray | None = None,
    shard_rows: int = 1 << 16,
) -> list[Path]:
    """Write inputs and labels as Parquet files of so many rows, in their order.

    Parameters
    ----------
    folder : path
        Made if it is not there; must hold no shards.
    x, y : mapping and ndarray
        As of :func:`urlm_helpers.encode.prepare`.
    rows : ndarray of int, optional
        Which rows; by default all.
    shard_rows : int
        Rows of a file.

    Returns
    -------
    list of Path

    Raises
    ------
    FileExistsError
        If the folder holds Parquet files: they would be mixed with the new ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise FileExistsError(
            f"{folder} holds Parquet files already; name an empty one"
        )
    rows = np.arange(len(y)) if rows is None else rows
    paths = []
    starts = range(0, len(rows), shard_rows)
    for number, start in enumerate(tqdm(starts, unit="shard", desc="writing")):
        part = rows[start : start + shard_rows]
        arrays = {name: array[part] for name, array in x.items()}
        path = folder / f"{number:06d}.parquet"
        unfinished = path.with_suffix(".part")
        pq.write_table(_table({**arrays, LABELS: y[part]}), unfinished)
        unfinished.replace(path)  # a run that is cut off leaves no half shard
        paths.append(path)
    return paths


def read_shard(path: str | Path) -> dict[str, np.ndarray]:
    """Read one shard back.

    Parameters
    ----------
    path : path
        Of :func:`write_shards`.

    Returns
    -------
    dict of str to ndarray
        The inputs, and the labels under ``"labels"``.

    Raises
    ------
    ValueError
        If the file was not written by :func:`write_shards`.
    """
    table = pq.read_table(path, memory_map=True)
    metadata = table.schema.metadata or {}
    if SHAPES not in metadata:
        raise ValueError(
            f"{path} says nothing of the shapes of its columns: write shards with "
            "urlm_helpers.shards.write_shards"
        )
    arrays = {}
    for name, (shape, kind) in json.loads(metadata[SHAPES]).items():
        if name in table.column_names:
            flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        else:
            flat = np.zeros(0, kind)  # an input without columns
        arrays[name] = flat.reshape(table.num_rows, *shape)
    return arrays


class ShardBatches(keras.utils.PyDataset):
    """Batches from a folder of shards, in a new random order each epoch.

    The shards are put in random order and read in groups of ``mix``; the rows of a
    group are shuffled together. So a batch mixes rows of ``mix`` shards, at most two
    groups and the next one are in memory, and the next one is read while the
    current one is used.

    Parameters
    ----------
    folder : path
        Of :func:`write_shards`.
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
        If there are fewer rows than a batch needs.

    Examples
    --------
    >>> import tempfile
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

    def __getitem__(self, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        start = batch * self.batch_size
        pieces = list(self._pieces(start, start + self.batch_size))
        arrays = {n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}
        return arrays, arrays.pop(LABELS)
