"""The contract of every sharing scheme, and what the schemes build from.

A scheme maps features ``(batch, dim)`` and a scenario index ``(batch,)`` to a list of
vectors ``(batch, width)``, one per task; the model puts a linear output on each. One
that says ``needs_prior`` gets the vectors of user, item and author besides.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, built, dense


def tower(units: Sequence[int], name: str) -> keras.Sequential:
    """Return dense layers with ReLU, one per entry of ``units``."""
    layers = [
        keras.layers.Dense(n, activation="relu", name=f"dense_{i}")
        for i, n in enumerate(units)
    ]
    return keras.Sequential(layers, name=name)


def of_scenario(every: Any, scenario: Any) -> Any:
    """Pick the result of each row's own scenario.

    All of them are computed: with few scenarios that is faster than giving each row
    its own weights.

    Parameters
    ----------
    every : tensor, shape (batch, scenarios, ...)
        What each scenario would give.
    scenario : int tensor, shape (batch,)
        Index of the row's scenario.

    Returns
    -------
    tensor, shape (batch, ...)

    Examples
    --------
    >>> import numpy as np
    >>> every = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> ops.convert_to_numpy(of_scenario(every, np.array([1, 0]))).tolist()
    [[2.0], [3.0]]
    """
    own = ops.one_hot(scenario, every.shape[1], dtype=every.dtype)
    own = ops.reshape(own, (-1, every.shape[1], *[1] * (len(every.shape) - 2)))
    return ops.sum(every * own, axis=1)


class Sharing(Configured, keras.layers.Layer):
    """What every scheme has: the widths of its tower, the tasks and the scenarios.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the layers of each tower or expert.

    Raises
    ------
    ValueError
        If there is no task, no scenario or no layer.
    """

    scenario_heads = True
    """Whether each scenario has its own output for a task."""

    needs_prior = False
    """Whether it is called with ``prior`` too, the vectors of user, item and author."""

    def __init__(
        self, tasks: int, scenarios: int, units: Sequence[int] = (32,), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if tasks < 1 or scenarios < 1 or not units or min(units) < 1:
            raise ValueError(
                f"{type(self).__name__} needs at least one task, one scenario and one "
                f"layer with units; got tasks={tasks}, scenarios={scenarios}, "
                f"units={tuple(units)}"
            )
        self.tasks, self.scenarios, self.units = tasks, scenarios, tuple(units)

    @property
    def size(self) -> tuple[int, int, tuple[int, ...]]:
        """Tasks, scenarios and units: what a scheme hands on to its own parts."""
        return self.tasks, self.scenarios, self.units

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return self.units[-1]


def towers(
    n: int, units: Sequence[int], x_shape: Any, name: str = "tower"
) -> list[keras.Sequential]:
    """Return ``n`` built towers, numbered by name."""
    return [built(tower(units, f"{name}_{i}"), x_shape) for i in range(n)]


def even_gate(width: int, x_shape: Any, name: str) -> keras.layers.Dense:
    """Return a built layer of gate logits; without weights yet, all are the same."""
    return dense(width, x_shape, name, kernel_initializer="zeros")


def embed(scenarios: int, dim: int) -> keras.layers.Embedding:
    """Return a built embedding of the scenario."""
    return built(keras.layers.Embedding(scenarios, dim, name="embedding"))


def views(experts: Sequence[keras.Sequential], x: Any) -> Any:
    """Return what each expert makes of ``x``, ``(batch, experts, units[-1])``."""
    return ops.stack([expert(x) for expert in experts], axis=1)


def behind(towers: Sequence[keras.Sequential], vectors: Sequence[Any]) -> list[Any]:
    """Return each task's vector behind its own tower; as it is where there are none."""
    if not towers:
        return list(vectors)
    return [one(v) for one, v in zip(towers, vectors, strict=True)]


def mix(weights: Any, views: Any) -> Any:
    """Weigh ``(batch, experts, dim)`` by ``(batch, experts)``."""
    return ops.einsum("be,bed->bd", weights, views)
