"""Re-ranking equals brute force, and rules hold."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers.recommendation import at_most, best, dpp, mmr, never


def world(seed: int, n: int = 8, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return relevance and the similarity of vectors of length 1."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rng.random(n), vectors @ vectors.T


def slow_mmr(r: np.ndarray, s: np.ndarray, k: int, trade: float) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < k:
        value = {
            i: trade * r[i] - (1 - trade) * max((s[i, j] for j in chosen), default=0.0)
            for i in range(len(r))
            if i not in chosen
        }
        chosen.append(max(value, key=lambda i: value[i]))
    return chosen


def kernel(r: np.ndarray, s: np.ndarray, trade: float) -> np.ndarray:
    """Return the L of the process, with Chen et al.'s α."""
    quality = np.exp(trade / (2 * (1 - trade)) * r)
    return quality[:, None] * s * quality


def slow_dpp(r: np.ndarray, s: np.ndarray, k: int, trade: float) -> list[int]:
    matrix, chosen = kernel(r, s, trade), list[int]()
    while len(chosen) < k:
        left = [i for i in range(len(r)) if i not in chosen]
        both = [[*chosen, i] for i in left]
        det = [np.linalg.det(matrix[np.ix_(at, at)]) for at in both]
        chosen.append(left[int(np.argmax(det))])
    return chosen


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), trade=st.sampled_from([0.1, 0.5, 0.9]))
def test_mmr_and_dpp_equal_the_definition(seed: int, trade: float) -> None:
    r, s = world(seed)
    assert mmr(r, s, 5, trade).tolist() == slow_mmr(r, s, 5, trade)
    assert dpp(r, s, 5, trade).tolist() == slow_dpp(r, s, 5, trade)


def test_greedy_dpp_is_near_the_best_of_all_lists() -> None:
    """The greedy list can't beat the exhaustive one, and mostly finds it."""
    found = 0
    for seed in range(30):
        r, s = world(seed)
        matrix = kernel(r, s, 0.5)
        det = {
            at: np.linalg.det(matrix[np.ix_(at, at)])
            for at in combinations(range(8), 3)
        }
        greedy = det[tuple(sorted(dpp(r, s, 3, 0.5).tolist()))]
        assert greedy <= max(det.values()) + 1e-12
        found += bool(np.isclose(greedy, max(det.values())))
    assert found >= 15


def test_ends_of_the_trade() -> None:
    r, s = world(3)
    order = np.argsort(-r)[:5].tolist()
    assert best(r, 5).tolist() == order
    assert mmr(r, s, 5, 1.0).tolist() == order
    assert dpp(r, s, 5, 1 - 1e-9).tolist() == order


def test_mmr_by_hand() -> None:
    r, s = [1.0, 0.9, 0.2], [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]
    # second place: 0.5 * 0.9 - 0.5 * 0.9 = 0 against 0.5 * 0.2 - 0 = 0.1
    assert mmr(r, s, 3, 0.5).tolist() == [0, 2, 1]


def test_dpp_stops_where_nothing_new_is_left() -> None:
    r, s = world(1, n=8, dim=3)
    assert len(dpp(r, s, 8, 0.5)) == 3
    assert sorted(dpp(r, np.eye(8), 8, 0.5).tolist()) == list(range(8))


def test_dpp_does_not_ask_for_unit_vectors() -> None:
    r, s = world(5)
    scale = np.linspace(0.5, 2, 8)
    s = scale[:, None] * s * scale
    assert dpp(r, s, 5, 0.5).tolist() == slow_dpp(r, s, 5, 0.5)


@pytest.mark.parametrize("method", ["best", "mmr", "dpp"])
def test_rules_and_pins(method: str) -> None:
    r, s = world(7, n=12, dim=12)
    group, bought = np.arange(12) % 3, np.arange(12) < 4
    rules = [at_most(2, group), never(bought)]

    def rerank(k: int, **options: Any) -> np.ndarray:
        if method == "best":
            return best(r, k, **options)
        return {"mmr": mmr, "dpp": dpp}[method](r, s, k, 0.5, **options)

    found = rerank(5, rules=rules, pinned={1: 0, 4: 3})
    assert found[1] == 0 and found[4] == 3 and len(set(found.tolist())) == 5
    assert not bought[np.delete(found, [1, 4])].any()
    # 0 and 3 are both of group 0 and pinned: no other of that group, at any place
    assert np.bincount(group[found], minlength=3).tolist()[0] == 2
    assert (np.bincount(group[found]) <= 2).all()
    # rules leave six candidates: the list is shorter, and what is pinned moves up
    short = rerank(10, rules=rules, pinned={9: 0})
    assert len(short) == 6 and short[-1] == 0
    assert sorted(rerank(50).tolist()) == list(range(12))


def test_a_pin_is_known_to_the_gain() -> None:
    twins = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    r = [0.5, 0.9, 0.8]
    for method in (mmr, dpp):
        assert method(r, twins, 2, 0.5, pinned={1: 0}).tolist() == [2, 0]
        # two pinned twins are no error
        assert method(r, twins, 3, 0.5, pinned={0: 0, 1: 1}).tolist() == [0, 1, 2]


def test_equal_candidates_keep_their_order() -> None:
    assert best([1.0, 2.0, 2.0, 1.0], 4).tolist() == [1, 2, 0, 3]


def test_nothing_passed_in_is_changed() -> None:
    r, s = world(2)
    before = r.copy(), s.copy()
    dpp(r, s, 4, 0.5)
    mmr(r, s, 4, 0.5)
    np.testing.assert_array_equal(r, before[0])
    np.testing.assert_array_equal(s, before[1])


R, S = world(0)
NO_RULE: Any = lambda chosen: np.ones(8)  # noqa: E731
BAD: dict[str, tuple[Any, str]] = {
    "k": (lambda: best(R, 0), "k must be at least 1"),
    "nan": (lambda: best([1.0, np.nan], 1), "relevance must be finite"),
    "2-D": (lambda: best(S, 1), "relevance must be finite"),
    "square": (lambda: mmr(R, S[:4], 2, 0.5), "similarity must be finite"),
    "nan similarity": (lambda: dpp(R, S * np.nan, 2, 0.5), "similarity must be finite"),
    "mmr trade": (lambda: mmr(R, S, 2, 1.1), r"trade must lie in \[0, 1\]"),
    "dpp trade": (lambda: dpp(R, S, 2, 1.0), r"trade must lie in \[0, 1\)"),
    "asymmetric": (lambda: dpp(R, np.triu(S), 2, 0.5), "symmetric"),
    "diagonal": (lambda: dpp(R, 0 * S, 2, 0.5), "positive diagonal"),
    "pin out": (lambda: best(R, 3, pinned={3: 0}), "pinned to place 3"),
    "pin unknown": (lambda: best(R, 3, pinned={0: 8}), "candidate 8"),
    "pin twice": (lambda: best(R, 3, pinned={0: 1, 1: 1}), "two places"),
    "rule": (
        lambda: best(R, 3, rules=[NO_RULE]),
        "a rule must return 8 bools",
    ),
    "never": (lambda: never([0, 1]), "banned must be bool"),
    "at most": (lambda: at_most(0, ["a"]), "limit must be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()
