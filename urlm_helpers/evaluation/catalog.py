"""What ranked lists show of a catalog: popular items, many items, evenly or not.

The accuracy of `urlm_helpers.evaluation.ranking` does not tell a list of the same ten
best-sellers for everyone from one that fits its user. Ties are broken at random, and
every number is its exact expected value under that, as there.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Floats, refuse
from urlm_helpers.evaluation.ranking import Places, places
from urlm_helpers.evaluation.rows import checked, codes, divide, group_sum


def _chance_shown(rows: Places, k: int) -> Floats:
    """Chance of each sorted row to stand in its query's first k places."""
    shown = np.clip(k - (rows.place - rows.turn) + 1, 0, rows.tied)
    return np.asarray(shown / rows.tied, dtype=np.float64)


def exposure(
    query: ArrayLike, item: ArrayLike, score: ArrayLike, k: int = 10
) -> pd.DataFrame:
    """How often each item of the catalog stands in the first k places.

    Parameters
    ----------
    query, item, score : array, shape (rows,)
        All candidates of all queries, as in `query_metrics`.
    k : int
        Length of the list that is shown.

    Returns
    -------
    DataFrame
        One row per item that is a candidate somewhere: `exposure`, the expected
        number of queries that show it, and `reached`, the chance that any does.

    Examples
    --------
    >>> exposure(["u", "u", "v", "v"], ["x", "y", "x", "y"], [2, 1, 1, 1], k=1)
          exposure  reached
    item
    x          1.5      1.0
    y          0.5      0.5
    """
    score = np.asarray(score, dtype=np.float64)
    none, score, _ = checked(np.zeros(score.shape), score, probability=False)
    code, _ = codes(query, "query", len(score))
    thing, names = codes(item, "item", len(score))
    rows = places(code, score, none)
    chance = _chance_shown(rows, k)
    thing = thing[rows.order]
    with np.errstate(divide="ignore"):  # log of 0: certain to be shown
        unseen = np.exp(group_sum(thing, np.log1p(-chance), len(names)))
    return pd.DataFrame(
        {"exposure": group_sum(thing, chance, len(names)), "reached": 1 - unseen},
        index=pd.Index(names, name="item"),
    )


def shown_popularity(
    query: ArrayLike, score: ArrayLike, popularity: ArrayLike, k: int = 10
) -> pd.Series:
    """Mean popularity of the first k places of each query.

    Parameters
    ----------
    query, score : array, shape (rows,)
        All candidates of all queries, as in `query_metrics`.
    popularity : array, shape (rows,)
        Of the row's item: how often it was had *before*, counted in the training
        period or by `urlm_helpers.preprocessing.LookBack`.
    k : int
        Length of the list that is shown; a query with fewer candidates shows all.

    Returns
    -------
    Series
        One value per query.

    Raises
    ------
    ValueError
        Lengths differ, a score is NaN or a popularity not finite.

    References
    ----------
    Abdollahpouri, H., Burke, R. and Mobasher, B. (2019). Managing popularity bias in
    recommender systems with personalized re-ranking. FLAIRS. arXiv:1901.07555
    (average recommendation popularity).

    Examples
    --------
    >>> shown_popularity(["u", "u", "v", "v"], [2, 1, 1, 1], [30, 10, 30, 10], k=1)
    query
    u    30.0
    v    20.0
    Name: popularity, dtype: float64
    """
    popularity = np.asarray(popularity, dtype=np.float64)
    none, score, _ = checked(np.zeros(len(popularity)), score, probability=False)
    refuse(popularity, ~np.isfinite(popularity), "popularity must be finite")
    code, names = codes(query, "query", len(score))
    rows = places(code, score, none)
    chance = _chance_shown(rows, k)
    total = group_sum(rows.query, chance * popularity[rows.order], len(names))
    mean = divide(total, group_sum(rows.query, chance, len(names)))
    return pd.Series(mean, index=pd.Index(names, name="query"), name="popularity")


def gini(amount: ArrayLike) -> float:
    r"""Gini coefficient of amounts >= 0: 0 all equal, near 1 one has everything.

    .. math:: G = \frac{\sum_{i=1}^n (2i - n - 1) \, x_{(i)}}{n \sum_i x_i}

    NaN where nothing is given out.

    Examples
    --------
    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 4])
    (0.0, 0.75)
    """
    x = np.sort(np.asarray(amount, dtype=np.float64))
    n = len(x)
    rank = 2 * np.arange(1, n + 1) - n - 1
    return float(divide((rank * x).sum(), n * x.sum()))
