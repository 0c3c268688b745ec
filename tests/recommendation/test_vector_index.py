"""The vector index against a sort of all products."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from urlm_helpers.recommendation import VectorIndex, latencies, overlap


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items of very different lengths, queries, and ids."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    items = rng.normal(size=(600, 8)) * rng.lognormal(0, 0.5, (600, 1))
    return items.astype("f4"), rng.normal(size=(20, 8)), rng.permutation(10_000)[:600]


def test_exact_index_equals_a_sort(vectors: Any) -> None:
    items, queries, ids = vectors
    found, score = VectorIndex(items, ids).search(queries, 30)
    product = queries @ items.T
    order = np.argsort(-product, axis=1)[:, :30]
    np.testing.assert_array_equal(found, ids[order])
    np.testing.assert_allclose(
        score, np.take_along_axis(product, order, 1), rtol=1e-4, atol=1e-5
    )


def test_effort_buys_recall(vectors: Any) -> None:
    (items, queries, ids), efforts = vectors, (10, 600)
    index = VectorIndex(items, ids, "hnsw")
    exact, product = VectorIndex(items, ids).search(queries, 10)
    low, high = (
        overlap(index.search(queries, 10, effort)[0], exact).mean()
        for effort in efforts
    )
    assert low < high and high >= 0.99
    found, score = index.search(queries, 10, efforts[1])
    same = found == exact
    np.testing.assert_allclose(score[same], product[same], rtol=1e-4, atol=1e-5)


def test_a_graph_holds_vectors_of_one_length(vectors: Any) -> None:
    """The largest product is then the nearest neighbor, and is what it was."""
    items, queries, ids = vectors
    held = VectorIndex(items, ids, "hnsw").index.reconstruct_n(0, 600)
    np.testing.assert_array_equal(held[:, :-1], items)
    length = np.linalg.norm(held, axis=1)
    np.testing.assert_allclose(length, length[0], rtol=1e-5)


def test_too_few_found_are_marked(vectors: Any) -> None:
    items, queries, ids = vectors
    index = VectorIndex(items, ids, "hnsw")
    # A graph whose first vector has no way out finds that one alone.
    faiss = pytest.importorskip("faiss")
    links = faiss.vector_to_array(index.index.hnsw.neighbors)
    faiss.copy_array_to_vector(np.full_like(links, -1), index.index.hnsw.neighbors)
    found, score = index.search(queries, 5)
    assert (found[:, 1:] == -1).all() and np.isin(found[:, 0], ids).all()


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_index_comes_back_from_disk(vectors: Any, kind: str, tmp_path: Path) -> None:
    items, queries, ids = vectors
    index = VectorIndex(items, ids, kind)
    index.save(tmp_path / "deep" / "index")
    loaded = VectorIndex.load(tmp_path / "deep" / "index")
    effort = None if kind == "exact" else 20
    for one, two in zip(
        index.search(queries, 7, effort), loaded.search(queries, 7, effort), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    np.savez(tmp_path / "deep" / "index" / "ids.npz", ids=ids[:5], kind=kind)
    with pytest.raises(ValueError, match="600 vectors and 5 ids"):
        VectorIndex.load(tmp_path / "deep" / "index")


def test_overlap_and_latencies() -> None:
    np.testing.assert_allclose(
        overlap([[1, 2, 3], [3, 4, -1]], [[2, 1], [4, 9]]), [1.0, 0.5]
    )
    asked: list[int] = []
    queries = np.arange(12.0).reshape(4, 3)
    seconds = latencies(lambda q: asked.append(int(q[0, 0])), queries, warm_up=2)
    assert asked == [0, 3, 0, 3, 6, 9] and seconds.shape == (4,)


E3 = np.eye(3)
BAD: dict[str, tuple[Any, str]] = {
    "ids": (lambda: VectorIndex(E3, [1, 2]), "3 vectors need as many"),
    "id twice": (lambda: VectorIndex(E3, [1, 2, 2]), "3 vectors need as many"),
    "id text": (lambda: VectorIndex(E3, ["a", "b", "c"]), "whole numbers"),
    "1-D": (lambda: VectorIndex(E3[0], [1, 2, 3]), "vectors must be finite"),
    "nan": (lambda: VectorIndex(E3 * np.nan, [1, 2, 3]), "vectors must be finite"),
    "empty": (lambda: VectorIndex(E3[:0], []), "vectors must be finite"),
    "kind": (lambda: VectorIndex(E3, [1, 2, 3], "lsh"), "'exact' or 'hnsw'"),
    "query": (lambda: VectorIndex(E3, [1, 2, 3]).search(E3[:, :2], 1), "length 3"),
    "query 1-D": (lambda: VectorIndex(E3, [1, 2, 3]).search(E3[0], 1), "queries must"),
    "hnsw query": (
        lambda: VectorIndex(E3, [1, 2, 3], "hnsw").search(np.ones((1, 4)), 1),
        "length 3",
    ),
    "k": (lambda: VectorIndex(E3, [1, 2, 3]).search(E3, 4), "k=4"),
    "k 0": (lambda: VectorIndex(E3, [1, 2, 3]).search(E3, 0), "k=0"),
    "effort": (lambda: VectorIndex(E3, [1, 2, 3]).search(E3, 1, 9), "approximate"),
    "effort 0": (
        lambda: VectorIndex(E3, [1, 2, 3], "hnsw").search(E3, 1, 0),
        "from 1 on",
    ),
    "overlap": (lambda: overlap([[1]], [[1], [2]]), "one row per query"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    pytest.importorskip("faiss")
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


def test_faiss_and_tensorflow_wait_until_used() -> None:
    code = """
import sys
import urlm_helpers, urlm_helpers.recommendation
assert not {"tensorflow", "keras", "faiss"} & set(sys.modules)
sys.modules["faiss"] = None
try:
    urlm_helpers.recommendation.VectorIndex([[1.0]], [1])
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'urlm-helpers[retrieval]'" in done.stdout, done.stderr
