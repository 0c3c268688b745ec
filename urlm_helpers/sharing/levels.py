"""Experts in several stages: by task, or by scenario and then by task."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from urlm_helpers.features.attention import MASKED
from urlm_helpers.features.base import built, dense
from urlm_helpers.sharing.base import (
    Sharing,
    behind,
    embed,
    even_gate,
    mix,
    of_scenario,
    towers,
    views,
)


class CustomizedGateControl(Sharing):
    """One level of :class:`PLE`: own and shared experts, one gate per task.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts, shared_experts : int
        Experts of each task, and of all.
    last : bool
        Whether no level follows: the shared experts then need no mixture.
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int],
        experts: int,
        shared_experts: int,
        last: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.n_own, self.n_shared, self.last = experts, shared_experts, last

    def build(self, x_shape: Any) -> None:
        """Create experts and gates; the experts of a task lie side by side."""
        n = self.tasks * self.n_own
        self.own = towers(n, self.units, x_shape, "own")
        self.shared = towers(self.n_shared, self.units, x_shape, "shared")
        each = self.scenarios * (self.n_own + self.n_shared)
        self.task_gates = [
            even_gate(each, x_shape, f"gate_{t}") for t in range(self.tasks)
        ]
        if not self.last:
            self.shared_gate = even_gate(n + self.n_shared, x_shape, "shared_gate")

    def gates(self, inputs: Sequence[Any], scenario: Any) -> list[Any]:
        """Return each task's weights, ``(batch, experts + shared_experts)``."""
        shape = (-1, self.scenarios, self.n_own + self.n_shared)
        return [
            ops.softmax(of_scenario(ops.reshape(gate(x), shape), scenario), axis=-1)
            for gate, x in zip(self.task_gates, inputs, strict=False)
        ]

    def call(self, inputs: Sequence[Any], scenario: Any) -> list[Any]:
        """Map one ``(batch, dim)`` per task, and the shared one, to as many.

        After the last level there is no shared one.
        """
        n = self.n_own
        common = views(self.shared, inputs[-1])  # (batch, shared_experts, units[-1])
        own = [
            views(self.own[t * n : (t + 1) * n], inputs[t]) for t in range(self.tasks)
        ]
        weights = self.gates(inputs, scenario)
        mixed = [
            mix(w, ops.concatenate([found, common], axis=1))
            for w, found in zip(weights, own, strict=True)
        ]
        if not self.last:
            everything = ops.concatenate([*own, common], axis=1)
            weight = ops.softmax(self.shared_gate(inputs[-1]), axis=-1)
            mixed.append(mix(weight, everything))
        return mixed


class PLE(Sharing):
    r"""Progressive layered extraction: experts of a task, experts of all, in levels.

    .. math:: v_t^{(l)} = \mathrm{softmax}(W_{st}^{(l)} v_t^{(l-1)} + b_{st}^{(l)})
        \cdot [E_t^{(l)}(v_t^{(l-1)}), \; E_0^{(l)}(v_0^{(l-1)})]

    with the experts :math:`E_t` of task :math:`t`, the shared ones :math:`E_0`, and
    :math:`v^{(0)} = x`. The shared vector :math:`v_0` mixes the experts of all tasks
    and the shared ones, on all levels but the last. One level is the paper's CGC
    [1]_. Behind the last level, where asked for, comes a tower per task.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers, on every level.
    experts : int
        Experts of each task on a level.
    shared_experts : int
        Experts of all tasks on a level.
    levels : int
        Number of levels.
    towers : sequence of int
        Widths of each task's own layers behind the last level; none by default.

    Raises
    ------
    ValueError
        If a task has no expert, nothing is shared, or there is no level.

    Notes
    -----
    Differs from the paper: it has one scenario; here, as in
    :class:`~urlm_helpers.sharing.MMoE`, the gate of a task is picked by the row's
    scenario too, and so is the linear output behind the tower, while the tower itself
    serves all scenarios. The paper always has towers; here they are an option, off by
    default. The shared gate of a level serves all scenarios.

    References
    ----------
    .. [1] H. Tang, J. Liu, M. Zhao, X. Gong, "Progressive Layered Extraction (PLE): A
       Novel Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys
       2020. doi:10.1145/3383313.3412236

    Examples
    --------
    >>> import numpy as np
    >>> layer = PLE(tasks=2, scenarios=3, units=(8,), levels=2)
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [8, 8]
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        experts: int = 1,
        shared_experts: int = 1,
        levels: int = 2,
        towers: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        if min(experts, shared_experts, levels) < 1:
            raise ValueError(
                "PLE needs at least one expert per task, one shared expert and one "
                f"level; got experts={experts}, shared_experts={shared_experts}, "
                f"levels={levels}"
            )
        self.n_experts, self.n_shared, self.n_levels = experts, shared_experts, levels
        self.tower_units = tuple(towers)

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return (*self.units, *self.tower_units)[-1]

    def build(self, x_shape: Any) -> None:
        """Create the levels and the towers."""
        self.levels = []
        for level in range(self.n_levels):
            last = level == self.n_levels - 1
            own, shared = self.n_experts, self.n_shared
            one = CustomizedGateControl(
                *self.size, own, shared, last, name=f"level_{level}"
            )
            shape = x_shape if level == 0 else (None, self.units[-1])
            self.levels.append(built(one, shape))
        n = self.tasks if self.tower_units else 0
        self.towers = towers(n, self.tower_units, (None, self.units[-1]))

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        vectors = [x] * (self.tasks + 1)
        for level in self.levels:
            vectors = level(vectors, scenario)
        return behind(self.towers, vectors)


class HiNet(Sharing):
    r"""Hierarchical information extraction: first by scenario, then by task [1]_.

    .. math:: c_s = [\,G(x), \; S_s(x), \; \textstyle\sum_{m \ne s} a_{sm} S_m(x)\,],
        \qquad v_{st} = \mathrm{softmax}(W_{st} c_s + b_{st}) \cdot
        [E_t(c_s), E_{\mathrm{shared}}(c_s)]

    :math:`G` (of all scenarios) and :math:`S_s` (of scenario :math:`s`) are each a
    small mixture of experts. What the other scenarios' experts say is weighed by
    :math:`a_s = \mathrm{softmax}(V e_s + d)` over :math:`m \ne s`, from an embedding
    :math:`e_s` of the scenario. The task level is the CGC of :class:`PLE`; its experts
    serve all scenarios, its gates are per scenario and task.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts : int
        Experts of each mixture, of each task, and of all tasks.
    embedding : int
        Length of the scenario's embedding.

    Notes
    -----
    Differs from the paper: the attention over the other scenarios comes from one linear
    layer. The gates of the task level are per scenario and task, the paper's per task.
    Behind the task level the paper has a tower for each task, here each scenario and
    task has a linear output.

    With one scenario there is no other, and the third part of :math:`c_s` is left
    out; with two, the only other one has weight 1.

    References
    ----------
    .. [1] J. Zhou, X. Cao, W. Li, L. Bo, K. Zhang, C. Luo, Q. Yu, "HiNet: Novel
       Multi-Scenario & Multi-Task Learning with Hierarchical Information Extraction",
       ICDE 2023. arXiv:2303.06095

    Examples
    --------
    >>> import numpy as np
    >>> layer = HiNet(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [8, 8]
    >>> weights = ops.convert_to_numpy(layer.attention())
    >>> weights.diagonal().tolist(), weights.sum(axis=1).round(4).tolist()
    ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        experts: int = 2,
        embedding: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.n_experts, self.embedding_dim = experts, embedding

    def build(self, x_shape: Any) -> None:
        """Create both levels."""
        mixtures = 1 + self.scenarios  # the one of all scenarios comes first
        n = mixtures * self.n_experts
        self.experts = towers(n, self.units, x_shape, "expert")
        self.gate = even_gate(n, x_shape, "gate")
        if self.scenarios > 2:
            self.embedding = embed(self.scenarios, self.embedding_dim)
            self.attend = dense(self.scenarios, (None, self.embedding_dim), "attend")
        n = self.n_experts
        by_task = CustomizedGateControl(*self.size, n, n, last=True, name="by_task")
        parts = 3 if self.scenarios > 1 else 2
        self.by_task = built(by_task, (None, parts * self.width))

    def attention(self) -> Any:
        """Return how much a scenario (row) takes from each other one (column)."""
        own = ops.eye(self.scenarios, dtype=self.compute_dtype)
        if self.scenarios < 3:
            return 1.0 - own
        logits = self.attend(self.embedding(ops.arange(self.scenarios)))
        return ops.softmax(ops.where(own > 0, MASKED, logits), axis=-1)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        shape = (-1, 1 + self.scenarios, self.n_experts)
        gates = ops.softmax(ops.reshape(self.gate(x), shape), axis=-1)
        each = ops.reshape(views(self.experts, x), (*shape, self.width))
        found = ops.einsum("bme,bmed->bmd", gates, each)
        every = found[:, 1:]  # (batch, scenarios, units[-1])
        parts = [found[:, 0], of_scenario(every, scenario)]
        if self.scenarios > 1:
            weights = ops.take(self.attention(), scenario, axis=0)
            parts.append(mix(weights, every))
        extracted = ops.concatenate(parts, axis=-1)
        return self.by_task([extracted] * (self.tasks + 1), scenario)
