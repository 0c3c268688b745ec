"""Calibration metrics against slow definitions, and the undoing of down-sampling."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from urlm_helpers.evaluation import calibration as cal
from urlm_helpers.evaluation import metrics as ev
from urlm_helpers.evaluation import pcoc_deciles


def brute_bins(p: np.ndarray, w: np.ndarray, bins: int) -> np.ndarray:
    """Bin by the share of weight below a row, its ties counted half."""
    below = np.array([w[p < x].sum() + w[p == x].sum() / 2 for x in p])
    return np.minimum(np.floor(below * bins / w.sum()), bins - 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40))
def test_ece_and_pcoc_are_their_definitions(seed: int, bins: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(2, size=n), rng.integers(0, 9, size=n) / 8
    w = rng.integers(1, 4, size=n)
    code = brute_bins(p, w, bins)
    expected = sum(abs((w * (p - y))[code == b].sum()) / w.sum() for b in range(bins))
    assert cal.ece(y, p, w, bins) == pytest.approx(expected, abs=1e-12)
    if y.sum():
        assert cal.pcoc(y, p, w) == pytest.approx((w @ p) / (w @ y))
    table = cal.calibration_table(y, p, w, bins)
    assert table["rows"].sum() == n
    assert table["weight"].sum() == w.sum()
    for line in table.to_dict("records"):
        own = code == line["bin"]
        assert line["predicted"] == pytest.approx(np.average(p[own], weights=w[own]))
        assert line["observed"] == pytest.approx(np.average(y[own], weights=w[own]))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whole_weights_are_repeated_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(2, size=30), rng.integers(0, 9, size=30) / 8
    w = rng.integers(0, 4, size=30)
    y2, p2 = np.repeat(y, w), np.repeat(p, w)
    assert cal.ece(y, p, w) == pytest.approx(cal.ece(y2, p2), abs=1e-12)
    assert cal.pcoc(y, p, w) == pytest.approx(cal.pcoc(y2, p2), nan_ok=True)


def test_bins_have_equal_mass_and_ties_stay_together() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(1000) ** 4
    table = cal.calibration_table(rng.random(1000) < p, p)
    assert (table["rows"] == 100).all()
    assert (table["predicted"].diff().dropna() > 0).all()
    tied = cal.calibration_table([0, 1] * 50, [0.5] * 100)
    assert len(tied) == 1 and tied["rows"][0] == 100


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5))
def test_the_table_is_scikit_learns_curve(seed: int, bins: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(bins * each)
    y = (rng.random(len(p)) < p).astype(int)
    table = cal.calibration_table(y, p, bins=bins)
    observed, predicted = calibration_curve(
        y, p, n_bins=bins, strategy="quantile", pos_label=1
    )
    np.testing.assert_allclose(table["observed"], observed, atol=1e-12)
    np.testing.assert_allclose(table["predicted"], predicted, rtol=1e-9)


def log(seed: int, n: int = 400, users: int = 30) -> pd.DataFrame:
    """Calibrated predictions in two scenarios, two rows in three of weight 1."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"user": rng.integers(users, size=n)})
    frame["scenario"] = rng.choice(["feed", "search"], size=n)
    frame["weight"] = rng.choice([0.5, 1.0, 1.0], size=n)
    habit = rng.beta(3, 4, size=users)[frame["user"]]
    for task in ("click", "like"):
        frame[f"p_{task}"] = (habit + rng.uniform(-0.1, 0.1, size=n)).clip(0.02, 0.98)
        frame[f"y_{task}"] = (rng.random(n) < frame[f"p_{task}"]).astype(int)
    return frame


def test_deciles_of_every_cell_have_the_slow_bootstraps_interval() -> None:
    frame = log(0, n=900, users=90)
    table = pcoc_deciles(frame, ["click", "like"], bins=3, resamples=60, seed=5)
    assert list(table.columns) == [
        "scenario", "task", "bin", "rows", "weight", "predicted", "observed", "pcoc",
        "low", "high",
    ]  # fmt: skip
    assert len(table) == 2 * 2 * 3
    ids, rng = pd.unique(frame["user"]), np.random.default_rng(5)
    samples = [ids[rng.integers(len(ids), size=len(ids))] for _ in range(60)]
    for (scenario, task), part in table.groupby(["scenario", "task"]):
        own = frame[frame["scenario"] == scenario]
        y, p, w = own[f"y_{task}"], own[f"p_{task}"], own["weight"]
        expected = cal.calibration_table(y, p, w, bins=3)
        pd.testing.assert_frame_equal(
            part[expected.columns].reset_index(drop=True), expected
        )
        code = brute_bins(p.to_numpy(), w.to_numpy(), 3)
        for b, line in enumerate(part.to_dict("records")):
            inside = own[code == b]
            draws = []
            for sample in samples:
                rows = np.concatenate(
                    [np.flatnonzero(inside["user"] == u) for u in sample]
                )
                d = inside.iloc[rows]
                draws.append(cal.pcoc(d[f"y_{task}"], d[f"p_{task}"], d["weight"]))
            bounds = np.quantile(draws, [0.025, 0.975])
            np.testing.assert_allclose([line["low"], line["high"]], bounds)


def test_decile_intervals_cover_calibration_and_see_its_lack() -> None:
    held = np.array(
        [
            (table["low"] <= 1) & (table["high"] >= 1)
            for table in (
                pcoc_deciles(log(seed, 800, 80), ["click"], bins=2, resamples=150)
                for seed in range(50)
            )
        ]
    )
    assert 0.88 <= held.mean() <= 0.99
    frame = log(1, n=8000, users=800)
    frame["p_like"] = 0.4 + (frame["p_like"] - 0.4) / 2  # right on average only
    table = pcoc_deciles(frame, ["like"], resamples=100)
    ends = table.groupby("scenario").agg({"low": "first", "high": "last"})
    assert (ends["low"] > 1).all() and (ends["high"] < 1).all()


def test_deciles_without_an_interval() -> None:
    frame = log(2).assign(y_like=0)
    with pytest.warns(
        UserWarning, match=r"20 of 20 values: .*\('feed', 'like', 0\): 0.0"
    ):
        table = pcoc_deciles(frame, ["like"], resamples=20)
    assert table[["pcoc", "low", "high"]].isna().all(axis=None)
    with pytest.warns(UserWarning, match="no interval for 20 of 20 values"):
        table = pcoc_deciles(frame.assign(user=1), ["click"], resamples=20)
    assert table["pcoc"].notna().all() and table["low"].isna().all()
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        pcoc_deciles(frame, ["click"], bins=0)
    with pytest.raises(ValueError, match="no row .* has a positive weight"):
        pcoc_deciles(frame.assign(weight=0.0), ["click"])


def test_calibrated_and_not() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200_000)
    y = rng.random(len(p)) < p
    assert cal.pcoc(y, p) == pytest.approx(1, abs=0.01)
    assert cal.ece(y, p) < 0.01
    assert cal.pcoc(y, p / 2) == pytest.approx(0.5, abs=0.01)
    assert cal.ece(y, p / 2) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("highest", [0.004, 0.3, 1.0])
def test_ece_floor_is_the_mean_ece_of_a_model_that_is_right(highest: float) -> None:
    rng = np.random.default_rng(3)
    p = highest * rng.random(2_000)
    drawn = [cal.ece(rng.random(len(p)) < p, p) for _ in range(400)]
    assert cal.ece_floor(p) == pytest.approx(np.mean(drawn), rel=0.03)
    assert cal.ece_floor(p, np.full(len(p), 9.0)) < 0.5 * cal.ece_floor(p)


def test_ece_floor_of_a_log_with_fewer_negatives_is_that_of_the_full_log() -> None:
    rng = np.random.default_rng(4)
    p = rng.beta(1, 30, size=50_000)
    y = rng.random(len(p)) < p
    kept = y | (rng.random(len(p)) < 0.1)
    floor = cal.ece_floor(p[kept], np.where(y, 1, 10)[kept])
    assert floor == pytest.approx(cal.ece_floor(p), rel=0.03)


def test_undefined_is_nan() -> None:
    assert np.isnan(cal.ece_floor([])) and cal.ece_floor([0.0, 1.0]) == 0
    assert np.isnan(cal.pcoc([0, 0], [0.1, 0.2]))
    assert np.isnan(cal.ece([], []))
    assert np.isnan(cal.ece([1, 0], [0.1, 0.2], [0, 0]))
    assert np.isnan(cal.calibration_table([0], [0.1])["pcoc"][0])


def test_weights_restore_the_full_log() -> None:
    """A log with a tenth of its negatives, each of weight 10, is the full log."""
    rng = np.random.default_rng(2)
    n, rate = 1_000_000, 0.1
    truth = rng.beta(1, 30, size=n)
    y = rng.random(n) < truth
    p = np.clip(truth * 1.2, 0, 1)
    kept = y | (rng.random(n) < rate)
    w = np.where(y, 1, 1 / rate)
    for metric in (ev.log_loss, ev.normalized_entropy, cal.pcoc):
        full = metric(y, p)
        assert metric(y[kept], p[kept], w[kept]) == pytest.approx(full, rel=0.01)
        assert metric(y[kept], p[kept]) != pytest.approx(full, rel=0.1)
    # A model fitted to the kept rows learns q; undoing gives the full log's rate.
    q = truth / (truth + (1 - truth) * rate)
    assert cal.pcoc(y[kept], q[kept]) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(cal.undo_downsampling(q, rate), truth, rtol=1e-9)


def test_undo_downsampling_edges() -> None:
    np.testing.assert_array_equal(cal.undo_downsampling([0, 1], 0.1), [0, 1])
    np.testing.assert_array_equal(cal.undo_downsampling([0.3], 1), [0.3])
    for q, rate in ((0.5, 0), (0.5, 1.5), (1.5, 0.5)):
        with pytest.raises(ValueError, match="must lie in"):
            cal.undo_downsampling(q, rate)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        cal.ece([1, 0], [0.1, 0.2], bins=0)
