"""Features online are features offline, row by row, on a log that is replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers.data import Schema, from_frames
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.preprocessing.lookback import LookBack, seconds
from urlm_helpers.serving import Online
from urlm_helpers.serving.timeline import OFFSET, Timeline

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    user_categorical=("age",),
    user_numeric=("income",),
    item_categorical=("kind",),
    item_numeric=("price",),
    context_categorical=("device",),
    context_numeric=("hour",),
)
LOOK_BACK = [
    ("user",),
    ("user", "item"),
    ("user", "kind"),
    ("device", "kind"),
    ("user", "scenario", "kind"),
    ("kind",),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Gaps in every column, ties in time, values that are rare, and new ones."""
    rng, n = np.random.default_rng(0), 800
    click = rng.random(n) < 0.5
    minutes = np.sort(rng.integers(0, 40 * 24 * 2, n)) * 30  # some at the same time
    log = pd.DataFrame(
        {
            "user": rng.integers(1, 40, n),
            "item": [f"i{k}" for k in rng.integers(0, 25, n)],
            "scenario": rng.choice(SCHEMA.scenarios, n),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(minutes, "min"),
            "click": click.astype(int),
            "buy": (click & (rng.random(n) < 0.3)).astype(int),
            "device": rng.choice(np.array(["phone", "desk", None]), n),
            "hour": np.where(rng.random(n) < 0.1, np.nan, rng.random(n)),
        }
    )
    items = pd.DataFrame({"item": [f"i{k}" for k in range(25)]})
    items["price"] = np.where(items["item"] == "i3", np.nan, np.arange(25.0))
    items["kind"] = rng.choice(np.array(["a", "b", "c", None]), 25)
    users = pd.DataFrame({"user": range(1, 41), "income": rng.random(40)})
    users["age"] = rng.choice(["young", "old"], 40)
    columns = ["user", "item", "time", "scenario", "device"]
    events = log.loc[log["click"] == 1, columns]
    data = from_frames(log, users, items, schema=SCHEMA, events=events)
    return Encoder(
        data,
        "2026-01-20",
        look_back=LOOK_BACK,
        history_fields=("item", "kind", "scenario", "device"),
        history_length=5,
        min_count=3,
    )


def columns_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Return events as a store gives them: no NaN, seconds since 1970."""
    plain = rows.astype(object).where(rows.notna(), None)
    given = {c: plain[c].tolist() for c in ("user", "item", "scenario", "device")}
    return given | {"time": seconds(rows).tolist()}


def same(online: dict[str, np.ndarray], offline: dict[str, np.ndarray]) -> bool:
    """Tell whether two encodings are equal bit for bit."""
    return all(
        array.dtype == offline[name].dtype and np.array_equal(array, offline[name])
        for name, array in online.items()
    )


@pytest.mark.parametrize("known", [0, 150])
def test_a_replayed_log_has_the_features_of_the_whole(
    encoder: Encoder, known: int
) -> None:
    log = encoder.dataset.interactions
    start = encoder.dataset.events.iloc[:known]
    online, at = Online(encoder, columns_of(start)), columns_of(log)
    number, compared = 0, 0  # of the next event
    for row in range(len(log)):
        if number >= known:
            context = {"device": at["device"][row], "hour": log["hour"].iloc[row]}
            items = np.array([online.items[at["item"][row]]])
            where = (at["scenario"][row], at["time"][row])
            x = online.encode(at["user"][row], items, *where, context)
            assert same(x, {n: a[[row]] for n, a in encoder.encoded.items()}), row
            compared += 1
        if log["click"].iloc[row]:
            if number >= known:
                online.add({name: at[name][row] for name in at})
            number += 1
    assert compared > 400 and number == len(encoder.dataset.events)


def test_a_whole_catalog_with_strangers_is_encoded_as_the_encoder_does(
    encoder: Encoder,
) -> None:
    online = Online(encoder, columns_of(encoder.dataset.events))
    items = [*encoder.dataset.items["item"], "new"]
    number = np.array([online.items.get(item, -1) for item in items])
    for user, device in ((7, "phone"), (10**6, "watch")):
        rows = pd.DataFrame({"item": items, "user": user, "scenario": "feed"})
        rows = rows.assign(time="2026-01-25T10:00", device=device, hour=0.5)
        time = int(pd.Timestamp("2026-01-25T10:00").timestamp())
        context = {"device": device, "hour": 0.5}
        x = online.encode(user, number, "feed", time, context)
        assert same(x, encoder.transform(rows))
        several = {"device": [device] * 26, "hour": [0.5] * 26}
        assert same(online.encode(user, number, "feed", time, several), x)


def test_events_of_new_users_and_items_count(encoder: Encoder) -> None:
    online = Online(encoder, columns_of(encoder.dataset.events.iloc[:0]))
    event = {"user": -5, "item": "new", "scenario": "shop", "device": None, "time": 100}
    online.add(event)
    context = {"device": None, "hour": 0.5}
    number = np.array([online.items["new"], online.items["i1"]])
    x = online.encode(-5, number, "shop", 200, context)
    count = encoder.numeric_names.index("user × item: count")
    scale = encoder.scaler
    raw = x["numeric"][:, count] * scale.std[count] + scale.mean[count]
    np.testing.assert_allclose(raw, [np.log(2), 0], atol=1e-6)
    assert x["history_age"][0, -1] == np.float32(100 / 86_400)
    assert online.consumed(-5, 200, 9).tolist() == [number[0]]
    assert online.consumed(-5, 100, 9).tolist() == []  # strictly before


def test_what_is_popular_fades(encoder: Encoder) -> None:
    day = 86_400
    events: dict[str, Any] = {
        "user": [1, 1, 2],
        "item": ["i1", "i2", "i2"],
        "device": [None] * 3,
    }
    events |= {"scenario": ["shop", None, "feed"], "time": [14 * day, 14 * day, 0]}
    online = Online(encoder, events)
    assert online.popular[:, :3].tolist() == [[0, 1, 1], [0, 0, 1.5]]
    late = {"user": 1, "item": "i0", "device": None, "time": 28 * day}
    online.add(late | {"scenario": "feed"})
    online.add(late | {"scenario": None})
    assert online.popular[:, :3].tolist() == [[2, 1, 1], [4, 0, 1.5]]


def test_more_columns_than_fit_are_refused(encoder: Encoder) -> None:
    crowd = Online(encoder, columns_of(encoder.dataset.events))
    crowd.users |= {-n: n for n in range(2**19 + 1)}
    with pytest.raises(ValueError, match="too many users or items"):
        crowd._fill(columns_of(encoder.dataset.events))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 9)), max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 9)), max_size=8),
    st.integers(-6, 10),
)
def test_a_timeline_counts_as_a_look_back(
    known: list[tuple[int, int]], late: list[tuple[int, int]], now: int
) -> None:
    every = np.array(known + late, "int64").reshape(-1, 2)
    payload = np.arange(len(every))[:, None]
    first = every[: len(known)]
    line = Timeline(first[:, 0], first[:, 1], payload[: len(known)])
    for number, (group, time) in enumerate(late, start=len(known)):
        line.add(group, time, [number])
    frame = pd.DataFrame({"g": every[:, 0], "time": every[:, 1].astype("M8[s]")})
    rows = pd.DataFrame({"g": range(5), "time": np.full(5, now).astype("M8[s]")})
    back = LookBack(frame, rows, ["g"])
    counts, last = line.before(range(5), [now, now - 3])
    assert counts[:, 0].tolist() == back.count().tolist()
    assert (counts[:, 0] - counts[:, 1]).tolist() == back.count(3 / 86_400).tolist()
    ago = np.where(last > -OFFSET, (now - last) / 86_400, 99.0)
    assert ago.tolist() == back.days_since_last(never=99.0).tolist()
    for group, wanted in enumerate(back.last(4)):
        times, found = line.last(group, now, 4)
        assert found[:, 0].tolist() == wanted[wanted >= 0].tolist()
        assert times.tolist() == every[found[:, 0], 1].tolist()
