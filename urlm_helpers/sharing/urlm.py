"""The book's own composition: gates of scenario and task over shared experts."""

from collections.abc import Sequence
from typing import Any

from urlm_helpers.features.base import built
from urlm_helpers.sharing.experts import MMoE
from urlm_helpers.sharing.pepnet import FeatureGate


class URLM(MMoE):
    r"""The scenario scales the features, scenario and task weigh shared experts.

    .. math:: x' = 2\sigma(W \, \mathrm{ReLU}(W' [e_s, \mathrm{sg}(x)])) \odot x,
        \qquad v_{st} = \sum_e g_{ste}(x') f_e(x')

    The first gate is EPNet's [1]_: what a feature is worth depends on the place. The
    second is MMoE's [2]_, one per scenario and task. Both start neutral: every feature
    counts once, every expert the same.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each expert's layers.
    experts : int
        Number of experts.
    gate : int
        Width of the scenario gate's hidden layer.
    embedding : int
        Length of the scenario's embedding.

    Notes
    -----
    Differs from the paper: there is none; it is this book's composition of two
    published parts, without PPNet's gates and without MMoE's towers.

    References
    ----------
    .. [1] J. Chang et al., "PEPNet: Parameter and Embedding Personalized Network for
       Infusing with Personalized Prior Information", KDD 2023. arXiv:2302.01115
    .. [2] J. Ma et al., "Modeling Task Relationships in Multi-task Learning with
       Multi-gate Mixture-of-Experts", KDD 2018. doi:10.1145/3219819.3220007

    Examples
    --------
    >>> import numpy as np
    >>> layer = URLM(tasks=2, scenarios=3, units=(8, 6))
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [6, 6]
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (64, 32),
        experts: int = 4,
        gate: int = 16,
        embedding: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, experts, **kwargs)
        self.gate_units, self.embedding_dim = gate, embedding

    def build(self, x_shape: Any) -> None:
        """Create the scenario's gate, experts and their gates."""
        gate = FeatureGate(
            self.scenarios, self.gate_units, self.embedding_dim, name="feature_gate"
        )
        self.feature_gate = built(gate, x_shape)
        super().build(x_shape)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        return super().call(self.feature_gate(x, scenario), scenario)
