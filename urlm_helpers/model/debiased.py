"""Losses that correct for who gets to be a row: inverse propensity, doubly robust."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from urlm_helpers.model.losses import (
    FunnelLoss,
    _cross_entropy,
    _joint_cross_entropy,
    _log_probabilities,
    _of_parents,
    at_least_float32,
)


def logged_share(root: np.ndarray, negative_rate: float) -> float:
    """Return the share of all rows that a log with thinned negatives still holds.

    Parameters
    ----------
    root : ndarray of 0 and 1, shape (rows,)
        Labels of the root task, of the logged rows.
    negative_rate : float
        The share of the rows without any event that was logged.

    Examples
    --------
    >>> logged_share(np.array([1, 1, 0, 0]), 0.1)  # 4 of 22
    0.18181818181818182
    """
    root = np.asarray(root, "float64")
    return float(1 / np.mean(root + (1 - root) / negative_rate))


class InversePropensityLoss(FunnelLoss):
    r"""Child tasks learned as if every parent had happened: ESCM²-IPS [1]_.

    A child's error :math:`\delta_t`, the cross-entropy of its label, is known where
    its parent happened (:math:`o = 1`). Divided by the probability :math:`\hat p` of
    that, its mean is the mean error over *all* rows, provided that :math:`\hat p` is
    right and the features explain both events:

    .. math:: L_t = w_t \Big( \lambda_c \frac{o \, \delta_t}{\max(\hat p, c)}
        + \lambda H(y_t, P_t) \Big)

    :math:`\hat p` is the model's own product along the ancestors; no gradient flows
    through it, or the model would lower the loss by raising it. The second term is
    that of :class:`EntireSpaceLoss`. Roots contribute their cross-entropy.

    Where negatives were down-sampled, :math:`\hat p` is the probability *before* that:
    every row with an event was kept, so the sum over the logged rows is unbiased for
    all rows that there were. The root counts once per logged row: with the
    :func:`logged_share` as :math:`\lambda_c` a child counts no more than that.

    Parameters
    ----------
    parents, negative_rate, weights
        As of :class:`FunnelLoss`.
    clip : float
        :math:`c`, the least probability that is divided by. Bounds the weight of a row
        by :math:`1/c`, at the price of a bias in rows with smaller ones.
    entire_space : float
        :math:`\lambda`.
    child : float
        :math:`\lambda_c`, what a child's corrected error counts.

    Raises
    ------
    ValueError
        As of :class:`FunnelLoss`; if ``clip`` is not in (0, 1], ``entire_space`` is
        negative or ``child`` is not positive.

    Notes
    -----
    Differs from the paper: it has one child, here every step behind the root is
    corrected, by its ancestors' product. The paper knows no down-sampling.

    References
    ----------
    .. [1] H. Wang et al., "ESCM²: Entire Space Counterfactual Multi-Task Model for
       Post-Click Conversion Rate Estimation", SIGIR 2022. arXiv:2204.05125

    Examples
    --------
    >>> import numpy as np
    >>> loss = InversePropensityLoss(parents=[-1, 0], entire_space=0)
    >>> each = loss.tasks(np.array([[0, 0], [1, 1]]), np.zeros((2, 2)))
    >>> (np.asarray(each) / np.log(2)).round(2).tolist()  # click, then error / 0.5
    [[1.0, 0.0], [1.0, 2.0]]
    """

    def __init__(
        self,
        parents: Sequence[int],
        negative_rate: float = 1.0,
        weights: Sequence[float] | None = None,
        clip: float = 0.01,
        entire_space: float = 1.0,
        child: float = 1.0,
        name: str = "inverse_propensity",
        **kwargs: Any,
    ) -> None:
        super().__init__(parents, negative_rate, weights, name, **kwargs)
        if not 0 < clip <= 1 or not entire_space >= 0 or not child > 0:
            raise ValueError(
                "clip lies in (0, 1], entire_space is not negative and child is "
                f"positive, got {clip}, {entire_space} and {child}"
            )
        self.clip, self.entire_space = float(clip), float(entire_space)
        self.child = float(child)

    def errors(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds, without its weight, ``(batch, tasks)``."""
        y, z = self._labels_and_logits(y_true, y_pred)
        inverse = self._scale(y) * self._inverse(y, y_pred)
        return inverse * _cross_entropy(y, z) + self._joint(y, z)

    def row_weights(self, y_true: Any, y_pred: Any) -> Any:
        """Return what a row's error counts for each task, ``(batch, tasks)``.

        0 where the parent did not happen, 1 for roots; without :math:`w_t`. How many
        rows a child learns from in effect is the ``effective_sample_size`` of its
        column, see `urlm_helpers.evaluation`.
        """
        z = at_least_float32(y_pred)
        y = ops.cast(y_true, z.dtype)
        return self._scale(y) * self._inverse(y, z)

    def _rows(self, y: Any) -> Any:
        """Return how many rows each logged one stands for, ``(batch, 1)``."""
        root = y[:, self.parents.index(-1)][:, None]
        return root + (1.0 - root) / self.negative_rate

    def _scale(self, y: Any) -> Any:
        """Return the factor of each task's corrected errors, ``(tasks,)``."""
        is_child = ops.convert_to_tensor([p >= 0 for p in self.parents], y.dtype)
        return 1.0 + (self.child - 1.0) * is_child

    def _inverse(self, y: Any, z: Any) -> Any:
        """Return what a row's error counts, ``(batch, tasks)``; 1 for roots."""
        p = ops.exp(_log_probabilities(z, self.parents)[0])
        p = _of_parents(p, self.parents, ops.ones_like(p[:, 0]))
        return self._happened(y) / ops.stop_gradient(ops.maximum(p, self.clip))

    def _joint(self, y: Any, z: Any) -> Any:
        """Return the entire-space term of the children, ``(batch, tasks)``."""
        scale = [self.entire_space if p >= 0 else 0.0 for p in self.parents]
        joint = _joint_cross_entropy(y, z, self.parents)
        return joint * ops.convert_to_tensor(scale, joint.dtype)


class DoublyRobustLoss(InversePropensityLoss):
    r"""Child tasks learned from imputed and observed errors: ESCM²-DR [1]_.

    The model has one more output per child, :math:`c_t`, whose
    :math:`\hat\delta_t = \mathrm{softplus}(c_t)` guesses the child's error where its
    parent did not happen. The mean is right if the guess *or* :math:`\hat p` is:

    .. math:: L_t = w_t \Big( \lambda_c \Big[ \hat\delta_t + \frac{o}{\hat p}
        (\delta_t - \hat\delta_t) + \frac{o}{\hat p} (\delta_t - \hat\delta_t)^2 \Big]
        + \lambda H(y_t, P_t) \Big)

    with :math:`\hat p` clipped and without gradient as in
    :class:`InversePropensityLoss`. The squared error is what the guess learns from; to
    :math:`\delta_t` itself it passes no gradient, which the paper leaves open: else the
    child would be drawn to where it is easy to guess.

    The guess has its own output and passes no gradient to :math:`\delta`, so the
    gradient of the child's logit is that of :class:`InversePropensityLoss` exactly,
    without the lower variance that the *value* has. The two train differently only
    through what the guess does to shared parameters.

    Where negatives were down-sampled, :math:`\hat\delta_t` of a row without any event
    stands for :math:`1/r` such rows.

    On logits without the extra outputs (``UnifiedRecommender.logits`` leaves them out,
    and so `fit` does when it validates) this is :class:`FunnelLoss`.

    Parameters
    ----------
    parents, negative_rate, weights, clip, entire_space, child
        As of :class:`InversePropensityLoss`.

    References
    ----------
    .. [1] H. Wang et al., "ESCM²: Entire Space Counterfactual Multi-Task Model for
       Post-Click Conversion Rate Estimation", SIGIR 2022. arXiv:2204.05125

    Examples
    --------
    >>> import numpy as np
    >>> loss = DoublyRobustLoss(parents=[-1, 0], entire_space=0)
    >>> labels, logits = np.array([[0, 0], [1, 1]]), np.zeros((2, 3))
    >>> each = loss.tasks(labels, logits)  # the guess ln 2 is right in the second row
    >>> (np.asarray(each) / np.log(2)).round(2).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    def errors(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds, without its weight, ``(batch, tasks)``."""
        n = len(self.parents)
        children = [t for t, p in enumerate(self.parents) if p >= 0]
        if y_pred.shape[1] != n + len(children):
            return FunnelLoss.errors(self, y_true, y_pred)
        z_all = y_pred[:, :n]
        y, z = self._labels_and_logits(y_true, z_all)
        error, inverse = _cross_entropy(y, z), self._inverse(y, z_all)
        extra = ops.softplus(y_pred[:, n:])  # (batch, children)
        by_task = dict(zip(children, ops.unstack(extra, axis=1), strict=True))
        none = ops.zeros_like(y[:, 0])
        guess = ops.stack([by_task.get(t, none) for t in range(n)], axis=1)
        is_child = ops.convert_to_tensor([p >= 0 for p in self.parents], z.dtype)
        missed = is_child * ops.square(ops.stop_gradient(error) - guess)
        each = self._rows(y) * guess + inverse * (error - guess + missed)
        return self._scale(y) * each + self._joint(y, z)
