"""The scenario × task table of metrics, with intervals that respect users.

The rows of one user are not independent: someone who likes an item today likes it
tomorrow. So the intervals resample *users*, with all their rows in all scenarios
(the cluster bootstrap). Every cell of a table sees the same resamples, which is what
makes the comparison of two models on the same rows a paired one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.evaluation.bootstrap import (
    METRICS,
    ORDER_METRICS,
    Cell,
    Statistic,
    bootstrap,
    ratio,
)
from urlm_helpers.evaluation.catalog import exposure, gini, shown_popularity
from urlm_helpers.evaluation.ranking import query_metrics
from urlm_helpers.evaluation.rows import checked, codes


def cells(
    predictions: pd.DataFrame, tasks: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[tuple[object, str], Cell], int]:
    """Split a predictions frame by scenario and task; also the number of users."""
    unknown = [m for m in metrics if m not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}, choose from {list(METRICS)}")
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names, got the string {tasks!r}")
    needed = ["user", "scenario", *(f"{c}_{t}" for t in tasks for c in "yp")]
    missing = [c for c in needed if c not in predictions]
    if missing or not len(predictions):
        raise ValueError(
            f"predictions have no rows or lack columns: missing {missing}, "
            f"got {list(predictions.columns)} and {len(predictions)} rows"
        )
    user, users = codes(predictions["user"], "user", len(predictions))
    scenario, scenarios = codes(predictions["scenario"], "scenario", len(predictions))
    weight = predictions.get("weight")
    probability = not set(metrics) <= ORDER_METRICS
    columns = {}
    for task in tasks:
        label, score = predictions[f"y_{task}"], predictions[f"p_{task}"]
        columns[task] = checked(label, score, weight, probability=probability)
    found: dict[tuple[object, str], Cell] = {}
    for s, label in enumerate(scenarios):
        rows = np.flatnonzero(scenario == s)
        for task, (y, p, w) in columns.items():
            found[label, task] = Cell(y[rows], p[rows], w[rows], user[rows], len(users))
    return found, len(users)


def evaluate(
    predictions: pd.DataFrame,
    tasks: Sequence[str],
    *,
    metrics: Sequence[str] = ("auc", "gauc", "log_loss", "pcoc", "ece"),
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Every metric in every scenario and task, with user-bootstrap intervals.

    Parameters
    ----------
    predictions : DataFrame
        Columns `user`, `scenario`, `y_<task>` (0/1) and `p_<task>` (probability; any
        score will do for "auc" and "gauc" alone) for every task, and optionally
        `weight`: how many impressions a row stands for.
        Scenarios are listed by first appearance, or in a categorical's own order.
    tasks : sequence of str
        Names of the tasks, such as ["click", "buy"].
    metrics : sequence of str
        Keys of `METRICS`: "auc", "gauc" (weighted by impressions), "log_loss",
        "normalized_entropy", "pcoc", "ece" (10 bins; without an interval),
        "accuracy", "precision", "recall" and "f1" (at p ≥ 0.5).
    resamples : int
        Bootstrap resamples of the users.
    seed : int
        Of the resamples; the same seed and users give the same resamples.
    level : float
        Of the intervals.

    Returns
    -------
    DataFrame
        One row per scenario × task × metric: `scenario`, `task`, `metric`, `value`,
        `low`, `high`, `rows`, `users`, `positives` (rows with label 1) and `dropped`
        (the share of rows that the value leaves out: for "gauc" those of users with
        one class; all of them where the value is NaN).

    Raises
    ------
    ValueError
        A column is missing, an id is missing, a label is not 0/1, a probability is
        outside [0, 1], or a metric is unknown.

    Notes
    -----
    Intervals are percentiles over the resamples in which the metric is defined; NaN
    where that is fewer than half. They are NaN too, with a warning, where the rarer
    label (for "precision", "recall" and "f1" also the hits) comes from fewer than 10
    users: resamples of one positive all hold the same positive, and say nothing of
    what another would have done. Of users with :math:`n_u` rows of that label each
    counts in proportion, :math:`(\sum_u n_u)^2 / \sum_u n_u^2` of them in all. With
    one positive 95 % intervals of noise missed the truth in 75 of 100 simulated logs,
    with four in 18; where they are given, in 4 to 10
    (`benchmarks/interval_coverage.py`).

    ECE has no interval (NaN). Noise in the bins raises it and resampling raises it once
    more: percentiles missed the 0 of a model that is exactly right in every log, and in
    10 to 60 of 100 with the bootstrap's estimate of the bias taken off, right or not.
    Hold the value against `ece_floor`, what a model that is right shows, and read the
    interval of PCOC, over all rows (here) or in bins (`pcoc_deciles`).

    References
    ----------
    Davison, A. C. and Hinkley, D. V. (1997). Bootstrap methods and their application.
    Cambridge University Press, section 3.8 (resampling of clusters).

    Examples
    --------
    >>> predictions = pd.DataFrame({"user": list("aabb"), "scenario": "feed"})
    >>> predictions["y_click"] = [1, 0, 0, 1]
    >>> predictions["p_click"] = [0.9, 0.2, 0.6, 0.4]
    >>> table = evaluate(predictions, ["click"], metrics=["auc", "pcoc"])
    >>> table[["scenario", "task", "metric", "value", "rows", "users"]]
      scenario   task metric  value  rows  users
    0     feed  click    auc   0.75     4      2
    1     feed  click   pcoc   1.05     4      2
    """
    found, users = cells(predictions, tasks, metrics)
    keys = [(key, metric) for key in found for metric in metrics]
    statistics = {(*key, metric): METRICS[metric](found[key]) for key, metric in keys}
    value, interval = bootstrap(statistics, users, resamples, seed, level)
    table = pd.DataFrame(list(statistics), columns=["scenario", "task", "metric"])
    table["value"] = value
    table[["low", "high"]] = interval
    counts = [
        (len(cell.y), len(np.unique(cell.user)), int(cell.y.sum()))
        for cell in (found[key] for key, _ in keys)
    ]
    table[["rows", "users", "positives"]] = counts
    dropped = np.array([statistic.dropped for statistic in statistics.values()])
    return table.assign(dropped=np.where(np.isnan(value), 1.0, dropped))


def ranking_table(
    query: ArrayLike,
    user: ArrayLike,
    score: ArrayLike,
    label: ArrayLike,
    k: int | Sequence[int] = 10,
    *,
    scenario: ArrayLike | None = None,
    item: ArrayLike | None = None,
    popularity: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Mean ranking metrics over queries, with user-bootstrap intervals.

    Parameters
    ----------
    query, score, label : array, shape (rows,)
        All candidates of all queries, as in `query_metrics`.
    user : array, shape (rows,)
        The user who made the query; one per query.
    k : int or sequence of int
        Cut-offs.
    scenario : array, shape (rows,), optional
        One per query; a table row for each. Without it all queries are one, "all".
    item : array, shape (rows,), optional
        The candidate's id. Adds `coverage@k`, the expected share of the scenario's
        items that any query is shown, and `gini@k` of how often each is shown, over
        all queries, those without a relevant item too.
    popularity : array, shape (rows,), optional
        How often the candidate was had before. Adds `popularity@k`, the mean of what
        is shown, over all queries too.
    resamples, seed, level
        As in `urlm_helpers.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        One row per scenario × metric: `scenario`, `metric`, `value`, `low`, `high`,
        `queries` and `users` behind the value, and `dropped`, the share of queries
        left out for want of a relevant item. Coverage and Gini have no interval:
        a resample holds fewer distinct users, which shifts them.

    Raises
    ------
    ValueError
        As `query_metrics`; also where a query has two users or two scenarios.

    Examples
    --------
    >>> table = ranking_table(
    ...     query=np.repeat(np.arange(40), 2), user=np.repeat(np.arange(40), 2),
    ...     score=[2, 1, 1, 2] * 20, label=[1, 0] * 40, k=1, resamples=200,
    ... )
    >>> table.loc[table["metric"] == "recall@1", ["value", "low", "high", "queries"]]
       value    low  high  queries
    0    0.5  0.375  0.65       40
    """
    code, _ = codes(query, "query", len(np.asarray(query)))
    first = np.unique(code, return_index=True)[1]
    who, users = codes(user, "user", len(code))
    ids = np.full(len(code), "all") if scenario is None else scenario
    where, scenarios = codes(ids, "scenario", len(code))
    for column, what in ((who, "user"), (where, "scenario")):
        if np.any(column != column[first][code]):
            raise ValueError(f"a query has rows of more than one {what}")
    cuts = [k] if isinstance(k, int) else k
    ranking = query_metrics(code, score, label, cuts)
    metrics = ranking.per_query.drop(columns=["relevant", "candidates"])
    metrics = metrics.reindex(np.arange(len(first)))  # NaN without a relevant item
    if popularity is not None:
        for cut in cuts:
            shown = shown_popularity(code, score, popularity, cut)
            metrics[f"popularity@{cut}"] = shown
    lines: list[tuple[object, ...]] = []
    statistics: dict[tuple[Any, Any], Statistic] = {}
    for s, name in enumerate(scenarios):
        here = where[first] == s
        for metric in metrics:
            each = metrics[metric].to_numpy()
            rows = np.flatnonzero(here & ~np.isnan(each))
            owner, one = who[first][rows], np.ones(len(rows))
            statistics[name, metric] = ratio(owner, len(users), each[rows], one)
            dropped = float(1 - len(rows) / here.sum())
            lines.append((name, metric, len(rows), len(np.unique(owner)), dropped))
    names = ["scenario", "metric", "queries", "users", "dropped"]
    table = pd.DataFrame(lines, columns=names)
    value, interval = bootstrap(statistics, len(users), resamples, seed, level)
    table["value"] = value
    table[["low", "high"]] = interval
    if item is not None:
        lists = pd.DataFrame({"query": code, "user": who, "item": item, "score": score})
        more = [
            _catalog_lines(lists[where == s], name, cuts)
            for s, name in enumerate(scenarios)
        ]
        table = pd.concat([table, *more], ignore_index=True)
    order = ["scenario", "metric", "value", "low", "high", "queries", "users"]
    return table[[*order, "dropped"]]


def _catalog_lines(
    shown: pd.DataFrame, scenario: str, cuts: Sequence[int]
) -> pd.DataFrame:
    """Coverage and Gini of what a scenario shows."""
    lines: list[tuple[str, float]] = []
    for k in cuts:
        times = exposure(shown["query"], shown["item"], shown["score"], k)
        lines.append((f"coverage@{k}", float(times["reached"].mean())))
        lines.append((f"gini@{k}", gini(times["exposure"])))
    return pd.DataFrame(lines, columns=["metric", "value"]).assign(
        scenario=scenario,
        low=np.nan,
        high=np.nan,
        queries=shown["query"].nunique(),
        users=shown["user"].nunique(),
        dropped=0.0,
    )
