"""A log that is encoded bucket by bucket, in one process and by an engine: the same.

Ray Data is the engine, where it is installed (``make test-engine``): it needs a wheel
of 80 MB and runs Python's functions on one machine as on many. Spark is 460 MB, wants
Java, and starts a Python beside each executor for functions such as ours.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, from_frames
from urlm_helpers.preprocessing import Encoder, encode_shards, read_shard

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    user_categorical=("city",),
    item_categorical=("kind",),
    item_numeric=("price",),
    context_categorical=("device",),
)
LOOK_BACK = [["user"], ["item"], ["user", "item"], ["kind"], ["user", "kind"]]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    rng, rows = np.random.default_rng(0), 1_500
    users = pd.DataFrame({"user": [f"u{n}" for n in range(12)]})
    users["city"] = np.array(["north", "south", None])[rng.integers(0, 3, 12)]
    items = pd.DataFrame({"item": np.arange(40), "price": rng.random(40)})
    items["kind"] = np.array(["book", "toy", None])[rng.integers(0, 3, 40)]
    click = rng.random(rows) < 0.4
    log = pd.DataFrame(
        {
            "user": rng.choice(users["user"], rows),
            "item": rng.integers(0, 40, rows),
            "scenario": rng.choice(SCHEMA.scenarios, rows),
            # several rows in a second: their order is that of the files
            "time": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(np.sort(rng.integers(0, 900, rows)) * 1_800, "s"),
            "click": click.astype(int),
            "buy": (click & (rng.random(rows) < 0.3)).astype(int),
            "device": rng.choice(["phone", "desk"], rows),
        }
    )
    data = from_frames(log, users, items, schema=SCHEMA)
    return Encoder(
        data,
        "2026-01-12",
        look_back=LOOK_BACK,
        history_fields=["item", "kind"],
        history_length=6,
        min_count=3,
    )


def write(frame: pd.DataFrame, folder: Path, files: int) -> list[Path]:
    """Write a frame as so many Parquet files."""
    folder.mkdir()
    paths = []
    for number, part in enumerate(np.array_split(np.arange(len(frame)), files)):
        paths.append(folder / f"{number}.parquet")
        frame.iloc[part].to_parquet(paths[-1], index=False)
    return paths


def compare(encoder: Encoder, folder: Path, buckets: int, each: Any) -> None:
    """Encode in shards, and all at once with pandas; hold one against the other."""
    data = encoder.dataset
    rows = write(data.interactions, folder / "rows", 3)
    events = write(data.events, folder / "events", 2)
    shards = encode_shards(
        encoder, rows, events, folder / "out", buckets=buckets, each=each
    )
    user = data.interactions["user"]
    bucket = pd.util.hash_pandas_object(user, index=False).to_numpy() % buckets
    assert [int(path.stem) for path in shards] == np.unique(bucket).tolist()
    x = encoder.transform(data.interactions)
    assert all(np.ptp(column) > 0 for column in x["numeric"].T)  # something to compare
    seen = 0
    for path in shards:
        found, own = read_shard(path), bucket == int(path.stem)
        labels = data.interactions.loc[own, list(SCHEMA.tasks)]
        np.testing.assert_array_equal(found.pop("labels"), labels)
        assert set(found) == set(x)
        for name, array in x.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array[own], err_msg=name)
        seen += own.sum()
    assert seen == len(user)


@pytest.mark.parametrize("buckets", [1, 20])
def test_bucket_by_bucket_is_as_all_at_once(
    encoder: Encoder, tmp_path: Path, buckets: int
) -> None:
    compare(encoder, tmp_path, buckets, map)


def test_the_order_of_the_tasks_does_not_matter(
    encoder: Encoder, tmp_path: Path
) -> None:
    def backwards(run: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
        return [run(number) for number in reversed(numbers)]

    compare(encoder, tmp_path, 5, backwards)


def test_a_folder_with_files_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "old.parquet").touch()
    with pytest.raises(FileExistsError, match="name an empty folder"):
        encode_shards(encoder, [], [], tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)
def test_an_engine_gives_the_same(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = importlib.import_module("ray")  # not where the types are checked
    data = importlib.import_module("ray.data")

    def each(run: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
        def one(row: dict[str, Any]) -> dict[str, Any]:
            run(int(row["id"]))
            return row

        done: list[Any] = data.range(len(numbers)).map(one).take_all()
        return done

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token at home
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        data.DataContext.get_current().enable_progress_bars = False
        compare(encoder, tmp_path, 4, each)
    finally:
        ray.shutdown()
