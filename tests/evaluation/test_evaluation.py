"""Metrics against their definitions, O(n²), and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from urlm_helpers.evaluation import metrics as ev

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Label, probability (with many ties), weight and user of up to 25 rows."""
    n = draw(st.integers(1, 25))
    column = lambda values: draw(  # noqa: E731
        st.lists(st.sampled_from(values), min_size=n, max_size=n)
    )
    grid = draw(st.sampled_from([[0.5], [0.2, 0.7], [i / 20 for i in range(21)]]))
    return (
        np.array(column([0, 1])),
        np.array(column(grid)),
        np.array(column([0.0, 0.3, 1.0, 1.0, 2.0, 7.5])),
        np.array(column(list("abcd"))),
    )


def brute_auc(y: np.ndarray, s: np.ndarray, w: np.ndarray) -> float:
    """Every pair of a positive and a negative, one at a time."""
    won = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            pairs += w[i] * w[j]
            won += w[i] * w[j] * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
    return won / pairs if pairs else float("nan")


def brute_gauc(
    y: np.ndarray, s: np.ndarray, user: np.ndarray, by: str, w: np.ndarray
) -> tuple[float, float]:
    top = bottom = dropped = 0.0
    for u in set(user):
        own = user == u
        value = brute_auc(y[own], s[own], w[own])
        if np.isnan(value):
            dropped += own.sum()
            continue
        size = w[own].sum() if by == "impressions" else (w * y)[own].sum()
        top, bottom = top + size * value, bottom + size
    return (top / bottom if bottom else float("nan")), dropped / len(y)


@settings(max_examples=200, deadline=None)
@given(rows())
def test_auc_is_its_definition(data: Rows) -> None:
    y, s, w, _ = data
    np.testing.assert_allclose(ev.auc(y, s, w), brute_auc(y, s, w), rtol=1e-12)
    np.testing.assert_allclose(
        ev.auc(y, s), brute_auc(y, s, np.ones(len(y))), rtol=1e-12
    )


@settings(deadline=None)
@given(rows())
def test_auc_is_scikit_learns(data: Rows) -> None:
    y, s, w, _ = data
    w = w + 0.1
    if 0 < y.sum() < len(y):
        expected = sk.roc_auc_score(y, s, sample_weight=w)
        np.testing.assert_allclose(ev.auc(y, s, w), expected, rtol=1e-10)


@settings(max_examples=200, deadline=None)
@given(rows(), st.sampled_from(["impressions", "positives"]))
def test_gauc_is_its_definition(data: Rows, by: str) -> None:
    y, s, w, user = data
    found = ev.gauc(y, s, user, by, row_weight=w)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, brute_gauc(y, s, user, by, w), rtol=1e-9)


def test_gauc_ignores_what_differs_between_users() -> None:
    """Scores that know only the user's rate have a high AUC and a GAUC of 0.5."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 50)
    rate = rng.beta(0.3, 1, size=200)[user]
    y = (rng.random(len(user)) < rate).astype(int)
    assert ev.auc(y, rate) > 0.8
    assert ev.gauc(y, rate, user).value == 0.5


@pytest.mark.parametrize("weight", [None, np.array([0.1, 0.7, 0.3, 1 / 3, 2.9])])
def test_a_constant_score_has_exactly_one_half(weight: np.ndarray | None) -> None:
    y, s = [1, 0, 1, 0, 0], [0.3] * 5
    assert ev.auc(y, s, weight) == 0.5
    assert ev.gauc(y, s, list("aabbb"), row_weight=weight).value == 0.5


@pytest.mark.parametrize("y", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_is_nan_not_a_number(y: list[int]) -> None:
    p, user = [0.1, 0.5, 0.9][: len(y)], list("abc")[: len(y)]
    assert np.isnan(ev.auc(y, p))
    value, dropped = ev.gauc(y, p, user)
    assert np.isnan(value) and dropped == 1.0
    assert np.isnan(ev.normalized_entropy(y, p))


def test_one_weight_for_all_negatives_cancels_in_the_auc() -> None:
    rng = np.random.default_rng(1)
    y, s = rng.integers(2, size=500), rng.integers(40, size=500)
    w = np.where(y == 1, 1.0, 1 / 0.037)
    assert ev.auc(y, s, w) == pytest.approx(ev.auc(y, s), rel=1e-13)


@settings(deadline=None)
@given(rows())
def test_whole_weights_are_repeated_rows(data: Rows) -> None:
    y, p, w, user = data
    times = np.ceil(w).astype(int)
    y2, p2, user2 = (np.repeat(v, times) for v in (y, p, user))
    if not times.sum():
        return
    pairs = [
        (ev.auc(y, p, times), ev.auc(y2, p2)),
        (ev.gauc(y, p, user, row_weight=times).value, ev.gauc(y2, p2, user2).value),
        (ev.log_loss(y, p, times), ev.log_loss(y2, p2)),
        (ev.normalized_entropy(y, p, times), ev.normalized_entropy(y2, p2)),
    ]
    for metric, value in ev.threshold_metrics(y, p, weight=times).items():
        pairs.append((value, ev.threshold_metrics(y2, p2)[metric]))
    weighted, repeated = np.array(pairs).T
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(rows())
def test_log_loss_is_scikit_learns(data: Rows) -> None:
    y, p, w, _ = data
    w = w + 0.1
    expected = sk.log_loss(y, p, sample_weight=w, labels=[0, 1])
    np.testing.assert_allclose(ev.log_loss(y, p, w), expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(rows())
def test_normalized_entropy_is_a_ratio_of_scikit_learns_log_losses(data: Rows) -> None:
    y, p, w, _ = data
    w = w + 0.1
    base = np.full(len(y), np.average(y, weights=w))
    if 0 < y.sum() < len(y):
        model, constant = (
            sk.log_loss(y, q, sample_weight=w, labels=[0, 1]) for q in (p, base)
        )
        found = ev.normalized_entropy(y, p, w)
        np.testing.assert_allclose(found, model / constant, rtol=1e-9, atol=1e-12)


def test_entropy_ends_at_zero() -> None:
    np.testing.assert_allclose(ev.entropy(np.array([0, 0.5, 1])), [0, np.log(2), 0])


def test_normalized_entropy_of_the_base_rate_is_one() -> None:
    y, w = np.array([1, 0, 0, 1, 0]), np.array([1, 2, 1, 3, 0.5])
    base = np.full(5, np.average(y, weights=w))
    assert ev.normalized_entropy(y, base, w) == pytest.approx(1)
    assert ev.normalized_entropy(y, 0.1 + 0.8 * y, w) < 0.2


@settings(deadline=None)
@given(rows(), st.sampled_from([0.2, 0.5, 0.7]))
def test_threshold_metrics_are_scikit_learns(data: Rows, threshold: float) -> None:
    y, p, w, _ = data
    w = w + 0.1
    said = (p >= threshold).astype(int)
    found = ev.threshold_metrics(y, p, threshold, w)
    options = {"sample_weight": w, "zero_division": np.nan}
    expected = {
        "accuracy": sk.accuracy_score(y, said, sample_weight=w),
        "precision": sk.precision_score(y, said, **options),
        "recall": sk.recall_score(y, said, **options),
        "f1": sk.f1_score(y, said, **options),
    }
    assert list(found) == list(expected)
    np.testing.assert_allclose(
        list(found.values()), list(expected.values()), rtol=1e-9, atol=1e-12
    )


def test_undefined_decisions_are_nan() -> None:
    found = ev.threshold_metrics([0, 0], [0.1, 0.2])
    assert found["accuracy"] == 1
    assert all(np.isnan(found[m]) for m in ("precision", "recall", "f1"))


@pytest.mark.parametrize(
    ("y", "p", "weight", "message"),
    [
        ([1, 0], [0.1], None, "one length"),
        ([1, 2], [0.1, 0.2], None, "y must be 0 or 1, got 2.0 in row 1"),
        ([1, np.nan], [0.1, 0.2], None, "y must be 0 or 1, got nan in row 1"),
        ([1, 0], [0.1, 1.2], None, r"p must lie in \[0, 1\], got 1.2 in row 1"),
        ([1, 0], [np.nan, 0.2], None, r"p must lie in \[0, 1\], got nan in row 0"),
        ([1, 0], [0.1, 0.2], [1, -1], "weight must be >= 0, got -1.0 in row 1"),
        ([1, 0], [0.1, 0.2], [np.inf, 1], "weight must be >= 0, got inf in row 0"),
    ],
)
def test_bad_input_is_named(
    y: list[float], p: list[float], weight: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ev.log_loss(y, p, weight)


def test_auc_takes_any_score_but_nan() -> None:
    assert ev.auc([0, 1, 1], [-np.inf, 3, 40]) == 1
    with pytest.raises(ValueError, match="score must not be NaN, got nan in row 1"):
        ev.auc([0, 1], [0, np.nan])


def test_gauc_names_bad_users_and_weights() -> None:
    with pytest.raises(ValueError, match="user is missing in row 1"):
        ev.gauc([0, 1], [0.1, 0.2], np.array(["a", None], dtype=object))
    with pytest.raises(ValueError, match="user has 1 rows, expected 2"):
        ev.gauc([0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="'impressions' or 'positives', got 'clicks'"):
        ev.gauc([0, 1], [0.1, 0.2], ["a", "a"], "clicks")  # type: ignore[arg-type]
