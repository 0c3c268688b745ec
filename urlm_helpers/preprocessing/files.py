"""An encoder in a file: arrays and JSON, nothing that runs when it is read."""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.arrays import check_room
from urlm_helpers.data.checks import Kind
from urlm_helpers.data.schema import DataCard, Dataset, Schema, SchemaError
from urlm_helpers.preprocessing.columns import Buckets, Scaler, Vocabulary
from urlm_helpers.preprocessing.encode import Encoder

VERSION = 1
"""Of the format. A change to what the file holds raises it."""

ABOUT = "about"

NOT_OURS = (AttributeError, EOFError, KeyError, TypeError, ValueError)
"""What reading another file ends in."""

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""How the header of an array is read, by the version of its format."""


def save_encoder(encoder: Encoder, path: str | Path) -> Path:
    """Write an encoder, without the rows that it was fitted on, as one file.

    Parameters
    ----------
    encoder : Encoder
    path : path
        Of the file, such as ``encoder.npz``; overwritten.

    Returns
    -------
    Path

    Raises
    ------
    SchemaError
        If a column holds values that are neither numbers, times nor text.

    Notes
    -----
    The file is one of :func:`numpy.savez_compressed`. Its entry ``about`` is JSON in
    UTF-8: ``version``, the schema, the options, the names of the columns and, for text,
    the distinct values; the others are numbers: the columns of the users, the items
    and the events (numbers as they are, text as the position of its value, -1 for a
    gap), vocabularies, mean and deviation, and the edges of the buckets.
    """
    arrays: dict[str, np.ndarray] = {
        "mean": encoder.scaler.mean,
        "std": encoder.scaler.std,
    }
    data, schema = encoder.dataset, encoder.schema
    shown = (() if schema.item_name is None else (schema.item_name,)) + tuple(
        schema.catalog.values()
    )
    past = ("user", "item", "time", *encoder.keys, *encoder.history_fields)
    context = ["user", "item", "scenario", "time", *schema.features("context")]
    example = {c: data.interactions[c].dropna().head(1) for c in context}
    vocabularies = {n: pd.Series(v.values) for n, v in encoder.vocabularies.items()}
    tables: dict[str, Mapping[str, pd.Series]] = {
        "users": _columns(data.users, ("user", *schema.features("user"))),
        "items": _columns(data.items, ("item", *schema.features("item"), *shown)),
        "events": _columns(encoder.events, past),
        "example": {c: v.reset_index(drop=True) for c, v in example.items()},
        "vocabularies": vocabularies,
        "numbers": {n: pd.Series(v.values) for n, v in encoder._numbers.items()},
        "edges": {n: pd.Series(b.edges) for n, b in encoder.buckets.items()},
    }
    about = {
        "version": VERSION,
        "name": data.name,
        "schema": asdict(schema),
        "kinds": encoder.kinds,
        "options": {
            "look_back": encoder.look_back,
            "history_fields": encoder.history_fields,
            "history_length": encoder.history_length,
            "windows": encoder.windows,
            "numeric_names": encoder.numeric_names,
        },
        "tables": {
            table: {
                column: _pack(f"{table} {n}", column, values, arrays)
                for n, (column, values) in enumerate(columns.items())
            }
            for table, columns in tables.items()
        },
    }
    arrays[ABOUT] = np.frombuffer(json.dumps(about).encode(), "uint8")
    path = Path(path)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path


def vocabulary_version(encoder: Encoder) -> str:
    """Return a fingerprint of an encoder's words, their order, and its numbers' names.

    Of two encoders whose fingerprints differ, one gives another item's row of a model's
    table, and no error.
    """
    words = {n: v.values.tolist() for n, v in encoder.vocabularies.items()}
    text = json.dumps([words, encoder.numeric_names], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_encoder(path: str | Path) -> Encoder:
    """Read an encoder that `save_encoder` wrote; reading runs nothing of the file.

    Parameters
    ----------
    path : path

    Returns
    -------
    Encoder
        It encodes new rows as the one that was saved. It has no ``encoded`` rows, and
        of the interactions of its dataset one value of each column.

    Raises
    ------
    ValueError
        If the file is another one, or was written in another version of the format.
    MemoryError
        If its arrays, by the sizes that it claims, need more memory than there is.
    """
    try:
        _check_claims(Path(path))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays[ABOUT].tobytes())
        version = about["version"]
    except (*NOT_OURS, zipfile.BadZipFile) as bad:
        raise ValueError(f"{path} is no file of save_encoder") from bad
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} of the format, and this package reads "
            f"{VERSION}: fit the encoder anew, or use the package that wrote it"
        )
    tables = {
        table: {
            column: _unpack(arrays[f"{table} {n}"], values)
            for n, (column, values) in enumerate(columns.items())
        }
        for table, columns in about["tables"].items()
    }
    log, users, items, events = (
        pd.DataFrame(tables[name]) for name in ("example", "users", "items", "events")
    )
    schema = Schema(**about["schema"])
    card = DataCard(about["name"], f"the encoder in {Path(path).name}", "not stated")
    encoder = Encoder.__new__(Encoder)
    encoder.dataset = Dataset(about["name"], log, users, items, schema, events, card)
    encoder.schema, encoder.events = schema, events
    encoder.kinds = {c: Kind(*kind) for c, kind in about["kinds"].items()}
    options = about["options"]
    encoder.look_back = [tuple(by) for by in options["look_back"]]
    encoder.keys = sorted({column for by in encoder.look_back for column in by})
    encoder.history_length = options["history_length"]
    for name in ("history_fields", "windows", "numeric_names"):
        setattr(encoder, name, tuple(options[name]))
    known = {
        table: {c: Vocabulary(pd.Index(v)) for c, v in tables[table].items()}
        for table in ("vocabularies", "numbers")
    }
    encoder.vocabularies, encoder._numbers = known["vocabularies"], known["numbers"]
    encoder.scaler = Scaler(arrays["mean"], arrays["std"])
    edges = tables["edges"]
    encoder.buckets = {name: Buckets(v.to_numpy()) for name, v in edges.items()}
    encoder._key_events = encoder._numbered(events)
    return encoder


def _check_claims(path: Path) -> None:
    """Refuse arrays that would not fit, by what their headers say of them."""
    shapes, sizes = {}, {}
    with zipfile.ZipFile(path) as packed:
        for name in packed.namelist():
            with packed.open(name) as entry:
                read = HEADERS[np.lib.format.read_magic(entry)]
                shapes[name], _, kind = read(entry)
            sizes[name] = math.prod(shapes[name]) * kind.itemsize
    largest = max(sizes, key=lambda name: sizes[name])
    check_room(
        sum(sizes.values()),
        f"{path} claims {shapes[largest]} values in {largest!r} and",
        "if save_encoder wrote so much, free memory or read it on a larger machine; "
        "otherwise the file is damaged or not what it says",
    )


def _columns(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, pd.Series]:
    """Pick columns by name, each once."""
    return {name: frame[name] for name in dict.fromkeys(names)}


def _pack(
    key: str, column: str, values: pd.Series, arrays: dict[str, np.ndarray]
) -> list[Any] | None:
    """Put a column among the arrays; return the distinct values of one of text."""
    plain = values.to_numpy()
    if plain.dtype.kind in "biufM":
        arrays[key] = plain
        return None
    codes, distinct = pd.factorize(values)
    arrays[key] = codes.astype("int32")
    known: list[Any] = pd.Index(distinct).tolist()
    if strange := [v for v in known if not isinstance(v, str | int | float)]:
        raise SchemaError(
            f"column {column!r} holds {strange[0]!r}, which a file can't keep: make it "
            "a number, a time or text"
        )
    return known


def _unpack(array: np.ndarray, distinct: list[Any] | None) -> pd.Series:
    """Return a column that `_pack` put away."""
    if distinct is None:
        return pd.Series(array)
    if not distinct:
        return pd.Series(np.nan, range(len(array)))
    known = pd.Series(distinct)
    gap = array < 0
    values = known.iloc[np.where(gap, 0, array)].reset_index(drop=True)
    return values.mask(gap) if gap.any() else values
