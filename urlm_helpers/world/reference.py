"""Hold a score against known probabilities, without label noise.

Where the truth is known (`urlm_helpers.world`), three lines frame every model:
popularity, which knows no user; the best on observables, which knows all that a row's
features tell; and the oracle, the probability itself. `urlm_helpers.world.best` draws
the three.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Floats, refuse


def paired(p: ArrayLike, other: ArrayLike, name: str) -> tuple[Floats, Floats]:
    """Return both as float64 arrays; `p` must hold probabilities."""
    p, other = np.asarray(p, np.float64), np.asarray(other, np.float64)
    if not (p.ndim == 1 and p.shape == other.shape):
        raise ValueError(
            f"p and {name} must be 1-D and of one length, got shapes {p.shape} and "
            f"{other.shape}"
        )
    refuse(p, ~((p >= 0) & (p <= 1)), "p must lie in [0, 1]")
    return p, other


def expected_auc(score: ArrayLike, p: ArrayLike) -> float:
    r"""AUC to expect of a score when row i is positive with probability p_i.

    .. math:: \frac{\sum_{i \ne j} p_i (1 - p_j)
              \bigl([s_i > s_j] + \tfrac12 [s_i = s_j]\bigr)}
              {\sum_{i \ne j} p_i (1 - p_j)}

    The expected number of pairs won over the expected number of pairs; it differs
    from the mean AUC over draws of the labels by O(1/rows). No score has more than
    the probabilities themselves: to order by them is to order by likelihood ratio
    (Neyman and Pearson). With p of only 0 and 1 it is the AUC of these labels. The
    cost is O(n log n).

    Parameters
    ----------
    score : array, shape (rows,)
        Any real numbers; only their order matters, ties count one half.
    p : array, shape (rows,)
        The true probabilities.

    Returns
    -------
    float
        In [0, 1]; NaN where no pair is possible.

    Raises
    ------
    ValueError
        Lengths differ, a probability lies outside [0, 1] or a score is NaN.

    References
    ----------
    Neyman, J. and Pearson, E. S. (1933). On the problem of the most efficient tests
    of statistical hypotheses. Phil. Trans. R. Soc. A 231.

    Examples
    --------
    >>> expected_auc([0.9, 0.8, 0.1], [1, 0, 0])
    1.0
    >>> expected_auc([2, 1], [0.5, 0.5])  # equally likely rows can't be ordered
    0.5
    """
    p, score = paired(p, score, "score")
    refuse(score, np.isnan(score), "score must not be NaN")
    _, level = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(level, p), np.bincount(level, 1 - p)
    below = np.cumsum(negative) - negative
    itself = (p * (1 - p)).sum()  # a row is no pair with itself
    won = (positive * (below + negative / 2)).sum() - itself / 2
    pairs = p.sum() * (1 - p).sum() - itself
    return float(won / pairs) if pairs > 0 else float("nan")


def excess_log_loss(p: ArrayLike, q: ArrayLike) -> float:
    r"""Log-loss that a prediction q has beyond that of the truth p, in nats.

    .. math:: \frac1n \sum_i p_i \ln\frac{p_i}{q_i}
              + (1 - p_i) \ln\frac{1 - p_i}{1 - q_i}

    The mean Kullback-Leibler divergence: what is left of the expected log-loss after
    taking away the part that nobody can avoid. Never negative, 0 only for q = p. A q
    of 0 or 1 is moved 2.2e-16 inside, as in `urlm_helpers.evaluation.log_loss`.

    Raises
    ------
    ValueError
        Lengths differ, or a value lies outside [0, 1].

    Examples
    --------
    >>> excess_log_loss([0.2, 0.7], [0.2, 0.7])
    0.0
    >>> round(excess_log_loss([0.5], [0.25]), 4)  # half of ln(4/3)
    0.1438
    """
    p, q = paired(p, q, "q")
    refuse(q, ~((q >= 0) & (q <= 1)), "q must lie in [0, 1]")
    if not len(p):
        return float("nan")
    tiny = np.finfo(np.float64).eps
    q = np.clip(q, tiny, 1 - tiny)

    def part(a: Floats, b: Floats) -> Floats:
        return np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / b), 0.0)

    return float(np.maximum(part(p, q) + part(1 - p, 1 - q), 0).mean())


def gap_closed(
    value: float, popularity: float, best: float, *, least: float = 0.005
) -> float:
    r"""Share of the way from popularity to the best score that a model went.

    .. math:: g = \frac{A - A_{pop}}{A_{best} - A_{pop}}

    on the same rows of one scenario and one task: the mean over scenarios of g is not
    the g of a mean. Negative for a model below popularity.

    Parameters
    ----------
    value, popularity, best : float
        For example expected AUCs. `best` may be the oracle's, or the best on
        observables.
    least : float
        Where the gap is smaller than this, the result is NaN: a ratio to nearly
        nothing says nothing.

    Examples
    --------
    >>> round(gap_closed(0.75, 0.6, 0.8), 2)
    0.75
    >>> gap_closed(0.75, 0.8, 0.801)
    nan
    """
    gap = best - popularity
    return float((value - popularity) / gap) if gap >= least else float("nan")


def popularity(
    train: pd.DataFrame, rows: pd.DataFrame, task: str, *, strength: float = 10.0
) -> Floats:
    r"""Score rows by their item's rate in their scenario, counted on training rows.

    .. math:: \frac{n^+_{s,i} + w\, r_s}{n_{s,i} + w}

    with :math:`r_s` the scenario's rate: an item without training rows gets exactly
    that.

    Parameters
    ----------
    train : DataFrame
        Columns `scenario`, `item` and `task`.
    rows : DataFrame
        Columns `scenario` and `item`.
    task : str
    strength : float
        The w of the formula: how many rows the scenario's rate weighs.

    Returns
    -------
    ndarray, shape (rows,)
        NaN for a scenario without training rows.

    Examples
    --------
    >>> train = pd.DataFrame({"scenario": "shop", "item": [1, 1, 2]})
    >>> train["click"] = [1, 1, 0]
    >>> rows = pd.DataFrame({"scenario": "shop", "item": [1, 2, 3]})
    >>> popularity(train, rows, "click", strength=1).round(2).tolist()
    [0.89, 0.33, 0.67]
    """
    key = ["scenario", "item"]
    rate = rows["scenario"].map(train.groupby("scenario")[task].mean())
    counts = train.groupby(key)[task].agg(["sum", "count"]).reset_index()
    own = rows[key].merge(counts, on=key, how="left").fillna({"sum": 0, "count": 0})
    smooth = own["sum"].to_numpy() + strength * rate.to_numpy(np.float64)
    return smooth / (own["count"].to_numpy() + strength)
