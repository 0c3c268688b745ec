"""Feature extraction (特征提取): embeddings of fields, encoders of a behavior history.

Every encoder maps a sequence ``(batch, length, dim)``, its mask ``(batch, length)``,
the vector of the item in question ``(batch, dim)`` and the age of each event in days
``(batch, length)`` to ``(batch, dim)``; the slot of the model does not care which one
sits in it. The two here do without the last two; `urlm_helpers.attention` has those
that need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

PACKAGE = "urlm_helpers"
INITIAL = 0.01
"""Standard deviation of a vector's numbers at the start."""


@keras.saving.register_keras_serializable(PACKAGE)
class FieldEmbedding(keras.layers.Layer):
    """One vector per categorical field, all fields in one table.

    Field ``f`` owns the rows from ``offset[f]`` on, so one gather looks up all fields
    of a batch, and a history can be embedded with the same rows as the items are.

    Parameters
    ----------
    sizes : sequence of int
        Vocabulary size of each field, the unseen index 0 included.
    dim : int
        Length of a vector.
    table_rows : int, optional
        Rows of the table, where they are not one per value: see
        :class:`~urlm_helpers.compact_tables.CompactEmbedding`.
    scale : float
        A vector is its row times this. Adam moves each number of a row by its step
        size at most, and a rare value's row takes few steps: with a scale of 10 they
        are ten times as long, and those of the dense layers stay as they were.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> layer = FieldEmbedding(sizes=[3, 5], dim=4)
    >>> layer(np.array([[2, 4], [0, 0]])).shape
    TensorShape([2, 2, 4])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        table_rows: int | None = None,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = float(scale)
        self.sizes = [int(size) for size in sizes]
        self.dim = dim
        self.offsets = [sum(self.sizes[:f]) for f in range(len(self.sizes))]
        self.table = keras.layers.Embedding(
            sum(self.sizes) if table_rows is None else table_rows,
            dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=INITIAL / self.scale
            ),
            name="table",
        )

    def build(self, input_shape: Any = None) -> None:
        """Create the table."""
        self.table.build()
        self.built = True

    def call(self, indices: Any, fields: Sequence[int] | None = None) -> Any:
        """Look vectors up.

        Parameters
        ----------
        indices : int tensor, shape (..., fields)
            Index of each field's value in its own vocabulary.
        fields : sequence of int, optional
            Which field each last-axis entry belongs to; by default all, in order.

        Returns
        -------
        float tensor, shape (..., fields, dim)
        """
        fields = range(len(self.sizes)) if fields is None else fields
        self._check(indices, fields)
        offsets = ops.convert_to_tensor([self.offsets[f] for f in fields], "int32")
        return self.scaled(self.table(ops.cast(indices, "int32") + offsets))

    def scaled(self, rows: Any) -> Any:
        """Turn rows of the table into vectors."""
        return rows if self.scale == 1.0 else rows * self.scale

    def _check(self, indices: Any, fields: Sequence[int]) -> None:
        """Refuse indices of another number of fields."""
        if indices.shape[-1] != len(fields):
            raise ValueError(
                f"FieldEmbedding has {len(fields)} fields to look up, the last axis "
                f"of the indices has {indices.shape[-1]}; their shape is "
                f"{tuple(indices.shape)}"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"sizes": self.sizes, "dim": self.dim, "scale": self.scale}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class Match(keras.layers.Layer):
    r"""Products of what is known of the user with what is known of the item.

    .. math:: m = (W u + b) \odot (V i + c)

    A weighted sum of the entries of :math:`m` is a bilinear form of user and item of
    rank ``units``, with the linear terms in it [1]_. Layers of sums and ReLUs need many
    rows to come near a product; this has it from the start.

    Parameters
    ----------
    units : int
        Length of :math:`m`.

    References
    ----------
    .. [1] J.-H. Kim et al., "Hadamard Product for Low-rank Bilinear Pooling", ICLR
       2017. arXiv:1610.04325

    Examples
    --------
    >>> import numpy as np
    >>> Match(units=6)(np.ones((2, 4)), np.ones((2, 3))).shape
    TensorShape([2, 6])
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, user_shape: Any, item_shape: Any) -> None:
        """Create one projection of each side."""
        self.of_user = keras.layers.Dense(self.units, name="of_user")
        self.of_item = keras.layers.Dense(self.units, name="of_item")
        self.of_user.build(user_shape)
        self.of_item.build(item_shape)
        self.built = True

    def call(self, user: Any, item: Any) -> Any:
        """Map ``(batch, a)`` and ``(batch, b)`` to ``(batch, units)``."""
        return self.of_user(user) * self.of_item(item)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(PACKAGE)
class MeanPool(keras.layers.Layer):
    """The average of the real positions; zeros for an empty history.

    Examples
    --------
    >>> import numpy as np
    >>> steps = np.array([[[9.0], [2.0], [4.0]]])
    >>> float(MeanPool()(steps, np.array([[0.0, 1.0, 1.0]]))[0, 0])
    3.0
    """

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)`` and its mask to ``(batch, dim)``."""
        weight = ops.cast(mask, sequence.dtype)[..., None]  # (batch, length, 1)
        total = ops.sum(sequence * weight, axis=1)
        return total / ops.maximum(ops.sum(weight, axis=1), 1.0)


@keras.saving.register_keras_serializable(PACKAGE)
class ConvPool(keras.layers.Layer):
    """Convolution → max pooling → dense over the *ordered* history.

    The source document's network (section 3.2.2) where it has a meaning: neighbors in
    a history are events that followed each other [1]_, neighbors in a row of feature
    columns are an accident of the table.

    Parameters
    ----------
    width : int
        Events that one filter sees.

    References
    ----------
    .. [1] J. Tang, K. Wang, "Personalized Top-N Sequential Recommendation via
       Convolutional Sequence Embedding", WSDM 2018.

    Examples
    --------
    >>> import numpy as np
    >>> layer = ConvPool(width=3)
    >>> layer(np.ones((2, 5, 4), "float32"), np.ones((2, 5))).shape
    TensorShape([2, 4])
    """

    def __init__(self, width: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, sequence_shape: Any) -> None:
        """Create one filter and one output unit per dimension."""
        dim = sequence_shape[-1]
        self.conv = keras.layers.Conv1D(
            dim, self.width, padding="same", activation="relu", name="conv"
        )
        self.dense = keras.layers.Dense(dim, name="dense")
        self.conv.build((None, None, dim))
        self.dense.build((None, dim))
        self.built = True

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)`` and its mask to ``(batch, dim)``."""
        weight = ops.cast(mask, sequence.dtype)[..., None]  # (batch, length, 1)
        patterns = self.conv(sequence * weight)  # (batch, length, dim), >= 0
        strongest = ops.max(patterns * weight, axis=1)  # (batch, dim)
        return self.dense(strongest)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "width": self.width}
