"""A project's folder: what ``schema.toml`` says, and the three files that it names."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from urlm_helpers.data import DataCard, Schema
from urlm_helpers.preprocessing import Prepared

GAPS = ["", "NA", "NaN", "nan", "null", "NULL"]
"""What stands for a missing number; in a category only the empty field does."""

SECTIONS = ("card", "files", "csv", "schema", "cuts", "prepare", "tune")


class BadInput(ValueError):
    """A file that the reader gave can't be used; the message says what is wrong."""


@dataclass(frozen=True)
class Settings:
    """What ``schema.toml`` says.

    Parameters
    ----------
    folder : Path
    card : DataCard
    files : mapping of str to str
        ``interactions``, and where there are such tables ``users`` and ``items``.
    csv : mapping of str
        How the files are written: options of `pandas.read_csv`.
    schema : Schema
    cuts : mapping of str
        ``valid_from`` and ``test_from`` of `urlm_helpers.preprocessing.prepare`.
    prepare : mapping of str
        Its further options.
    tune : mapping of str
        Options of `urlm_helpers.project.tune`.
    """

    folder: Path
    card: DataCard
    files: Mapping[str, str]
    csv: Mapping[str, Any]
    schema: Schema
    cuts: Mapping[str, Any]
    prepare: Mapping[str, Any]
    tune: Mapping[str, Any]


def read_settings(folder: str | Path) -> Settings:
    """Read ``schema.toml`` of a project's folder.

    Raises
    ------
    BadInput
        The file is not there or is no TOML, or a section or a name in it is unknown
        or missing.
    """
    folder = Path(folder)
    path = folder / "schema.toml"
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"there is no {path}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise BadInput(f"{path}: {error}") from error
    if set(given) != set(SECTIONS):
        raise BadInput(
            f"{path} must have the sections {list(SECTIONS)}, got {list(given)}"
        )
    tables = ("interactions", "users", "items")
    if not {"interactions"} <= set(given["files"]) <= set(tables):
        raise BadInput(
            f"{path}: files must name interactions and may name users and items, got "
            f"{list(given['files'])}"
        )
    if set(given["cuts"]) != {"valid_from", "test_from"}:
        raise BadInput(
            f"{path}: cuts must be valid_from and test_from, got {list(given['cuts'])}"
        )
    try:
        schema, card = Schema(**given["schema"]), DataCard(**given["card"])
    except (TypeError, ValueError) as error:  # a name that is unknown, or a bad value
        raise BadInput(f"{path}: {error}") from error
    rest = {name: given[name] for name in ("files", "csv", "cuts", "prepare", "tune")}
    return Settings(folder, card, schema=schema, **rest)


def check_classes(prepared: Prepared) -> None:
    """Refuse a training period in which a task always, or never, happens.

    Raises
    ------
    BadInput
        Says which, and what would be right.
    """
    rows = prepared.parts["train"]
    for task, happened in zip(
        prepared.encoder.spec.tasks, prepared.y[rows].sum(axis=0), strict=True
    ):
        if happened == len(rows):
            raise BadInput(
                f"{task!r} is 1 in all {happened:,} rows of the training period: a "
                "model learns nothing from what happened alone. Give what was shown "
                "too, or draw it with urlm_helpers.preprocessing.draw_negatives"
            )
        if happened == 0:
            raise BadInput(
                f"{task!r} is 0 in all {len(rows):,} rows of the training period: take "
                "it out of the tasks, or move the cuts"
            )


def fingerprint(prepared: Prepared) -> str:
    """Return a text that is another one when columns, ids or scales are encoded anew.

    A model reads numbers of ids: with those of another training period it gives
    scores that look right and are not.
    """
    encoder = prepared.encoder
    learned = [encoder.spec, encoder.scaler.mean.tolist(), encoder.scaler.std.tolist()]
    learned += [known.values.tolist() for known in encoder.vocabularies.values()]
    learned += [buckets.edges.tolist() for buckets in encoder.buckets.values()]
    return sha256(repr(learned).encode()).hexdigest()[:16]


def read_tables(settings: Settings) -> dict[str, pd.DataFrame]:
    """Read the three files: ids and categories as text, so that 007 stays 007.

    Returns
    -------
    dict of str to DataFrame
        ``interactions``, ``users`` and ``items``, as
        `urlm_helpers.data.from_frames` takes them.

    Raises
    ------
    BadInput
        A file is not there or is no CSV.
    """
    schema, tables = settings.schema, {}
    text = {"user", "item", "scenario", *schema.user_categorical}
    text |= {*schema.item_categorical, *schema.context_categorical}
    text |= {schema.item_name or "item"}
    for name, file in settings.files.items():
        path = settings.folder / file
        try:
            columns = pd.read_csv(path, nrows=0, **settings.csv).columns
            gaps = {c: [""] if c in text else GAPS for c in columns}
            kinds = {c: str for c in columns if c in text}
            how = {**settings.csv, "dtype": kinds, "na_values": gaps}
            tables[name] = pd.read_csv(path, keep_default_na=False, **how)
        except FileNotFoundError:
            raise BadInput(
                f"{name}: there is no {path}: put the file there, or write into "
                "schema.toml where it is"
            ) from None
        except (TypeError, ValueError) as error:  # pandas' own are ValueErrors
            raise BadInput(
                f"{path} can't be read as CSV with {dict(settings.csv)}: {error}"
            ) from error
    return tables
