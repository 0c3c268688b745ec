"""Encoded rows in files, for a log that does not fit in memory, or on one machine."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from urlm_helpers.preprocessing.columns import Vocabulary
from urlm_helpers.preprocessing.encode import Encoder, name_of

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
        paths.append(_write(_table(arrays), folder / f"{number:06d}.parquet"))
    return paths


def _write(table: pa.Table, path: Path) -> Path:
    """Write a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    pq.write_table(table, unfinished)
    unfinished.replace(path)  # a run that is cut off leaves no half shard
    return path


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


# --- past one machine -----------------------------------------------------------------

Each = Callable[[Callable[[int], Any], Sequence[int]], Iterable[Any]]
"""Runs a function for each number, as `map`; an engine does so on many machines."""


def encode_shards(
    encoder: Encoder,
    rows: Sequence[str | Path],
    events: Sequence[str | Path],
    folder: str | Path,
    *,
    buckets: int = 16,
    each: Each = map,
) -> list[Path]:
    """Encode a log in Parquet files, a bucket of users at a time, into shards to train.

    No task sees the whole log. Rows and events are first dealt into buckets, by user
    and by what else is counted over: all events of a user lie in one bucket, and all
    of an item. Then each bucket is encoded alone, with the counts of items, from their
    own buckets, put in.

    Parameters
    ----------
    encoder : Encoder
        Fitted before, such as on a part of the log; its events are not read.
    rows, events : sequence of path
        Parquet files of the columns of ``dataset.interactions`` and ``dataset.events``.
    folder : path
        Where all tasks can read and write; must be empty. The shards lie in its folder
        ``shards``, for :class:`~urlm_helpers.training.ShardBatches`, the rows of a
        bucket in the order of the files.
    buckets : int
        As many as make the rows of one fit in the memory of a task.
    each : callable
        Runs a function of one number for each of many, in any order, and returns
        when all have run.

    Returns
    -------
    list of Path
        One shard for each bucket that has rows.

    Raises
    ------
    FileExistsError
        If the folder is not empty: its files would be mixed with the new ones.
    SchemaError
        As of :meth:`Encoder.accept`.
    """
    folder, labels = Path(folder), list(encoder.schema.tasks)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files already; name an empty folder")
    keys = ["user", *sorted({_key(by) for by in encoder.look_back} - {"user"})]
    starts = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in rows)])

    def deal(frame: pd.DataFrame, values: pd.Series, kind: str, number: int) -> None:
        code = pd.util.hash_pandas_object(values, index=False).to_numpy() % buckets
        for bucket in np.unique(code):
            part = pa.Table.from_pandas(frame[code == bucket], preserve_index=False)
            _write(part, folder / kind / str(bucket) / f"{number:06d}.parquet")

    def scatter(number: int) -> None:
        if number < len(rows):
            part = encoder.accept(pd.read_parquet(rows[number]))
            part["row"] = starts[number] + np.arange(len(part))
            known, kind = encoder._integrate(part), "rows"
        else:
            part = pd.read_parquet(events[number - len(rows)])
            known, kind = _knowing(encoder, part).events, "events"
        for key in keys:
            deal(part, known[key], f"{kind} by {key}", number)

    def encoded(key: str, bucket: int) -> Any:
        part = _gather(folder / f"rows by {key}" / str(bucket))
        if part is None:
            return None, {}
        past = _gather(folder / f"events by {key}" / str(bucket))
        own = encoder.dataset.events.iloc[:0] if past is None else past
        return part, _knowing(encoder, own).transform(part)

    def count(number: int) -> None:
        key, bucket = keys[1 + number // buckets], number % buckets
        part, x = encoded(key, bucket)
        if x:
            own = {f"{kind} {at}": x[kind][:, at] for kind, at in _owned(encoder, key)}
            counts = pd.DataFrame({"row": part["row"], **own})
            deal(counts, part["user"], f"counts by {key}", number)

    def encode(bucket: int) -> None:
        part, x = encoded("user", bucket)
        for key in keys[1:] if x else ():
            counts = _gather(folder / f"counts by {key}" / str(bucket)).set_index("row")
            for kind, at in _owned(encoder, key):
                x[kind][:, at] = counts[f"{kind} {at}"].loc[part["row"]]
        if x:
            arrays = {**x, LABELS: part[labels].to_numpy("int8")}
            _write(_table(arrays), folder / "shards" / f"{bucket:06d}.parquet")

    list(each(scatter, range(len(rows) + len(events))))
    list(each(count, range(buckets * (len(keys) - 1))))
    list(each(encode, range(buckets)))
    return sorted((folder / "shards").glob("*.parquet"))


def _key(by: Sequence[str]) -> str:
    """Return the column whose buckets keep the events of a group together."""
    return "user" if "user" in by else by[0]


def _owned(encoder: Encoder, key: str) -> list[tuple[str, int]]:
    """Return where the counts stand that the buckets of a column know."""
    groups = [by for by in encoder.look_back if _key(by) == key]
    prefixes = tuple(f"{name_of(by)}: " for by in groups)
    names = {"numeric": encoder.numeric_names, "fields": tuple(encoder.spec.fields)}
    return [
        (kind, at)
        for kind, columns in names.items()
        for at, name in enumerate(columns)
        if name.startswith(prefixes)
    ]


def _knowing(encoder: Encoder, events: pd.DataFrame) -> Encoder:
    """Return the same encoder with another past."""
    other = copy(encoder)
    other.dataset = replace(encoder.dataset, events=events)
    other.events = other._describe_events()
    keys = encoder._numbers
    other._numbers = {key: Vocabulary.fit(other.events[key]) for key in keys}
    other._key_events = other._numbered(other.events)
    return other


def _gather(folder: Path) -> Any:
    """Read a bucket in the order of the log; None where nothing fell into it."""
    parts = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True) if parts else None
