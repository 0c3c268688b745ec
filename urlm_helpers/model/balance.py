"""How the losses of the tasks are put together: for the model's ``balance`` slot.

By default they are added up. `UncertaintyWeights` learns what each counts from its
size; `GradNorm` and `PCGrad` look at the gradient of each task in every step, which
only TensorFlow lets them do here. What a task counts in the loss
(``FunnelLoss(weights=...)``) comes first; the schemes see the weighted losses.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured


class Balance(Configured, keras.layers.Layer):
    """What every scheme has: one entry per task; adds up the losses, in float32."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": keras.config.floatx()})

    def build(self, losses_shape: Sequence[int]) -> None:
        """Note the number of tasks."""
        (self.tasks,) = losses_shape

    def call(self, losses: Any) -> Any:
        """Map the mean loss of each task, ``(tasks,)``, to one number."""
        return ops.sum(losses)


class UncertaintyWeights(Balance):
    r"""Losses weighted by learned uncertainties [1]_.

    .. math:: L = \sum_k e^{-s_k} L_k + \tfrac{1}{2} s_k, \qquad s_k = \ln \sigma_k^2

    is the form for classification; :math:`s_k` starts at 0, i.e. with plain sums, and
    is trained like any other weight. For given losses the best is
    :math:`s_k = \ln(2 L_k)`. Put in, that leaves :math:`\sum_k \tfrac{1}{2}(\ln(2 L_k)
    + 1)`: in the end the *product* of the losses is minimized, and a task that hardly
    ever happens pulls as hard as the others. The loss may become negative.

    References
    ----------
    .. [1] A. Kendall, Y. Gal, R. Cipolla, "Multi-Task Learning Using Uncertainty to
       Weigh Losses for Scene Geometry and Semantics", CVPR 2018. arXiv:1705.07115

    Examples
    --------
    >>> import numpy as np
    >>> layer = UncertaintyWeights()
    >>> float(layer(np.array([0.5, 0.25], "float32")))
    0.75
    """

    def build(self, losses_shape: Sequence[int]) -> None:
        """Create one log variance per task."""
        super().build(losses_shape)
        self.log_variance = self.add_weight((self.tasks,), "zeros", name="log_variance")

    def call(self, losses: Any) -> Any:
        """Map the mean loss of each task, ``(tasks,)``, to one number."""
        s = ops.convert_to_tensor(self.log_variance)
        return ops.sum(ops.exp(-s) * losses + 0.5 * s)


class _PerTask(Balance):
    """A scheme that needs the gradient of each task; its own training step."""

    def train_step(self, model: keras.Model, *args: Any) -> dict[str, Any]:
        """Do one step in place of ``model.train_step``; TensorFlow only."""
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise NotImplementedError(
                f"{type(self).__name__} needs the gradient of each task, which is "
                f"written for TensorFlow; on {backend} take UncertaintyWeights or "
                "weights in the loss"
            )
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)
        with tf.GradientTape(persistent=True) as tape:
            y_pred = model(x, training=True)
            losses = model.task_losses(y, y_pred, sample_weight)
            scaled = model.optimizer.scale_loss(losses)
            each = tf.unstack(scaled)
            added = [model.optimizer.scale_loss(extra) for extra in model.losses]
        variables = model.trainable_variables
        gradients = self.gradients(model, tape, each, losses)
        for extra in added:
            more = tape.gradient(extra, [v.value for v in variables])
            gradients = [_plus(g, m) for g, m in zip(gradients, more, strict=True)]
        del tape
        for metric in model.metrics:
            if metric.name == "loss":
                metric.update_state(tf.reduce_sum(losses))
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return model.compute_metrics(x, y, y_pred, sample_weight)

    def gradients(
        self, model: keras.Model, tape: Any, each: Sequence[Any], losses: Any
    ) -> list[Any]:
        """Return the gradient of every trainable variable, None where there is none.

        Parameters
        ----------
        model : UnifiedRecommender
            What is trained.
        tape : tf.GradientTape
            Persistent; saw everything.
        each : sequence of scalar tensor
            Mean loss of each task, scaled as the optimizer wants it.
        losses : tensor, shape (tasks,)
            The same, unscaled.
        """
        raise NotImplementedError


class GradNorm(_PerTask):
    r"""Weights that make all tasks learn at similar rates [1]_.

    With weights :math:`w_k > 0` that sum to the number of tasks, gradient norms
    :math:`G_k = \|\nabla_W w_k L_k\|` and relative rates :math:`r_k = \tilde L_k /
    \overline{\tilde L}`, :math:`\tilde L_k = L_k / L_k(0)`, each step lowers

    .. math:: \sum_k | G_k - \bar G \, r_k^\alpha |

    over :math:`w`, with the second term held fixed: a task whose loss fell less than
    the others' gets a larger gradient.

    :math:`W` are the weights of one layer that all tasks share, the last such layer in
    the paper.

    Parameters
    ----------
    layer : str
        That layer's name, with those of the parts around it where needed:
        ``"cross_0"``, or ``"mine/bottom"`` for ``SharedBottom(..., name="mine")``.
    alpha : float
        How strongly the rates are pulled together; 0 makes all norms equal.
    learning_rate : float
        Step size of the weights.
    batches : int
        Number of batches whose mean loss is :math:`L_k(0)`; the weights stay at 1 as
        long.

    Raises
    ------
    ValueError
        If ``alpha`` is negative, ``learning_rate`` is not positive, or ``batches`` is
        less than 1; on training, if the model has no layer of this name, or several.
    NotImplementedError
        On training with another backend than TensorFlow.

    Notes
    -----
    Differs from the paper: the step is taken on :math:`\ln w_k` and relative to
    :math:`\bar G`, so that no weight can become negative and the rate means the same
    whatever the size of the losses. The paper takes :math:`L_k(0)` from the first batch
    or from theory; a rare task's first batch says little, so here it is a mean over
    several. Where even that is 0, it is the first loss that is not.

    References
    ----------
    .. [1] Z. Chen, V. Badrinarayanan, C.-Y. Lee, A. Rabinovich, "GradNorm: Gradient
       Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
       ICML 2018. arXiv:1711.02257

    Examples
    --------
    >>> import numpy as np
    >>> layer = GradNorm("bottom", alpha=1.0, batches=1)
    >>> layer.build((2,))
    >>> first, later = np.array([0.7, 0.7]), np.array([0.7, 0.1])
    >>> for losses in (first, later):  # the second task learns faster
    ...     layer.update(losses.astype("float32"), np.ones(2, "float32"))
    >>> w = np.asarray(layer.task_weights)
    >>> bool(w[0] > w[1]), round(float(w.sum()), 4)
    (True, 2.0)
    """

    def __init__(
        self,
        layer: str,
        alpha: float = 1.5,
        learning_rate: float = 0.025,
        batches: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not alpha >= 0 or not learning_rate > 0 or batches < 1:
            raise ValueError(
                "alpha is not negative, learning_rate is positive and batches is 1 or "
                f"more, got {alpha}, {learning_rate} and {batches}"
            )
        self.alpha, self.learning_rate = float(alpha), float(learning_rate)
        self.layer, self.batches = layer, batches

    def build(self, losses_shape: Sequence[int]) -> None:
        """Create the weights, and the memory of the first losses."""
        super().build(losses_shape)
        make, shape = self.add_weight, (self.tasks,)
        self.task_weights = make(shape, "ones", trainable=False, name="task_weights")
        self.first = make(shape, "zeros", trainable=False, name="first")
        self.seen = make((), "zeros", trainable=False, name="seen")

    def call(self, losses: Any) -> Any:
        """Map the mean loss of each task, ``(tasks,)``, to one number."""
        return ops.sum(ops.convert_to_tensor(self.task_weights) * losses)

    def update(self, losses: Any, norms: Any) -> None:
        r"""Move the weights by one step.

        Parameters
        ----------
        losses : tensor, shape (tasks,)
            :math:`L_k`.
        norms : tensor, shape (tasks,)
            :math:`\|\nabla_W L_k\|`, without the weight.
        """
        losses, norms = ops.convert_to_tensor(losses), ops.convert_to_tensor(norms)
        first, seen = map(ops.convert_to_tensor, (self.first, self.seen))
        early = seen < self.batches
        mean = first + (losses - first) / (seen + 1.0)
        first = ops.where(early, mean, ops.where(first > 0, first, losses))
        self.first.assign(first)
        self.seen.assign(ops.minimum(seen + 1.0, float(self.batches)))
        left = ops.where(first > 0, losses / ops.where(first > 0, first, 1.0), 1.0)
        rate = _divide(left, ops.mean(left))
        w = ops.convert_to_tensor(self.task_weights)
        norm = w * norms
        mean = ops.mean(norm)
        # d/d(ln w_k) of |w_k n_k - target| is sign(...) w_k n_k
        slope = ops.sign(norm - mean * rate**self.alpha) * _divide(norm, mean)
        moved = w * ops.exp(-self.learning_rate * slope)
        moved = self.tasks * moved / ops.sum(moved)
        # where the scaled gradients of half precision overflow, no step is taken
        steps = ops.logical_and(ops.logical_not(early), ops.all(ops.isfinite(norms)))
        self.task_weights.assign(ops.where(steps, moved, w))

    def shared(self, model: keras.Model) -> list[Any]:
        """Return the weights of the named layer of a model."""
        variables, found = model.trainable_variables, dict[str, list[Any]]()
        for v in variables:
            around, name, _ = f"/{v.path}".partition(f"/{self.layer}/")
            if name:
                found.setdefault(around, []).append(v.value)
        if len(found) != 1:
            layers = sorted(
                {v.path.rpartition("/")[0] for v in model.trainable_variables}
            )
            raise ValueError(
                "GradNorm needs the name of one layer that all tasks share; "
                f"{self.layer!r} names {len(found)} of {layers}"
            )
        return found.popitem()[1]

    def gradients(
        self, model: keras.Model, tape: Any, each: Sequence[Any], losses: Any
    ) -> list[Any]:
        """Return the gradient of the weighted sum; move the weights."""
        import tensorflow as tf

        shared, norms = self.shared(model), []
        for loss in each:
            found = [g for g in tape.gradient(loss, shared) if g is not None]
            # as tensors, as a table's rows may come repeated
            dense = [tf.convert_to_tensor(g) for g in found]
            norms.append(tf.linalg.global_norm(dense))
        w = tf.unstack(tf.convert_to_tensor(self.task_weights))
        variables = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(
            list(each), variables, output_gradients=[tf.identity(k) for k in w]
        )
        self.update(losses, tf.stack(norms))
        return gradients


def _divide(a: Any, b: Any) -> Any:
    """Return a / b, and 0 where b is 0."""
    return ops.where(b == 0, 0.0, a / ops.where(b == 0, 1.0, b))


def _plus(a: Any, b: Any) -> Any:
    """Add two gradients, either of which may be None."""
    if a is None or b is None:
        return b if a is None else a
    return ops.convert_to_tensor(a) + ops.convert_to_tensor(b)
