"""The protocol of the studies: how settings are searched."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
protocol: Any = importlib.import_module("protocol")
FIRST, MOVE, climb = protocol.FIRST, protocol.MOVE, protocol.climb
RESULTS_ON, TUNING = protocol.RESULTS_ON, protocol.TUNING
START = {"step_size": 0.0, "passes": 2, "batch": 512, "decay": 0.3}


def bowl(**goal: float):
    """Return a loss that is least there, and what it was asked of all worlds."""
    asked: list[dict] = []

    def loss(way: dict, every: bool) -> float:
        if every:
            asked.append(dict(way))
        return sum(math.log2(way[k] / goal[k]) ** 2 for k in goal)

    return loss, asked


@pytest.mark.parametrize(
    "goal",
    [
        {"step_size": 0.064, "passes": 1, "batch": 64, "decay": 0.9},
        {"step_size": 0.0005, "passes": 32, "batch": 8192, "decay": 0.1},
        {"step_size": 0.008, "passes": 4, "batch": 512, "decay": 0.3},
    ],
)
def test_the_search_leaves_its_first_grid_and_ends_between_neighbors(goal) -> None:
    loss, asked = bowl(**goal)
    best = climb(loss, START)
    assert best == pytest.approx(goal, rel=0.1)
    for axis in START:
        tried = {way[axis] for way in asked}
        assert any(v < best[axis] for v in tried) or best[axis] == 1
        assert any(v > best[axis] for v in tried)
    assert len({tuple(way.values()) for way in asked}) == len(asked)  # each once


def test_the_first_grid_is_asked_of_one_world_and_spans_two_passes() -> None:
    first: list[tuple[float, float]] = []

    def loss(way: dict, every: bool) -> float:
        if not every:
            first.append((way["step_size"], way["passes"]))
        return 0.0

    climb(loss, START)
    assert first == [(rate, passes) for rate in FIRST for passes in (2, 4)]


def test_a_gain_within_luck_moves_nothing() -> None:
    def loss(way: dict, every: bool) -> float:
        near = abs(math.log2(way["step_size"] / 0.008))
        return near - 0.9 * MOVE * math.log2(way["batch"])

    assert climb(loss, START) == {**START, "step_size": 0.008}


def test_a_training_that_diverges_is_no_winner() -> None:
    def loss(way: dict, every: bool) -> float:
        return math.inf if way["step_size"] > 0.004 else 1 - way["step_size"]

    assert climb(loss, START)["step_size"] == 0.004


def test_no_world_is_used_for_tuning_and_for_results() -> None:
    assert len(set(RESULTS_ON)) >= 10 and len(set(TUNING)) == 2
    assert not set(RESULTS_ON) & set(TUNING)
