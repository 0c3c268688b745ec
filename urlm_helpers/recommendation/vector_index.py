"""A vector index: which k items have the largest inner product with a user?

The index is of faiss, which is imported when the first one is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LINKS = 16
"""Neighbors of each vector in the graph of ``"hnsw"``."""


class VectorIndex:
    """The items' vectors, made ready for "which k have the largest inner product?".

    ``"exact"`` compares with every vector. ``"hnsw"`` walks a graph of neighbors [1]_;
    it may miss some, and `effort` says how much it looks at. For the graph, each vector
    gets one more number that makes all equally long, and each query a 0 [2]_: the
    products stay what they were, and the largest is now the nearest, which is what a
    walk from neighbor to neighbor can find.

    Parameters
    ----------
    vectors : array, shape (items, dim)
        Finite numbers.
    ids : array of int, shape (items,)
        What to call the items; each once.
    kind : str
        ``"exact"`` or ``"hnsw"``.

    Raises
    ------
    ValueError
        Wrong shapes, a number that is not finite, an id twice, an unknown kind.
    ImportError
        If faiss is not installed.

    References
    ----------
    .. [1] Y. A. Malkov, D. A. Yashunin, "Efficient and Robust Approximate Nearest
       Neighbor Search Using Hierarchical Navigable Small World Graphs", IEEE TPAMI
       42(4), 2020. arXiv:1603.09320
    .. [2] Y. Bachrach et al., "Speeding Up the Xbox Recommender System Using a
       Euclidean Transformation for Inner-Product Spaces", RecSys 2014.
       doi:10.1145/2645710.2645741

    Examples
    --------
    >>> index = VectorIndex(np.eye(3), ids=[10, 20, 30])
    >>> found, score = index.search([[0.0, 2.0, 1.0]], k=2)
    >>> found.tolist(), score.tolist()
    ([[20, 30]], [[2.0, 1.0]])
    """

    def __init__(self, vectors: ArrayLike, ids: ArrayLike, kind: str = "exact") -> None:
        faiss, matrix, names = _faiss(), _matrix(vectors, "vectors"), np.asarray(ids)
        items, dim = matrix.shape
        integer = np.issubdtype(names.dtype, np.integer)
        if names.shape != (items,) or not integer or len(np.unique(names)) < items:
            raise ValueError(
                f"{items} vectors need as many different whole numbers as ids, got "
                f"shape {names.shape} of {names.dtype}"
            )
        self.kind, self.ids = kind, names.astype(np.int64)
        if kind == "exact":
            self.index = faiss.IndexFlatIP(dim)
        elif kind == "hnsw":
            square = np.einsum("nd,nd->n", matrix, matrix)
            matrix = np.column_stack([matrix, np.sqrt(square.max() - square)])
            metric = faiss.METRIC_INNER_PRODUCT
            self.index = faiss.IndexHNSWFlat(dim + 1, LINKS, metric)
        else:
            raise ValueError(f"kind must be 'exact' or 'hnsw', got {kind!r}")
        self.index.add(matrix)

    def search(
        self, queries: ArrayLike, k: int, effort: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k best items of each query, best first, and their products.

        Parameters
        ----------
        queries : array, shape (queries, dim)
        k : int
            From 1 to the number of items.
        effort : int, optional
            Candidates that ``"hnsw"`` keeps on its walk (efSearch); by default, and at
            least, ``k``.

        Returns
        -------
        ids : ndarray of int64, shape (queries, k)
            -1 where an approximate search found fewer.
        scores : ndarray, shape (queries, k)

        Raises
        ------
        ValueError
            Wrong shape, ``k`` out of range, an effort below 1 or on an exact index.
        """
        matrix = _matrix(queries, "queries")
        added = int(self.kind == "hnsw")
        dim = self.index.d - added
        if matrix.shape[1] != dim or not 1 <= k <= len(self.ids):
            raise ValueError(
                f"the index has {len(self.ids)} vectors of length {dim}, got "
                f"queries of shape {matrix.shape} and k={k}"
            )
        if effort is not None and (effort < 1 or not added):
            raise ValueError(
                f"effort is a number from 1 on, of approximate searches alone, got "
                f"{effort} for {self.kind!r}"
            )
        if added:
            self.index.hnsw.efSearch = max(effort or k, k)
        scores, at = self.index.search(np.pad(matrix, ((0, 0), (0, added))), k)
        return np.where(at >= 0, self.ids[at], -1), scores

    def save(self, path: str | Path) -> None:
        """Write the index and the ids to a folder, made where there is none."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        _faiss().write_index(self.index, str(folder / "index.faiss"))
        np.savez(folder / "ids.npz", ids=self.ids, kind=self.kind)

    @classmethod
    def load(cls, path: str | Path) -> VectorIndex:
        """Read what `save` wrote."""
        found = cls.__new__(cls)
        found.index = _faiss().read_index(str(Path(path) / "index.faiss"))
        with np.load(Path(path) / "ids.npz") as stored:
            found.ids, found.kind = stored["ids"], str(stored["kind"])
        if found.index.ntotal != len(found.ids):
            raise ValueError(
                f"{path} holds {found.index.ntotal} vectors and {len(found.ids)} ids"
            )
        return found


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "a VectorIndex needs faiss: pip install 'urlm-helpers[retrieval]'"
        ) from error
    return faiss


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float32]:
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise ValueError(
            f"{name} must be finite numbers of shape (rows, dim), at least one, got "
            f"shape {matrix.shape}"
        )
    return matrix


def overlap(found: ArrayLike, wanted: ArrayLike) -> NDArray[np.float64]:
    """Return, query by query, the share of the wanted ids that were found.

    With the ids of an exact search as `wanted`, the recall of an approximate one.

    Parameters
    ----------
    found : array of int, shape (queries, k)
    wanted : array of int, shape (queries, n)
        Different ids, none of them -1.

    Raises
    ------
    ValueError
        If there are not as many rows in both.

    Examples
    --------
    >>> overlap([[4, 1, -1], [5, 6, 7]], [[1, 2], [7, 5]]).tolist()
    [0.5, 1.0]
    """
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.ndim != 2 or wanted.ndim != 2 or len(found) != len(wanted):
        raise ValueError(
            f"both must have one row per query, got {found.shape} and {wanted.shape}"
        )
    pairs = zip(found, wanted, strict=True)
    return np.array([np.isin(ids, got).mean() for got, ids in pairs])


def latencies(
    search: Callable[[NDArray], object], queries: ArrayLike, warm_up: int = 5
) -> NDArray[np.float64]:
    """Return the seconds that each query took, asked alone, ``(queries,)``.

    Parameters
    ----------
    search : callable
        Gets one query of shape (1, dim).
    queries : array, shape (queries, dim)
    warm_up : int
        Queries that are asked once before, untimed.

    Examples
    --------
    >>> index = VectorIndex(np.eye(3), ids=[10, 20, 30])
    >>> seconds = latencies(lambda one: index.search(one, k=2), np.eye(3))
    >>> seconds.shape, bool((seconds > 0).all())
    ((3,), True)
    """
    each = [row[None] for row in _matrix(queries, "queries")]
    seconds = []
    for query in [*each[:warm_up], *each]:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[-len(each) :])
