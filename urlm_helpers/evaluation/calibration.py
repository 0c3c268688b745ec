"""Calibration: does a predicted 2 % happen two times in a hundred?

Functions of plain arrays, one entry per row: the 0/1 label `y`, the probability `p`
and an optional `weight`, as in `urlm_helpers.evaluation.metrics`.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from urlm_helpers.data.arrays import Floats, Ints, refuse
from urlm_helpers.evaluation.rows import checked, divide, group_sum, starts


def pcoc(y: ArrayLike, p: ArrayLike, weight: ArrayLike | None = None) -> float:
    r"""Predicted count over observed count.

    .. math:: \mathrm{PCOC} = \frac{\sum_i w_i p_i}{\sum_i w_i y_i}

    1 is calibrated on average, 1.2 promises 20 % too many events. NaN without a
    positive.

    Examples
    --------
    >>> pcoc([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.9])
    1.2
    """
    y, p, weight = checked(y, p, weight)
    return float(divide((weight * p).sum(), (weight * y).sum()))


def mass_bins(p: Floats, weight: Floats, bins: int) -> Ints:
    """Bin of each row: `bins` slices of equal total weight, tied p together.

    A group of tied p goes where the middle of its weight falls, so large groups of
    ties can leave bins empty.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    bin_of = np.zeros(len(p), dtype=np.int64)
    if weight.sum() == 0:
        return bin_of
    order = np.argsort(p, kind="stable")
    tie_start = starts(p[order])
    mass = np.add.reduceat(weight[order], np.flatnonzero(tie_start))
    middle = np.cumsum(mass) - mass / 2
    group_bin = np.floor(middle * bins / mass.sum()).astype(np.int64)
    bin_of[order] = np.minimum(group_bin, bins - 1)[np.cumsum(tie_start) - 1]
    return bin_of


def calibration_table(
    y: ArrayLike, p: ArrayLike, weight: ArrayLike | None = None, bins: int = 10
) -> pd.DataFrame:
    """Predicted and observed rate in bins of equal mass, for a calibration plot.

    Parameters
    ----------
    y, p, weight : array, shape (rows,)
    bins : int
        Bins of equal total weight over the sorted p. Tied p share a bin, so fewer
        bins come back when p has few distinct values.

    Returns
    -------
    DataFrame
        One row per bin that has weight, by rising p: `bin`, `rows`, `weight`,
        `predicted` (mean p), `observed` (rate of y) and `pcoc` (their ratio).

    Examples
    --------
    >>> calibration_table([0, 0, 0, 1], [0.1, 0.1, 0.4, 0.6], bins=2)
       bin  rows  weight  predicted  observed  pcoc
    0    0     2     2.0        0.1       0.0   NaN
    1    1     2     2.0        0.5       0.5   1.0
    """
    y, p, weight = checked(y, p, weight)
    code = mass_bins(p, weight, bins)
    total = group_sum(code, weight, bins)
    predicted = group_sum(code, weight * p, bins)
    observed = group_sum(code, weight * y, bins)
    table = pd.DataFrame(
        {
            "bin": np.arange(bins),
            "rows": np.bincount(code, minlength=bins),
            "weight": total,
            "predicted": divide(predicted, total),
            "observed": divide(observed, total),
            "pcoc": divide(predicted, observed),
        }
    )
    return table[total > 0].reset_index(drop=True)


def ece(
    y: ArrayLike, p: ArrayLike, weight: ArrayLike | None = None, bins: int = 10
) -> float:
    r"""Expected calibration error over bins of equal mass.

    .. math:: \mathrm{ECE} = \sum_b \frac{W_b}{W} \, |\bar p_b - \bar y_b|

    with the bins of `calibration_table`. Equal mass, not equal width: click
    probabilities crowd near 0, where equal widths would put all rows in one bin.
    Label noise alone makes it positive, more so with fewer rows: see `ece_floor`.

    References
    ----------
    Guo, C. et al. (2017). On calibration of modern neural networks. ICML.
    arXiv:1706.04599 (defined there with bins of equal width).

    Examples
    --------
    >>> ece([0, 0, 0, 1], [0.1, 0.1, 0.4, 0.6], bins=2)
    0.05
    """
    table = calibration_table(y, p, weight, bins)
    if table.empty:
        return float("nan")
    gap = (table["predicted"] - table["observed"]).abs()
    return float((table["weight"] * gap).sum() / table["weight"].sum())


def ece_floor(p: ArrayLike, weight: ArrayLike | None = None, bins: int = 10) -> float:
    r"""ECE that a model which is exactly right shows on average, for noise alone.

    .. math:: \sum_b \frac{\mathrm E \, |K_b - n_b \bar p_b|}{\sum_b n_b},
              \qquad K_b \sim \mathrm{Binomial}(n_b, \bar p_b)

    An `ece` close to it says nothing against the model.

    Parameters
    ----------
    p : array, shape (rows,)
        Predicted probabilities, here taken for the true ones.
    weight : array, shape (rows,), optional
        How many impressions a row stands for; :math:`n_b` is their sum in bin b,
        rounded.
    bins : int
        As in `ece`.

    Notes
    -----
    Impressions are independent here. Where those of a user go together beyond what p
    says, noise is larger, and so is the ECE of a model that is right on average.

    References
    ----------
    Diaconis, P. and Zabell, S. (1991). Closed form summation for classical
    distributions: variations on a theme of de Moivre. Statistical Science 6(3)
    (the mean absolute deviation of a binomial count).

    Examples
    --------
    One toss of a fair coin is off by a half, the mean of four by 3/16 on average:

    >>> round(ece_floor([0.5]), 4), round(ece_floor([0.5] * 4), 4)
    (0.5, 0.1875)
    """
    table = calibration_table(np.zeros(np.shape(p)), p, weight, bins)
    n, rate = np.rint(table["weight"]), table["predicted"]
    above = np.floor(n * rate) + 1
    off = 2 * above * (1 - rate) * stats.binom.pmf(above, n, rate)
    return float(divide(off.sum(), n.sum()))


def undo_downsampling(q: ArrayLike, rate: float) -> Floats:
    r"""Probability on the full log from a model of a log with fewer negatives.

    .. math:: p = \frac{q}{q + (1 - q) / \mathrm{rate}}

    where each negative row was kept with probability `rate` and each positive
    always. The map is increasing: no order, and so no AUC, changes.

    Parameters
    ----------
    q : array
        Probabilities of a model fitted, without weights, to the down-sampled log.
    rate : float
        Share of the negatives kept, in (0, 1].

    Raises
    ------
    ValueError
        A rate outside (0, 1] or a q outside [0, 1].

    References
    ----------
    He, X. et al. (2014). Practical lessons from predicting clicks on ads at
    Facebook. ADKDD. doi:10.1145/2648584.2648589, section 6.3.

    Examples
    --------
    Of 1,000 rows 20 are clicks (a rate of 0.02). Of the 980 others, one in ten is
    kept, so that 20 of 118 rows are clicks. The correction recovers the 0.02:

    >>> float(undo_downsampling(20 / 118, rate=0.1).round(12))
    0.02
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate must lie in (0, 1], got {rate}")
    q = np.asarray(q, dtype=np.float64)
    refuse(q.ravel(), ~((q >= 0) & (q <= 1)).ravel(), "q must lie in [0, 1]")
    return np.asarray(q / (q + (1 - q) / rate))
