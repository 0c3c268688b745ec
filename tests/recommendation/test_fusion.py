"""One score from several tasks: by definition, and as a request would use it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from urlm_helpers.recommendation import choose, front, fuse, list_values, simplex

RNG = np.random.default_rng(0)
P = RNG.uniform(0.01, 1, (60, 3))
REQUEST = RNG.integers(0, 9, 60)
GAIN = RNG.random((60, 3))
LOOK = 1 / np.arange(1, 6)


def test_the_score_is_the_logarithm_of_the_product() -> None:
    for weights in (np.array([1.0, 0.5, 2.0]), RNG.random((60, 3))):
        by_hand = np.prod(P**weights, axis=1)
        np.testing.assert_allclose(np.exp(fuse(P, weights)), by_hand)


def test_it_rises_with_each_probability_that_has_a_weight() -> None:
    weights = np.array([0.5, 0.0, 2.0])
    for task, weight in enumerate(weights):
        higher = P.copy()
        higher[:, task] = (1 + P[:, task]) / 2
        rise = fuse(higher, weights) - fuse(P, weights)
        assert (rise > 0).all() if weight else (rise == 0).all()


def test_more_weight_on_a_task_never_brings_less_of_it() -> None:
    for task in range(3):
        worth = []
        for weight in (0.0, 0.3, 1.0, 3.0, 100.0):
            weights = np.ones(3)
            weights[task] = weight
            score = fuse(P, weights)
            # the mean of the task's logarithm over the better one of each pair
            pairs = np.log(P[:, task])[:, None] - np.log(P[:, task])[None, :]
            worth.append((pairs * (score[:, None] > score[None, :])).sum())
        assert np.all(np.diff(worth) >= 0) and worth[-1] > worth[0]


def test_a_factor_changes_no_order_and_zero_is_no_trap() -> None:
    weights = np.array([1.0, 1.0, 1.0])
    order = np.argsort(fuse(P, weights))
    scaled = P * [1.0, 1.0, 0.1]
    np.testing.assert_array_equal(np.argsort(fuse(scaled, weights)), order)
    sums = [np.argsort((table * weights).sum(axis=1)) for table in (P, scaled)]
    assert (sums[0] != sums[1]).any()  # of a sum, it does
    none = np.array([[0.0, 0.4], [0.2, 0.1]])
    assert fuse(none, np.array([0.0, 1.0])).argmax() == 0  # a weight of 0 ignores it
    assert fuse(none, np.array([1.0, 1.0])).argmax() == 1


def test_all_weights_that_sum_to_one() -> None:
    found = simplex(3, 4)
    assert len(found) == 15 and len(np.unique(found, axis=0)) == 15
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_a_list_is_worth_what_its_places_are() -> None:
    score = RNG.integers(0, 4, 60) / 4  # with ties
    found = list_values(score, REQUEST, GAIN, LOOK)
    for row, request in zip(found, np.unique(REQUEST), strict=True):
        mine = sorted(
            np.flatnonzero(REQUEST == request), key=lambda at: (-score[at], at)
        )[:5]
        by_hand = sum(LOOK[k] * GAIN[at] for k, at in enumerate(mine))
        np.testing.assert_allclose(row, by_hand)


def test_the_front_is_what_no_other_beats() -> None:
    for points in (RNG.random((50, 2)), RNG.integers(0, 5, (50, 2)).astype(float)):
        on = front(points)
        for at, own in enumerate(points):
            beaten = ((points >= own).all(axis=1) & (points > own).any(axis=1)).any()
            same = (points[:at] == own).all(axis=1).any()
            assert on[at] == (not beaten and not same)


@pytest.mark.parametrize("scenarios", [1, 3])
def test_the_choice_is_the_best_of_all(scenarios: int) -> None:
    values = RNG.random((7, scenarios, 3))
    every = list(product(range(7), repeat=scenarios))
    sums = np.array([values[list(m), range(scenarios)].sum(axis=0) for m in every])
    for floor in np.quantile(sums[:, 0], [0.0, 0.5, 0.95, 1.0]):
        best = sums[sums[:, 0] >= floor - 1e-12, 2].max()
        chosen = choose(values, keep=0, gain=2, floor=floor - 1e-12)
        own = values[chosen, range(scenarios)].sum(axis=0)
        assert own[0] >= floor - 1e-9 and own[2] == pytest.approx(best)
    with pytest.raises(ValueError, match="no mix reaches 99, the most is"):
        choose(values, keep=0, gain=2, floor=99)
