"""Losses of a funnel of tasks: what is predicted, over which rows, at what weight.

All of them have the same minimizer where the model can express the truth. They differ
in where they let a model that cannot be wrong: among the rows whose parent happened
(`FunnelLoss`), in the joint probabilities over all rows (`EntireSpaceLoss`), or as if
every parent had happened (`InversePropensityLoss`, `DoublyRobustLoss`).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.features.base import Configured


class FunnelLoss(Configured, keras.losses.Loss):
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
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
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
        each = self.errors(y_true, at_least_float32(y_pred))
        return each * ops.convert_to_tensor(self.weights, each.dtype)

    def errors(self, y_true: Any, y_pred: Any) -> Any:
        """Return the same without the tasks' weights."""
        y, z = self._labels_and_logits(y_true, y_pred)
        return _cross_entropy(y, z) * self._happened(y)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, ``(batch,)``."""
        return ops.sum(self.tasks(y_true, y_pred), axis=1)

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

    def errors(self, y_true: Any, y_pred: Any) -> Any:
        """Return the cross-entropies of the joint probabilities, ``(batch, tasks)``."""
        y, z = self._labels_and_logits(y_true, y_pred)
        return _joint_cross_entropy(y, z, self.parents)


def at_least_float32(x: Any) -> Any:
    """Return numbers of half precision as float32, others as they are."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


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
