"""The regression that is shrunk around a common one, and how strongly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

regression = pytest.importorskip("urlm_helpers.model.regression")
ShrunkRegression, newton = regression.ShrunkRegression, regression.newton


def labels(z: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw labels with these logits."""
    return np.random.default_rng(seed).random(len(z)) < 1 / (1 + np.exp(-z))


def two(
    small: int, turned: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, scenario, logits and labels of 6,000 rows and of some more.

    The second scenario's weights are the first's, turned by an angle.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6_000 + small, 10))
    scenario = np.repeat([0, 1], [6_000, small])
    first, other = np.eye(10)[:2]
    own = np.cos(turned) * first + np.sin(turned) * other
    z = 1.5 * np.where(scenario == 0, x @ first, x @ own) - 1
    return x, scenario, z, labels(z, seed)


@pytest.mark.parametrize("strength", [0.3, 10.0])
def test_newton_finds_the_minimum(strength: float) -> None:
    """As SciPy does, with weights of rows, an offset and a penalty per column."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)).astype("float32")
    y = labels(x[:, 0] - 0.5).astype("float32")
    weight, offset = rng.uniform(0.5, 2, (2, 300)).astype("float32")
    penalty = np.array([strength, 2 * strength, 1e-3])

    def cost(w: np.ndarray) -> float:
        z = x @ w + offset
        loss = (weight * (np.logaddexp(0, z) - y * z)).sum(dtype="float64")
        return float(loss + 0.5 * penalty @ w**2)

    found, _, _ = newton(x, y, weight, penalty, offset)
    np.testing.assert_allclose(found, minimize(cost, np.zeros(3)).x, atol=2e-3)


def test_evidence_is_the_integral() -> None:
    """Of one weight: Laplace's approximation against the sum over a fine grid."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 1)).astype("float32")
    y = labels(0.7 * x[:, 0]).astype("float32")
    *_, found = newton(x, y, np.ones(400, "float32"), np.array([4.0]))
    w = np.linspace(-3, 3, 6_001)
    z = x * w
    log = -(np.logaddexp(0, z) - y[:, None] * z).sum(axis=0) - 2.0 * w**2
    log += 0.5 * np.log(4 / (2 * np.pi))
    exact = np.log(np.exp(log - log.max()).sum() * (w[1] - w[0])) + log.max()
    assert found == pytest.approx(exact, abs=0.01)


def extremes(small: int, turned: float) -> np.ndarray:
    """Return the correlation with the true logits of: alone, pooled, shrunk."""
    got = []
    for seed in range(6):
        x, scenario, _, y = two(small, turned, seed)
        fresh, _, z, _ = two(5_000, turned, seed=9)
        fresh, z = fresh[6_000:], z[6_000:]
        nowhere, second, own = np.zeros(5_000, int), np.ones(5_000, int), scenario == 1
        fits = [
            (ShrunkRegression().fit(x[own], y[own], nowhere[:small]), nowhere),
            (ShrunkRegression().fit(x, y, 0 * scenario), nowhere),
            (ShrunkRegression().fit(x, y, scenario), second),
        ]
        said = [model.logits(fresh, where) for model, where in fits]
        got.append([np.corrcoef(each, z)[0, 1] for each in said])
    return np.mean(got, axis=0)


@pytest.mark.parametrize("turned", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("small", [300, 2_000])
def test_no_worse_than_both_extremes(small: int, turned: float) -> None:
    """The second scenario's rows, alone or pooled: shrinking is near the better one."""
    alone, pooled, shrunk = extremes(small, turned)
    assert shrunk > max(alone, pooled) - 0.02


def test_what_a_hundred_rows_pay() -> None:
    """At right angles the common weights mislead, by less than a twentieth."""
    alone, pooled, shrunk = extremes(100, 1.5)
    assert alone - 0.05 < shrunk < alone and shrunk > pooled + 0.5


def test_strength_follows_agreement_and_rows() -> None:
    """Scenarios that agree lean on each other; the more they differ, the less."""
    strengths = []
    for turned in (0.0, 0.5, 1.5):
        x, scenario, _, y = two(2_000, turned)
        strengths.append(ShrunkRegression().fit(x, y, scenario).strength[2])
    assert strengths[0] > 10 * strengths[1] and strengths[1] > strengths[2]


def test_one_scenario_has_nothing_to_deviate() -> None:
    """The deviation of a single scenario from itself is next to nothing."""
    x, _, _, y = two(0, 0.0)
    model = ShrunkRegression().fit(x, y, np.zeros(len(x), int))
    np.testing.assert_allclose(model.weights[0], model.shared, atol=0.02)


def test_a_scenario_without_rows_takes_the_common_weights() -> None:
    """So does one with a single class; neither brings a NaN."""
    x, scenario, _, y = two(50, 1.0)
    y[scenario == 1] = False
    model = ShrunkRegression().fit(x, y, scenario, scenarios=3)
    np.testing.assert_array_equal(model.weights[1], model.shared)
    np.testing.assert_array_equal(model.weights[2], model.shared)
    assert np.isinf(model.strength[2:]).all()
    assert np.isfinite(model.logits(x, np.full(len(x), 2))).all()


def test_columns_of_any_unit() -> None:
    """A column in other units, and one that never varies, change no prediction."""
    x, scenario, _, y = two(500, 0.5)
    plain = ShrunkRegression().fit(x, y, scenario).logits(x, scenario)
    other = np.column_stack([1000 * (x[:, :1] + 3), x[:, 1:], np.ones(len(x))])
    model = ShrunkRegression().fit(other, y, scenario)
    np.testing.assert_allclose(model.logits(other, scenario), plain, atol=0.02)


def test_a_weight_of_two_is_a_row_twice() -> None:
    """In the common regression and in the scenarios' own."""
    x, scenario, _, y = two(300, 1.0)
    weight = np.random.default_rng(3).integers(1, 3, len(y))
    twice = np.repeat(np.arange(len(y)), weight)
    mean = weight.mean()
    many = ShrunkRegression([100.0]).fit(x[twice], y[twice], scenario[twice])
    once = ShrunkRegression([100.0 / mean]).fit(x, y, scenario, weight)
    # not the same scale of the columns: that of the rows as they stand
    np.testing.assert_allclose(
        many.logits(x, scenario), once.logits(x, scenario), atol=0.05
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": np.zeros(3)}, "one length"),
        ({"x": np.array([[1.0, np.nan], [0, 0]])}, "column 1"),
        ({"x": np.zeros((0, 2)), "y": [], "scenario": []}, "at least one row"),
    ],
)
def test_bad_rows_are_refused(change: dict, said: str) -> None:
    """With what is wrong."""
    given = {"x": np.eye(2), "y": np.array([0, 1]), "scenario": np.array([0, 1])}
    with pytest.raises(ValueError, match=said):
        ShrunkRegression().fit(**{**given, **change})


def test_strengths_are_positive() -> None:
    """None, or 0, is no strength."""
    with pytest.raises(ValueError, match="positive"):
        ShrunkRegression([1.0, 0.0])
