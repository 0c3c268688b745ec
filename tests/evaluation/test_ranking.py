"""Ranking metrics against every order of tied items, and scikit-learn's NDCG."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from urlm_helpers.evaluation import (
    exposure,
    gini,
    query_metrics,
    ranking_metrics,
    shown_popularity,
)

METRICS = ["recall", "precision", "ndcg", "hit", "mrr"]


def of_order(label: np.ndarray, k: int) -> list[float]:
    """Metrics of labels in ranked order, by their definitions."""
    top, total = label[:k], label.sum()
    places = np.flatnonzero(top)
    dcg = sum(1 / np.log2(place + 2) for place in places)
    ideal = sum(1 / np.log2(place + 2) for place in range(min(k, total)))
    return [
        top.sum() / total,
        top.sum() / k,
        dcg / ideal,
        float(len(places) > 0),
        1 / (places[0] + 1) if len(places) else 0.0,
    ]


def brute(score: np.ndarray, label: np.ndarray, k: int) -> np.ndarray:
    """Mean over all orders of the items that sort the score."""
    orders = [
        label[list(order)]
        for order in permutations(range(len(score)))
        if np.all(np.diff(score[list(order)]) <= 0)
    ]
    return np.mean([of_order(order, k) for order in orders], axis=0)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 4))
def test_ties_give_the_mean_over_all_orders(seed: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 7, size=3)
    query = np.repeat(["x", "y", "z"], size)
    order = rng.permutation(len(query))
    score = rng.integers(levels, size=len(query))
    label = rng.integers(2, size=len(query))
    found = query_metrics(query[order], score[order], label[order], k)
    empty = 0
    for q in "xyz":
        own = query == q
        if not label[own].any():
            assert q not in found.per_query.index
            empty += 1
            continue
        line = found.per_query.loc[q]
        assert line["relevant"] == label[own].sum()
        assert line["candidates"] == own.sum()
        np.testing.assert_allclose(
            line[[f"{m}@{k}" for m in METRICS]].astype(float),
            brute(score[own], label[own], k),
            rtol=1e-9,
            atol=1e-12,
        )
    assert found.dropped == empty


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_ndcg_is_scikit_learns(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    score, label = rng.integers(5, size=(4, 12)), rng.integers(2, size=(4, 12))
    label[:, 0] = 1
    found = ranking_metrics(score, label.astype(bool), k=k).per_query
    expected = [ndcg_score([a], [s], k=k) for a, s in zip(label, score, strict=True)]
    np.testing.assert_allclose(found[f"ndcg@{k}"], expected, rtol=1e-9)


def test_cuts_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    query, score = np.repeat([0, 1], 9), rng.integers(4, size=18)
    label = np.tile([1, 1, 1, 0, 0, 1, 0, 1, 1], 2)
    together = query_metrics(query, score, label, [7, 2, 4]).per_query
    for k in (2, 4, 7):
        alone = query_metrics(query, score, label, k).per_query
        pd.testing.assert_frame_equal(together[alone.columns], alone)


def test_a_constant_score_is_chance_in_any_row_order() -> None:
    label = np.zeros(100)
    for relevant in ([0, 1, 2, 3], [96, 97, 98, 99]):
        label[:] = 0
        label[relevant] = 1
        found = query_metrics(np.zeros(100), np.ones(100), label, 10).per_query
        assert found["recall@10"].item() == pytest.approx(0.1)
        assert found["precision@10"].item() == pytest.approx(0.04)


def test_by_hand() -> None:
    found = query_metrics([0] * 4, [4, 3, 2, 1], [0, 1, 0, 1], (1, 2, 4)).per_query
    dcg = 1 / np.log2(3) + 1 / np.log2(5)
    expected = {
        "recall@1": 0, "recall@2": 0.5, "recall@4": 1, "precision@4": 0.5,
        "hit@1": 0, "hit@2": 1, "mrr@1": 0, "mrr@4": 0.5,
        "ndcg@4": dcg / (1 + 1 / np.log2(3)), "ndcg@2": (dcg - 1 / np.log2(5))
        / (1 + 1 / np.log2(3)),
    }  # fmt: skip
    assert found[list(expected)].iloc[0].to_dict() == pytest.approx(expected)


def test_fewer_candidates_than_k() -> None:
    found = query_metrics([0, 0], [1, 2], [1, 0], 10).per_query.iloc[0]
    assert found["recall@10"] == 1 and found["precision@10"] == 0.1
    assert found["hit@10"] == 1 and found["mrr@10"] == 0.5


def test_matrix_masks_the_seen_and_the_absent() -> None:
    scores = np.array([[5.0, 4, 3, 2], [5, 4, 3, 2], [1, 2, 3, 4]])
    relevant = np.array([[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    exclude = np.zeros((3, 4), dtype=bool)
    exclude[0, 0] = exclude[1, 0] = True
    candidates = np.ones((3, 4), dtype=bool)
    candidates[0, 1] = False
    found = ranking_metrics(
        scores, relevant, candidates=candidates, exclude=exclude, k=1
    )
    assert found.dropped == 1
    assert found.per_query.index.tolist() == [0, 1]
    assert found.per_query["recall@1"].tolist() == [1, 1]
    assert found.per_query["relevant"].tolist() == [1, 1]
    assert found.per_query["candidates"].tolist() == [2, 3]
    assert ranking_metrics(scores, relevant, k=1).per_query["hit@1"].tolist() == [0, 1]
    exclude[2] = True
    assert ranking_metrics(scores, relevant, exclude=exclude, k=1).dropped == 1
    candidates[0, 2] = False
    with pytest.raises(ValueError, match="item 2 is relevant to query 0, no candidate"):
        ranking_metrics(scores, relevant, candidates=candidates)
    with pytest.raises(ValueError, match=r"relevant bool of its shape, got .*\(1, 4\)"):
        ranking_metrics(scores, relevant[:1])


@pytest.mark.parametrize(
    ("query", "score", "label", "k", "message"),
    [
        ([0], [1, 2], [0, 1], 1, "query has 1 rows, expected 2"),
        ([0, 0], [1, np.nan], [0, 1], 1, "score must not be NaN, got nan in row 1"),
        ([0, 0], [1, 2], [0, 3], 1, "y must be 0 or 1, got 3.0 in row 1"),
        ([0, 0], [1, 2], [0, 1], 0, "k must be at least 1, got 0"),
        ([0, 0], [1, 2], [0, 1], (), r"k must be at least 1, got \(\)"),
    ],
)
def test_bad_input_is_named(
    query: list[int], score: list[float], label: list[int], k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        query_metrics(query, score, label, k)


def test_nothing_to_rank() -> None:
    found = query_metrics([], [], [], 3)
    assert found.dropped == 0 and found.per_query.empty


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_exposure_is_the_mean_over_all_orders(seed: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    query, item = np.repeat([0, 1], 4), np.tile(list("abcd"), 2)
    score = rng.integers(levels, size=8)
    shown = []  # per query, per order: which items are in the top k
    for q in (0, 1):
        s = score[query == q]
        tops = [
            np.isin(np.arange(4), order[:k])
            for order in permutations(range(4))
            if np.all(np.diff(s[list(order)]) <= 0)
        ]
        shown.append(np.mean(tops, axis=0))
    found = exposure(query, item, score, k)
    np.testing.assert_allclose(found["exposure"], sum(shown), atol=1e-12)
    missed = (1 - shown[0]) * (1 - shown[1])
    np.testing.assert_allclose(found["reached"], 1 - missed, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4))
def test_popularity_is_the_mean_over_all_orders(seed: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    query = rng.permutation(np.repeat([0, 1], [4, 5]))
    score, popularity = rng.integers(levels, size=9), rng.integers(50, size=9)
    found = shown_popularity(query, score, popularity, k)
    for q in (0, 1):
        s, amount = score[query == q], popularity[query == q]
        means = [
            amount[list(order[:k])].mean()
            for order in permutations(range(len(s)))
            if np.all(np.diff(s[list(order)]) <= 0)
        ]
        assert found[q] == pytest.approx(np.mean(means))


def test_popularity_names_bad_input() -> None:
    with pytest.raises(ValueError, match="popularity must be finite, got nan in row 1"):
        shown_popularity([0, 0], [1, 2], [1, np.nan])
    with pytest.raises(ValueError, match="one length"):
        shown_popularity([0, 0], [1, 2], [1])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_gini_is_half_the_mean_difference_of_two_over_the_mean(x: list[float]) -> None:
    total = sum(x)
    if total < 1e-6:
        assert np.isnan(gini([0.0] * len(x)))
        return
    pairs = sum(abs(a - b) for a in x for b in x)
    assert gini(x) == pytest.approx(pairs / (2 * len(x) * total), abs=1e-9)


def test_a_hundred_thousand_queries_are_quick() -> None:
    rng = np.random.default_rng(0)
    query = np.repeat(np.arange(50_000), 20)
    label = rng.random(len(query)) < 0.1
    found = query_metrics(query, rng.random(len(query)), label)
    assert isinstance(found.per_query, pd.DataFrame)
    assert found.per_query["recall@10"].mean() == pytest.approx(0.5, abs=0.01)
