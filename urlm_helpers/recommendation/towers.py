"""Retrieval (召回): two towers, trained on positives alone.

A user tower and an item tower meet in one inner product, so the vectors of the whole
catalog can be made beforehand and a request is a search for the nearest of them, in a
`urlm_helpers.recommendation.VectorIndex`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops
from numpy.typing import ArrayLike, NDArray

from urlm_helpers.features.base import Configured
from urlm_helpers.features.embedding import FieldEmbedding
from urlm_helpers.features.pooling import MeanPool
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.recommendation.in_batch import (
    in_batch_softmax,
    sampling_probability,
)
from urlm_helpers.sharing.base import tower
from urlm_helpers.training.batches import Batches, feed
from urlm_helpers.training.devices import compiling
from urlm_helpers.training.loop import STEPS_PER_EXECUTION

HISTORY = "history"
"""The name that stands for the history among a tower's columns."""

CHUNK = 16_384
"""Rows that a tower maps at a time."""


class Tower(Configured, keras.layers.Layer):
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
            own = [sizes[c] for c in self.columns if c in sizes]
            self.embedding = FieldEmbedding(own, dim)
        if self.has_history:
            own = [sizes[f] for f in self.spec.history_fields]
            self.past_embedding = FieldEmbedding(own, dim)
        self.pool = MeanPool()
        self.dense = tower(self.units, "dense")
        # products of two vectors, and their softmax, are not of half precision
        self.out = keras.layers.Dense(dim, name="out", dtype=keras.config.floatx())

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
        return {**super().get_config(), "spec": self.spec.to_dict()}


class TwoTower(Configured, keras.Model):
    """A user tower and an item tower that meet in one inner product [1]_.

    Parameters
    ----------
    spec : InputSpec or mapping
        What the inputs are; :attr:`urlm_helpers.preprocessing.Encoder.spec`.
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

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
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
        return {**super().get_config(), "spec": self.user_tower.spec.to_dict()}


def _in_chunks(side: Tower, x: Mapping[str, np.ndarray]) -> NDArray[np.float32]:
    rows = len(x["scenario"])
    parts = [
        ops.convert_to_numpy(side({n: a[at : at + CHUNK] for n, a in x.items()}))
        for at in range(0, rows, CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, side.dim), np.float32)


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
    steps = epochs * len(batches)
    falling = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    how = compiling(min(STEPS_PER_EXECUTION, len(batches)))
    model.compile(keras.optimizers.Adam(falling), **how)
    loss = []
    for _ in range(epochs):
        batches.on_epoch_end()
        data = feed(batches, batches.order())
        loss += model.fit(data, verbose=0, shuffle=False).history["loss"]
    return pd.DataFrame({"epoch": np.arange(1, epochs + 1), "loss": loss})
