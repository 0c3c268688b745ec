"""The star topology, and its normalization by scenario."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, built
from urlm_helpers.sharing.base import Sharing, embed, of_scenario, tower


class PartitionedNorm(Configured, keras.layers.Layer):
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
        # half precision has too few digits for a variance and for a small step
        super().__init__(**{**kwargs, "dtype": keras.config.floatx()})
        self.scenarios, self.momentum, self.epsilon = scenarios, momentum, epsilon

    def build(self, z_shape: Any, scenario_shape: Any = None) -> None:
        """Create scale and shift, common and per scenario, and the moving averages."""
        dim, n = z_shape[-1], self.scenarios
        make = self.add_weight
        self.gamma = make((dim,), "ones", name="gamma")
        self.beta = make((dim,), "zeros", name="beta")
        self.gamma_p = make((n, dim), "ones", name="gamma_p")
        self.beta_p = make((n, dim), "zeros", name="beta_p")
        average: dict[str, Any] = {"shape": (n, dim), "trainable": False}
        self.moving_mean = make(initializer="zeros", name="moving_mean", **average)
        self.moving_variance = make(
            initializer="ones", name="moving_variance", **average
        )

    def _batch_statistics(self, z: Any, own: Any) -> tuple[Any, Any]:
        """Return mean and variance of each scenario; move the averages."""
        rows = ops.sum(own, axis=0)[:, None]  # (scenarios, 1)
        share = ops.transpose(own) / ops.maximum(rows, 1.0)  # (scenarios, batch)
        mean = ops.matmul(share, z)  # (scenarios, dim)
        variance = ops.matmul(share, ops.square(z - ops.matmul(own, mean)))

        def moved(average: Any, value: Any) -> Any:
            before = ops.convert_to_tensor(average)
            value = ops.where(rows >= 2, value, before)
            # without enough rows the value is the average itself: no change
            step = (1 - self.momentum) * (ops.stop_gradient(value) - before)
            average.assign(before + step)
            return value

        return moved(self.moving_mean, mean), moved(self.moving_variance, variance)

    def call(self, z: Any, scenario: Any, training: bool = False) -> Any:
        """Normalize ``(batch, dim)`` by the scenario ``(batch,)`` of each row."""
        own = ops.one_hot(scenario, self.scenarios, dtype=z.dtype)
        if training:
            mean, variance = self._batch_statistics(z, own)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = self.gamma * self.gamma_p / ops.sqrt(variance + self.epsilon)
        shift = self.beta + self.beta_p
        centered = z - ops.matmul(own, mean)
        return centered * ops.matmul(own, scale) + ops.matmul(own, shift)


class StarDense(Configured, keras.layers.Layer):
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
        self.scenarios, self.units = scenarios, units

    def build(self, x_shape: Any) -> None:
        """Create the common weights and those of each scenario."""
        n, dim, units = self.scenarios, x_shape[-1], self.units
        make = self.add_weight
        self.kernel = make((dim, units), "glorot_uniform", name="kernel")
        self.bias = make((units,), "zeros", name="bias")
        self.kernel_p = make((n, dim, units), "ones", name="kernel_p")
        self.bias_p = make((n, units), "zeros", name="bias_p")

    def call(self, x: Any, scenario: Any) -> Any:
        """Map ``(batch, dim)`` to ``(batch, units)``."""
        every = ops.einsum("bi,pio->bpo", x, self.kernel * self.kernel_p)
        return ops.relu(of_scenario(every + self.bias + self.bias_p, scenario))


class STAR(Sharing):
    r"""Star topology: common weights in the center, each scenario's around them [1]_.

    .. math:: h^{(l)} = \mathrm{ReLU}((W^{(l)} \otimes W_p^{(l)})^\top h^{(l-1)}
        + b^{(l)} + b_p^{(l)})

    with :math:`h^{(0)}` the features after :class:`PartitionedNorm`. An auxiliary
    network sees the features and an embedding of the scenario alone. The vector of a
    task is its hidden layer behind :math:`h^{(L)}`, so that the linear output adds the
    logits of both; nothing comes after that sum.

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

    Notes
    -----
    Differs from the paper: it has one task; here the tasks share the network, as in
    :class:`~urlm_helpers.sharing.SharedBottom`, and each has its outputs, one per
    scenario. The paper's last layer is a star too, and the output of its auxiliary
    network the same for all scenarios: an output per scenario can be either.

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
        self.auxiliary_units, self.embedding_dim = auxiliary, embedding

    @property
    def width(self) -> int:
        """Length of the vector of a task."""
        return self.units[-1] + self.auxiliary_units

    def build(self, x_shape: Any) -> None:
        """Create normalization, layers, and the auxiliary network."""
        self.norm = built(PartitionedNorm(self.scenarios, name="norm"), x_shape)
        self.layers = []
        dim = x_shape[-1]
        for i, units in enumerate(self.units):
            layer = StarDense(self.scenarios, units, name=f"star_{i}")
            self.layers.append(built(layer, (None, dim)))
            dim = units
        self.embedding = embed(self.scenarios, self.embedding_dim)
        auxiliary = tower((self.auxiliary_units,), "auxiliary")
        self.auxiliary = built(auxiliary, (None, x_shape[-1] + self.embedding_dim))

    def call(self, x: Any, scenario: Any, training: bool = False) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, width)`` per task."""
        h = self.norm(x, scenario, training=training)
        for layer in self.layers:
            h = layer(h, scenario)
        seen = ops.concatenate([x, self.embedding(scenario)], axis=-1)
        return [ops.concatenate([h, self.auxiliary(seen)], axis=-1)] * self.tasks
