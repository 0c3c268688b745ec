"""Lists of a model that is known: each argument of `recommend` changes the list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, SchemaError, from_frames
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.recommendation import candidates, recommend

ITEMS = list("abcdef")
SCHEMA = Schema(("shop", "feed"), ("click", "buy"), item_name="title")


class Known:
    """Clicks by the item, `f` first; purchases the other way; all the same in pairs."""

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        item = (x["fields"][:, 1] - 1) // 2  # 0, 0, 1, 1, 2, 2
        return np.stack([0.1 + item / 10, 0.3 - item / 10], axis=1)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Return the encoder of a log in which users 1 and 2 had `a`, and user 1 `f`."""
    log = pd.DataFrame(
        {
            "user": [1, 2, 1, 1, 2, 1, 1, 2],
            "item": list("aafbcdef"),
            "scenario": ["shop"] * 4 + ["feed"] * 4,
            "time": pd.date_range("2024-01-01", periods=8, freq="D"),
            "click": [1, 1, 1, 0, 0, 0, 0, 0],
            "buy": 0,
        }
    )
    items = pd.DataFrame({"item": ITEMS, "title": [name.upper() for name in ITEMS]})
    dataset = from_frames(log, items=items, schema=SCHEMA)
    return Encoder(dataset, "2024-02-01", min_count=1, counted_on="rows", buckets=0)


def lists(encoder: Encoder, users: list[int], **options: Any) -> list[str]:
    """Return the items of each user's list, joined, in the order of the table."""
    rows = candidates(encoder, users, "shop", "2024-02-01")
    table = recommend(Known(), encoder, rows, **options)
    for _, one in table.groupby("user"):
        assert one["rank"].tolist() == list(range(1, len(one) + 1))
    assert table["name"].tolist() == [item.upper() for item in table["item"]]
    return table.groupby("user")["item"].sum().tolist()


def test_each_user_has_a_list_by_the_first_task_without_what_they_had(
    encoder: Encoder,
) -> None:
    assert lists(encoder, [1, 2]) == ["ecdb", "efcdb"]  # equal ones as they came


def test_the_task_is_what_a_list_is_ordered_by(encoder: Encoder) -> None:
    assert lists(encoder, [1, 2], task="click") == lists(encoder, [1, 2])
    assert lists(encoder, [1, 2], task="buy") == ["bcde", "bcdef"]
    with pytest.raises(ValueError, match="task 'like' is not one of"):
        lists(encoder, [1], task="like")


def test_a_list_may_be_ordered_by_a_mix(encoder: Encoder) -> None:
    for task in ("click", "buy"):
        assert lists(encoder, [1, 2], task={task: 2}) == lists(
            encoder, [1, 2], task=task
        )
    # p_click * p_buy is .1 * .3, .2 * .2 and .3 * .1 for the three pairs of items
    assert lists(encoder, [2], task={"click": 1, "buy": 1}) == ["cdbef"]
    own = {"shop": {"buy": 1}, "feed": {"click": 1}}
    assert lists(encoder, [1, 2], task=own) == lists(encoder, [1, 2], task="buy")
    rows = candidates(encoder, [2], "feed", "2024-02-01")
    fed = recommend(Known(), encoder, rows, task=own)["item"].tolist()
    assert fed == recommend(Known(), encoder, rows, task="click")["item"].tolist()
    for wrong in ({"click": -1}, {"click": 0}, {}, {"click": True}, {"click": np.inf}):
        with pytest.raises(SchemaError, match="weight"):
            lists(encoder, [1], task=wrong)
    with pytest.raises(SchemaError, match="weights for exactly .*'shop', 'feed'"):
        lists(encoder, [1], task={"shop": {"buy": 1}})


def test_a_list_has_k_items_or_all_there_are(encoder: Encoder) -> None:
    assert lists(encoder, [1, 2], k=1) == ["e", "e"]
    assert lists(encoder, [1, 2], k=4) == ["ecdb", "efcd"]
    assert lists(encoder, [1, 2], k=5) == lists(encoder, [1, 2], k=6)


def test_what_was_had_is_kept_where_it_is_asked_for(encoder: Encoder) -> None:
    assert lists(encoder, [1, 2], keep_consumed=True) == ["efcdab", "efcdab"]
    assert lists(encoder, [1, 2], keep_consumed=False) == lists(encoder, [1, 2])


def test_candidates_are_those_of_the_arguments(encoder: Encoder) -> None:
    rows = candidates(encoder, [2], "feed", "2024-01-02T12", items=["c", "a"])
    assert rows["item"].tolist() == ["c", "a"]
    assert (rows["user"] == 2).all() and (rows["scenario"] == "feed").all()
    assert (rows["time"] == pd.Timestamp("2024-01-02T12")).all()
    table = recommend(Known(), encoder, rows.assign(user=1), keep_consumed=True)
    assert table["consumed"].tolist() == [0, 1]  # c, and a on the day before
    early = rows.assign(user=1, time=pd.Timestamp("2024-01-01"))
    table = recommend(Known(), encoder, early, keep_consumed=True)
    assert table["consumed"].tolist() == [0, 0]  # not at that very moment


def test_a_context_may_differ_between_items(encoder: Encoder) -> None:
    data = encoder.dataset
    log = data.interactions.assign(near=0.5, device="phone")
    context: Any = {"context_numeric": ("near",), "context_categorical": ("device",)}
    with_context = replace(SCHEMA, **context)
    data = from_frames(log, items=data.items, schema=with_context)
    own = Encoder(data, "2024-02-01", min_count=1, buckets=0)
    near = pd.Series(np.arange(6.0), index=ITEMS[::-1])
    when = ("shop", "2024-02-01")
    rows = candidates(own, [1, 2], *when, near=near, device="phone")
    assert dict(zip(rows["item"], rows["near"], strict=True)) == near.to_dict()
    assert (rows["device"] == "phone").all() and len(rows) == 12
    for bad in (near.drop("c"), pd.concat([near, near[["c"]]])):
        with pytest.raises(ValueError, match="'near' has no value, or several, for 2"):
            candidates(own, [1, 2], *when, near=bad, device="phone")
    with pytest.raises(ValueError, match="'near' must be one value"):
        candidates(own, [1], *when, near=[1.0] * 6, device="phone")
