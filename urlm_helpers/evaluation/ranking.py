"""Metrics of a ranked catalog: what stands in the first k places.

Every candidate of a query (a user, a visit, a search) is ranked: metrics on a sample of
the candidates can order two models the other way round (Krichene and Rendle, 2020,
doi:10.1145/3394486.3403226).

Ties are broken at random, and every metric is its exact expected value under that
(McSherry and Najork, 2008). So a constant score does as well as chance, whatever the
order of the rows. What the same lists show of the catalog (popularity, coverage, Gini)
is in `urlm_helpers.evaluation.catalog`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Booleans, Floats, Ints
from urlm_helpers.evaluation.rows import checked, codes, divide, group_sum, starts


class Ranking(NamedTuple):
    """Metrics of each query that has a relevant item, and the number without."""

    per_query: pd.DataFrame
    dropped: int


class Places(NamedTuple):
    """All rows, sorted by query and falling score.

    A row's `place` counts from 1 within its query. It is the `turn`-th (from 0) of
    `tied` items of one score, `relevant` of them relevant.
    """

    order: Ints
    query: Ints
    place: Ints
    turn: Ints
    tied: Ints
    relevant: Floats


def places(query: Ints, score: Floats, label: Floats) -> Places:
    """Rank each query's rows by falling score."""
    order = np.lexsort((-score, query))
    query, score = query[order], score[order]
    new_query, new_group = starts(query), starts(query, score)
    start, group = np.flatnonzero(new_group), np.cumsum(new_group) - 1
    row = np.arange(len(query))
    place = row - np.flatnonzero(new_query)[np.cumsum(new_query) - 1] + 1
    tied = np.diff(np.append(start, len(query)))[group]
    relevant = group_sum(group, label[order], len(start))[group]
    return Places(order, query, place, row - start[group], tied, relevant)


def query_metrics(
    query: ArrayLike, score: ArrayLike, label: ArrayLike, k: int | Sequence[int] = 10
) -> Ranking:
    r"""Recall, precision, NDCG, hit rate and reciprocal rank of every query.

    With :math:`R` relevant items in the query, and :math:`r_i` the chance that place
    :math:`i` of the ranking holds a relevant one (1 or 0 without ties):

    .. math:: \mathrm{recall@}k = \tfrac1R \sum_{i \le k} r_i, \quad
              \mathrm{precision@}k = \tfrac1k \sum_{i \le k} r_i, \quad
              \mathrm{NDCG@}k = \frac{\sum_{i \le k} r_i / \log_2(i+1)}
                                     {\sum_{i \le \min(k, R)} 1 / \log_2(i+1)}

    hit@k is the chance of a relevant item in the first k places, and mrr@k the
    expected 1/place of the first relevant one, 0 beyond place k.

    Parameters
    ----------
    query : array, shape (rows,)
        The query of each row. All candidates of a query must be present.
    score : array, shape (rows,)
        The higher, the earlier. Not NaN; -inf ranks last.
    label : array of 0/1, shape (rows,)
        Whether the candidate is relevant.
    k : int or sequence of int
        Cut-offs.

    Returns
    -------
    Ranking
        `per_query`: indexed by query, columns `relevant` (the R above), `candidates`
        and `recall@k`, `precision@k`, `ndcg@k`, `hit@k`, `mrr@k` for every k;
        `dropped`: how many queries had no relevant item and are left out.

    Raises
    ------
    ValueError
        Lengths differ, a label is not 0/1, a score is NaN, a k is below 1.

    References
    ----------
    Järvelin, K. and Kekäläinen, J. (2002). Cumulated gain-based evaluation of IR
    techniques. ACM TOIS 20(4). McSherry, F. and Najork, M. (2008). Computing
    information retrieval performance measures efficiently in the presence of tied
    scores. ECIR.

    Examples
    --------
    >>> ranking = query_metrics(
    ...     query=["u", "u", "u", "v", "v"],
    ...     score=[0.9, 0.5, 0.1, 0.3, 0.3],
    ...     label=[0, 1, 0, 1, 0],
    ...     k=1,
    ... )
    >>> ranking.per_query[["relevant", "recall@1", "mrr@1"]]
           relevant  recall@1  mrr@1
    query
    u             1       0.0    0.0
    v             1       0.5    0.5
    """
    label, score, _ = checked(label, score, probability=False)
    cuts = sorted({k} if isinstance(k, int) else set(k))
    if not cuts or cuts[0] < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    code, names = codes(query, "query", len(label))
    n = len(names)
    total = group_sum(code, label, n)
    columns: dict[str, Floats | Ints] = {
        "relevant": total.astype(np.int64),
        "candidates": np.bincount(code, minlength=n),
    }
    columns |= _at_cuts(places(code, score, label), total, cuts)
    table = pd.DataFrame(columns, index=pd.Index(names, name="query"))
    kept = total > 0
    return Ranking(table[kept], int((~kept).sum()))


def _at_cuts(rows: Places, total: Floats, cuts: Sequence[int]) -> dict[str, Floats]:
    """Metrics of every query at each cut-off."""
    shape = (len(total), cuts[-1])
    top = rows.place <= cuts[-1]
    at = (rows.query[top], rows.place[top] - 1)
    relevant, tied, turn = rows.relevant[top], rows.tied[top], rows.turn[top]
    gain, miss = np.zeros(shape), np.ones(shape)  # places past the last row: no gain
    gain[at] = relevant / tied
    # The chance of no relevant item here, given none so far in the group of ties.
    miss[at] = np.maximum(1 - relevant / (tied - turn), 0)
    none_yet: Floats = np.cumprod(miss, axis=1, dtype=np.float64)
    first = np.hstack([np.ones((shape[0], 1)), none_yet[:, :-1]]) - none_yet
    place = np.arange(1, cuts[-1] + 1)
    discount: Floats = 1 / np.log2(place + 1)
    reciprocal: Floats = 1 / place.astype(np.float64)
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    found: dict[str, Floats] = {}
    for k in cuts:
        hits = gain[:, :k].sum(axis=1)
        best = ideal[np.minimum(total, k).astype(np.int64)]
        found[f"recall@{k}"] = divide(hits, total)
        found[f"precision@{k}"] = np.asarray(hits / k, dtype=np.float64)
        found[f"ndcg@{k}"] = divide(gain[:, :k] @ discount[:k], best)
        found[f"hit@{k}"] = 1 - none_yet[:, k - 1]
        found[f"mrr@{k}"] = first[:, :k] @ reciprocal[:k]
    return found


def ranking_metrics(
    scores: ArrayLike,
    relevant: ArrayLike,
    *,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    k: int | Sequence[int] = (5, 10),
) -> Ranking:
    """`query_metrics` for a query × item matrix of scores.

    Parameters
    ----------
    scores : array, shape (queries, items)
    relevant : array of bool, shape (queries, items)
    candidates : array of bool, shape (queries, items), optional
        The catalog of each query; all items by default.
    exclude : array of bool, shape (queries, items), optional
        Items that a query must not be shown, such as those it has had. They leave
        the ranking and the truth alike.
    k : int or sequence of int

    Returns
    -------
    Ranking
        As `query_metrics`; the index is the row of `scores`.

    Raises
    ------
    ValueError
        Shapes differ, a score is NaN, or a relevant item is not a candidate: it
        could never be found, so the catalog or the truth is wrong.

    Examples
    --------
    >>> ranking = ranking_metrics(
    ...     scores=[[0.9, 0.5, 0.1]],
    ...     relevant=[[True, False, True]],
    ...     exclude=[[True, False, False]],
    ...     k=1,
    ... )
    >>> ranking.per_query[["relevant", "candidates", "recall@1"]]
           relevant  candidates  recall@1
    query
    0             1           2       0.0
    """
    scores = np.asarray(scores, dtype=np.float64)
    truth = _mask(relevant, scores, "relevant")
    shown = np.ones(scores.shape, dtype=bool)
    if candidates is not None:
        shown = _mask(candidates, scores, "candidates")
        if (lost := truth & ~shown).any():
            query, item = np.argwhere(lost)[0]
            raise ValueError(f"item {item} is relevant to query {query}, no candidate")
    if exclude is not None:
        shown = shown & ~_mask(exclude, scores, "exclude")
    query, item = np.nonzero(shown)
    found = query_metrics(query, scores[query, item], truth[query, item], k)
    empty = len(scores) - len(found.per_query) - found.dropped
    return Ranking(found.per_query, found.dropped + empty)


def _mask(values: ArrayLike, scores: Floats, name: str) -> Booleans:
    mask = np.asarray(values)
    if scores.ndim != 2 or mask.shape != scores.shape or mask.dtype != bool:
        raise ValueError(
            f"scores must be 2-D and {name} bool of its shape, got shapes "
            f"{scores.shape} and {mask.shape} ({mask.dtype})"
        )
    return mask
