"""Losses of a funnel of tasks: what is predicted, over which rows, at what weight.

All of them have the same minimizer where the model can express the truth. They differ
in where they let a model that cannot be wrong: among the rows whose parent happened
(`FunnelLoss`), in the joint probabilities over all rows (`EntireSpaceLoss`), or as if
every parent had happened (`InversePropensityLoss`, `DoublyRobustLoss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.features import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class FunnelLoss(keras.losses.Loss):
    r"""Negative log-likelihood of the labels of a funnel, in nats per row.

    A root task contributes the cross-entropy of its label; a child task contributes
    the cross-entropy of its label *where its parent happened*. Their sum is exactly
    the log-likelihood of the labels together.

    Where only a share :math:`r` of the rows without any event was logged, the odds of
    the root among the logged rows are the true odds divided by :math:`r`. The loss
    adds :math:`-\ln r` to the root's logit, so that the model itself learns the true
    probabilities and nothing has to be undone afterwards [1]_.

    Parameters
    ----------
    parents : sequence of int
        Column of each task's parent, -1 for none; parents come first.
    negative_rate : float
        The share :math:`r`.
    weights : sequence of float, optional
        What each task counts; by default 1. A task that hardly ever happens hardly
        moves the sum, and is learned badly for that.

    Raises
    ------
    ValueError
        If a parent does not come before its child, if negatives were down-sampled and
        there is not exactly one root task, if there is not one positive weight per
        task, or if the logits have another number of columns.

    References
    ----------
    .. [1] X. He et al., "Practical Lessons from Predicting Clicks on Ads at
       Facebook", ADKDD 2014, equation for re-calibration; as an offset in the logit:
       G. King, L. Zeng, "Logistic Regression in Rare Events Data", 2001.

    Examples
    --------
    >>> loss = FunnelLoss(parents=[-1, 0])
    >>> labels, logits = np.array([[0, 0], [1, 1]]), np.zeros((2, 2))
    >>> round(float(loss(labels, logits) / np.log(2)), 4)
    1.5
    """

    def __init__(
        self,
        parents: Sequence[int],
        negative_rate: float = 1.0,
        weights: Sequence[float] | None = None,
        name: str = "funnel",
    ) -> None:
        super().__init__(name=name)
        self.parents = [int(p) for p in parents]
        if any(not -1 <= p < task for task, p in enumerate(self.parents)):
            raise ValueError(
                f"a parent is -1 or the column of an earlier task, got {self.parents}"
            )
        self.weights = [1.0] * len(self.parents) if weights is None else list(weights)
        if len(self.weights) != len(self.parents) or min(self.weights) <= 0:
            raise ValueError(
                f"{len(self.parents)} tasks need as many positive weights, "
                f"got {weights}"
            )
        self.negative_rate = float(negative_rate)
        if self.negative_rate < 1 and self.parents.count(-1) != 1:
            raise ValueError(
                "down-sampled negatives can be undone for one root task only; "
                f"this funnel has {self.parents.count(-1)}"
            )

    def tasks(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds to the loss of each row, ``(batch, tasks)``."""
        y, z = self._labels_and_logits(y_true, y_pred)
        each = _cross_entropy(y, z) * self._happened(y)
        return each * ops.convert_to_tensor(self.weights, each.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, ``(batch,)``."""
        return ops.sum(self.tasks(y_true, y_pred), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "parents": self.parents,
            "negative_rate": self.negative_rate,
            "weights": self.weights,
            "name": self.name,
        }

    def _labels_and_logits(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Return the labels and the logits among the logged rows."""
        if y_pred.shape[1] != len(self.parents):
            raise ValueError(
                f"{len(self.parents)} tasks need as many logits, got "
                f"{y_pred.shape[1]}; a model with imputed=True is trained with "
                "DoublyRobustLoss"
            )
        offset = [-np.log(self.negative_rate) if p < 0 else 0.0 for p in self.parents]
        z = y_pred + ops.convert_to_tensor(offset, y_pred.dtype)
        return ops.cast(y_true, y_pred.dtype), z

    def _happened(self, y: Any) -> Any:
        """Return whether each task's parent happened, ``(batch, tasks)``."""
        return _of_parents(y, self.parents, ops.ones_like(y[:, 0]))


@keras.saving.register_keras_serializable(PACKAGE)
class EntireSpaceLoss(FunnelLoss):
    r"""Cross-entropies of joint probabilities over all rows, as ESMM's [1]_.

    The probability of a task is the product along its path, e.g.
    :math:`p_{CTCVR} = p_{CTR} \, p_{CVR}`, and its label is known in every row:

    .. math:: L = \sum_t w_t \sum_{rows} H(y_t, P_t), \qquad
        P_t = \sigma(z_t) P_{parent(t)}

    The complement is summed up from what stops the path,
    :math:`1 - P_t = (1 - P_{parent}) + P_{parent} \sigma(-z_t)`, in logarithms: no
    logit gives the logarithm of 0.

    A click without a purchase counts twice against the click, once as a click and once
    as a purchase that did not happen. This is no likelihood of the labels together,
    and it is no correction for the selection of clicked rows: among models that cannot
    express the truth it weighs rows by their click probability, as the funnel's
    likelihood does.

    Where negatives were down-sampled, the root's logit in the product carries
    :math:`-\ln r` too. That is exact: every row with an event was kept, so among the
    logged rows only the root's odds differ, and the joint probability there is the
    root's times the same conditional ones.

    Parameters
    ----------
    parents, negative_rate, weights
        As of :class:`FunnelLoss`.

    References
    ----------
    .. [1] X. Ma et al., "Entire Space Multi-Task Model: An Effective Approach for
       Estimating Post-Click Conversion Rate", SIGIR 2018. arXiv:1804.07931

    Examples
    --------
    >>> loss = EntireSpaceLoss(parents=[-1, 0])
    >>> each = loss.tasks(np.array([[0, 0], [1, 1]]), np.zeros((2, 2)))
    >>> np.exp(-np.asarray(each)).round(2).tolist()
    [[0.5, 0.75], [0.5, 0.25]]
    """

    def tasks(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds to the loss of each row, ``(batch, tasks)``."""
        y, z = self._labels_and_logits(y_true, y_pred)
        each = _joint_cross_entropy(y, z, self.parents)
        return each * ops.convert_to_tensor(self.weights, each.dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class InversePropensityLoss(FunnelLoss):
    r"""Child tasks learned as if every parent had happened: ESCM²-IPS [1]_.

    A child's error :math:`\delta_t`, the cross-entropy of its label, is known where
    its parent happened (:math:`o = 1`). Divided by the probability :math:`\hat p` of
    that, its mean is the mean error over *all* rows, provided that :math:`\hat p` is
    right and the features explain both events:

    .. math:: L_t = w_t \Big( \frac{o \, \delta_t}{\max(\hat p, c)}
        + \lambda H(y_t, P_t) \Big)

    :math:`\hat p` is the model's own product along the ancestors; no gradient flows
    through it, or the model would lower the loss by raising it. The second term is
    that of :class:`EntireSpaceLoss`. Roots contribute their cross-entropy.

    Where negatives were down-sampled, :math:`\hat p` is the probability *before* that:
    every row with an event was kept, so the sum is unbiased for all rows that there
    were. The loss is its mean over the logged rows, which are fewer: a child then
    counts more against the root than without down-sampling; see ``weights``.

    Parameters
    ----------
    parents, negative_rate, weights
        As of :class:`FunnelLoss`.
    clip : float
        :math:`c`, the least probability that is divided by. Bounds the weight of a row
        by :math:`1/c`, at the price of a bias in rows with smaller ones.
    entire_space : float
        :math:`\lambda`.

    Raises
    ------
    ValueError
        As of :class:`FunnelLoss`; if ``clip`` is not in (0, 1] or ``entire_space`` is
        negative.

    References
    ----------
    .. [1] H. Wang et al., "ESCM²: Entire Space Counterfactual Multi-Task Model for
       Post-Click Conversion Rate Estimation", SIGIR 2022. arXiv:2204.05125

    Examples
    --------
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
        name: str = "inverse_propensity",
    ) -> None:
        super().__init__(parents, negative_rate, weights, name)
        if not 0 < clip <= 1 or not entire_space >= 0:
            raise ValueError(
                "clip lies in (0, 1] and entire_space is not negative, "
                f"got {clip} and {entire_space}"
            )
        self.clip = float(clip)
        self.entire_space = float(entire_space)

    def tasks(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds to the loss of each row, ``(batch, tasks)``."""
        y, z = self._labels_and_logits(y_true, y_pred)
        each = self._inverse(y, y_pred) * _cross_entropy(y, z) + self._joint(y, z)
        return each * ops.convert_to_tensor(self.weights, each.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"clip": self.clip, "entire_space": self.entire_space}
        return {**super().get_config(), **own}

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


@keras.saving.register_keras_serializable(PACKAGE)
class DoublyRobustLoss(InversePropensityLoss):
    r"""Child tasks learned from imputed and observed errors: ESCM²-DR [1]_.

    The model has one more output per child, :math:`c_t`, whose
    :math:`\hat\delta_t = \mathrm{softplus}(c_t)` guesses the child's error where its
    parent did not happen. The mean is right if the guess *or* :math:`\hat p` is:

    .. math:: L_t = w_t \Big( \hat\delta_t + \frac{o}{\hat p}
        (\delta_t - \hat\delta_t) + \frac{o}{\hat p} (\delta_t - \hat\delta_t)^2
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
    parents, negative_rate, weights, clip, entire_space
        As of :class:`InversePropensityLoss`.

    References
    ----------
    .. [1] H. Wang et al., "ESCM²: Entire Space Counterfactual Multi-Task Model for
       Post-Click Conversion Rate Estimation", SIGIR 2022. arXiv:2204.05125

    Examples
    --------
    >>> loss = DoublyRobustLoss(parents=[-1, 0], entire_space=0)
    >>> labels, logits = np.array([[0, 0], [1, 1]]), np.zeros((2, 3))
    >>> each = loss.tasks(labels, logits)  # the guess ln 2 is right in the second row
    >>> (np.asarray(each) / np.log(2)).round(2).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    def tasks(self, y_true: Any, y_pred: Any) -> Any:
        """Return what each task adds to the loss of each row, ``(batch, tasks)``."""
        n = len(self.parents)
        children = [t for t, p in enumerate(self.parents) if p >= 0]
        if y_pred.shape[1] != n + len(children):
            return FunnelLoss.tasks(self, y_true, y_pred)
        z_all = y_pred[:, :n]
        y, z = self._labels_and_logits(y_true, z_all)
        error, inverse = _cross_entropy(y, z), self._inverse(y, z_all)
        extra = ops.softplus(y_pred[:, n:])  # (batch, children)
        none = ops.zeros_like(y[:, 0])
        guess = ops.stack(
            [extra[:, children.index(t)] if t in children else none for t in range(n)],
            axis=1,
        )
        is_child = ops.convert_to_tensor([p >= 0 for p in self.parents], z.dtype)
        missed = is_child * ops.square(ops.stop_gradient(error) - guess)
        root = y[:, self.parents.index(-1)][:, None]
        rows = root + (1.0 - root) / self.negative_rate
        each = rows * guess + inverse * (error - guess + missed) + self._joint(y, z)
        return each * ops.convert_to_tensor(self.weights, each.dtype)


def _cross_entropy(y: Any, z: Any) -> Any:
    """Return -log sigmoid((2y - 1) z), stable for any logit z."""
    return ops.softplus(-(2.0 * y - 1.0) * z)


def _of_parents(values: Any, parents: Sequence[int], root: Any) -> Any:
    """Return each task's parent's column, ``root`` for those without one."""
    return ops.stack([root if p < 0 else values[:, p] for p in parents], axis=1)


def _log_probabilities(z: Any, parents: Sequence[int]) -> tuple[Any, Any]:
    """Return log P and log(1 - P) along the funnel, ``(batch, tasks)`` both."""
    yes: list[Any] = []
    no: list[Any] = []
    for task, parent in enumerate(parents):
        own_yes, own_no = -ops.softplus(-z[:, task]), -ops.softplus(z[:, task])
        if parent >= 0:
            stops_here, stopped = yes[parent] + own_no, no[parent]
            own_yes = own_yes + yes[parent]
            # ops.logaddexp has half a gradient where both are the same
            own_no = ops.where(
                stopped > stops_here,
                stopped + ops.softplus(stops_here - stopped),
                stops_here + ops.softplus(stopped - stops_here),
            )
        yes.append(own_yes)
        no.append(own_no)
    return ops.stack(yes, axis=1), ops.stack(no, axis=1)


def _joint_cross_entropy(y: Any, z: Any, parents: Sequence[int]) -> Any:
    """Return the cross-entropy of each label with its joint probability."""
    yes, no = _log_probabilities(z, parents)
    return -y * yes - (1.0 - y) * no
