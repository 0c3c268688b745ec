"""Retrieval (召回): two towers, trained on positives alone, and a vector index.

A user tower and an item tower meet in one inner product, so the vectors of the whole
catalog can be made beforehand and a request is a search for the nearest of them. The
model is of Keras; the index is of faiss, which is imported when the first one is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops
from keras_rs.layers import SamplingProbabilityCorrection
from numpy.typing import ArrayLike, NDArray

from urlm_helpers.encode import InputSpec
from urlm_helpers.features import PACKAGE, FieldEmbedding, MeanPool
from urlm_helpers.sharing import tower
from urlm_helpers.training import Batches

HISTORY = "history"
"""The name that stands for the history among a tower's columns."""
CHUNK = 16_384
"""Rows that a tower maps at a time."""


def in_batch_softmax(
    user: Any, item: Any, candidate: Any, probability: Any, temperature: float
) -> Any:
    r"""Return the loss of each row against the other rows' items, ``(batch,)``.

    .. math:: -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad
              s_{ij} = \frac{u_i^\top v_j}{\tau} - \log Q_j

    A popular item is in many batches, which teaches the towers that it fits nobody;
    :math:`-\log Q_j` takes that back [1]_. A row j of the same item as row i is no
    negative of it and is left out of the sum.

    Parameters
    ----------
    user, item : tensor, shape (batch, dim)
        Vectors of the rows' users and items.
    candidate : int tensor, shape (batch,)
        The rows' item ids.
    probability : tensor, shape (batch,)
        How likely each row's item is to be drawn into a batch, Q; ones for no
        correction.
    temperature : float
        The τ above.

    Notes
    -----
    ``keras_rs.layers.RemoveAccidentalHits`` would be the layer for the same items. In
    keras-rs 0.4.0 it returns the logits as they are
    (https://github.com/keras-team/keras-rs/pull/206), so the mask is drawn here.

    With the mask, the correction is right as long as no item fills much of a batch:
    where it does, the sum lacks that item's other rows.

    References
    ----------
    .. [1] X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
       Recommendations", RecSys 2019. doi:10.1145/3298689.3346996

    Examples
    --------
    >>> vector = np.eye(2, dtype="float32")
    >>> loss = in_batch_softmax(vector, vector, [7, 9], np.ones(2, "float32"), 1.0)
    >>> bool(np.allclose(loss, np.log(1 + 1 / np.e)))
    True
    >>> loss = in_batch_softmax(vector, vector, [7, 7], np.ones(2, "float32"), 1.0)
    >>> np.asarray(loss).tolist()
    [0.0, 0.0]
    """
    scores = ops.matmul(user, ops.transpose(item)) / temperature  # (batch, batch)
    correct = SamplingProbabilityCorrection(epsilon=1e-12)
    logits = correct(scores, ops.convert_to_tensor(probability, scores.dtype))
    ids = ops.convert_to_tensor(candidate)
    own = ops.eye(ops.shape(scores)[0], dtype="bool")
    same = ops.equal(ids[:, None], ids[None, :])
    logits = ops.where(ops.logical_and(same, ops.logical_not(own)), -1e9, logits)
    return ops.logsumexp(logits, axis=-1) - ops.diagonal(logits)


@keras.saving.register_keras_serializable(PACKAGE)
class Tower(keras.layers.Layer):
    """Columns of one side → embeddings and numbers → dense layers → one vector.

    Parameters
    ----------
    spec : InputSpec or mapping
        What the inputs are.
    columns : sequence of str
        Names among ``spec.fields`` and ``spec.numeric``, or ``"history"``.
    dim : int
        Length of the vector that comes out; also of each embedding.
    units : sequence of int
        Widths of the dense layers before it.
    unit_length : bool
        Whether vectors are scaled to length 1.

    Raises
    ------
    ValueError
        If there is no column, or a name is unknown.
    """

    def __init__(
        self,
        spec: InputSpec | Mapping[str, Any],
        columns: Sequence[str],
        dim: int = 16,
        units: Sequence[int] = (64,),
        unit_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec(**spec)
        self.columns, self.dim, self.units = list(columns), dim, list(units)
        self.unit_length = unit_length
        fields, numeric = list(self.spec.fields), list(self.spec.numeric)
        past = [HISTORY] if self.spec.history_fields else []
        unknown = [c for c in self.columns if c not in fields + numeric + past]
        if unknown or not self.columns:
            raise ValueError(
                f"a tower takes some of {fields + numeric + past}, unknown: {unknown}, "
                f"got {len(self.columns)} columns"
            )
        self.fields = [fields.index(c) for c in self.columns if c in fields]
        self.numbers = [numeric.index(c) for c in self.columns if c in numeric]
        self.has_history = HISTORY in self.columns
        sizes = self.spec.fields
        if self.fields:
            own = [sizes[fields[f]] for f in self.fields]
            self.embedding = FieldEmbedding(own, dim)
        if self.has_history:
            past_sizes = [sizes[f] for f in self.spec.history_fields]
            self.past_embedding = FieldEmbedding(past_sizes, dim)
        self.pool = MeanPool()
        self.dense = tower(self.units, "dense")
        self.out = keras.layers.Dense(dim, name="out")

    def build(self, input_shape: Any = None) -> None:
        """Create the variables of every part."""
        width = (len(self.fields) + self.has_history) * self.dim + len(self.numbers)
        if self.fields:
            self.embedding.build()
        if self.has_history:
            self.past_embedding.build()
        if self.units:
            self.dense.build((None, width))
            width = self.units[-1]
        self.out.build((None, width))
        self.built = True

    def call(self, x: Mapping[str, Any]) -> Any:
        """Map inputs of the package's shape to vectors ``(batch, dim)``."""
        parts = []
        if self.fields:
            picked = ops.take(ops.cast(x["fields"], "int32"), self.fields, axis=1)
            vectors = self.embedding(picked)  # (batch, fields, dim)
            parts.append(ops.reshape(vectors, (-1, len(self.fields) * self.dim)))
        if self.has_history:
            past = ops.cast(x[HISTORY], "int32")  # (batch, length, history fields)
            steps = ops.sum(self.past_embedding(past), axis=2)
            parts.append(self.pool(steps, ops.any(past != 0, axis=-1)))
        if self.numbers:
            numbers = ops.take(x["numeric"], self.numbers, axis=1)
            parts.append(ops.cast(numbers, self.compute_dtype))
        features = ops.concatenate(parts, axis=-1)
        vector = self.out(self.dense(features) if self.units else features)
        return ops.normalize(vector, axis=-1) if self.unit_length else vector

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "spec": self.spec.to_dict(),
            "columns": self.columns,
            "dim": self.dim,
            "units": self.units,
            "unit_length": self.unit_length,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class TwoTower(keras.Model):
    """A user tower and an item tower that meet in one inner product [1]_.

    Parameters
    ----------
    spec : InputSpec or mapping
        What the inputs are; :attr:`urlm_helpers.encode.Encoder.spec`.
    user, item : sequence of str
        The columns that each tower sees: names among ``spec.fields`` and
        ``spec.numeric``, or ``"history"``. What belongs to user *and* item, such as a
        count of their meetings, fits in neither tower.
    dim : int
        Length of the vectors.
    units : sequence of int
        Widths of the dense layers of each tower.
    temperature : float
        Divides the inner product in the softmax of the training. Vectors of length 1
        need it well below 1: their products lie between -1 and 1.
    unit_length : bool
        Whether vectors have length 1.

    Raises
    ------
    ValueError
        An unknown column, a column in both towers, a temperature of 0 or below.

    References
    ----------
    .. [1] P.-S. Huang et al., "Learning Deep Structured Semantic Models for Web Search
       using Clickthrough Data", CIKM 2013. doi:10.1145/2505515.2505665

    Examples
    --------
    >>> spec = InputSpec(fields={"user": 9, "item": 7}, numeric=("age", "price"),
    ...                  history_fields=("item",), history_length=3,
    ...                  scenarios=("shop",), tasks=("click",), funnel={})
    >>> model = TwoTower(spec, ["age", "history"], ["item", "price"], dim=4)
    >>> x = spec.example()
    >>> model.user_vectors(x).shape, model.item_vectors(x).shape
    ((1, 4), (1, 4))
    """

    def __init__(
        self,
        spec: InputSpec | Mapping[str, Any],
        user: Sequence[str],
        item: Sequence[str],
        dim: int = 16,
        units: Sequence[int] = (64,),
        temperature: float = 0.1,
        unit_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        both = sorted(set(user) & set(item))
        if both or temperature <= 0:
            raise ValueError(
                f"the towers share no column and the temperature is above 0, got "
                f"{both} in both and {temperature}"
            )
        self.temperature = float(temperature)
        self.user_tower = Tower(spec, user, dim, units, unit_length, name="user")
        self.item_tower = Tower(spec, item, dim, units, unit_length, name="item")
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the variables of both towers."""
        self.user_tower.build()
        self.item_tower.build()
        self.built = True

    def reset(self, seed: int) -> None:
        """Draw every weight anew; a compiled model stays compiled."""
        keras.utils.set_random_seed(seed)
        self.set_weights(type(self).from_config(self.get_config()).get_weights())

    def call(self, x: Mapping[str, Any], training: bool = False) -> Any:
        """Return the vectors of users and of items, ``(batch, dim)`` each."""
        return self.user_tower(x), self.item_tower(x)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean of `in_batch_softmax`; ``y`` is Q."""
        user, item = y_pred
        rows = in_batch_softmax(user, item, x["candidate"], y, self.temperature)
        return ops.mean(rows)

    def user_vectors(self, x: Mapping[str, np.ndarray]) -> NDArray[np.float32]:
        """Map inputs to the vectors of their users, ``(rows, dim)``."""
        return _in_chunks(self.user_tower, x)

    def item_vectors(self, x: Mapping[str, np.ndarray]) -> NDArray[np.float32]:
        """Map inputs to the vectors of their items, ``(rows, dim)``."""
        return _in_chunks(self.item_tower, x)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        side = self.user_tower.get_config()
        shared = {name: side[name] for name in ("spec", "dim", "units", "unit_length")}
        return {
            **super().get_config(),
            **shared,
            "user": self.user_tower.columns,
            "item": self.item_tower.columns,
            "temperature": self.temperature,
        }


def _in_chunks(side: Tower, x: Mapping[str, np.ndarray]) -> NDArray[np.float32]:
    rows = len(x["scenario"])
    parts = [
        ops.convert_to_numpy(side({n: a[at : at + CHUNK] for n, a in x.items()}))
        for at in range(0, rows, CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, side.dim), np.float32)


def sampling_probability(items: ArrayLike) -> NDArray[np.float32]:
    """Return the share of the rows that have the same item, ``(rows,)``.

    That is Q of `in_batch_softmax` where batches are drawn from these rows.

    Examples
    --------
    >>> sampling_probability(["a", "b", "a", "a"]).tolist()
    [0.75, 0.25, 0.75, 0.75]
    """
    _, code, count = np.unique(items, return_inverse=True, return_counts=True)
    return (count[code] / len(code)).astype(np.float32)


def fit_towers(
    model: TwoTower,
    x: Mapping[str, np.ndarray],
    item: ArrayLike,
    *,
    corrected: bool = True,
    epochs: int = 10,
    batch_size: int = 512,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Train on positives: each row's item against the other items of its batch.

    Parameters
    ----------
    model : TwoTower
        Trained in place.
    x : mapping
        Inputs of the positive rows alone, such as the clicks of the training days.
    item : array of int, shape (rows,)
        The rows' item ids (not their codes in a vocabulary: rare items share one).
    corrected : bool
        Whether :math:`\log Q` is subtracted, with Q counted over these rows.
    epochs : int
        Passes over the rows.
    batch_size : int
        Rows of a batch, each the negatives of all others. Rows that do not fill one
        more batch sit out a pass.
    learning_rate : float
        Adam's first step size; it falls to 0 along a cosine.
    seed : int
        Of the order of the rows.

    Returns
    -------
    DataFrame
        ``epoch``, ``loss`` (nats per row; corrected and not, batches of other sizes:
        not comparable).

    Raises
    ------
    ValueError
        If there are fewer than two rows, or not one item per row.
    """
    ids = np.asarray(item)
    if len(ids) < 2 or batch_size < 2 or any(len(a) != len(ids) for a in x.values()):
        raise ValueError(
            f"in-batch negatives need batches of two rows or more, one item per row, "
            f"got {len(ids)} items, batches of {batch_size} and inputs "
            f"{ {name: len(a) for name, a in x.items()} }"
        )
    rows = np.arange(len(ids))
    q = sampling_probability(ids) if corrected else np.ones(len(ids), np.float32)
    codes = np.unique(ids, return_inverse=True)[1].astype("int32")
    batches = Batches({**x, "candidate": codes}, q, rows, batch_size, seed)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(batches))
        ),
        jit_compile="auto" if keras.backend.backend() == "torch" else True,
        steps_per_execution=min(20, len(batches)),
    )
    loss = model.fit(batches, epochs=epochs, verbose=0).history["loss"]
    return pd.DataFrame({"epoch": np.arange(1, epochs + 1), "loss": loss})


class VectorIndex:
    """The items' vectors, made ready for "which k have the largest inner product?".

    ``"exact"`` compares with every vector. ``"hnsw"`` walks a graph of neighbors [1]_,
    ``"ivf"`` looks into the nearest of many cells; both may miss some, and `effort`
    says how much they look at. For these two, each vector gets one more number that
    makes all equally long, and each query a 0 [2]_: the products stay what they were,
    and the largest is now the nearest, which is what graphs and cells can find.

    Parameters
    ----------
    vectors : array, shape (items, dim)
        Finite numbers.
    ids : array of int, shape (items,)
        What to call the items; each once.
    kind : str
        ``"exact"``, ``"hnsw"`` or ``"ivf"``.
    links : int
        Neighbors of each vector in the graph of ``"hnsw"``.
    build_effort : int
        How much ``"hnsw"`` looks at for each vector that it adds.
    cells : int, optional
        Of ``"ivf"``; by default four times the root of the number of items.

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

    def __init__(
        self,
        vectors: ArrayLike,
        ids: ArrayLike,
        kind: str = "exact",
        *,
        links: int = 16,
        build_effort: int = 40,
        cells: int | None = None,
    ) -> None:
        faiss, matrix, names = _faiss(), _matrix(vectors, "vectors"), np.asarray(ids)
        items, dim = matrix.shape
        integer = np.issubdtype(names.dtype, np.integer)
        if names.shape != (items,) or not integer or len(np.unique(names)) < items:
            raise ValueError(
                f"{items} vectors need as many different whole numbers as ids, got "
                f"shape {names.shape} of {names.dtype}"
            )
        metric = faiss.METRIC_INNER_PRODUCT
        self.kind, self.ids = kind, names.astype(np.int64)
        if kind in ("hnsw", "ivf"):
            square = np.einsum("nd,nd->n", matrix, matrix)
            matrix = np.column_stack([matrix, np.sqrt(square.max() - square)])
            dim += 1
        if kind == "exact":
            self.index = faiss.IndexFlatIP(dim)
        elif kind == "hnsw":
            self.index = faiss.IndexHNSWFlat(dim, links, metric)
            self.index.hnsw.efConstruction = build_effort
        elif kind == "ivf":
            cells = min(items, int(4 * items**0.5)) if cells is None else cells
            self.coarse = faiss.IndexFlatIP(dim)  # faiss does not keep it alive
            self.index = faiss.IndexIVFFlat(self.coarse, dim, cells, metric)
            self.index.cp.min_points_per_centroid = 1  # no warning about few vectors
            self.index.train(matrix)
        else:
            raise ValueError(f"kind must be 'exact', 'hnsw' or 'ivf', got {kind!r}")
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
            Candidates that ``"hnsw"`` keeps on its walk (efSearch; by default, and at
            least, ``k``), or cells that ``"ivf"`` looks into (nprobe; 8 by default).

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
        added = self.kind != "exact"
        dim = self.index.d - added
        if matrix.shape[1] != dim or not 1 <= k <= len(self.ids):
            raise ValueError(
                f"the index has {len(self.ids)} vectors of length {dim}, got "
                f"queries of shape {matrix.shape} and k={k}"
            )
        if effort is not None and (effort < 1 or self.kind == "exact"):
            raise ValueError(
                f"effort is a number from 1 on, of approximate searches alone, got "
                f"{effort} for {self.kind!r}"
            )
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = max(effort or k, k)
        elif self.kind == "ivf":
            self.index.nprobe = effort or 8
        matrix = np.pad(matrix, ((0, 0), (0, int(added))))
        scores, at = self.index.search(matrix, k)
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
    matrix = _matrix(queries, "queries")
    for row in range(min(warm_up, len(matrix))):
        search(matrix[row : row + 1])
    seconds = np.empty(len(matrix))
    for row in range(len(matrix)):
        start = time.perf_counter()
        search(matrix[row : row + 1])
        seconds[row] = time.perf_counter() - start
    return seconds
