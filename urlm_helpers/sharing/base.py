"""The contract of every sharing scheme, and what the schemes build from.

A scheme maps features ``(batch, dim)`` and a scenario index ``(batch,)`` to a list of
vectors ``(batch, width)``, one per task; the model puts a linear output on each.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def tower(units: Sequence[int], name: str) -> keras.Sequential:
    """Return dense layers with ReLU, one per entry of ``units``."""
    return keras.Sequential(
        [
            keras.layers.Dense(n, activation="relu", name=f"dense_{i}")
            for i, n in enumerate(units)
        ],
        name=name,
    )


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


class Sharing(keras.layers.Layer):
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

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if tasks < 1 or scenarios < 1 or not units or min(units) < 1:
            raise ValueError(
                f"{type(self).__name__} needs at least one task, one scenario and one "
                f"layer with units; got tasks={tasks}, scenarios={scenarios}, "
                f"units={tuple(units)}"
            )
        self.tasks = tasks
        self.scenarios = scenarios
        self.units = tuple(units)

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return self.units[-1]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"tasks": self.tasks, "scenarios": self.scenarios, "units": self.units}
        return {**super().get_config(), **own}


def _gate(width: int, x_shape: Any, name: str) -> keras.layers.Dense:
    """Return a built layer of gate logits."""
    gate = keras.layers.Dense(width, kernel_initializer="zeros", name=name)
    gate.build(x_shape)
    return gate


def _experts(
    n: int, units: Sequence[int], x_shape: Any, name: str
) -> list[keras.Sequential]:
    """Return ``n`` built experts."""
    experts = [tower(units, f"{name}_{e}") for e in range(n)]
    for expert in experts:
        expert.build(x_shape)
    return experts


def _views(experts: Sequence[keras.Sequential], x: Any) -> Any:
    """Return what each expert makes of ``x``, ``(batch, experts, units[-1])``."""
    return ops.stack([expert(x) for expert in experts], axis=1)


def _mix(weights: Any, views: Any) -> Any:
    """Weigh ``(batch, experts, dim)`` by ``(batch, experts)``."""
    return ops.einsum("be,bed->bd", weights, views)
