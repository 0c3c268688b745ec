"""Gates from the scenario on the features, and from the person on every layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, built
from urlm_helpers.sharing.base import Sharing, embed, towers


def gate_unit(hidden: int, out: int, x_shape: Any, name: str) -> keras.Sequential:
    r"""Return the paper's GateNU without its factor 2: :math:`\sigma(W\,ReLU(W'z))`."""
    layers = [
        keras.layers.Dense(hidden, activation="relu", name="hidden"),
        keras.layers.Dense(out, activation="sigmoid", name="out"),
    ]
    return built(keras.Sequential(layers, name=name), x_shape)


class FeatureGate(Configured, keras.layers.Layer):
    r"""What each feature is worth in a scenario: the gate of EPNet [1]_.

    .. math:: x' = 2 \sigma(W \, \mathrm{ReLU}(W' [e_s, \mathrm{sg}(x)] + b') + b)
        \odot x

    Parameters
    ----------
    scenarios : int
        How many there are.
    hidden : int
        Width of the hidden layer.
    embedding : int
        Length of the scenario's embedding :math:`e_s`.

    References
    ----------
    .. [1] J. Chang et al., "PEPNet: Parameter and Embedding Personalized Network for
       Infusing with Personalized Prior Information", KDD 2023. arXiv:2302.01115

    Examples
    --------
    >>> import numpy as np
    >>> FeatureGate(3)(np.ones((5, 4), "float32"), np.zeros(5, int)).shape
    TensorShape([5, 4])
    """

    def __init__(
        self, scenarios: int, hidden: int = 16, embedding: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scenarios, self.hidden, self.embedding_dim = scenarios, hidden, embedding

    def build(self, x_shape: Any) -> None:
        """Create the scenarios' embeddings and the gate."""
        self.embedding = embed(self.scenarios, self.embedding_dim)
        seen = (None, self.embedding_dim + x_shape[-1])
        self.gate = gate_unit(self.hidden, x_shape[-1], seen, "gate")

    def seen(self, x: Any, scenario: Any) -> Any:
        """Return what gates look at, ``(batch, embedding + dim)``: no gradient to x."""
        parts = [self.embedding(scenario), ops.stop_gradient(x)]
        return ops.concatenate(parts, axis=-1)

    def call(self, x: Any, scenario: Any) -> Any:
        """Map ``(batch, dim)`` to the same shape."""
        return 2.0 * self.gate(self.seen(x, scenario)) * x


class PEPNet(Sharing):
    r"""Gates from the scenario on the features, and from the prior on every layer [1]_.

    .. math:: \delta(z) = 2 \sigma(W \, \mathrm{ReLU}(W' z + b') + b), \qquad
        x' = \delta_{ep}([e_s, \mathrm{sg}(x)]) \odot x

    .. math:: h_t^{(l)} = \delta_t^{(l)}([e_{prior}, \mathrm{sg}(x')]) \odot
        \mathrm{ReLU}(W_t^{(l)} h_t^{(l-1)} + b_t^{(l)}), \qquad h_t^{(0)} = x'

    EPNet gates the features by the scenario's embedding :math:`e_s`. PPNet gates the
    hidden units of every layer of every task's tower by the prior
    :math:`e_{prior} = [e_{user}, e_{item}, e_{author}]`, whose vectors learn through
    the gates. No gradient goes through the gates' view of the features,
    :math:`\mathrm{sg}`.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.
    gate : int
        Width of a gate's hidden layer.
    embedding : int
        Length of the scenario's embedding.

    Notes
    -----
    Differs from the paper: EPNet's gate also sees counts of user and item within the
    scenario there, here the scenario's embedding alone. The prior's vectors are those
    of the model's one table, so what its features are is decided by the model. Each
    scenario has its own linear output. With a dense layer before the sharing (the
    model's ``bottom``) EPNet gates that layer's output; with 0 the features themselves,
    as in the paper.

    References
    ----------
    .. [1] J. Chang et al., "PEPNet: Parameter and Embedding Personalized Network for
       Infusing with Personalized Prior Information", KDD 2023. arXiv:2302.01115

    Examples
    --------
    >>> import numpy as np
    >>> layer = PEPNet(tasks=2, scenarios=3, units=(8, 6))
    >>> x, prior = np.ones((5, 4), "float32"), np.ones((5, 3), "float32")
    >>> [v.shape[1] for v in layer(x, np.zeros(5, int), prior)]
    [6, 6]
    """

    needs_prior = True

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        gate: int = 16,
        embedding: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.gate_units, self.embedding_dim = gate, embedding

    def build(self, x_shape: Any, prior_shape: Any) -> None:
        """Create gates and towers."""
        seen = (None, prior_shape[-1] + x_shape[-1])
        gate = FeatureGate(
            self.scenarios, self.gate_units, self.embedding_dim, name="feature_gate"
        )
        self.feature_gate = built(gate, x_shape)
        self.layer_gates = [
            gate_unit(self.gate_units, sum(self.units), seen, f"layer_gate_{t}")
            for t in range(self.tasks)
        ]
        self.towers = towers(self.tasks, self.units, x_shape)

    def call(self, x: Any, scenario: Any, prior: Any) -> list[Any]:
        """Map ``(batch, dim)`` and a prior to one ``(batch, units[-1])`` per task."""
        x = self.feature_gate(x, scenario)
        seen = ops.concatenate([prior, ops.stop_gradient(x)], axis=-1)
        vectors = []
        for gate, layers in zip(self.layer_gates, self.towers, strict=True):
            scales = 2.0 * gate(seen)  # (batch, sum of units)
            h, start = x, 0
            for layer, units in zip(layers.layers, self.units, strict=True):
                h = scales[:, start : start + units] * layer(h)
                start += units
            vectors.append(h)
        return vectors
