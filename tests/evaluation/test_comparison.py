"""Paired comparison: against a slow bootstrap, and its coverage on simulated data."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from urlm_helpers.evaluation import (
    compare,
    comparison,
    evaluate,
    holm,
    t_interval,
    user_mean,
)
from urlm_helpers.evaluation import metrics as ev

TASKS = ["click", "buy"]


def log(seed: int = 0, n: int = 500, users: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=n)
    frame = pd.DataFrame({"user": user, "scenario": rng.choice(list("st"), n)})
    habit = rng.normal(size=users)[user]
    for task in TASKS:
        z = habit + rng.normal(size=n) - 0.5
        p = 1 / (1 + np.exp(-z))
        frame[f"y_{task}"] = (rng.random(n) < p).astype(int)
        frame[f"p_{task}"] = p
    return frame


def noisy(frame: pd.DataFrame, seed: int, scale: float = 0.2) -> pd.DataFrame:
    rng, other = np.random.default_rng(seed), frame.copy()
    for task in TASKS:
        p = frame[f"p_{task}"] + scale * rng.normal(size=len(frame))
        other[f"p_{task}"] = np.clip(p, 0, 1)
    return other


def test_compare_is_the_slow_paired_bootstrap() -> None:
    a, b = log(), noisy(log(), 1)
    table = compare(a, b, TASKS, resamples=100, seed=7)
    ids = pd.unique(a["user"])
    rows_of = [np.flatnonzero(a["user"] == u) for u in ids]
    rng = np.random.default_rng(7)
    samples = [
        np.concatenate([rows_of[u] for u in rng.integers(len(ids), size=len(ids))])
        for _ in range(100)
    ]
    for line in table.to_dict("records"):
        t = line["task"]
        differences = []
        for rows in [np.arange(len(a)), *samples]:
            own = rows[(a["scenario"] == line["scenario"]).to_numpy()[rows]]
            pair = [
                ev.auc(f[f"y_{t}"].to_numpy()[own], f[f"p_{t}"].to_numpy()[own])
                for f in (a, b)
            ]
            differences.append(pair[0] - pair[1])
        full, draws = differences[0], np.array(differences[1:])
        assert line["difference"] == pytest.approx(full)
        assert line["a"] - line["b"] == pytest.approx(full)
        assert line["low"] == pytest.approx(np.quantile(draws, 0.025))
        assert line["high"] == pytest.approx(np.quantile(draws, 0.975))
        tail = min((draws <= 0).sum(), (draws >= 0).sum())
        assert line["p_value"] == pytest.approx(min(1, 2 * (tail + 1) / 101))
    np.testing.assert_array_equal(table["p_holm"], holm(table["p_value"]))


def test_pairing_is_what_makes_it_sharp() -> None:
    """The difference is known far better than either model's metric."""
    a, b = log(n=2000), noisy(log(n=2000), 1, scale=0.05)
    table = compare(a, b, ["click"], resamples=300)
    alone = [evaluate(f, ["click"], metrics=["auc"], resamples=300) for f in (a, b)]
    first, second = (t["high"] - t["low"] for t in alone)
    unpaired = np.hypot(first, second)
    assert (table["high"] - table["low"] < unpaired / 3).all()


def test_a_model_is_no_better_than_itself() -> None:
    table = compare(log(), log(), TASKS, resamples=50)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table[["p_value", "p_holm"]] == 1).all(axis=None)


def test_a_clear_difference_is_found() -> None:
    a = log(n=3000, users=300)
    b = a.assign(p_click=0.5, p_buy=0.5)
    table = compare(a, b, TASKS, resamples=200)
    assert (table["low"] > 0).all() and (table["p_holm"] < 0.05).all()
    assert (table["b"] == 0.5).all()
    flipped = compare(b, a, TASKS, resamples=200)
    np.testing.assert_allclose(flipped["low"], -table["high"])


def test_mean_over_runs() -> None:
    a, b = [noisy(log(), s) for s in (1, 2, 3)], log()
    table = compare(a, b, TASKS, resamples=100)
    single = [compare(run, b, TASKS, resamples=100) for run in a]
    np.testing.assert_allclose(
        table["difference"], np.mean([s["difference"] for s in single], axis=0)
    )


def shocks(rng: np.random.Generator, runs: int, spread: float) -> np.ndarray:
    return np.exp(spread * rng.normal(size=runs))


@pytest.mark.parametrize(
    ("runs", "between_runs", "shared", "paired"),
    [
        (1, 0.0, 0.0, True),  # users only
        (3, 0.0, 0.0, True),
        (3, 0.3, 0.0, True),  # runs matter more than users
        (5, 0.1, 0.3, True),  # a and b share most of each run's luck
        (3, 0.3, 0.0, False),
    ],
)
def test_intervals_cover_no_difference(
    runs: int, between_runs: float, shared: float, paired: bool
) -> None:
    """Two models alike in expectation: 95 % intervals hold 0 in 200 worlds."""
    held, width = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        user = np.repeat(np.arange(50), rng.integers(2, 9, size=50))
        y = (rng.random(len(user)) < 0.4).astype(int)
        luck = shocks(rng, runs, shared)
        models = []
        for _ in range(2):
            taste = 0.1 * rng.normal(size=50)[user]  # the model's error on each user
            models.append(
                [
                    pd.DataFrame(
                        {
                            "user": user,
                            "scenario": "feed",
                            "y_click": y,
                            "p_click": np.clip((0.2 + 0.1 * taste) * e * c, 0, 1),
                        }
                    )
                    for e, c in zip(shocks(rng, runs, between_runs), luck, strict=True)
                ]
            )
        a, b = models
        line = compare(
            a, b, ["click"], metric="pcoc", paired=paired, resamples=200
        ).iloc[0]
        held += line["low"] <= 0 <= line["high"]
        width.append(line["high"] - line["low"])
        assert (line["p_value"] < 0.03) <= (not line["low"] <= 0 <= line["high"])
    assert held >= 180
    assert np.all(np.isfinite(width))


def guesses(positives: int, seed: int, users: int = 150) -> list[pd.DataFrame]:
    """Two models that know nothing, on a log with as many positives."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 8)
    y = np.zeros(len(user))
    y[rng.choice(len(y), positives, replace=False)] = 1
    taste = rng.normal(size=(2, users))[:, user]
    return [
        pd.DataFrame({"user": user, "scenario": "feed", "y_buy": y, "p_buy": score})
        for score in taste + rng.normal(size=(2, len(user)))
    ]


def test_a_difference_in_ece_has_no_interval() -> None:
    a, b = log(), noisy(log(), 1)
    with pytest.warns(UserWarning, match="no interval for differences in 'ece'"):
        table = compare([a, b], [b, b], TASKS, "ece", resamples=50)
    of_a, of_b = (evaluate(f, TASKS, metrics=["ece"], resamples=2) for f in (a, b))
    expected = (of_a["value"] - of_b["value"]) / 2
    np.testing.assert_allclose(table["difference"], expected, atol=1e-12)
    ends = ["low", "high", "p_value", "p_holm"]
    assert table[ends].isna().all(axis=None) and (table["support"] >= 10).all()


@pytest.mark.parametrize("positives", [1, 2, 4, 8, 30])
def test_noise_on_few_positives_is_no_difference(positives: int) -> None:
    """A bootstrap of one positive holds the same positive in every resample."""
    tables = []
    with warnings.catch_warnings(record=True, action="always") as said:
        for seed in range(80):
            a, b = guesses(positives, seed)
            tables.append(compare(a, b, ["buy"], resamples=100))
    lines = pd.concat(tables)
    assert (lines["positives"] == positives).all()
    assert ((lines["low"] > 0) | (lines["high"] < 0)).mean() <= 0.1
    assert (lines["p_value"] < 0.05).mean() <= 0.1
    assert (lines["low"].isna() == (lines["support"] < 10)).all()
    assert lines["low"].isna().all() == (positives < 10) == bool(said)
    assert lines["difference"].notna().all()


def test_a_flipped_label_rests_on_its_negatives() -> None:
    a, b = (f.assign(y_buy=1 - f["y_buy"]) for f in guesses(4, 0))
    with pytest.warns(UserWarning, match=r"of 1 values.*\{\('feed', 'buy'\): 4.0\}"):
        line = compare(a, b, ["buy"], resamples=50).iloc[0]
    assert line["positives"] == len(a) - 4 and line["support"] == 4
    assert np.isnan(line[["low", "high", "p_value", "p_holm"]].astype(float)).all()


def test_each_of_the_models_needs_its_hits() -> None:
    """A recall rests on the users with a hit; here b finds those of nine only."""
    a = guesses(60, 0)[0].assign(p_buy=lambda f: 0.9 * f["y_buy"])
    few = a.loc[a["y_buy"] == 1, "user"].unique()[:9]
    b = a.assign(p_buy=a["p_buy"] * a["user"].isin(few))
    for one, other in ((a, b), (b, a), (a, [a, b])):
        with pytest.warns(UserWarning, match="no interval for 1 of 1 values"):
            table = compare(one, other, ["buy"], "recall", resamples=20)
        assert table["low"].isna().all() and table["support"].item() < 10
    assert compare(a, a, ["buy"], "recall", resamples=20)["low"].item() == 0


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_spread_over_runs_has_students_width(runs: int) -> None:
    """Users who are all alike add nothing: what is left is the t-interval over runs."""
    one = pd.DataFrame({"user": np.repeat(np.arange(12), 2), "scenario": "feed"})
    one["y_click"] = [1, 0] * 12
    more, less = np.random.default_rng(3).uniform(0.1, 0.4, size=(2, runs))
    a, b = ([one.assign(p_click=p) for p in ps] for ps in (more, less))
    for other, error in ((b, (more - less).std(ddof=1)), (b[:1], more.std(ddof=1))):
        line = compare(a, other, ["click"], metric="pcoc", resamples=40_000).iloc[0]
        half = stats.t.ppf(0.975, runs - 1) * 2 * error / np.sqrt(runs)
        assert (line["high"] - line["low"]) / 2 == pytest.approx(half, rel=0.06)


def test_pairing_runs_removes_their_shared_luck() -> None:
    rng = np.random.default_rng(0)
    frame = log(n=2000)
    luck = shocks(rng, 5, 0.3)
    a = [frame.assign(p_click=0.3 * e) for e in luck]
    b = [frame.assign(p_click=0.3 * e * 1.02) for e in luck]
    paired, apart = (
        compare(a, b, ["click"], metric="pcoc", paired=p, resamples=400)
        for p in (True, False)
    )
    assert (paired["high"] < 0).all() and (apart["high"] > 0).all()
    np.testing.assert_allclose(paired["difference"], apart["difference"])


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("user", 3, 10_000, r"'user' in row 3 is .* in a, .*10000.* in b"),
        ("scenario", 9, "other", "'scenario' in row 9 is"),
        ("y_buy", 2, 1, "'y_buy' in row 2 is"),
    ],
)
def test_different_rows_are_refused(
    column: str, row: int, value: int | str, message: str
) -> None:
    a = log()
    a["y_buy"] = a["y_buy"].where(a.index != 2, 0)
    b = a.copy()
    b[column] = b[column].where(b.index != row, value)
    with pytest.raises(ValueError, match=message):
        compare(a, b, TASKS)
    with pytest.raises(ValueError, match=message):
        compare([a, a], [a, b], TASKS)


def test_different_lengths_weights_and_metrics_are_refused() -> None:
    a = log()
    with pytest.raises(ValueError, match="a has 500 rows and b has 499"):
        compare(a, a.iloc[:-1], TASKS)
    with pytest.raises(ValueError, match="only one of a and b has a column 'weight'"):
        compare(a.assign(weight=1.0), a, TASKS)
    with pytest.raises(ValueError, match="'weight' in row 0 is"):
        compare(a.assign(weight=1.0), a.assign(weight=2.0), TASKS)
    with pytest.raises(ValueError, match=r"unknown metrics \['roc'\]"):
        compare(a, a, TASKS, metric="roc")


def test_rows_may_be_numbered_differently() -> None:
    a = log()
    compare(a, a.set_index(np.arange(len(a)) + 5), TASKS, resamples=5)


def test_an_undefined_cell_stays_undefined() -> None:
    a = log()
    a.loc[a["scenario"] == "s", "y_buy"] = 0
    table = compare(a, noisy(a, 1), TASKS, resamples=50)
    undefined = (table["scenario"] == "s") & (table["task"] == "buy")
    assert table["positives"][undefined].tolist() == [0]
    numbers = table.drop(columns=["scenario", "task", "metric", "positives", "support"])
    assert numbers[undefined].isna().all(axis=None)
    assert numbers[~undefined].notna().all(axis=None)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_procedure(p: list[float], alpha: float) -> None:
    rejected = [False] * len(p)
    for step, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected[i] = True
    assert (holm(p) <= alpha).tolist() == rejected
    assert (holm(p) >= p).all()


def test_holm_skips_the_undefined() -> None:
    np.testing.assert_allclose(holm([np.nan, 0.02, 0.5]), [np.nan, 0.04, 0.5])


def test_user_mean_is_the_slow_bootstrap() -> None:
    rng = np.random.default_rng(0)
    user, value = rng.integers(20, size=100), rng.normal(size=100)
    mean, low, high = user_mean(value, user, resamples=200, seed=4)
    ids, draw = pd.unique(user), np.random.default_rng(4)
    means = [
        np.concatenate(
            [value[user == u] for u in ids[draw.integers(20, size=20)]]
        ).mean()
        for _ in range(200)
    ]
    assert mean == pytest.approx(value.mean())
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    with pytest.raises(ValueError, match="value is NaN in row 1"):
        user_mean([0.1, np.nan], ["a", "b"])
    with pytest.raises(ValueError, match="user has 1 rows, expected 2"):
        user_mean([0.1, 0.2], ["a"])


def test_t_interval_is_scipys() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7, 3))
    mean, low, high = t_interval(x, level=0.9, axis=1)
    theirs = stats.ttest_1samp(x, 0, axis=1).confidence_interval(0.9)
    np.testing.assert_allclose(mean, x.mean(axis=1))
    np.testing.assert_allclose([low, high], [theirs.low, theirs.high])


def test_t_interval_covers_the_truth_as_often_as_it_says() -> None:
    x = np.random.default_rng(1).normal(loc=2, size=(5, 20_000))
    _, low, high = t_interval(x)
    assert ((low < 2) & (high > 2)).mean() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("one", [0.5, [0.5], np.zeros((1, 4))])
def test_t_interval_refuses_a_single_run(one: ArrayLike) -> None:
    with pytest.raises(ValueError, match="needs 2 runs or more, got 1"):
        t_interval(one)


def test_the_luck_of_the_runs_is_drawn_from_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        comparison, "resample_users", lambda users, n, seed: [np.ones((n, users))]
    )
    runs = [noisy(log(users=60), seed) for seed in range(4)]
    tables = [compare(runs[:2], runs[2:], ["click"], seed=s) for s in (1, 1, 2)]
    low = [table["low"].to_numpy() for table in tables]
    np.testing.assert_array_equal(low[0], low[1])
    assert (low[0] != low[2]).all()
