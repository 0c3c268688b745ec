"""The embeddings of fields, and products of user and item."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, dense
from urlm_helpers.features.memory import check_table

INITIAL = 0.01
"""Standard deviation of a vector's numbers at the start."""


class FieldEmbedding(Configured, keras.layers.Layer):
    """One vector per categorical field, all fields in one table.

    Field ``f`` owns the rows from ``offset[f]`` on, so one gather looks up all fields
    of a batch, and a history can be embedded with the same rows as the items are.

    Parameters
    ----------
    sizes : sequence of int
        Vocabulary size of each field, the unseen index 0 included.
    dim : int
        Length of a vector.
    scale : float
        A vector is its row times this. Adam moves each number of a row by its step
        size at most, and a rare value's row takes few steps: with a scale of 10 they
        are ten times as long, and those of the dense layers stay as they were.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.
    MemoryError
        When it is built, if the table takes more memory than there is.

    Examples
    --------
    >>> import numpy as np
    >>> layer = FieldEmbedding(sizes=[3, 5], dim=4)
    >>> layer(np.array([[2, 4], [0, 0]])).shape
    TensorShape([2, 2, 4])
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, *, scale: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.sizes, self.dim = [int(size) for size in sizes], dim
        self.scale = float(scale)
        self.offsets = [sum(self.sizes[:f]) for f in range(len(self.sizes))]
        initial = keras.initializers.RandomNormal(stddev=INITIAL / self.scale)
        self.table = keras.layers.Embedding(
            self.table_rows, dim, embeddings_initializer=initial, name="table"
        )

    @property
    def table_rows(self) -> int:
        """Rows of the table, one per value."""
        return sum(self.sizes)

    def build(self, input_shape: Any = None) -> None:
        """Create the table, if it fits."""
        check_table(self.table_rows, self.dim)
        self.table.build()

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
        if indices.shape[-1] != len(fields):
            raise ValueError(
                f"FieldEmbedding has {len(fields)} fields to look up, the last axis "
                f"of the indices has {indices.shape[-1]}; their shape is "
                f"{tuple(indices.shape)}"
            )
        offsets = ops.convert_to_tensor([self.offsets[f] for f in fields], "int32")
        return self.vectors(ops.cast(indices, "int32") + offsets, fields)

    def vectors(self, index: Any, fields: Sequence[int]) -> Any:
        """Return the vectors of values that are numbered through all fields."""
        return self.scale * self.table(index)


class Match(Configured, keras.layers.Layer):
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
        self.of_user = dense(self.units, user_shape, "of_user")
        self.of_item = dense(self.units, item_shape, "of_item")

    def call(self, user: Any, item: Any) -> Any:
        """Map ``(batch, a)`` and ``(batch, b)`` to ``(batch, units)``."""
        return self.of_user(user) * self.of_item(item)
