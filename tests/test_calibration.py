"""Calibration metrics against slow definitions, and the undoing of down-sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers import calibration as cal
from urlm_helpers import evaluation as ev


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


def test_calibrated_and_not() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200_000)
    y = rng.random(len(p)) < p
    assert cal.pcoc(y, p) == pytest.approx(1, abs=0.01)
    assert cal.ece(y, p) < 0.01
    assert cal.pcoc(y, p / 2) == pytest.approx(0.5, abs=0.01)
    assert cal.ece(y, p / 2) == pytest.approx(0.25, abs=0.01)


def test_undefined_is_nan() -> None:
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
