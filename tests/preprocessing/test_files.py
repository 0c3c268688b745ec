"""An encoder goes with its model through a file that runs nothing."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, SchemaError, arrays, from_frames
from urlm_helpers.preprocessing import Encoder, load_encoder, save_encoder
from urlm_helpers.recommendation import candidates, recommend

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    user_categorical=("city",),
    user_numeric=("age",),
    item_categorical=("kind", "new"),
    context_categorical=("query", "page"),
    context_numeric=("hour",),
    item_name="name",
    catalog={"shop": "in shop"},
    consumed_again=True,
)
OPTIONS: dict[str, Any] = {
    "look_back": [["user", "item"], ["kind"]],
    "history_fields": ["item", "kind"],
    "history_length": 3,
    "min_count": 2,
}


def dataset(rows: int = 400) -> Dataset:
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, rows)
    page = rng.integers(1, 4, rows).astype(float)
    page[rng.random(rows) < 0.1] = np.nan
    log = pd.DataFrame(
        {
            "user": rng.integers(1, 9, rows),
            "item": [f"{n:02d}" for n in rng.integers(0, 12, rows)],
            "scenario": rng.choice(["shop", "feed"], rows),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), "h"),
            "click": click,
            "buy": click * rng.integers(0, 2, rows),
            "query": rng.choice(["a", "b", "ü"], rows),
            "page": page,
            "hour": rng.random(rows),
        }
    )
    users = pd.DataFrame({"user": range(1, 10), "age": np.arange(9.0)})
    users["city"] = ["Oslo", None, "Rome"] * 3
    items = pd.DataFrame({"item": [f"{n:02d}" for n in range(12)]})
    items["kind"], items["new"] = list("aabbccddee") + [None, "f"], [True, False] * 6
    items["in shop"], items["name"] = [1, 0] * 6, items["item"] + "!"
    return from_frames(log, users, items, schema=SCHEMA, name="toy")


class Half:
    """A model that knows nothing."""

    def probabilities(self, x: Any) -> np.ndarray:
        return np.full((len(x["scenario"]), 2), 0.5)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(dataset(), "2026-01-10", **OPTIONS)


def test_it_encodes_as_the_one_that_was_saved(encoder: Encoder, tmp_path: Path) -> None:
    path = save_encoder(encoder, tmp_path / "encoder.npz")
    again = load_encoder(path)
    assert again.spec == encoder.spec and again.schema == encoder.schema
    rows = encoder.dataset.interactions
    for name, array in encoder.transform(rows).items():
        np.testing.assert_array_equal(again.transform(rows)[name], array)
        np.testing.assert_array_equal(encoder.encoded[name], array)
    lists = []
    for one in (encoder, again):
        context: dict[str, Any] = {"query": "ü", "page": 2, "hour": 0.5}
        asked = candidates(one, [3, 1], "shop", "2026-01-15", **context)
        lists.append(recommend(Half(), one, asked, k=4))
    pd.testing.assert_frame_equal(lists[0], lists[1])
    assert lists[0]["name"].str.endswith("!").all() and lists[0]["consumed"].any()


def test_it_refuses_what_the_one_that_was_saved_refuses(
    encoder: Encoder, tmp_path: Path
) -> None:
    again = load_encoder(save_encoder(encoder, tmp_path / "encoder.npz"))
    rows = encoder.dataset.interactions.head(3)
    for change in ({"user": "1"}, {"scenario": "Shop "}, {"page": "1"}, {"query": 1}):
        says = []
        for one in (encoder, again):
            with pytest.raises(SchemaError) as refused:
                one.transform(rows.assign(**change))
            says.append(str(refused.value))
        assert says[0] == says[1]


def test_the_rows_stay_behind(tmp_path: Path) -> None:
    sizes = {}
    for rows in (400, 4000):
        data = dataset(rows)
        few = data.interactions.iloc[:50]  # the same past, however many rows follow
        data = from_frames(
            data.interactions, data.users, data.items, schema=SCHEMA, events=few
        )
        encoder = Encoder(data, "2026-01-10", **OPTIONS)
        path = save_encoder(encoder, tmp_path / f"{rows}.npz")
        sizes[rows] = path.stat().st_size, len(pickle.dumps(encoder))
        again = load_encoder(path)
        assert len(again.dataset.interactions) == 1 and not hasattr(again, "encoded")
    assert sizes[4000][0] < 1.1 * sizes[400][0] and sizes[4000][1] > 5 * sizes[400][1]


def test_another_file_and_another_version_are_refused(
    encoder: Encoder, tmp_path: Path
) -> None:
    path = save_encoder(encoder, tmp_path / "encoder.npz")
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes()) | {"version": 99}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="version 99 of the format, .* reads 1"):
        load_encoder(path)
    others: dict[str, bytes] = {"pickle": pickle.dumps(encoder), "empty": b""}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array.npy", np.arange(3))
    np.savez(tmp_path / "arrays.npz", a=np.arange(3))
    for name in (*others, "array.npy", "arrays.npz"):
        with pytest.raises(ValueError, match="is no file of save_encoder"):
            load_encoder(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_encoder(tmp_path / "nowhere.npz")


def claiming(path: Path, entry: str, shape: tuple[int, ...]) -> None:
    """Say in the header of one array that it has another shape, and leave the rest."""
    with zipfile.ZipFile(path) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    header = io.BytesIO()
    about = {"descr": "<i8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    entries[entry] = header.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)


def test_a_file_that_claims_more_than_there_is_is_refused_before_it_is_read(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_encoder(encoder, tmp_path / "encoder.npz")
    with np.load(path) as file:
        needed = sum(array.nbytes for array in file.values())
    monkeypatch.setattr(arrays, "available_memory", lambda: needed)
    load_encoder(path)
    monkeypatch.setattr(arrays, "available_memory", lambda: needed - 1)
    monkeypatch.setattr(np, "load", None)  # refused before anything is read
    with pytest.raises(MemoryError, match=r"encoder.npz claims .* GiB are free: if sa"):
        load_encoder(path)
    monkeypatch.undo()
    claiming(path, "users 0.npy", (10**12, 3))
    says = r"\(1000000000000, 3\) values in 'users 0.npy' and needs 22,351\.. GiB"
    with pytest.raises(MemoryError, match=says):
        load_encoder(path)
    claiming(path, "users 0.npy", (9,))  # fits, and is cut off
    with pytest.raises(ValueError, match="is no file of save_encoder"):
        load_encoder(path)


@pytest.mark.parametrize("value", [Decimal("1.5"), date(2026, 1, 1)])
def test_a_column_that_a_file_cannot_keep_is_named(tmp_path: Path, value: Any) -> None:
    data = dataset()
    items = data.items.assign(kind=[value] * 12)
    data = from_frames(data.interactions, data.users, items, schema=SCHEMA)
    with pytest.raises(SchemaError, match="column 'kind' holds .*number, a time or t"):
        save_encoder(Encoder(data, "2026-01-10", **OPTIONS), tmp_path / "encoder.npz")
    assert not list(tmp_path.iterdir())
