"""What is fitted knows the past alone; every boundary at equality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, from_frames
from urlm_helpers.preprocessing import (
    Buckets,
    Encoder,
    LookBack,
    Vocabulary,
    prepare,
    split_by_time,
)

CUT, LATER = "2024-02-01", "2024-02-05"
SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click",),
    user_categorical=("city",),
    user_numeric=("income",),
    item_categorical=("brand",),
    item_numeric=("price",),
    context_categorical=("device",),
    context_numeric=("hour",),
)
OPTIONS: dict[str, Any] = {
    "look_back": [["user"], ["brand"]],
    "history_fields": ("item", "brand", "scenario"),
    "min_count": 2,
}


def rows(start: str, ids: range, device: str, scenario: str, n: int) -> pd.DataFrame:
    """Return rows an hour apart, the first at the start."""
    rng = np.random.default_rng(len(ids))
    return pd.DataFrame(
        {
            "user": rng.choice(ids, n),
            "item": rng.choice(ids, n),
            "scenario": scenario,
            "time": pd.Timestamp(start) + pd.to_timedelta(np.arange(n), "h"),
            "device": device,
            "hour": rng.normal(max(ids), 1, n),
            "click": np.arange(n) % 3 > 0,
        }
    )


def dataset(log: pd.DataFrame) -> Dataset:
    """Return a log in which later users and items have features of their own."""
    ids = np.arange(20)
    late = ids >= 10
    users = pd.DataFrame({"user": ids, "city": np.where(late, "new", "old")})
    items = pd.DataFrame({"item": ids, "brand": np.where(late, "young", "aged")})
    users["income"] = items["price"] = np.where(late, 1e6, ids)
    return from_frames(log, users, items, schema=SCHEMA)


PAST = rows("2024-01-01", range(10), "phone", "shop", 80)
# From the very moment of the cut: other ids and all that comes with them, and more of
# what there was once in the past, too rarely to be known.
FUTURE = rows(CUT, range(10, 20), "watch", "feed", 200)
RARE = rows("2024-01-05", range(19, 20), "desk", "shop", 2).head(1).assign(click=True)


@pytest.mark.parametrize("counted_on", ["events", "rows"])
def test_nothing_that_is_fitted_has_seen_the_future(counted_on: str) -> None:
    past = pd.concat([PAST, RARE], ignore_index=True)
    whole = pd.concat([past, FUTURE, RARE.assign(time=CUT)], ignore_index=True)
    whole["time"] = pd.to_datetime(whole["time"])
    one, two = (
        Encoder(dataset(log), CUT, counted_on=counted_on, **OPTIONS)
        for log in (past, whole)
    )
    for name, known in one.vocabularies.items():
        assert two.vocabularies[name].values.equals(known.values), name
        assert not {"watch", "desk", "new", "young", "feed", 19} & {*known.values}, name
    for name, bucket in one.buckets.items():
        np.testing.assert_array_equal(two.buckets[name].edges, bucket.edges, name)
    np.testing.assert_array_equal(two.scaler.mean, one.scaler.mean)
    np.testing.assert_array_equal(two.scaler.std, one.scaler.std)
    pd.testing.assert_frame_equal(two.unseen, one.unseen)
    assert two.spec == one.spec
    for name, array in one.encoded.items():
        np.testing.assert_array_equal(two.encoded[name][: len(past)], array)
    assert not two.encoded["fields"][len(past) :, 0].any()  # users of the future


def test_prepare_fits_on_the_training_period() -> None:
    log = pd.concat([PAST, FUTURE], ignore_index=True)
    data = prepare(dataset(log), CUT, LATER, **OPTIONS)
    assert data.parts["train"].tolist() == list(range(len(PAST)))
    assert data.parts["valid"].tolist() == list(range(len(PAST), len(PAST) + 96))
    assert data.encoder.vocabularies["user"].values.max() == 9


def test_a_row_at_a_cut_falls_behind_it() -> None:
    moments = ["2024-01-31T23:59:59", CUT, "2024-02-04", LATER]
    time = pd.Series(pd.to_datetime(moments, format="ISO8601"))
    parts = split_by_time(time, CUT, LATER)
    found = {name: at.tolist() for name, at in parts.items()}
    assert found == {"train": [0], "valid": [1, 2], "test": [3]}


def test_a_window_begins_with_the_event_that_is_just_so_old() -> None:
    now = pd.Timestamp("2024-01-31")
    ago = pd.to_timedelta([7 * 86_400 + 1, 7 * 86_400, 60, 0, -1], "s")
    events = pd.DataFrame({"user": 1, "time": now - ago})
    back = LookBack(events, pd.DataFrame({"user": [1], "time": [now]}), ["user"])
    assert (back.count().item(), back.count(7).item()) == (3, 2)
    assert back.last(2).tolist() == [[1, 2]]  # not the event of this very moment
    assert back.days_since_last(99).item() == pytest.approx(60 / 86_400)


def test_seen_just_often_enough_is_known() -> None:
    past = pd.Series(["a", "b", "b", "c", "c", "c"])
    assert Vocabulary.fit(past, 2).encode(pd.Series(["a", "b", "c"])).tolist() == [
        0,
        1,
        2,
    ]


def test_a_bucket_begins_at_its_edge() -> None:
    buckets = Buckets(np.array([1.0, 2.0]))
    values = np.array([0.9, 1.0, 1.9, 2.0, 9.0, np.nan])
    assert buckets.encode(values).tolist() == [1, 2, 2, 3, 3, 0]


def test_each_option_of_an_encoder_does_what_it_says() -> None:
    def encoder(**options: Any) -> Encoder:
        return Encoder(dataset(PAST), CUT, **{**OPTIONS, **options})

    counts = ["count", "last 1 days", "last 3 days", "days since"]
    names = encoder(windows=(1, 3)).numeric_names
    assert names[3:] == tuple(f"{by}: {n}" for by in ("user", "brand") for n in counts)
    assert encoder(look_back=[]).numeric_names == names[:3] != ()
    one = encoder(history_fields=("brand",), history_length=3)
    assert one.encoded["history"].shape == (len(PAST), 3, 1)
    assert one.encoded["history_age"].shape == (len(PAST), 3)
    sizes = [encoder(buckets=n).spec.fields for n in (0, 2, 5)]
    assert "hour (bucket)" not in sizes[0]
    assert [s["hour (bucket)"] for s in sizes[1:]] == [3, 6]  # and one for gaps
    rare = int(PAST["user"].value_counts().min())
    known = [encoder(min_count=n).spec.fields["user"] for n in (rare, rare + 1)]
    assert known[0] == 11 > known[1]


def test_a_window_is_counted_in_days() -> None:
    one = Encoder(dataset(PAST), CUT, **{**OPTIONS, "windows": (1,)})
    column = one.numeric_names.index("user: last 1 days")
    raw = one.encoded["numeric"] * one.scaler.std + one.scaler.mean
    clicks = PAST[PAST["click"]]
    for r in range(0, len(PAST), 7):
        row = PAST.iloc[r]
        own = clicks.loc[clicks["user"] == row["user"], "time"]
        day = own.between(row["time"] - pd.Timedelta("1D"), row["time"], "left")
        assert np.expm1(raw[r, column]) == pytest.approx(day.sum(), abs=1e-4)
