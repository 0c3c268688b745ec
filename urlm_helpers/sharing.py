"""Multi-task learning (多任务学习): how scenarios and tasks share parameters.

Every scheme maps features ``(batch, dim)`` and a scenario index ``(batch,)`` to a list
of vectors ``(batch, width)``, one per task; the model puts a linear output on each.
Stacked experts are in `urlm_helpers.experts`, layers whose weights depend on the
scenario in `urlm_helpers.scenario_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
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
class FullyShared(SharedBottom):
    """One tower, and one output per task for all scenarios.

    A scenario can differ from another only through what the features say of it. The
    baseline that every multi-scenario model has to beat.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the tower's layers.

    Examples
    --------
    >>> FullyShared(tasks=2, scenarios=3).scenario_heads
    False
    """

    scenario_heads = False


@keras.saving.register_keras_serializable(PACKAGE)
class Separate(Sharing):
    """A tower of its own for each scenario and task: nothing is shared from here on.

    With the embeddings still in common; the other end of the scale from
    :class:`FullyShared`.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Separate(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [8, 8]
    >>> layer.count_params() == 2 * 3 * (4 + 1) * 8
    True
    """

    def build(self, x_shape: Any) -> None:
        """Create the towers, by task and then by scenario."""
        self.towers = [
            tower(self.units, f"tower_{s}_{t}")
            for t in range(self.tasks)
            for s in range(self.scenarios)
        ]
        for one in self.towers:
            one.build(x_shape)
        self.built = True

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        every = [one(x) for one in self.towers]
        n = self.scenarios
        return [
            of_scenario(ops.stack(every[t * n : (t + 1) * n], axis=1), scenario)
            for t in range(self.tasks)
        ]


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
    towers : sequence of int
        Widths of each task's own layers behind its mixture; none by default.

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
        towers: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.n_experts = experts
        self.tower_units = tuple(towers)

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return (*self.units, *self.tower_units)[-1]

    @property
    def n_gates(self) -> int:
        """Number of gates."""
        return self.scenarios * self.tasks

    def build(self, x_shape: Any) -> None:
        """Create experts and gates."""
        self.experts = [tower(self.units, f"expert_{e}") for e in range(self.n_experts)]
        for expert in self.experts:
            expert.build(x_shape)
        gates = self.n_gates * self.n_experts
        self.gate = keras.layers.Dense(gates, kernel_initializer="zeros", name="gate")
        self.gate.build(x_shape)
        own = range(self.tasks if self.tower_units else 0)
        self.towers = [tower(self.tower_units, f"tower_{t}") for t in own]
        for one in self.towers:
            one.build((None, self.units[-1]))
        self.built = True

    def gates(self, x: Any, scenario: Any) -> Any:
        """Return the weight of each expert, ``(batch, tasks, experts)``; sums to 1."""
        shape = (-1, self.scenarios, self.tasks, self.n_experts)
        logits = ops.reshape(self.gate(x), shape)  # (batch, scenarios, tasks, experts)
        own = ops.one_hot(scenario, self.scenarios, dtype=logits.dtype)
        return ops.softmax(ops.einsum("bste,bs->bte", logits, own), axis=-1)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        views = ops.stack([expert(x) for expert in self.experts], axis=1)
        mixed = ops.einsum("bte,bed->btd", self.gates(x, scenario), views)
        vectors = [mixed[:, t] for t in range(self.tasks)]
        if not self.towers:
            return vectors
        return [one(v) for one, v in zip(self.towers, vectors, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"experts": self.n_experts, "towers": self.tower_units}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class OMoE(MMoE):
    r"""Mixture of experts with one gate for all scenarios and tasks [1]_.

    .. math:: v(x) = \sum_e g_e(x) f_e(x), \qquad g(x) = \mathrm{softmax}(W x + b)

    The paper's baseline for :class:`MMoE`: the tasks get the same mixture.

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
    .. [1] J. Ma et al., KDD 2018, section 3.2. doi:10.1145/3219819.3220007

    Examples
    --------
    >>> import numpy as np
    >>> layer = OMoE(tasks=2, scenarios=3, units=(8,), experts=4)
    >>> layer.build((None, 5))
    >>> tuple(layer.gate.kernel.shape)
    (5, 4)
    """

    @property
    def n_gates(self) -> int:
        """Number of gates."""
        return 1

    def gates(self, x: Any, scenario: Any) -> Any:
        """Return the weight of each expert, ``(batch, tasks, experts)``; sums to 1."""
        one = ops.softmax(self.gate(x), axis=-1)  # (batch, experts)
        return ops.repeat(one[:, None], self.tasks, axis=1)


@keras.saving.register_keras_serializable(PACKAGE)
class CrossStitch(Sharing):
    r"""A tower per task; after each layer the tasks exchange what they found [1]_.

    .. math:: \tilde h_t = \sum_u \alpha_{tu} h_u

    with one learned matrix :math:`\alpha` per layer (the paper's equation 1).

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.
    same : float
        Initial :math:`\alpha_{tt}`; the rest up to 1 goes to the other tasks in equal
        parts.

    References
    ----------
    .. [1] I. Misra, A. Shrivastava, A. Gupta, M. Hebert, "Cross-stitch Networks for
       Multi-task Learning", CVPR 2016. arXiv:1604.03539

    Examples
    --------
    >>> import numpy as np
    >>> layer = CrossStitch(tasks=3, scenarios=2, units=(8, 4))
    >>> layer.build((None, 5))
    >>> print(ops.convert_to_numpy(layer.stitches[0])[0].round(2))
    [0.9  0.05 0.05]
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        same: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.same = same

    def build(self, x_shape: Any) -> None:
        """Create the towers, by layer and then by task, and the matrices."""
        n = self.tasks
        same = self.same if n > 1 else 1.0
        others = (1 - same) / max(n - 1, 1)
        alpha = np.full((n, n), others) + (same - others) * np.eye(n)
        self.layers, self.stitches = [], []
        width = x_shape[-1]
        for i, units in enumerate(self.units):
            for t in range(n):
                dense = keras.layers.Dense(
                    units, activation="relu", name=f"dense_{i}_{t}"
                )
                dense.build((None, width))
                self.layers.append(dense)
            self.stitches.append(
                self.add_weight(
                    shape=(n, n),
                    initializer=lambda shape, dtype=None: ops.cast(alpha, dtype),
                    name=f"stitch_{i}",
                )
            )
            width = units
        self.built = True

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        inputs = [x] * self.tasks
        for i, stitch in enumerate(self.stitches):
            layers = self.layers[i * self.tasks : (i + 1) * self.tasks]
            found = [f(h) for f, h in zip(layers, inputs, strict=True)]
            mixed = ops.einsum("tu,bud->btd", stitch, ops.stack(found, axis=1))
            inputs = [mixed[:, t] for t in range(self.tasks)]
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "same": self.same}
