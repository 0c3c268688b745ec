"""The star topology, and its normalization by scenario."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.embedding import PACKAGE
from urlm_helpers.sharing.base import Sharing, of_scenario, tower


@keras.saving.register_keras_serializable(PACKAGE)
class PartitionedNorm(keras.layers.Layer):
    r"""Batch normalization with the statistics of the row's scenario [1]_.

    .. math:: z' = (\gamma \gamma_p) \frac{z - \mu_p}{\sqrt{\sigma_p^2 + \epsilon}}
        + (\beta + \beta_p)

    In training, :math:`\mu_p` and :math:`\sigma_p^2` are those of the rows of scenario
    :math:`p` in the batch, and moving averages follow them. At inference the moving
    averages are used, never the batch. A scenario with fewer than two rows in a
    training batch has no variance there: it takes its moving averages, and leaves
    them as they are.

    Parameters
    ----------
    scenarios : int
        How many there are.
    momentum : float
        What a moving average keeps of its value at a step.
    epsilon : float
        Added to the variance.

    References
    ----------
    .. [1] X.-R. Sheng et al., CIKM 2021, section 4.2. arXiv:2101.11427

    Examples
    --------
    >>> import numpy as np
    >>> layer = PartitionedNorm(scenarios=2)
    >>> z = np.array([[1.0], [3.0], [50.0], [70.0]], "float32")
    >>> scenario = np.array([0, 0, 1, 1])
    >>> out = ops.convert_to_numpy(layer(z, scenario, training=True))
    >>> out.ravel().round(2).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    >>> print(ops.convert_to_numpy(layer.moving_mean).ravel().round(2))
    [0.1 3. ]
    """

    def __init__(
        self,
        scenarios: int,
        momentum: float = 0.95,
        epsilon: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scenarios = scenarios
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, z_shape: Any, scenario_shape: Any = None) -> None:
        """Create scale and shift, common and per scenario, and the moving averages."""
        dim, n = z_shape[-1], self.scenarios

        def make(name: str, shape: tuple[int, ...], initial: str, **kwargs: Any) -> Any:
            return self.add_weight(
                shape=shape, initializer=initial, name=name, **kwargs
            )

        self.gamma = make("gamma", (dim,), "ones")
        self.beta = make("beta", (dim,), "zeros")
        self.gamma_p = make("gamma_p", (n, dim), "ones")
        self.beta_p = make("beta_p", (n, dim), "zeros")
        self.moving_mean = make("moving_mean", (n, dim), "zeros", trainable=False)
        self.moving_variance = make(
            "moving_variance", (n, dim), "ones", trainable=False
        )
        self.built = True

    def _batch_statistics(self, z: Any, own: Any) -> tuple[Any, Any]:
        """Return mean and variance of each scenario; move the averages."""
        rows = ops.sum(own, axis=0)[:, None]  # (scenarios, 1)
        share = ops.transpose(own) / ops.maximum(rows, 1.0)  # (scenarios, batch)
        mean = ops.matmul(share, z)  # (scenarios, dim)
        variance = ops.matmul(share, ops.square(z - ops.matmul(own, mean)))
        enough = rows >= 2
        statistics = []
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            before = ops.convert_to_tensor(average)
            value = ops.where(enough, value, before)
            # without enough rows the value is the average itself: no change
            step = (1 - self.momentum) * (ops.stop_gradient(value) - before)
            average.assign(before + step)
            statistics.append(value)
        return statistics[0], statistics[1]

    def call(self, z: Any, scenario: Any, training: bool = False) -> Any:
        """Normalize ``(batch, dim)`` by the scenario ``(batch,)`` of each row."""
        own = ops.one_hot(scenario, self.scenarios, dtype=z.dtype)
        if training:
            mean, variance = self._batch_statistics(z, own)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = self.gamma * self.gamma_p / ops.sqrt(variance + self.epsilon)
        shift = self.beta + self.beta_p
        return (z - ops.matmul(own, mean)) * ops.matmul(own, scale) + ops.matmul(
            own, shift
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "scenarios": self.scenarios,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


class StarDense(keras.layers.Layer):
    r"""A dense layer with a common and a scenario's weights, multiplied.

    .. math:: h = \mathrm{ReLU}((W \otimes W_p)^\top x + b + b_p)

    :math:`W_p` starts at 1 and :math:`b_p` at 0: at first the scenarios are the same.

    Parameters
    ----------
    scenarios, units : int
        How many there are, and the layer's width.
    """

    def __init__(self, scenarios: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenarios = scenarios
        self.units = units

    def build(self, x_shape: Any) -> None:
        """Create the common weights and those of each scenario."""
        n, dim, units = self.scenarios, x_shape[-1], self.units
        self.kernel = self.add_weight(
            shape=(dim, units), initializer="glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight(shape=(units,), initializer="zeros", name="bias")
        self.kernel_p = self.add_weight(
            shape=(n, dim, units), initializer="ones", name="kernel_p"
        )
        self.bias_p = self.add_weight(
            shape=(n, units), initializer="zeros", name="bias_p"
        )
        self.built = True

    def call(self, x: Any, scenario: Any) -> Any:
        """Map ``(batch, dim)`` to ``(batch, units)``."""
        every = ops.einsum("bi,pio->bpo", x, self.kernel * self.kernel_p)
        return ops.relu(of_scenario(every + self.bias + self.bias_p, scenario))


@keras.saving.register_keras_serializable(PACKAGE)
class STAR(Sharing):
    r"""Star topology: common weights in the center, each scenario's around them [1]_.

    .. math:: h^{(l)} = \mathrm{ReLU}((W^{(l)} \otimes W_p^{(l)})^\top h^{(l-1)}
        + b^{(l)} + b_p^{(l)})

    with :math:`h^{(0)}` the features after :class:`PartitionedNorm`. An auxiliary
    network sees the features and an embedding of the scenario alone. The vector of a
    task is its hidden layer behind :math:`h^{(L)}`, so that the linear output adds the
    logits of both; nothing comes after that sum.

    The paper has one task; here the tasks share the network, as in
    :class:`~urlm_helpers.sharing.SharedBottom`, and each has its outputs, one per
    scenario. The paper's last layer is a star too, and the output of its auxiliary
    network the same for all scenarios: an output per scenario can be either.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the layers.
    auxiliary : int
        Width of the auxiliary network's hidden layer.
    embedding : int
        Length of the scenario's embedding.

    References
    ----------
    .. [1] X.-R. Sheng et al., "One Model to Serve All: Star Topology Adaptive
       Recommender for Multi-Domain CTR Prediction", CIKM 2021. arXiv:2101.11427

    Examples
    --------
    >>> import numpy as np
    >>> layer = STAR(tasks=2, scenarios=3, units=(8,), auxiliary=4)
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [12, 12]
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        auxiliary: int = 16,
        embedding: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.auxiliary_units = auxiliary
        self.embedding_dim = embedding

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return self.units[-1] + self.auxiliary_units

    def build(self, x_shape: Any) -> None:
        """Create normalization, layers, and the auxiliary network."""
        self.norm = PartitionedNorm(self.scenarios, name="norm")
        self.norm.build(x_shape)
        self.layers = []
        dim = x_shape[-1]
        for i, units in enumerate(self.units):
            layer = StarDense(self.scenarios, units, name=f"star_{i}")
            layer.build((None, dim))
            self.layers.append(layer)
            dim = units
        self.embedding = keras.layers.Embedding(
            self.scenarios, self.embedding_dim, name="embedding"
        )
        self.embedding.build()
        self.auxiliary = tower((self.auxiliary_units,), "auxiliary")
        self.auxiliary.build((None, x_shape[-1] + self.embedding_dim))
        self.built = True

    def call(self, x: Any, scenario: Any, training: bool = False) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        h = self.norm(x, scenario, training=training)
        for layer in self.layers:
            h = layer(h, scenario)
        seen = ops.concatenate([x, self.embedding(scenario)], axis=-1)
        return [ops.concatenate([h, self.auxiliary(seen)], axis=-1)] * self.tasks

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"auxiliary": self.auxiliary_units, "embedding": self.embedding_dim}
        return {**super().get_config(), **own}
