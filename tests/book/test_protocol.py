"""The protocol of the studies: how settings are searched, and differences judged."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from protocol import FIRST, RESULTS_ON, TUNING, climb, differences

START = {"step_size": 0.0, "passes": 4, "batch": 1024}


def bowl(step_size: float, passes: int, batch: int):
    """Return a loss that is least there, and what it was asked."""
    asked: list[dict] = []

    def loss(way: dict) -> float:
        asked.append(dict(way))
        goal = {"step_size": step_size, "passes": passes, "batch": batch}
        return sum(math.log2(way[k] / goal[k]) ** 2 for k in goal)

    return loss, asked


@pytest.mark.parametrize("goal", [(0.064, 1, 64), (0.0005, 32, 8192), (0.008, 4, 1024)])
def test_the_search_leaves_its_first_grid_and_ends_between_neighbors(goal) -> None:
    loss, asked = bowl(*goal)
    best = climb(loss, START)
    assert tuple(best.values()) == goal
    for axis in START:
        tried = {way[axis] for way in asked}
        assert any(v < best[axis] for v in tried) or best[axis] == 1
        assert any(v > best[axis] for v in tried)
    assert len({tuple(way.values()) for way in asked}) == len(asked)  # each once
    assert {way["step_size"] for way in asked} >= set(FIRST)


def test_an_axis_that_is_not_named_stays() -> None:
    loss, asked = bowl(0.016, 16, 64)
    best = climb(loss, START, axes=("step_size",))
    assert best == {"step_size": 0.016, "passes": 4, "batch": 1024}
    assert {way["passes"] for way in asked} == {4}


def test_a_training_that_diverges_is_no_winner() -> None:
    def loss(way: dict) -> float:
        return float("inf") if way["step_size"] > 0.004 else 1 - way["step_size"]

    assert climb(loss, START, axes=("step_size",))["step_size"] == 0.004


def test_no_world_is_used_for_tuning_and_for_results() -> None:
    assert len(set(RESULTS_ON)) >= 10 and len(set(TUNING)) == 2
    assert not set(RESULTS_ON) & set(TUNING)


def test_differences_are_paired_by_world_and_one_family() -> None:
    rng = np.random.default_rng(0)
    worlds = rng.normal(0, 1, (3, 10))  # far more than what the contenders differ by
    names = {"a": worlds + 0.1 + rng.normal(0, 0.01, (3, 10)), "b": worlds}
    names["c"] = worlds + rng.normal(0, 0.01, (3, 10))
    values = pd.concat({k: pd.DataFrame(v) for k, v in names.items()}, axis=1)
    table = differences(values, {"a - b": ("a", "b"), "c - b": ("c", "b")})
    assert len(table) == 6 and (table.loc["a - b", "low"] > 0.08).all()
    assert (table.loc["a - b", "p_holm"] < 0.001).all()
    assert (table["p_holm"] >= table["p_value"]).all()
    assert table["p_holm"].min() == pytest.approx(6 * table["p_value"].min())
    assert (table["low"] < table["difference"]).all()
