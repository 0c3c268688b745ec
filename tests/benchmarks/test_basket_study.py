"""The study of baskets: what it counts, weighs, ranks and lays before its models."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("basket_study")

DAYS = {  # of user 0 and of user 1
    (0, "2001-01-01"): [0, 1],
    (0, "2001-01-05"): [0],
    (0, "2001-01-09"): [0, 2],
    (1, "2001-01-02"): [1, 2],
    (1, "2001-01-20"): [3],
}


@pytest.fixture
def view() -> Any:
    """Two users before 10 January; user 1 has a basket after it."""
    rows = pd.DataFrame(
        (user, pd.Timestamp(day), item, int(item == 3))
        for (user, day), items in DAYS.items()
        for item in items
    )
    rows.columns = pd.Index(["user", "day", "item", "several"])
    later = pd.DataFrame({"user": 0, "day": pd.Timestamp("2001-01-12"), "item": [0, 3]})
    rows = pd.concat([rows, later.assign(several=0)], ignore_index=True)
    is_past = rows["day"] < "2001-01-10"
    return study._view(rows, is_past, ~is_past, np.array(["a", "a", "b", "b"]))


def test_a_view_counts_baskets_from_the_last_and_days_to_the_truths(view: Any) -> None:
    own = view.past[view.past["user"] == 0].sort_values(["basket", "item"])
    assert own["basket"].tolist() == [0, 0, 1, 2, 2]
    assert own["age"].tolist() == [3, 3, 7, 11, 11]
    assert view.matrix().toarray().tolist() == [[3, 1, 1, 0], [0, 1, 1, 0]]
    assert view.several()[["user", "item"]].values.tolist() == [[1, 3]]


def test_recall_of_the_three_lists_by_hand(view: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(study, "TOP", 1)
    # Of all, user 0 is shown 1 and user 1 gets 3; each has a hit among the new.
    score = np.array([[2.0, 3, 0, 1], [0, 1, 2, 3]])
    found = study.Judge(view).recall(score)
    assert found["all"].tolist() == [0, 1]
    assert found["new"].tolist() == [1, 1]
    assert found["again"][0] == 0 and np.isnan(found["again"][1])  # no repeat to find
    assert study.Judge(view).mean(score[:, ::-1], "again") == 0


def test_weights_of_baskets_fade_within_a_group_and_across(monkeypatch: Any) -> None:
    monkeypatch.setattr(study, "GROUPS", 2)
    # Three baskets in two groups: the last two, and the one before.
    weights = study.basket_weights(3, within=0.5, across=0.1)
    assert weights == pytest.approx([1 / 4, 0.5 / 4, 0.1 / 2])


def test_tifu_adds_the_neighbors_mean_to_ones_own(view: Any) -> None:
    taste = study.tastes(view, 1.0, 0.5).toarray()
    # Three baskets, each a group: 1, ½ and ¼, over three; one basket counts in full.
    by_hand = [[1.75 / 3, 0.25 / 3, 1 / 3, 0], [0, 1, 1, 0]]
    assert taste == pytest.approx(np.array(by_hand))
    score = study.tifu(view, (1.0, 0.5), 1, 0.6)
    assert score == pytest.approx(taste, abs=1e-5)  # one is one's own nearest neighbor
    both = study.of_neighbors(view.matrix(), np.array([[0, 1], [1, 0]]))
    assert both == pytest.approx(np.tile([1.5, 1, 1, 0], (2, 1)))


def test_items_are_alike_by_the_cosine_of_their_baskets(view: Any) -> None:
    alike = study.alike_items(view).toarray()
    # Baskets: {0, 1}, {0}, {0, 2}, {1, 2}.
    assert alike[0, 1] == pytest.approx(1 / np.sqrt(3 * 2))
    assert alike[1, 2] == pytest.approx(1 / 2)
    assert (alike.diagonal() == 0).all() and (alike[3] == 0).all()


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(view: Any) -> None:
    x = np.sign(view.matrix().toarray())
    by_hand = np.zeros((2, 4))
    for item in range(4):
        rest = np.delete(x, item, axis=1)
        w = np.linalg.solve(rest.T @ rest + 2 * np.eye(3), rest.T @ x[:, item])
        by_hand[:, item] = rest @ w
    assert study.ease(view, 2.0) == pytest.approx(by_hand, abs=1e-6)


def test_thinning_keeps_every_purchase() -> None:
    table = pd.DataFrame({"buy": (np.arange(5_000) % 10 == 0).astype(float)})
    kept = study.thinned([table, table])["buy"]
    assert (kept == 1).sum() == 1_000
    assert (kept == 0).sum() == pytest.approx(9_000 * study.NEGATIVES, rel=0.05)


def test_lines_bend_at_the_learning_rows_values() -> None:
    x = np.arange(1_001.0)[:, None]
    _, asked = study.bent(x, np.array([[0.0], [600], [1_000]]))
    assert asked.tolist() == [[0, 0, 0, 0], [600, 100, 0, 0], [1_000, 500, 200, 50]]


def test_candidates_have_what_was_known_before_the_truth(
    view: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(study, "CANDIDATES", 1)
    chosen = {"tifu": ((1.0, 1.0), 1, 0.5), "ease": 1.0}
    table = study.candidates(view, chosen, ["a"]).set_index(["user", "item"])
    assert {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)} < set(table.index)
    row = table.loc[0, 0]  # bought 3, 7 and 11 days before: overdue by no day
    assert row["own count"] == pytest.approx(np.log(4)) and row["own share"] == 1
    assert row["days since"] == pytest.approx(np.log(4))
    assert row["overdue"] == pytest.approx(np.log(4 / 5))
    assert row["in the last basket"] == 1 and row["buy"] == 1 and row["several"] == 0
    assert table.loc[(0, 0), "scenario"] == 1  # section a, bought before
    assert table.loc[(0, 2), "scenario"] == 3  # the others, bought before


def test_climbing_doubles_and_halves_until_neither_gains() -> None:
    asked: list[tuple[float, int]] = []

    def judge(each: tuple[float, int]) -> float:
        asked.append(each)
        return -abs(np.log2(each[0] / 0.4)) - abs(np.log2(each[1] / 8))

    assert study.climb(judge, (0.1, 32)) == (0.4, 8)
    assert len(asked) == len(set(asked))  # none is fitted twice
    assert {(0.2, 8), (0.8, 8), (0.4, 4), (0.4, 16)} < set(asked)  # all its neighbors


def test_an_interval_is_over_users_and_over_each_ones_seeds() -> None:
    users = np.random.default_rng(0).normal(size=400)
    lucky = np.array([[0.5], [-0.5]]) + users  # two seeds far apart
    both = study.mean("gain", lucky, "low", "high", less=users[None])
    assert both["gain"] == pytest.approx(0, abs=1e-9)
    assert both["low"] == pytest.approx(-0.5) and both["high"] == pytest.approx(0.5)
    one = study.mean("gain", lucky[0], "low", "high", less=users)
    assert one["low"] == pytest.approx(0.5) == one["high"]  # the users cancel


def test_the_chance_of_several_is_learned_from_purchases_alone() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(3_000, 14)), columns=list(study.NUMBERS))
    table["scenario"], table["user"] = 0, 0
    table["buy"] = (rng.random(3_000) < 0.5).astype(float)
    often = rng.random(3_000) < 1 / (1 + np.exp(-2 * table["own count"]))
    table["several"] = table["buy"] * often
    turned = table.assign(several=np.where(table["buy"] == 1, table["several"], 1.0))
    said = [study.of_those(t, table, 2) for t in (table, turned)]
    assert said[0] == pytest.approx(said[1])  # what was not bought says nothing
    assert np.corrcoef(said[0], table["own count"])[0, 1] > 0.9


def test_a_logarithm_of_a_chance_stays_finite() -> None:
    logit = np.array([-800.0, 0, 800])
    assert study.log_chance(logit) == pytest.approx([-800, np.log(0.5), 0])
