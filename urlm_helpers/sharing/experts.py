"""Mixtures of experts: one gate for all, one per task and scenario, and of scores."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from urlm_helpers.sharing.base import (
    Sharing,
    behind,
    even_gate,
    of_scenario,
    towers,
    views,
)


class MMoE(Sharing):
    r"""Multi-gate mixture of experts, with one gate per scenario and task.

    .. math:: v_{st}(x) = h_t\Big(\sum_e g_{ste}(x) f_e(x)\Big), \qquad
        g_{st}(x) = \mathrm{softmax}(W_{st} x + b_{st})

    with experts :math:`f_e` and, where asked for, a tower :math:`h_t` per task [1]_.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts : int
        Number of experts.
    towers : sequence of int
        Widths of the layers of :math:`h_t`; none by default, and then :math:`h_t` is
        left out.

    Notes
    -----
    Differs from the paper: it has one gate per task; here the gate of a row is picked
    by its scenario too, so that a scenario may lean on other experts, and so is the
    linear output behind the tower. The tower itself serves all scenarios. The paper
    always has towers; here they are an option, off by default.

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
        self.experts = towers(self.n_experts, self.units, x_shape, "expert")
        self.gate = even_gate(self.n_gates * self.n_experts, x_shape, "gate")
        own = self.tasks if self.tower_units else 0
        self.towers = towers(own, self.tower_units, (None, self.units[-1]))

    def gates(self, x: Any, scenario: Any) -> Any:
        """Return the weight of each expert, ``(batch, tasks, experts)``; sums to 1."""
        shape = (-1, self.scenarios, self.tasks, self.n_experts)
        logits = ops.reshape(self.gate(x), shape)  # (batch, scenarios, tasks, experts)
        own = ops.one_hot(scenario, self.scenarios, dtype=logits.dtype)
        return ops.softmax(ops.einsum("bste,bs->bte", logits, own), axis=-1)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        gates, found = self.gates(x, scenario), views(self.experts, x)
        mixed = ops.einsum("bte,bed->btd", gates, found)
        vectors = [mixed[:, t] for t in range(self.tasks)]
        return behind(self.towers, vectors)


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
    towers : sequence of int
        As in :class:`MMoE`.

    Notes
    -----
    Differs from the paper: as in :class:`MMoE` each scenario has its own linear output,
    and towers are an option, off by default.

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


class HMoE(MMoE):
    r"""Hybrid of implicit and explicit mixture of experts: scenarios mix their scores.

    .. math:: \mathrm{logit}_{st}(x) = \sum_j w_{stj}(x) \, s_{jt}(x), \qquad
        s_{jt}(x) = h_{jt} \cdot \sum_e g_{jte}(x) f_e(x) + c_{jt}

    First, experts and gates as in :class:`~urlm_helpers.sharing.MMoE` (implicit). Then
    each scenario :math:`j` scores the row, and the row's scenario :math:`s` weighs the
    scores with :math:`w_{st} = \mathrm{softmax}(U_{st} x + d_{st})` (explicit, in the
    label space). The gradient of another scenario's score is stopped: a row teaches
    the gates and experts only through its own scenario's score [1]_.

    The vector of a task holds :math:`w_{stj}` and :math:`w_{stj} \sum_e g_{jte} f_e`
    for all :math:`j`, and one linear output per task serves all scenarios
    (``scenario_heads`` is False), so that its part for :math:`j` is
    :math:`(c_{jt}, h_{jt})`. That part is outside of this layer.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts : int
        Number of experts.

    Notes
    -----
    Differs from the paper: the linear output of a scenario learns from the rows of
    other scenarios too, which the paper's stopped gradient prevents. Logits are mixed.
    The paper has one task; here the tasks share the experts and have gates of their
    own.

    References
    ----------
    .. [1] P. Li, R. Li, Q. Da, A.-X. Zeng, L. Zhang, "Improving Multi-Scenario
       Learning to Rank in E-commerce by Exploiting Task Relationships in the Label
       Space", CIKM 2020. doi:10.1145/3340531.3412713

    Examples
    --------
    >>> import numpy as np
    >>> layer = HMoE(tasks=2, scenarios=3, units=(8,), experts=4)
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [27, 27]
    """

    scenario_heads = False

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        experts: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, experts, **kwargs)
        if self.tower_units:
            raise ValueError(
                "HMoE mixes the scores of its experts' mixtures and has no towers; got "
                f"towers={self.tower_units}"
            )

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return self.scenarios * (1 + self.units[-1])

    def build(self, x_shape: Any) -> None:
        """Create experts, gates, and the weights of the scenarios' scores."""
        super().build(x_shape)
        if self.scenarios > 1:
            n = self.scenarios * self.tasks * self.scenarios
            self.label_gate = even_gate(n, x_shape, "label_gate")

    def label_gates(self, x: Any, scenario: Any) -> Any:
        """Return the weight of each scenario's score, ``(batch, tasks, scenarios)``."""
        if self.scenarios == 1:
            return ops.repeat(ops.ones_like(x[:, :1, None]), self.tasks, axis=1)
        shape = (-1, self.scenarios, self.tasks, self.scenarios)
        logits = of_scenario(ops.reshape(self.label_gate(x), shape), scenario)
        return ops.softmax(logits, axis=-1)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        shape = (-1, self.scenarios, self.tasks, self.n_experts)
        gates = ops.softmax(ops.reshape(self.gate(x), shape), axis=-1)
        # (batch, tasks, scenarios, units[-1])
        vectors = ops.einsum("bste,bed->btsd", gates, views(self.experts, x))
        own = ops.one_hot(scenario, self.scenarios, dtype=vectors.dtype)
        own = own[:, None, :, None]  # (batch, 1, scenarios, 1)
        vectors = own * vectors + (1 - own) * ops.stop_gradient(vectors)
        weights = self.label_gates(x, scenario)[..., None]
        scores = ops.concatenate([weights, weights * vectors], axis=-1)
        scores = ops.reshape(scores, (-1, self.tasks, self.width))
        return [scores[:, t] for t in range(self.tasks)]
