"""The outputs: one linear head per scenario and task, and the way down the funnel."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.features.base import Configured


class Heads(Configured, keras.layers.Layer):
    """One linear output per scenario and task; a row uses those of its scenario.

    Logits are computed in Keras's `floatx`, float32 unless set otherwise, whatever the
    precision of the layers before.

    Parameters
    ----------
    scenarios : int
        How many there are.

    Examples
    --------
    >>> heads = Heads(scenarios=3)
    >>> vectors = [np.ones((5, 4), "float32")] * 2
    >>> heads(vectors, np.array([0, 1, 2, 0, 1])).shape
    TensorShape([5, 2])
    """

    def __init__(self, scenarios: int, **kwargs: Any) -> None:
        # what the loss sees is never of half precision
        super().__init__(**{**kwargs, "dtype": keras.config.floatx()})
        self.scenarios = scenarios

    def build(self, vectors_shape: Sequence[Any]) -> None:
        """Create one weight vector and one bias per scenario and task."""
        tasks, dim = len(vectors_shape), vectors_shape[0][-1]
        shape, small = (self.scenarios, tasks), dim**-0.5
        initial = keras.initializers.RandomNormal(stddev=small)
        self.kernel = self.add_weight((*shape, dim), initial, name="kernel")
        self.bias = self.add_weight(shape, "zeros", name="bias")

    def call(self, vectors: Sequence[Any], scenario: Any) -> Any:
        """Map one ``(batch, dim)`` per task to logits ``(batch, tasks)``."""
        v = ops.stack(vectors, axis=1)  # (batch, tasks, dim)
        every = ops.einsum("btd,std->bst", v, self.kernel) + self.bias
        own = ops.one_hot(scenario, self.scenarios, dtype=every.dtype)
        return ops.einsum("bst,bs->bt", every, own)


def along_funnel(logits: np.ndarray, parents: Sequence[int]) -> np.ndarray:
    """Turn logits given the parent into probabilities.

    Parameters
    ----------
    logits : ndarray, shape (rows, tasks)
        Of each task given its parent.
    parents : sequence of int
        Column of each task's parent, -1 for none; parents come first.

    Returns
    -------
    ndarray, shape (rows, tasks)

    Examples
    --------
    >>> along_funnel(np.zeros((1, 3)), parents=[-1, 0, 1]).tolist()
    [[0.5, 0.25, 0.125]]
    >>> along_funnel(np.array([[-1e6, 1e6]]), parents=[-1, -1]).tolist()
    [[0.0, 1.0]]
    """
    with np.errstate(over="ignore"):  # of a logit below -709: the probability is 0
        p = 1.0 / (1.0 + np.exp(-np.asarray(logits, "float64")))
    for task, parent in enumerate(parents):
        if parent >= 0:
            p[:, task] *= p[:, parent]
    return p
