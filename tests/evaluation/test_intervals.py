"""The table and its bootstrap, against metrics run again on resampled rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.evaluation import bootstrap as bs
from urlm_helpers.evaluation import calibration as cal
from urlm_helpers.evaluation import (
    cells,
    evaluate,
    exposure,
    gini,
    query_metrics,
    ranking_table,
    shown_popularity,
)
from urlm_helpers.evaluation import metrics as ev

TASKS = ["click", "buy"]


def log(
    n: int = 400, users: int = 30, seed: int = 0, weighted: bool = True
) -> pd.DataFrame:
    """Predictions with ties, two scenarios and users of different habits."""
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=n)
    frame = pd.DataFrame(
        {"user": user, "scenario": rng.choice(["feed", "search"], size=n)}
    )
    habit = rng.normal(size=users)[user]
    for task, base in (("click", -0.5), ("buy", -1.5)):
        p = 1 / (1 + np.exp(-(base + habit + rng.normal(size=n))))
        frame[f"y_{task}"] = (rng.random(n) < p).astype(int)
        frame[f"p_{task}"] = np.round(p, 1)
    if weighted:
        frame["weight"] = rng.choice([0.5, 1.0, 3.0], size=n)
    return frame


def direct(metric: str) -> Callable[..., float]:
    """The plain function of a metric: (y, p, weight, user) -> value."""
    plain: dict[str, Callable[..., float]] = {
        "auc": ev.auc,
        "log_loss": ev.log_loss,
        "normalized_entropy": ev.normalized_entropy,
        "pcoc": cal.pcoc,
        "ece": cal.ece,
    }
    if metric in plain:
        return lambda y, p, w, user: plain[metric](y, p, w)
    if metric == "gauc":
        return lambda y, p, w, user: ev.gauc(y, p, user, row_weight=w).value
    return lambda y, p, w, user: ev.threshold_metrics(y, p, weight=w)[metric]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("metric", list(bs.METRICS))
def test_bootstrap_is_the_metric_on_resampled_rows(metric: str, weighted: bool) -> None:
    frame = log(weighted=weighted)
    found, users = cells(frame, TASKS, [metric])
    for cell in found.values():
        statistic = [bs.METRICS[metric](cell)]
        full = bs.values(statistic, [np.ones((1, users))])[0, 0]
        y, p, w, user, _ = cell
        assert full == pytest.approx(direct(metric)(y, p, w, user), rel=1e-10)
        draws = bs.values(statistic, bs.resample_users(users, 5, seed=3))[0]
        rng = np.random.default_rng(3)
        for draw in draws:
            drawn = rng.integers(users, size=users)
            rows = np.concatenate([np.flatnonzero(user == u) for u in drawn])
            copy = np.repeat(np.arange(users), [(user == u).sum() for u in drawn])
            y2, p2, w2 = y[rows], p[rows], w[rows]
            if metric == "ece":  # the bins are those of the full sample
                code = cal.mass_bins(p, w, 10)[rows]
                gaps = np.bincount(code, w2 * (p2 - y2), 10)
                expected = np.abs(gaps).sum() / w2.sum()
            else:
                expected = direct(metric)(y2, p2, w2, copy)
            assert draw == pytest.approx(expected, rel=1e-10)


def test_blocks_do_not_change_the_draws() -> None:
    users = 1_500_000  # more than one resample per block would be 32 MB
    blocks = list(bs.resample_users(users, 3, seed=1))
    assert [len(b) for b in blocks] == [2, 1]
    rng = np.random.default_rng(1)
    for count in np.concatenate(blocks):
        drawn = np.bincount(rng.integers(users, size=users), minlength=users)
        np.testing.assert_array_equal(count, drawn)


def test_table() -> None:
    frame = log(1600, 100)
    table = evaluate(frame, TASKS, metrics=list(bs.METRICS), resamples=200)
    assert list(table.columns) == [
        "scenario", "task", "metric", "value", "low", "high", "rows", "users",
        "positives", "dropped",
    ]  # fmt: skip
    assert len(table) == 2 * 2 * len(bs.METRICS)
    given = table[table["metric"] != "ece"]
    assert (given["low"] < given["value"]).all()
    assert (given["value"] < given["high"]).all()
    for line in table.to_dict("records"):
        own = frame[frame["scenario"] == line["scenario"]]
        y, p = own[f"y_{line['task']}"], own[f"p_{line['task']}"]
        expected = direct(line["metric"])(y, p, own["weight"], own["user"])
        assert line["value"] == pytest.approx(expected)
        assert line["rows"] == len(own) and line["positives"] == y.sum()
        assert line["users"] == own["user"].nunique()
        gauc = ev.gauc(y, p, own["user"])
        assert line["dropped"] == (gauc.dropped if line["metric"] == "gauc" else 0)
    again = evaluate(frame, TASKS, metrics=list(bs.METRICS), resamples=200)
    pd.testing.assert_frame_equal(table, again)


def test_single_precision_in_double_precision_out() -> None:
    """A metric of float32 columns is that of the same numbers as float64."""
    frame = log(1600, 100)
    narrow = {c: "float32" for c in frame if c not in ("user", "scenario")}
    single = frame.assign(p_buy=frame["p_buy"] / 3).astype(narrow)
    double = single.astype(dict.fromkeys(narrow, "float64"))
    one, two = (
        evaluate(f, ["buy"], metrics=list(bs.METRICS), resamples=20)
        for f in (single, double)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    for metric in bs.METRICS:
        narrow_value, value = (
            direct(metric)(f["y_buy"], f["p_buy"], f["weight"], f["user"])
            for f in (single, double)
        )
        assert narrow_value == value or np.isnan([narrow_value, value]).all(), metric


def test_rows_of_a_user_move_together() -> None:
    """Copies of a user's rows are no new evidence: the interval must not shrink."""
    frame = log(n=600, users=40, weighted=False)
    copies = pd.concat([frame] * 5, ignore_index=True)
    for metric in ("auc", "log_loss", "pcoc"):
        one = evaluate(frame, TASKS, metrics=[metric])
        five = evaluate(copies, TASKS, metrics=[metric])
        np.testing.assert_allclose(one[["low", "high"]], five[["low", "high"]])


def test_scenarios_share_their_resamples() -> None:
    """The same rows in two scenarios get the same interval, as users are shared."""
    frame = log(weighted=False).assign(scenario="feed")
    both = pd.concat([frame, frame.assign(scenario="search")], ignore_index=True)
    table = evaluate(both, TASKS, metrics=["auc"], resamples=100)
    feed, search = (table[table["scenario"] == s] for s in ("feed", "search"))
    np.testing.assert_array_equal(feed[["low", "high"]], search[["low", "high"]])


def test_intervals_cover_the_truth() -> None:
    """PCOC of calibrated predictions is 1; users differ in how much they see."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        user = np.repeat(np.arange(60), rng.integers(1, 12, size=60))
        p = np.clip(rng.beta(2, 5, size=60)[user], 0.01, 0.9)
        frame = pd.DataFrame({"user": user, "scenario": "feed", "p_click": p})
        frame["y_click"] = (rng.random(len(user)) < p).astype(int)
        line = evaluate(frame, ["click"], metrics=["pcoc"], resamples=300).iloc[0]
        held += line["low"] <= 1 <= line["high"]
    assert held >= 180


def test_ece_has_a_value_and_no_interval() -> None:
    """Of a model that is right the percentiles would say that it is not."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(300), 10)
    p = rng.beta(2, 5, size=len(user))
    frame = pd.DataFrame({"user": user, "scenario": "feed", "p_click": p})
    frame["y_click"] = (rng.random(len(user)) < p).astype(int)
    with warnings.catch_warnings(action="error"):
        table = evaluate(frame, ["click"], resamples=50).set_index("metric")
    assert table.loc["ece", "value"] == pytest.approx(cal.ece(frame["y_click"], p))
    ends = table[["low", "high"]].notna().all(axis=1)
    assert ends.drop("ece").all() and table.loc["ece", ["low", "high"]].isna().all()
    found, users = cells(frame, ["click"], ["ece"])
    bare = bs.METRICS["ece"](found["feed", "click"])
    draws = bs.values([bare], bs.resample_users(users, 200, seed=0))[0]
    assert bs.percentile_interval(draws, 0.95)[0] > 0.005  # the truth is 0


def test_undefined_cells_are_nan_and_counted() -> None:
    frame = log(weighted=False)
    frame.loc[frame["scenario"] == "feed", "y_click"] = 0
    with pytest.warns(UserWarning, match=r"\('feed', 'click', 'auc'\): 0.0"):
        table = evaluate(
            frame, ["click"], metrics=["auc", "gauc", "pcoc"], resamples=50
        )
    feed = table[table["scenario"] == "feed"]
    assert feed[["value", "low", "high"]].isna().all(axis=None)
    assert (feed["dropped"] == 1).all() and (feed["positives"] == 0).all()
    one_user = log().assign(user=1)
    with pytest.warns(UserWarning, match="no interval for 16 of 20 values"):
        table = evaluate(one_user, TASKS, resamples=50)
    assert table["value"].notna().all() and table["low"].isna().all()


def test_an_interval_needs_half_of_its_resamples() -> None:
    low, _ = bs.percentile_interval(np.array([1.0, np.nan, np.nan]), 0.95)
    assert np.isnan(low)
    assert bs.percentile_interval(np.array([1.0, np.nan]), 0.95) == (1.0, 1.0)


@pytest.mark.parametrize("flip", [False, True])
def test_an_interval_needs_ten_users_with_the_rarer_label(flip: bool) -> None:
    """Ten users with two positives each do; with nine, or one who has most, none."""
    frame = log(3000, 60, weighted=False).assign(scenario="feed")
    seen = frame.groupby("user").cumcount()

    def low(y: pd.Series) -> pd.Series:
        label = frame.assign(y_click=y ^ flip)
        metrics = ["auc", "log_loss", "pcoc"]
        return evaluate(label, ["click"], metrics=metrics, resamples=50)["low"]

    ten = (frame["user"] < 10) & (seen < 2)
    with warnings.catch_warnings(action="error"):
        assert low(ten).notna().all()
    for few in (ten & (frame["user"] > 0), ten | ((frame["user"] == 0) & (seen < 9))):
        with pytest.warns(UserWarning, match="3 of 3 values.*fewer than 10 users"):
            assert low(few).isna().all()


def test_gauc_needs_ten_users_with_both_labels() -> None:
    frame = log(3000, 60, weighted=False).assign(scenario="feed")
    for both in (9, 30):
        label = (frame["user"] % 2).where(frame["user"] >= both, frame["y_click"])
        with warnings.catch_warnings(record=True, action="always") as said:
            own = frame.assign(y_click=label)
            table = evaluate(own, ["click"], metrics=["auc", "gauc"], resamples=50)
        assert table["low"].notna().tolist() == [True, both == 30]
        assert bool(said) == (both == 9)


def test_a_recall_needs_ten_users_with_a_hit() -> None:
    frame = log(3000, 60, weighted=False).assign(scenario="feed")
    frame["p_click"] = 0.1 + 0.8 * ((frame["y_click"] == 1) & (frame["user"] < 9))
    metrics = ["recall", "precision", "f1", "accuracy"]
    with pytest.warns(UserWarning, match="no interval for 3 of 4 values"):
        table = evaluate(frame, ["click"], metrics=metrics, resamples=50)
    assert table["low"].isna().tolist() == [True, True, True, False]


def test_means_over_queries_need_ten_users_with_a_hit() -> None:
    f = queries()
    f["label"] = (f["item"] == 0).astype(int)
    for found in (9, 10):
        first = np.where(f["user"] < found, 0, 1)  # the item that is ranked first
        given = (f["query"], f["user"], f["item"] == first, f["label"], 1)
        with warnings.catch_warnings(record=True, action="always") as said:
            table = ranking_table(*given, resamples=50)
        assert (table["value"] == found / 30).all()
        assert table["low"].isna().all() == (found == 9) == bool(said)


def test_scenario_order() -> None:
    frame = log()
    seen = evaluate(frame, ["buy"], metrics=["pcoc"], resamples=9)["scenario"]
    assert seen.tolist() == frame["scenario"].unique().tolist()
    order = ["search", "feed", "unused"]
    frame["scenario"] = pd.Categorical(frame["scenario"], order)
    seen = evaluate(frame, ["buy"], metrics=["pcoc"], resamples=9)["scenario"]
    assert seen.tolist() == ["search", "feed"]


def test_any_score_will_do_for_the_order() -> None:
    frame = log()
    frame["p_buy"] = frame["p_buy"] * 40 - 7
    assert (
        evaluate(frame, ["buy"], metrics=["auc", "gauc"], resamples=9)
        .notna()
        .all(axis=None)
    )
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\]"):
        evaluate(frame, ["buy"], metrics=["auc", "pcoc"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="p_buy"), r"missing \['p_buy'\]"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: f.assign(user=f["user"].where(f.index != 4)), "user is missing"),
        (lambda f: f.assign(scenario=None), "scenario is missing in row 0"),
        (lambda f: f.assign(y_buy=3), "y must be 0 or 1, got 3.0"),
    ],
)
def test_bad_predictions_are_named(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(change(log()), TASKS)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown metrics \['roc'\]"):
        evaluate(log(), TASKS, metrics=["roc"])
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        evaluate(log(), TASKS, level=95)
    with pytest.raises(TypeError, match="got the string 'click'"):
        evaluate(log(), "click")


def test_a_million_rows_in_nine_cells() -> None:
    """1,000 resamples take some 1.5 s of processor time; a busy machine gets 10."""
    rng = np.random.default_rng(0)
    n = 333_334
    frame = pd.DataFrame(
        {"user": rng.integers(10_000, size=n), "scenario": rng.choice(list("abc"), n)}
    )
    tasks = ["click", "like", "buy"]
    for task in tasks:
        frame[f"p_{task}"] = rng.random(n) ** 8
        frame[f"y_{task}"] = (rng.random(n) < frame[f"p_{task}"]).astype(int)
    start = time.process_time()
    table = evaluate(frame, tasks, metrics=["auc"])
    assert time.process_time() - start < 10
    assert (table["high"] - table["low"]).between(0.001, 0.05).all()


def queries(n: int = 120, items: int = 8, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"query": np.repeat(np.arange(n), items)})
    frame["user"] = frame["query"] // 4
    frame["scenario"] = np.where(frame["query"] % 3 == 0, "feed", "search")
    frame["item"] = np.tile(np.arange(items), n)
    frame["score"] = rng.integers(5, size=len(frame))
    frame["label"] = (rng.random(len(frame)) < 0.05 + 0.1 * frame["score"]).astype(int)
    return frame


def test_ranking_table() -> None:
    f = queries()
    f.loc[f["query"] == 3, "label"] = 0
    table = ranking_table(
        f["query"], f["user"], f["score"], f["label"], (2, 5),
        scenario=f["scenario"], item=f["item"], popularity=10 * f["item"],
        resamples=200,
    )  # fmt: skip
    assert len(table) == 2 * (2 * 5 + 2 + 4)
    for line in table.to_dict("records"):
        metric = str(line["metric"])
        own = f[f["scenario"] == line["scenario"]]
        if metric.startswith(("coverage", "gini")):
            k = int(metric.split("@")[1])
            shown = exposure(own["query"], own["item"], own["score"], k)
            coverage = float(shown["reached"].mean())
            expected = coverage if "coverage" in metric else gini(shown["exposure"])
            assert np.isnan(line["low"])
        elif metric.startswith("popularity"):
            k = int(metric.split("@")[1])
            amount = 10 * own["item"]
            popularity = shown_popularity(own["query"], own["score"], amount, k)
            expected = float(popularity.mean())
            assert line["low"] < line["value"] < line["high"]
            assert line["dropped"] == 0 and line["queries"] == own["query"].nunique()
        else:
            found = query_metrics(own["query"], own["score"], own["label"], (2, 5))
            expected = float(found.per_query[metric].mean())
            assert line["low"] < line["value"] < line["high"]
            assert line["queries"] == len(found.per_query)
            dropped = found.dropped / own["query"].nunique()
            assert line["dropped"] == pytest.approx(dropped)
        assert line["value"] == pytest.approx(expected)


def test_ranking_resamples_users_with_all_their_queries() -> None:
    f = queries()
    table = ranking_table(
        f["query"], f["user"], f["score"], f["label"], 3,
        scenario=f["scenario"], resamples=300,
    )  # fmt: skip
    table = table[table["metric"] == "recall@3"].set_index("scenario")
    value = query_metrics(f["query"], f["score"], f["label"], 3).per_query["recall@3"]
    owner = value.index.to_numpy() // 4
    scenario = np.where(value.index.to_numpy() % 3 == 0, "feed", "search")
    ids = pd.unique(f["user"])
    for name in ("feed", "search"):
        rng, means = np.random.default_rng(0), []
        for _ in range(300):
            drawn = ids[rng.integers(len(ids), size=len(ids))]
            own = [value[(owner == u) & (scenario == name)] for u in drawn]
            means.append(np.concatenate(own).mean())
        expected = np.quantile(means, [0.025, 0.975])
        found = table.loc[name, ["low", "high"]].astype(float)
        np.testing.assert_allclose(found, expected)


def test_a_query_has_one_user_and_scenario() -> None:
    f = queries()
    query, score, label = f["query"], f["score"], f["label"]
    with pytest.raises(ValueError, match="rows of more than one user"):
        ranking_table(query, f["item"], score, label)
    with pytest.raises(ValueError, match="rows of more than one scenario"):
        ranking_table(query, f["user"], score, label, scenario=f["item"])
