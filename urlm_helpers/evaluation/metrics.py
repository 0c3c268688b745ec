"""Metrics of predicted probabilities: order, log-loss and decisions.

Every function takes plain arrays with one entry per row (an impression): the 0/1
label `y`, the predicted probability `p` (or any real `score` where only the order
counts) and, where rows stand for more than one impression, a `weight`. A metric that
is not defined on its input, such as the AUC of rows with one class, is NaN.

`urlm_helpers.evaluation.calibration` has PCOC, ECE and the calibration table,
`urlm_helpers.evaluation.ranking` the metrics of a ranked catalogue, and
`urlm_helpers.evaluation.intervals` the scenario × task table with intervals.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Floats, Ints
from urlm_helpers.evaluation.rows import checked, codes, divide, group_sum, starts


class Gauc(NamedTuple):
    """Grouped AUC and the share of rows it leaves out."""

    value: float
    dropped: float


def tie_bounds(positive: Floats, negative: Floats) -> tuple[Ints, Ints, Ints]:
    """Order the negatives and find, per positive, how many score less, or no more.

    With `order, low, high`, the negatives `order[:low[i]]` score less than positive i
    and `order[low[i]:high[i]]` tie with it.
    """
    order = np.argsort(negative, kind="stable")
    ranked = negative[order]
    low = np.searchsorted(ranked, positive, side="left")
    high = np.searchsorted(ranked, positive, side="right")
    return order, low, high


def auc(y: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    r"""Area under the ROC curve: how often a positive scores above a negative.

    .. math:: \frac{\sum_{i: y_i=1} \sum_{j: y_j=0} w_i w_j
              \bigl([s_i > s_j] + \tfrac12 [s_i = s_j]\bigr)}
              {\sum_{i: y_i=1} w_i \sum_{j: y_j=0} w_j}

    Ties count one half, so a constant score has exactly 0.5. The cost is
    O(n log n). A weight that is the same for all negatives (the 1/rate of
    down-sampling) cancels.

    Parameters
    ----------
    y : array of 0/1, shape (rows,)
    score : array, shape (rows,)
        Any real numbers; only their order matters.
    weight : array, shape (rows,), optional
        How many rows each row stands for.

    Returns
    -------
    float
        In [0, 1]; NaN where one class has no weight.

    Raises
    ------
    ValueError
        Lengths differ, a label is not 0/1, a score is NaN or a weight negative.

    References
    ----------
    Hanley, J. A. and McNeil, B. J. (1982). The meaning and use of the area under a
    receiver operating characteristic (ROC) curve. Radiology 143(1).

    Examples
    --------
    >>> auc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])
    0.75
    >>> auc([1, 0, 1, 0], [0.3, 0.3, 0.3, 0.3])
    0.5
    """
    y, score, weight = checked(y, score, weight, probability=False)
    positive = y == 1
    order, low, high = tie_bounds(score[positive], score[~positive])
    below = np.concatenate([[0.0], np.cumsum(weight[~positive][order])])
    gain = weight[positive]
    if below[-1] == 0 or gain.sum() == 0:
        return float("nan")
    beaten = (below[low] + below[high]) / (2 * below[-1])
    return float((gain * beaten).sum() / gain.sum())


def user_auc(
    y: Floats, score: Floats, weight: Floats, user: Ints, users: int
) -> Floats:
    """AUC within each user, NaN for one class; `user` holds codes below `users`."""
    if not len(y):
        return np.full(users, np.nan)
    order = np.lexsort((score, user))
    y, score, weight, user = y[order], score[order], weight[order], user[order]
    tied = np.flatnonzero(starts(user, score))
    owner = user[tied]
    positive = np.add.reduceat(weight * y, tied)
    negative = np.add.reduceat(weight * (1 - y), tied)
    below = np.cumsum(negative) - negative
    first = starts(owner)
    below -= below[np.flatnonzero(first)[np.cumsum(first) - 1]]
    won = group_sum(owner, positive * (below + negative / 2), users)
    pairs = group_sum(owner, positive, users) * group_sum(owner, negative, users)
    return divide(won, pairs)


def gauc(
    y: ArrayLike,
    score: ArrayLike,
    user: ArrayLike,
    weight: Literal["impressions", "positives"] = "impressions",
    row_weight: ArrayLike | None = None,
) -> Gauc:
    r"""Grouped AUC: the mean of the users' own AUCs.

    .. math:: \mathrm{GAUC} = \frac{\sum_u n_u \mathrm{AUC}_u}{\sum_u n_u}

    over the users with both classes; :math:`n_u` counts the user's impressions or
    positives. It measures the order *within* a user, which is what a recommendation
    list shows; the pooled AUC also rewards knowing which users click more.

    Parameters
    ----------
    y, score : array, shape (rows,)
    user : array, shape (rows,)
        The id of each row's user.
    weight : {"impressions", "positives"}
        What a user counts for.
    row_weight : array, shape (rows,), optional
        How many impressions each row stands for.

    Returns
    -------
    Gauc
        `value`, and `dropped`: the share of rows whose user has one class only.

    Raises
    ------
    ValueError
        As `auc`; also for another `weight`.

    References
    ----------
    Zhou, G. et al. (2018). Deep interest network for click-through rate prediction.
    KDD. arXiv:1706.06978, section 5.3.

    Examples
    --------
    >>> gauc([1, 0, 1, 0, 0], [0.9, 0.1, 0.2, 0.4, 0.5], ["a", "a", "b", "b", "c"])
    Gauc(value=0.5, dropped=0.2)
    """
    y, score, row_weight = checked(y, score, row_weight, probability=False)
    code, names = codes(user, "user", len(y))
    each = user_auc(y, score, row_weight, code, len(names))
    if weight not in ("impressions", "positives"):
        raise ValueError(f"weight must be 'impressions' or 'positives', got {weight!r}")
    counted = row_weight if weight == "impressions" else row_weight * y
    size = group_sum(code, counted, len(names))
    known = ~np.isnan(each)
    dropped = float((~known)[code].mean()) if len(y) else 1.0
    if size[known].sum() == 0:
        return Gauc(float("nan"), dropped)
    return Gauc(float(np.average(each[known], weights=size[known])), dropped)


def row_log_loss(y: Floats, p: Floats) -> Floats:
    """Log-loss of each row, nats; p is kept at least 2.2e-16 away from 0 and 1."""
    tiny = np.finfo(np.float64).eps
    p = np.clip(p, tiny, 1 - tiny)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def log_loss(y: ArrayLike, p: ArrayLike, weight: ArrayLike | None = None) -> float:
    r"""Mean negative log-likelihood of the labels, in nats.

    .. math:: -\frac{\sum_i w_i \bigl(y_i \ln p_i + (1-y_i) \ln(1-p_i)\bigr)}
              {\sum_i w_i}

    Lower is better. Its expected value is smallest where p is the true probability.
    A p of 0 or 1 is moved 2.2e-16 inside, so a confident error costs about 36, not
    infinity.

    Examples
    --------
    >>> round(log_loss([1, 0], [0.9, 0.2]), 4)
    0.1643
    """
    y, p, weight = checked(y, p, weight)
    return float(divide((weight * row_log_loss(y, p)).sum(), weight.sum()))


def entropy(rate: Floats) -> Floats:
    """Entropy of a 0/1 variable with this rate, nats; 0 at rates 0 and 1."""
    rate = np.asarray(rate, dtype=np.float64)
    inside = (rate > 0) & (rate < 1)
    r = np.where(inside, rate, 0.5)
    h = -(r * np.log(r) + (1 - r) * np.log1p(-r))
    return np.where(np.isnan(rate), np.nan, np.where(inside, h, 0.0))


def normalized_entropy(
    y: ArrayLike, p: ArrayLike, weight: ArrayLike | None = None
) -> float:
    r"""Log-loss over the log-loss of always predicting the base rate.

    .. math:: \mathrm{NE} = \frac{\text{log-loss}}{H(\bar y)},
              \qquad H(r) = -r \ln r - (1-r) \ln(1-r)

    Below 1 the model knows more than the base rate. Unlike the log-loss it can be
    compared between scenarios with different base rates. NaN for one class.

    References
    ----------
    He, X. et al. (2014). Practical lessons from predicting clicks on ads at
    Facebook. ADKDD. doi:10.1145/2648584.2648589, section 3.

    Examples
    --------
    >>> normalized_entropy([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
    1.0
    """
    y, p, weight = checked(y, p, weight)
    total = weight.sum()
    loss = divide((weight * row_log_loss(y, p)).sum(), total)
    return float(divide(loss, entropy(divide((weight * y).sum(), total))))


def threshold_metrics(
    y: ArrayLike, p: ArrayLike, threshold: float = 0.5, weight: ArrayLike | None = None
) -> dict[str, float]:
    r"""Accuracy, precision, recall and F1 of the decision p ≥ threshold.

    .. math:: \mathrm{accuracy} = \frac{TP + TN}{W},\;
              \mathrm{precision} = \frac{TP}{TP + FP},\;
              \mathrm{recall} = \frac{TP}{TP + FN},\;
              F_1 = \frac{2\,TP}{2\,TP + FP + FN}

    each NaN where its denominator is 0. For a rare event "never" has an accuracy
    near 1; read accuracy beside recall or not at all.

    Examples
    --------
    >>> threshold_metrics([1, 0, 0, 0], [0.4, 0.3, 0.2, 0.1])
    {'accuracy': 0.75, 'precision': nan, 'recall': 0.0, 'f1': 0.0}
    """
    columns = decision_columns(*checked(y, p, weight), threshold)
    return {
        name: float(divide(over.sum(), under.sum()))
        for name, (over, under) in columns.items()
    }


def decision_columns(
    y: Floats, p: Floats, weight: Floats, threshold: float = 0.5
) -> dict[str, tuple[Floats, Floats]]:
    """What each of `threshold_metrics` sums over the rows, and what it divides by."""
    said = p >= threshold
    hit = weight * (said * y)
    return {
        "accuracy": (weight * (said == (y == 1)), weight),
        "precision": (hit, weight * said),
        "recall": (hit, weight * y),
        "f1": (2 * hit, weight * (said + y)),
    }
