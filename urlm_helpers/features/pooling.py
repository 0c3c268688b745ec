"""Encoders of a history that know neither the item in question nor the events' age.

Every encoder maps a sequence ``(batch, length, dim)``, its mask ``(batch, length)``,
the vector of the item in question ``(batch, dim)`` and the age of each event in days
``(batch, length)`` to ``(batch, dim)``; the slot of the model does not care which one
sits in it. `urlm_helpers.features.attention` has those that need the last two.
"""

from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, built, dense


class MeanPool(Configured, keras.layers.Layer):
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


class ConvPool(Configured, keras.layers.Layer):
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
        conv = keras.layers.Conv1D(
            dim, self.width, padding="same", activation="relu", name="conv"
        )
        self.conv = built(conv, (None, None, dim))
        self.dense = dense(dim, (None, dim), "dense")

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)`` and its mask to ``(batch, dim)``."""
        weight = ops.cast(mask, sequence.dtype)[..., None]  # (batch, length, 1)
        patterns = self.conv(sequence * weight)  # (batch, length, dim), >= 0
        strongest = ops.max(patterns * weight, axis=1)  # (batch, dim)
        return self.dense(strongest)
