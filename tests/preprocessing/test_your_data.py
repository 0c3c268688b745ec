"""A reader's own tables: gaps, infinities and text, and MovieLens by way of CSV."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, SchemaError, from_frames, load
from urlm_helpers.evaluation import compare
from urlm_helpers.preprocessing import Buckets, Prepared, Scaler, prepare
from urlm_helpers.world import popularity

SCHEMA = Schema(("shop",), ("click",), user_numeric=("age",), context_numeric=("hour",))


def tables(age: object = 30.0, hour: object = 1.0) -> Dataset:
    """Forty rows of four users; the given values stand in the last user and row."""
    rows = 40
    log = pd.DataFrame(
        {
            "user": np.arange(rows) % 4,
            "item": np.arange(rows) % 5,
            "scenario": "shop",
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), "D"),
            "click": np.arange(rows) % 2,
            "hour": pd.Series([*np.arange(rows - 1.0), hour]),
        }
    )
    users = pd.DataFrame({"user": range(4), "age": pd.Series([20.0, 24.0, 28.0, age])})
    return from_frames(log, users, schema=SCHEMA)


def test_a_gap_in_a_number_is_its_mean_and_an_unseen_bucket() -> None:
    prepared = prepare(tables(age=np.nan), "2026-01-21", "2026-01-31", min_count=1)
    of_age = prepared.x["numeric"][:, prepared.encoder.numeric_names.index("age")]
    bucket = list(prepared.encoder.spec.fields).index("age (bucket)")
    gap = prepared.rows["user"].to_numpy() == 3
    assert np.isfinite(prepared.x["numeric"]).all()
    assert (of_age[gap] == 0).all() and of_age[~gap].mean() == pytest.approx(0)
    assert of_age[~gap].std() == pytest.approx(1)
    assert (prepared.x["fields"][gap, bucket] == 0).all()
    assert (prepared.x["fields"][~gap, bucket] > 0).all()


def test_a_column_of_gaps_alone_becomes_zeros() -> None:
    nothing = np.full((5, 1), np.nan)
    assert Scaler.fit(nothing).transform(nothing).tolist() == [[0.0]] * 5
    assert Buckets.fit(nothing[:, 0]).encode(np.array([1.0, np.nan])).tolist() == [1, 0]


def test_gaps_do_not_move_what_the_others_are_scaled_with() -> None:
    past = np.random.default_rng(0).normal(3, 2, (50, 2))
    with_gaps = np.concatenate([past, np.full((10, 2), np.nan)])
    full, holey = Scaler.fit(past), Scaler.fit(with_gaps)
    np.testing.assert_allclose(holey.mean, full.mean)
    np.testing.assert_allclose(holey.std, full.std)
    edges, same = (Buckets.fit(c[:, 0]).edges for c in (past, with_gaps))
    np.testing.assert_array_equal(edges, same)


def test_an_unknown_id_in_new_rows_gives_numbers() -> None:
    encoder = prepare(tables(), "2026-01-21", "2026-01-31", min_count=1).encoder
    new = encoder.dataset.interactions.head(2).assign(user=[99, 0])
    x = encoder.transform(new)
    assert np.isfinite(x["numeric"]).all() and x["fields"][0, 0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tables(age=np.inf), "users: .*'age' is infinite in 1 row, .*index 3"),
        (lambda: tables(hour=-np.inf), "interactions: .*'hour' is infinite .*index 39"),
        (lambda: tables(age="1,204"), "users: .*'age' has dtype .*'1,204' in 1 row"),
        (lambda: tables(hour="?"), r"interactions: .*'hour' .*'\?' in 1 row.*index 39"),
    ],
)
def test_a_number_that_is_none_is_shown(
    make: Callable[[], Dataset], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        make()


def test_numbers_as_text_are_told_to_convert() -> None:
    good = tables()
    users = good.users.assign(age=good.users["age"].astype(str))
    with pytest.raises(SchemaError, match=r"'20.0' in 4 rows.*pd.to_numeric"):
        from_frames(good.interactions, users, schema=SCHEMA)


# --- MovieLens 100K, where it is ------------------------------------------------------

DATA = os.environ.get("URLM_DATA", "")


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    if not DATA or not (Path(DATA) / "ml-100k").is_dir():
        pytest.skip("URLM_DATA has no folder ml-100k")
    data = load("movielens-100k")
    folder = tmp_path_factory.mktemp("csv")
    frames = []
    for name in ("interactions", "users", "items"):
        getattr(data, name).to_csv(folder / f"{name}.csv", index=False)
        frames.append(pd.read_csv(folder / f"{name}.csv"))
    again = from_frames(*frames, schema=data.schema, name="movies")
    pd.testing.assert_frame_equal(
        again.interactions, data.interactions, check_dtype=False
    )
    days = again.interactions["time"].quantile([0.8, 0.9])
    valid_from, test_from = (pd.Timestamp(day).floor("D") for day in days)
    return prepare(again, valid_from, test_from, history_length=10, min_count=5)


def test_movielens_by_way_of_csv_is_encoded_without_a_gap(movies: Prepared) -> None:
    assert movies.encoder.dataset.items["year"].isna().sum() == 1  # "unknown"
    assert all(np.isfinite(array).all() for array in movies.x.values())


def test_movielens_trains_and_is_near_popularity(movies: Prepared) -> None:
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.training import fit

    model = UnifiedRecommender(movies.encoder.spec, bottom=64, match=32)
    model.reset(seed=0)
    settings = {"epochs": 2, "batch_size": 1024, "weight_decay": 0.3}
    losses = fit(model, movies.x, movies.y, movies.parts, **settings)  # type: ignore[arg-type]
    assert losses["valid_loss"].max() < np.log(2)
    at = movies.parts["test"]
    train, test = (movies.rows.iloc[movies.parts[p]] for p in ("train", "test"))
    ours = movies.predictions(at, model.probabilities(movies.take(at)))
    simple = movies.predictions(at, popularity(train, test, "like"))
    table = compare(ours, simple, ["like"], resamples=200).iloc[0]
    assert table["b"] > 0.65 and abs(table["difference"]) < 0.03
