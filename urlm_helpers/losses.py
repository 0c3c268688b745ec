"""Losses of a funnel of tasks: what is predicted, over which rows, at what weight."""

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
        Column of each task's parent, -1 for none.
    negative_rate : float
        The share :math:`r`.
    weights : sequence of float, optional
        What each task counts; by default 1. A task that hardly ever happens hardly
        moves the sum, and is learned badly for that.

    Raises
    ------
    ValueError
        If negatives were down-sampled and there is not exactly one root task, or if
        there is not one positive weight per task.

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
        y = ops.cast(y_true, y_pred.dtype)
        offset = [-np.log(self.negative_rate) if p < 0 else 0.0 for p in self.parents]
        z = y_pred + ops.convert_to_tensor(offset, y_pred.dtype)
        # -log sigmoid((2y - 1) z), stable for any z
        each = ops.softplus(-(2.0 * y - 1.0) * z)  # (batch, tasks)
        counted = [ops.ones_like(y[:, 0]) if p < 0 else y[:, p] for p in self.parents]
        each = each * ops.convert_to_tensor(self.weights, each.dtype)
        return each * ops.stack(counted, axis=1)

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
