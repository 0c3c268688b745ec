"""How far two scenarios agree, estimated from rows: against what is planted."""

from __future__ import annotations

import numpy as np
import pytest

agreement = pytest.importorskip("urlm_helpers.model.agreement")
taste_agreement = agreement.taste_agreement


def rows(
    cosine: float, sizes: tuple[int, int], seed: int = 0, strength: float = 1.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and scenario; the weights of the two point apart by the cosine."""
    rng = np.random.default_rng(seed)
    x, scenario = rng.normal(size=(sum(sizes), 12)), np.repeat([0, 1], sizes)
    other = cosine * x[:, 0] + np.sqrt(1 - cosine**2) * x[:, 1]
    z = strength * np.where(scenario == 0, x[:, 0], other) - 1
    return x, rng.random(len(z)) < 1 / (1 + np.exp(-z)), scenario


@pytest.mark.parametrize("cosine", [1.0, 0.4, -0.5])
def test_finds_the_planted_agreement(cosine: float) -> None:
    """On average over six logs, and one scenario has far fewer rows."""
    found = [
        taste_agreement(*rows(cosine, (5_000, 600), seed), 0, 1).value
        for seed in range(6)
    ]
    error = np.std(found, ddof=1) / np.sqrt(6)
    assert error < 0.05
    assert abs(np.mean(found) - cosine) < 3 * error + 0.03


def test_few_rows_are_no_difference_of_tastes() -> None:
    """The two fitted models agree far less than the tastes behind them do."""
    x, y, scenario = rows(1.0, (4_000, 300), strength=0.6)
    each = [
        agreement.ShrunkRegression().fit(
            x[scenario == s], y[scenario == s], np.zeros((scenario == s).sum(), int)
        )
        for s in (0, 1)
    ]
    plain = np.corrcoef(*(m.logits(x, np.zeros(len(x), int)) for m in each))[0, 1]
    found = taste_agreement(x, y, scenario, 0, 1)
    assert plain < 0.95 < found.value


def test_without_a_signal_the_reliability_says_so() -> None:
    """Labels of one scenario are a coin."""
    x, y, scenario = rows(1.0, (3_000, 1_000))
    coin = np.random.default_rng(1).random(len(y)) < 0.3
    found = taste_agreement(x, np.where(scenario == 1, coin, y), scenario, 0, 1)
    assert found.reliability < 0.2
    assert taste_agreement(x, y, scenario, 0, 1).reliability > 0.8


def test_each_scenario_counts_the_same() -> None:
    """The rows asked are half of each, however many a scenario has."""
    rng = np.random.default_rng(0)
    spread = np.array([3.0, 0.2, *[1.0] * 10])  # of the rows of the small scenario
    x, scenario = rng.normal(size=(4_800, 12)), np.repeat([0, 1], [4_000, 800])
    x[scenario == 1] *= spread
    one, other = np.eye(12)[0], np.eye(12)[:2].T @ [0.5, np.sqrt(0.75)]
    y = rng.random(4_800) < 1 / (
        1 + np.exp(-1.5 * np.where(scenario == 0, x @ one, x @ other))
    )
    found = taste_agreement(x, y, scenario, 0, 1).value
    half = np.diag(1 + spread**2) / 2
    true = one @ half @ other / np.sqrt((one @ half @ one) * (other @ half @ other))
    assert found == pytest.approx(true, abs=0.06)


def test_refuses_a_scenario_without_rows() -> None:
    """With the number that it has."""
    x, y, scenario = rows(1.0, (100, 3))
    with pytest.raises(ValueError, match="scenario 1 has 3 rows, four are needed"):
        taste_agreement(x, y, scenario, 0, 1)
