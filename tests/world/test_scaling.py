"""Excess loss against brute force; power laws that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.preprocessing import world_inputs
from urlm_helpers.world import World, action_excess, excess, fit_power_law

TASKS = ("click", "like", "buy")
LOG = World(seed=3, users=200, items=300).sample(400, 1)
GIVEN = LOG.truth[["click", "like_given", "buy_given"]].to_numpy()


def brute_force(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Sum over all four outcomes of a row: none, click, like, buy."""

    def outcomes(given: np.ndarray) -> np.ndarray:
        click, like, buy = np.cumprod(given, axis=1).T
        return np.stack([1 - click, click - like, like - buy, buy], axis=1)

    p, q = outcomes(p), outcomes(q)
    return (p * np.log(p / q)).sum(axis=1)


def test_excess_is_the_divergence_of_all_outcomes() -> None:
    z = np.random.default_rng(0).normal(size=(400, 3))
    q = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(
        excess(LOG.truth, z, TASKS), brute_force(GIVEN, q), atol=1e-9
    )
    truth = np.log(GIVEN / (1 - GIVEN))
    np.testing.assert_allclose(excess(LOG.truth, truth, TASKS), 0, atol=1e-9)


def test_a_softmax_over_actions_is_judged_alike() -> None:
    z = np.random.default_rng(1).normal(size=(400, 3))
    click, like, buy = np.cumprod(1 / (1 + np.exp(-z)), axis=1).T
    actions = np.stack([1 - click, click - like, like - buy, buy], axis=1)
    shifted = np.log(actions) + 5  # a softmax does not see a constant
    np.testing.assert_allclose(
        action_excess(LOG.truth, shifted, TASKS), excess(LOG.truth, z, TASKS), atol=1e-9
    )


@pytest.mark.parametrize("measure, columns", [(excess, 2), (action_excess, 3)])
def test_logits_of_another_shape_are_refused(measure: Any, columns: int) -> None:
    with pytest.raises(ValueError, match=r"\(400, "):
        measure(LOG.truth, np.zeros((400, columns)), TASKS)


def noisy(rng: np.random.Generator, floor: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.repeat(np.geomspace(1e3, 1e6, 8), 3)
    y = (floor + 5 * x**-0.4) * np.exp(rng.normal(0, 0.03, len(x)))
    return x, y


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_intervals_cover_the_exponent(floor: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        law = fit_power_law(*noisy(rng, floor), floor=floor > 0, resamples=40)
        low, high = law.exponent_interval
        covered += low <= 0.4 <= high
    assert covered >= 33  # of 40; 95 % are 38


def test_a_floor_is_found_and_the_curve_is_the_formula() -> None:
    law = fit_power_law(*noisy(np.random.default_rng(1), 0.05))
    assert law.floor_interval[0] <= 0.05 <= law.floor_interval[1]
    by_hand = law.floor + law.scale * 2e4**-law.exponent
    assert law(2e4) == pytest.approx(by_hand)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_a_law_without_noise_is_found_exactly(floor: float) -> None:
    x = np.geomspace(10, 1e6, 12)
    law = fit_power_law(x, floor + 3 * x**-0.5, floor=floor > 0, resamples=3)
    assert (law.scale, law.exponent, law.floor) == pytest.approx((3, 0.5, floor), 1e-3)
    np.testing.assert_allclose(law(x), floor + 3 * x**-0.5, rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_interval_is_that_of_resampled_distances(seed: int) -> None:
    x, y = noisy(np.random.default_rng(2), 0.0)
    law = fit_power_law(x, y, floor=False, resamples=50, seed=seed)
    line = np.polyfit(np.log(x), np.log(y), 1)
    there = np.polyval(line, np.log(x))
    # 24 distances to a line that was fitted to them: 22 degrees of freedom
    off = (np.log(y) - there) * np.sqrt(24 / 22)
    rng = np.random.default_rng(seed)
    slopes = [
        -np.polyfit(np.log(x), there + rng.choice(off, 24), 1)[0] for _ in range(50)
    ]
    expected = np.quantile(slopes, [0.025, 0.975])
    np.testing.assert_allclose(law.exponent_interval, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1, 2, 3], [1, 1], "of one length"),
        ([1, 2, 3, 4], [1, 1, 0, 1], "positive"),
        ([1, 1, 2, 3], [3, 2, 1, 1], "4 sizes at least, got 3"),
    ],
)
def test_bad_sizes_are_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, y)


def test_world_inputs_fit_their_vocabulary_and_know_no_label() -> None:
    world = World(seed=3, users=200, items=300)
    x, y, spec = world_inputs(world, LOG.interactions)
    sizes = np.array(list(spec.fields.values()))
    assert (x["fields"] > 0).all() and (x["fields"] < sizes).all()
    np.testing.assert_array_equal(y, LOG.interactions[list(TASKS)])
    unlabeled = LOG.interactions.assign(click=0, like=0, buy=0)
    again, _, _ = world_inputs(world, unlabeled)
    for name, array in x.items():
        np.testing.assert_array_equal(array, again[name])
    row = LOG.interactions.iloc[7]
    features = world.people.features[row["user"]]
    np.testing.assert_allclose(x["numeric"][7, : len(features)], features, rtol=1e-6)
    assert pd.Series(x["scenario"]).nunique() == 3
