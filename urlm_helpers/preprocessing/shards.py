"""Encoded rows in files, for a log that does not fit in memory."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

LABELS, WEIGHTS = "labels", "sample_weight"
SHAPES = b"urlm_shapes"


def _table(arrays: Mapping[str, np.ndarray]) -> pa.Table:
    """Put arrays into columns, a row's values as a list of fixed size."""
    columns = {}
    for name, array in arrays.items():
        if width := int(np.prod(array.shape[1:])):
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, width)
    shapes = {name: (a.shape[1:], a.dtype.str) for name, a in arrays.items()}
    metadata = {SHAPES: json.dumps(shapes).encode()}
    return pa.table(columns).replace_schema_metadata(metadata)


def write_shards(
    folder: str | Path,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    rows: np.ndarray | None = None,
    shard_rows: int = 1 << 16,
    sample_weight: np.ndarray | None = None,
) -> list[Path]:
    """Write inputs and labels as Parquet files of so many rows, in their order.

    Parameters
    ----------
    folder : path
        Made if it is not there; must hold no shards.
    x, y : mapping and ndarray
        As of :func:`urlm_helpers.preprocessing.prepare`.
    rows : ndarray of int, optional
        Which rows; by default all.
    shard_rows : int
        Rows of a file.
    sample_weight : ndarray, shape (n,), optional
        What each row counts in the loss; kept as a column of its own.

    Returns
    -------
    list of Path

    Raises
    ------
    FileExistsError
        If the folder holds Parquet files: they would be mixed with the new ones.
    ValueError
        If inputs, labels and weights have not the same number of rows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise FileExistsError(
            f"{folder} holds Parquet files already; name an empty one"
        )
    rows = np.arange(len(y)) if rows is None else rows
    kept = {**x, LABELS: y}
    if sample_weight is not None:
        kept[WEIGHTS] = np.asarray(sample_weight, "float64")
    if wrong := {name: len(a) for name, a in kept.items() if len(a) != len(y)}:
        raise ValueError(f"{len(y)} rows of labels need as many of each, got {wrong}")
    paths = []
    starts = range(0, len(rows), shard_rows)
    for number, start in enumerate(tqdm(starts, unit="shard", desc="writing")):
        part = rows[start : start + shard_rows]
        arrays = {name: array[part] for name, array in kept.items()}
        path = folder / f"{number:06d}.parquet"
        unfinished = path.with_suffix(".part")
        pq.write_table(_table(arrays), unfinished)
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
        The inputs, the labels under ``"labels"``, and weights of the rows, where there
        are some, under ``"sample_weight"``.

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
            "urlm_helpers.preprocessing.write_shards"
        )
    arrays = {}
    for name, (shape, kind) in json.loads(metadata[SHAPES]).items():
        if name in table.column_names:
            flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        else:
            flat = np.zeros(0, kind)  # an input without columns
        arrays[name] = flat.reshape(table.num_rows, *shape)
    return arrays
