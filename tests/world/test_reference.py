"""Reference lines against their definitions, and against draws of what is hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from urlm_helpers.evaluation import entropy
from urlm_helpers.world import (
    SCENARIOS,
    TASKS,
    World,
    best_on_observables,
    excess_log_loss,
    expected_auc,
    gap_closed,
    logits,
    popularity,
    reference_lines,
    task_correlation,
)
from urlm_helpers.world import best as best_module
from urlm_helpers.world.best import covariance
from urlm_helpers.world.draws import seen_through
from urlm_helpers.world.truth import APPEAL, GAIN, segment_logits, sigmoid

CHANCE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
PAIRS = st.lists(st.tuples(CHANCE, st.integers(0, 4)), min_size=1, max_size=20)


def brute_auc(score: np.ndarray, p: np.ndarray) -> float:
    """Every pair of two rows, one at a time."""
    won = pairs = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                here = p[i] * (1 - p[j])
                pairs += here
                won += here * (1.0 if score[i] > score[j] else 0.0)
                won += here * (0.5 if score[i] == score[j] else 0.0)
    return won / pairs if pairs > 1e-12 else float("nan")


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_expected_auc_is_its_definition(rows: list[tuple[float, int]]) -> None:
    p, score = (np.array(column, float) for column in zip(*rows, strict=True))
    expected = brute_auc(score, p)
    if np.isnan(expected):
        return
    assert expected_auc(score, p) == pytest.approx(expected, abs=1e-9)
    assert expected_auc(np.zeros(len(p)), p) == pytest.approx(0.5)
    assert expected_auc(score, p) <= expected_auc(p, p) + 1e-9


def test_expected_auc_of_labels_is_their_auc() -> None:
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, 300), rng.integers(0, 20, 300)
    assert expected_auc(score, y) == pytest.approx(sk.roc_auc_score(y, score))
    assert np.isnan(expected_auc([1, 2], [1, 1])) and np.isnan(expected_auc([1], [0.5]))


def test_expected_auc_is_the_mean_over_labels() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(2_000) ** 2
    score = p + 0.3 * rng.standard_normal(2_000)
    drawn = [sk.roc_auc_score(rng.random(2_000) < p, score) for _ in range(200)]
    error = np.std(drawn) / np.sqrt(200)
    assert abs(np.mean(drawn) - expected_auc(score, p)) < 4 * error + 1e-3 / 2_000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CHANCE, CHANCE), min_size=1, max_size=20))
def test_excess_log_loss_is_never_negative(rows: list[tuple[float, float]]) -> None:
    p, q = (np.array(column) for column in zip(*rows, strict=True))
    assert excess_log_loss(p, q) >= 0
    assert excess_log_loss(p, p) == pytest.approx(0, abs=1e-12)


def test_excess_log_loss_is_what_the_entropy_leaves() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.random(100), rng.random(100)
    cross = -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    assert excess_log_loss(p, q) == pytest.approx(cross - entropy(p).mean())
    assert np.isnan(excess_log_loss([], []))


def test_gap_closed() -> None:
    assert gap_closed(0.6, 0.6, 0.8) == 0
    assert gap_closed(0.8, 0.6, 0.8) == 1
    assert gap_closed(0.55, 0.6, 0.8) == pytest.approx(-0.25)
    assert np.isnan(gap_closed(0.7, 0.7, 0.704))
    assert gap_closed(0.701, 0.7, 0.704, least=0.001) == pytest.approx(0.25)
    assert np.isnan(gap_closed(0.7, 0.8, 0.6))
    assert np.isnan(gap_closed(0.7, 0.6, np.nan))


def test_popularity_is_counted_by_scenario_and_smoothed() -> None:
    train = pd.DataFrame(
        {
            "scenario": ["shop", "shop", "shop", "search"],
            "item": ["a", "a", "b", "a"],
            "click": [1, 1, 0, 0],
        }
    )
    rows = pd.DataFrame(
        {
            "scenario": ["search", "shop", "shop", "shop", "social"],
            "item": ["a", "b", "a", "c", "a"],
        },
        index=[9, 8, 7, 6, 5],
    )
    rate = 2 / 3
    expected = [0, 2 * rate / 3, (2 + 2 * rate) / 4, rate, np.nan]
    np.testing.assert_allclose(popularity(train, rows, "click", strength=2), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_auc([1, 2], [0.5]), r"one length, got shapes \(1,\) and"),
        (lambda: expected_auc([1], [1.5]), r"p must lie in \[0, 1\], got 1.5 in row 0"),
        (lambda: expected_auc([np.nan], [0.5]), "score must not be NaN"),
        (lambda: excess_log_loss([0.5], [-0.1]), r"q must lie in \[0, 1\], got -0.1"),
    ],
)
def test_wrong_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- best on observables


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"feature_noise": 0.6},
        {"item_features": 3, "user_features": 3},
        {"friend_effect": 3.0, "feature_noise": 0.6},
        {"drift": 0.3},
        {"confounder": 1.0},
        {"threshold_share": 1.0},
    ],
)
def test_best_on_observables_is_the_mean_over_what_is_hidden(knobs: dict) -> None:
    """Draws of tastes, friends, appeal and mood given the features, row by row."""
    world = World(seed=2, users=400, items=300, **knobs)
    log = world.sample(30, 1, balanced=True, random=True)
    rows, draws = log.interactions, 4_000
    found = best_on_observables(world, rows)
    rng, k, noise = np.random.default_rng(0), world.latents, world.feature_noise
    kept = (1 - world.drift**2) ** rows["user_age"].to_numpy(float)
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    spread = covariance(
        world,
        np.sqrt(kept)[:, None] * world.people.guess[user],
        kept,
        pd.Index(SCENARIOS).get_indexer(pd.Index(rows["scenario"])),
        user,
        item,
    )
    user_spread = seen_through(world.user_view, noise)[1]
    item_spread = seen_through(world.item_view, noise)[1]
    for n in range(len(rows)):
        row = rows.iloc[n]
        u, v = row["user"], row["item"]

        def taste(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
            return rng.multivariate_normal(mean, spread, draws, check_valid="ignore")

        who = taste(world.people.guess[u], user_spread)
        for _ in range(row["user_age"]):
            who = np.sqrt(1 - world.drift**2) * who
            who += world.drift * rng.standard_normal((draws, k))
        mates = world.friends.friend[world.friends.user == u]
        ours = [taste(world.people.guess[f], user_spread) for f in mates]
        rating = world.goods.rating[v] / (1 + noise**2)
        logit = logits(
            world,
            who,
            np.mean(ours, axis=0),
            taste(world.goods.guess[v], item_spread),
            rating + noise / np.sqrt(1 + noise**2) * rng.standard_normal(draws),
            np.full(draws, SCENARIOS.index(row["scenario"])),
            np.full(draws, row["query_match"]),
        )
        where = np.array([SCENARIOS.index(row["scenario"])])
        logit += segment_logits(world, user[[n]], item[[n]], where)
        logit += world.confounder * rng.standard_normal((draws, 1))
        scale = np.sqrt(np.diag(spread[n]) + 1e-9)
        off = np.abs(np.cov(logit.T) - spread[n]) / np.outer(scale, scale)
        assert off.max() < 6 * np.sqrt(2 / draws)
        p = np.cumprod(sigmoid(logit), axis=1)
        error = p.std(axis=0) / np.sqrt(draws)
        for t, task in enumerate(TASKS):
            miss = abs(found[f"{task}_before"][n] - p[:, t].mean())
            assert miss < 4 * error[t] + 0.01  # the logit is not quite normal


def test_drift_leaves_so_much_of_a_taste(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(seed=2, users=400, items=300, drift=0.3)
    rows = world.sample(200, 1).interactions
    seen: list[tuple[Any, ...]] = []

    def noted(*args: Any) -> Any:
        seen.append(args)
        return covariance(*args)

    monkeypatch.setattr(best_module, "covariance", noted)
    best_on_observables(world, rows)
    _, mean, kept, *_ = seen[0]
    age = rows["user_age"].to_numpy(float)
    assert age.max() > 5
    np.testing.assert_allclose(kept, 0.91**age)
    guess = world.people.guess[rows["user"]]
    np.testing.assert_allclose(mean, np.sqrt(kept)[:, None] * guess)


def test_without_noise_everything_is_observed() -> None:
    world = World(users=300, items=300, feature_noise=0, drift=0)
    log = world.sample(3_000, 1)
    best = best_on_observables(world, log.interactions)
    for column in best:
        np.testing.assert_allclose(best[column], log.truth[column], atol=3e-5)


def test_best_on_observables_is_calibrated_in_the_log() -> None:
    """Over many worlds' people: what is shown must not leak what is hidden."""
    world = World(users=20_000, items=20_000, feature_noise=0.6, drift=0.1)
    log = world.sample(60_000, 1, balanced=True)
    best = best_on_observables(world, log.interactions)
    for scenario in SCENARIOS:
        at = log.interactions["scenario"] == scenario
        for task in TASKS:
            p, q = log.truth.loc[at, task], best.loc[at, task]
            assert abs((p - q).mean()) < 0.005
            assert np.polyfit(q, p, 1)[0] == pytest.approx(1, abs=0.05)


def test_the_lines_are_in_order() -> None:
    world = World(seed=1, confounder=0.7)
    train = world.dataset(60_000).interactions
    log = world.sample(30_000, 1, balanced=True)
    for examined in (False, True):
        lines = reference_lines(world, train, *log, examined=examined)
        assert list(lines.index) == [(s, t) for s in SCENARIOS for t in TASKS]
        assert (lines["oracle"] > lines["observables"]).all()
        assert (lines["observables"] > lines["popularity"] + 0.03).all()
        assert (lines["popularity"] > 0.5).all()
    at = log.interactions["scenario"] == "social"
    p = log.truth.loc[at, "buy_before"]
    assert lines.loc[("social", "buy"), "oracle"] == expected_auc(p, p)


def test_a_scenario_without_training_rows_has_no_popularity() -> None:
    world = World(users=200, items=300)
    log = world.sample(2_000, 1, balanced=True)
    train = log.interactions[log.interactions["scenario"] != "search"]
    lines = reference_lines(world, train, *log)
    unknown = lines["popularity"].isna()
    assert lines.index[unknown].to_list() == [("search", task) for task in TASKS]
    assert not lines[["observables", "oracle"]].isna().to_numpy().any()


def test_an_unknown_scenario_is_refused() -> None:
    world = World(users=200, items=300)
    rows = world.sample(10, 1).interactions.assign(scenario="feed")
    with pytest.raises(ValueError, match=r"scenario must be one of .*, got 'feed'"):
        best_on_observables(world, rows)


@pytest.mark.parametrize("confounder", [0.0, 1.0])
def test_task_correlation_is_that_of_the_logits(confounder: float) -> None:
    """Over all users and items it follows from the maps."""
    world = World(users=20_000, items=20_000, task_shift=0.8, confounder=confounder)
    log = world.sample(60_000, 1, balanced=True, random=True)
    found = task_correlation(*log)
    assert list(found) == ["click, like", "click, buy", "like, buy"]
    maps = world.maps[0]  # the shop has neither friends nor queries
    between = GAIN**2 / world.latents * np.einsum("aij,bij->ab", maps, maps)
    between += np.outer(APPEAL, APPEAL) + confounder**2
    scale = np.sqrt(np.diag(between))
    expected = (between / np.outer(scale, scale))[np.triu_indices(3, 1)]
    np.testing.assert_allclose(found.loc["shop"], expected, atol=0.03)
    assert np.ptp(expected) > 0.1 and not found.isna().to_numpy().any()
