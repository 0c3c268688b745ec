"""Drawn negatives: of the right kind, and undone in every probability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, from_frames
from urlm_helpers.evaluation import undo_downsampling
from urlm_helpers.preprocessing import draw_negatives, negatives

SCHEMA = Schema(
    ("shop", "feed"),
    ("click", "buy"),
    funnel={"buy": "click"},
    context_categorical=("device",),
)
ITEMS = {"shop": np.arange(8), "feed": np.arange(5, 17)}  # some in both
START = pd.Timestamp("2026-01-01")


def chances(scenario: str) -> np.ndarray:
    """Return the probability of a click, per item of the scenario."""
    return np.linspace(0.02, 0.3, len(ITEMS[scenario]))


def clicks(scenario: str, visits: int = 8000) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the clicks of a scenario, and which items its kept visits could get."""
    rng = np.random.default_rng(len(scenario))
    items, p = ITEMS[scenario], chances(scenario)
    launch = np.where(items % 3 == 0, visits // 2, 0)  # a third come late
    there = np.arange(visits)[:, None] >= launch  # (visits, items)
    clicked = there & (rng.random(there.shape) < p)
    kept = clicked.any(axis=1)  # nothing is known of the other visits
    visit, item = np.nonzero(clicked)
    log = pd.DataFrame({"user": rng.integers(0, 500, visits)[visit]})
    log = log.assign(item=items[item], scenario=scenario, click=1)
    log["buy"] = (rng.random(len(log)) < 0.3).astype(int)
    log["time"] = START + pd.to_timedelta(visit, "min")
    log["device"] = np.where(visit % 2, "phone", "desk")
    return log, there[kept]


def dataset(schema: Schema = SCHEMA) -> Dataset:
    log = pd.concat([clicks(scenario)[0] for scenario in ITEMS]).sort_values("time")
    return from_frames(log, schema=schema)


DATA = dataset()


@pytest.mark.parametrize(("rate", "alpha"), [(0.02, 0.0), (0.3, 0.0), (0.1, 0.75)])
def test_the_probabilities_of_the_world_come_back(rate: float, alpha: float) -> None:
    full, weight = draw_negatives(DATA, rate, alpha=alpha, seed=3)
    assert full.schema == replace(SCHEMA, negative_rate=rate)
    log = full.interactions.assign(weight=weight)
    assert (log.loc[log["click"] == 1, "weight"] == 1).all()
    assert (alpha > 0) == (weight.std() > 0)
    for scenario in ITEMS:
        could = clicks(scenario)[1]
        p = chances(scenario)
        some = 1 - np.prod(np.where(could, 1 - p, 1.0), axis=1)  # of a kept visit
        truth = could * p / some[:, None]
        own = log[log["scenario"] == scenario]
        zeros = own[own["click"] == 0]
        # all pairs that there were, from those that were drawn
        pairs = (own["click"] == 1).sum() + (zeros["weight"] / rate).sum()
        spread = np.sqrt((zeros["weight"] ** 2).sum()) / rate
        assert abs(pairs - could.sum()) < 4 * spread + len(p) / p.min()
        for column, item in enumerate(ITEMS[scenario]):
            of_item = own[own["item"] == item]
            happened = (of_item["click"] == 1).sum()
            drawn = of_item.loc[of_item["click"] == 0, "weight"].sum()
            found = undo_downsampling(
                np.array([happened / (happened + drawn)]), full.schema.negative_rate
            )[0]
            expected = truth[:, column].sum() / could[:, column].sum()
            number = len(of_item) - happened
            error = np.sqrt(1 / happened + 1 / number)
            assert abs(np.log(found / expected)) < 4 * error


def test_what_is_drawn_could_have_happened_and_did_not() -> None:
    full, weight = draw_negatives(DATA, 0.2)
    assert (weight == 1).all() and len(weight) == len(full.interactions)
    log, key = full.interactions, ["user", "scenario", "time"]
    assert log["time"].is_monotonic_increasing
    assert (log.dtypes == DATA.interactions.dtypes).all()
    assert not log.duplicated([*key, "item"]).any()  # nor a pair that happened
    happened, drawn = log[log["click"] == 1], log[log["click"] == 0]
    pd.testing.assert_frame_equal(
        happened.sort_values([*key, "item"]).reset_index(drop=True),
        DATA.interactions.sort_values([*key, "item"]).reset_index(drop=True),
    )
    assert (drawn["buy"] == 0).all() and len(drawn) > 1000
    first = happened.groupby(["scenario", "item"])["time"].min()
    seen = first.loc[list(zip(drawn["scenario"], drawn["item"], strict=True))]
    assert (seen.to_numpy() <= drawn["time"].to_numpy()).all()
    visits = happened.drop_duplicates(key)
    joined = drawn.merge(visits[[*key, "device"]], on=key, how="left")
    assert (joined["device_x"] == joined["device_y"]).all()  # of a visit of the log
    assert full.events is DATA.events and full.users is DATA.users


def test_all_pairs_are_drawn_once_at_rate_one() -> None:
    log = pd.DataFrame({"user": [1, 1, 2, 1, 3], "item": [5, 6, 5, 7, 5]})
    log = log.assign(time=pd.to_datetime([0, 0, 1, 9, 9]), scenario="shop")
    log = log.assign(click=1, buy=0, device="phone")
    full, _ = draw_negatives(from_frames(log, schema=SCHEMA), 1.0)
    drawn = full.interactions.query("click == 0")
    found = drawn[["user", "item"]].to_numpy().tolist()
    assert found == [[2, 6], [1, 5], [1, 6], [3, 6], [3, 7]]  # 7 is there at 9, not 1


def test_a_log_without_times_is_one_visit_per_user_and_scenario() -> None:
    schema = replace(SCHEMA, timed=False)
    log = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5], "scenario": "shop"})
    log = log.assign(click=1, buy=0, device="phone")
    full, _ = draw_negatives(from_frames(log, schema=schema), 1.0)
    drawn = full.interactions.query("click == 0")
    assert drawn[["user", "item"]].to_numpy().tolist() == [[2, 6]]


def test_popular_items_are_drawn_more_often() -> None:
    full, _ = draw_negatives(DATA, 0.05, alpha=0.75)
    for scenario, items in ITEMS.items():
        log = full.interactions.query("scenario == @scenario")
        could = pd.Series(clicks(scenario)[1].sum(axis=0), items)
        count = log.groupby(["click", "item"]).size()
        share = count[0] / (could - count[1])
        expected = 0.05 * count[1] ** 0.75 / (count[1] ** 0.75).mean()
        np.testing.assert_allclose(share, expected, rtol=0.25)


def test_a_seed_draws_the_same_and_another_one_others() -> None:
    same = [draw_negatives(DATA, 0.1, seed=s)[0].interactions for s in (1, 1, 2)]
    pd.testing.assert_frame_equal(same[0], same[1])
    assert not same[0].equals(same[2])


def test_what_cannot_be_undone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bad: list[dict[str, Any]] = [{"rate": 0}, {"rate": 1.1}, {"rate": np.nan}]
    bad += [{"rate": 0.1, "alpha": -1}, {"rate": 0.1, "alpha": np.inf}]
    for options in bad:
        with pytest.raises(ValueError, match=r"rate must lie in \(0, 1\] and alpha"):
            draw_negatives(DATA, **options)
    full = draw_negatives(DATA, 0.01)[0]
    with pytest.raises(ValueError, match="rows without any event and negative_rate=0"):
        draw_negatives(full, 0.1)
    unthinned = replace(full, schema=SCHEMA)
    with pytest.raises(ValueError, match="rows without any event and negative_rate=1"):
        draw_negatives(unthinned, 0.1)
    roots = dataset(replace(SCHEMA, funnel={}))
    with pytest.raises(ValueError, match=r"one root task only, got \['click', 'buy'\]"):
        draw_negatives(roots, 0.1)
    monkeypatch.setattr(negatives, "MOST_ROWS", 1000)
    with pytest.raises(ValueError, match="would draw five a visit"):
        draw_negatives(DATA, 0.5)
