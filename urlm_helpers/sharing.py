"""Multi-task learning (多任务学习): how scenarios and tasks share parameters.

Every scheme maps features ``(batch, dim)`` and a scenario index ``(batch,)`` to a list
of vectors ``(batch, units[-1])``, one per task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features import PACKAGE


def tower(units: Sequence[int], name: str) -> keras.Sequential:
    """Return dense layers with ReLU, one per entry of ``units``."""
    return keras.Sequential(
        [
            keras.layers.Dense(n, activation="relu", name=f"dense_{i}")
            for i, n in enumerate(units)
        ],
        name=name,
    )


class Sharing(keras.layers.Layer):
    """What every scheme has: the widths of its tower, the tasks and the scenarios.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the layers of each tower or expert.
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


@keras.saving.register_keras_serializable(PACKAGE)
class SharedBottom(Sharing):
    """One tower for all scenarios and tasks; only the heads differ [1]_.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the tower's layers.

    References
    ----------
    .. [1] R. Caruana, "Multitask Learning", Machine Learning 28, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> layer = SharedBottom(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4)), np.zeros(5, int))]
    [8, 8]
    """

    def build(self, x_shape: Any) -> None:
        """Create the tower."""
        self.bottom = tower(self.units, "bottom")
        self.bottom.build(x_shape)
        self.built = True

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        return [self.bottom(x)] * self.tasks


@keras.saving.register_keras_serializable(PACKAGE)
class MMoE(Sharing):
    r"""Multi-gate mixture of experts, with one gate per scenario and task.

    .. math:: v_{st}(x) = \sum_e g_{ste}(x) f_e(x), \qquad
        g_{st}(x) = \mathrm{softmax}(W_{st} x + b_{st})

    The paper [1]_ has one gate per task; here the gate of a row is picked by its
    scenario too, so that a scenario may lean on other experts.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts : int
        Number of experts.

    References
    ----------
    .. [1] J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. H. Chi, "Modeling Task
       Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
       KDD 2018. doi:10.1145/3219819.3220007

    Examples
    --------
    >>> import numpy as np
    >>> layer = MMoE(tasks=2, scenarios=3, units=(8,), experts=4)
    >>> x, scenario = np.ones((5, 4), "float32"), np.array([0, 1, 2, 0, 1])
    >>> [v.shape[1] for v in layer(x, scenario)], layer.gates(x, scenario).shape
    ([8, 8], TensorShape([5, 2, 4]))
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        experts: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.n_experts = experts

    def build(self, x_shape: Any) -> None:
        """Create experts and gates."""
        self.experts = [tower(self.units, f"expert_{e}") for e in range(self.n_experts)]
        for expert in self.experts:
            expert.build(x_shape)
        gates = self.scenarios * self.tasks * self.n_experts
        self.gate = keras.layers.Dense(gates, kernel_initializer="zeros", name="gate")
        self.gate.build(x_shape)
        self.built = True

    def gates(self, x: Any, scenario: Any) -> Any:
        """Return the weight of each expert, ``(batch, tasks, experts)``; sums to 1."""
        shape = (-1, self.scenarios, self.tasks, self.n_experts)
        logits = ops.reshape(self.gate(x), shape)  # (batch, scenarios, tasks, experts)
        own = ops.one_hot(scenario, self.scenarios, dtype=logits.dtype)
        return ops.softmax(ops.einsum("bste,bs->bte", logits, own), axis=-1)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        views = ops.stack([expert(x) for expert in self.experts], axis=1)
        mixed = ops.einsum("bte,bed->btd", self.gates(x, scenario), views)
        return [mixed[:, t] for t in range(self.tasks)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "experts": self.n_experts}
