"""The scenario × task table of metrics, with intervals that respect users.

The rows of one user are not independent: someone who likes an item today likes it
tomorrow. So the intervals resample *users*, with all their rows in all scenarios
(the cluster bootstrap). Every cell of a table sees the same resamples, which is what
makes the comparison of two models on the same rows a paired one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers import evaluation
from urlm_helpers.bootstrap import (
    METRICS,
    ORDER_METRICS,
    Cell,
    percentile_interval,
    resample_users,
    values,
)
from urlm_helpers.evaluation import Floats, Ints


def _codes(column: pd.Series, name: str) -> tuple[Ints, pd.Index]:
    """Codes and labels, by first appearance or in a categorical's own order."""
    ordered = isinstance(column.dtype, pd.CategoricalDtype)
    code, labels = pd.factorize(column, sort=ordered)
    if (code < 0).any():
        row = int(np.argmax(code < 0))
        raise ValueError(f"column {name!r} is missing in row {row}")
    return code.astype(np.int64), pd.Index(labels)


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
    user, users = _codes(predictions["user"], "user")
    scenario, scenarios = _codes(predictions["scenario"], "scenario")
    weight = predictions.get("weight")
    probability = not set(metrics) <= ORDER_METRICS
    found: dict[tuple[object, str], Cell] = {}
    columns = {
        task: evaluation.checked(
            predictions[f"y_{task}"],
            predictions[f"p_{task}"],
            weight,
            probability=probability,
        )
        for task in tasks
    }
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
    """Every metric in every scenario and task, with user-bootstrap intervals.

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
        "normalized_entropy", "pcoc", "ece" (10 bins, fixed on the full sample),
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
    where that is fewer than half, or where the cell has one user. ECE is biased
    upward by noise, and once more by resampling: its interval lies high.

    References
    ----------
    Davison, A. C. and Hinkley, D. V. (1997). Bootstrap methods and their application.
    Cambridge University Press, section 3.8 (resampling of clusters).

    Examples
    --------
    >>> predictions = pd.DataFrame(
    ...     {
    ...         "user": ["a", "a", "b", "b"],
    ...         "scenario": "feed",
    ...         "y_click": [1, 0, 0, 1],
    ...         "p_click": [0.9, 0.2, 0.6, 0.4],
    ...     }
    ... )
    >>> table = evaluate(predictions, ["click"], metrics=["auc", "pcoc"])
    >>> table[["scenario", "task", "metric", "value", "rows", "users"]]
      scenario   task metric  value  rows  users
    0     feed  click    auc   0.75     4      2
    1     feed  click   pcoc   1.05     4      2
    """
    found, users = cells(predictions, tasks, metrics)
    keys = [(key, metric) for key in found for metric in metrics]
    statistics = [METRICS[metric](found[key]) for key, metric in keys]
    full = values(statistics, [np.ones((1, users))])[:, 0]
    draws = values(statistics, resample_users(users, resamples, seed))
    table = []
    for (key, metric), value, draw in zip(keys, full, draws, strict=True):
        cell = found[key]
        seen = len(np.unique(cell.user))
        low, high = percentile_interval(draw, level) if seen > 1 else (np.nan, np.nan)
        dropped = float(np.isnan(value))
        if metric == "gauc":
            dropped = evaluation.gauc(
                cell.y, cell.p, cell.user, row_weight=cell.weight
            ).dropped
        table.append(
            {
                "scenario": key[0],
                "task": key[1],
                "metric": metric,
                "value": float(value),
                "low": low,
                "high": high,
                "rows": len(cell.y),
                "users": seen,
                "positives": int(cell.y.sum()),
                "dropped": dropped,
            }
        )
    return pd.DataFrame(table)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction of p-values; NaN stays NaN and is not counted.

    The i-th smallest of m values is multiplied by m - i + 1, and the results made
    monotone. Rejecting those below α keeps the chance of any false rejection ≤ α.

    References
    ----------
    Holm, S. (1979). A simple sequentially rejective multiple test procedure.
    Scandinavian Journal of Statistics 6(2).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    scaled = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def _same_rows(a: pd.DataFrame, b: pd.DataFrame, tasks: Sequence[str]) -> None:
    """Refuse to compare predictions of different rows."""
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} rows and b has {len(b)}: not the same rows")
    if ("weight" in a) != ("weight" in b):
        raise ValueError("only one of a and b has a column 'weight'")
    shared = ["user", "scenario", *(f"y_{t}" for t in tasks)]
    for column in [*shared, *(["weight"] if "weight" in a else [])]:
        differ = a[column].to_numpy() != b[column].to_numpy()
        if np.any(differ):
            row = int(np.argmax(differ))
            raise ValueError(
                f"a and b must hold the same rows in the same order: {column!r} in "
                f"row {row} is {a[column].iloc[row]!r} in a, {b[column].iloc[row]!r} "
                f"in b"
            )


def compare(
    a: pd.DataFrame | Sequence[pd.DataFrame],
    b: pd.DataFrame | Sequence[pd.DataFrame],
    tasks: Sequence[str],
    metric: str = "auc",
    *,
    paired: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Difference of a metric between two models on the same rows.

    Parameters
    ----------
    a, b : DataFrame or sequence of DataFrame
        Predictions as in `evaluate`, of the same rows in the same order. Several
        frames are several training runs (seeds) of one model.
    tasks : sequence of str
        Names of the tasks, such as ["click", "buy"].
    metric : str
        One of `METRICS`.
    paired : bool
        Run i of a and run i of b share their seed, where both have as many runs.
        False, or different numbers of runs, treats the runs as unrelated.
    resamples, seed, level
        As in `evaluate`.

    Returns
    -------
    DataFrame
        One row per scenario × task: `scenario`, `task`, `metric`, `a`, `b` (means over
        runs), `difference` (a - b), `low`, `high`, `p_value` (two-sided, of no
        difference) and `p_holm` (Holm's correction over the table).

    Raises
    ------
    ValueError
        The frames differ in a user, scenario, label or weight; the first row that
        does is named. Also as `evaluate`.

    Notes
    -----
    The target is the difference of the *expected* metric: over users like these and
    over training runs. Each resample r draws users, evaluates every run on them, and

    .. math:: D_r = \bar a_r - \bar b_r + \frac{s}{\sqrt{S}} \, T_r,
              \qquad T_r \sim t_{S-1}

    where s is the standard deviation of the S paired differences between runs on all
    users (unpaired: one such term per model, independent). With one run per model the
    last term is missing, and the interval speaks of these two trained models only.
    The t term replaces resampling of runs, which for 3 to 5 runs gives intervals that
    are too short. The interval holds the percentiles of :math:`D_r`; the p-value is
    :math:`2 \min(\#\{D_r \le 0\} + 1, \#\{D_r \ge 0\} + 1) / (R + 1)`, at most 1. The
    time grows with the number of runs.

    Examples
    --------
    >>> a = pd.DataFrame(
    ...     {
    ...         "user": [0, 0, 1, 1, 2, 2],
    ...         "scenario": "feed",
    ...         "y_click": [1, 0, 1, 0, 1, 0],
    ...         "p_click": [0.9, 0.2, 0.8, 0.3, 0.7, 0.1],
    ...     }
    ... )
    >>> b = a.assign(p_click=0.5)
    >>> compare(a, b, ["click"], resamples=99).drop(columns=["metric", "p_holm"])
      scenario   task    a    b  difference  low  high  p_value
    0     feed  click  1.0  0.5         0.5  0.5   0.5     0.02
    """
    runs_a = [a] if isinstance(a, pd.DataFrame) else list(a)
    runs_b = [b] if isinstance(b, pd.DataFrame) else list(b)
    runs = [cells(frame, tasks, [metric]) for frame in (*runs_a, *runs_b)]
    for frame in (*runs_a[1:], *runs_b):
        _same_rows(runs_a[0], frame, tasks)
    first, users = runs[0]
    noise = np.random.default_rng([seed, 1])

    def run_noise(run: Floats) -> Floats:
        if len(run) < 2:
            return np.zeros(resamples)
        error = float(run.std(ddof=1)) / np.sqrt(len(run))
        added: Floats = error * noise.standard_t(len(run) - 1, size=resamples)
        return added

    n = len(runs_a)
    statistics = [METRICS[metric](found[key]) for key in first for found, _ in runs]
    shape = (len(first), len(runs))
    full = values(statistics, [np.ones((1, users))]).reshape(shape)
    draws = values(statistics, resample_users(users, resamples, seed)).reshape(
        *shape, resamples
    )
    table = []
    for key, value, draw in zip(first, full, draws, strict=True):
        difference = draw[:n].mean(axis=0) - draw[n:].mean(axis=0)
        if paired and len(runs_a) == len(runs_b):
            difference += run_noise(value[:n] - value[n:])
        else:
            difference += run_noise(value[:n]) - run_noise(value[n:])
        low, high = percentile_interval(difference, level)
        defined = np.count_nonzero(~np.isnan(difference))
        tail = min((difference <= 0).sum(), (difference >= 0).sum())
        table.append(
            {
                "scenario": key[0],
                "task": key[1],
                "metric": metric,
                "a": value[:n].mean(),
                "b": value[n:].mean(),
                "difference": value[:n].mean() - value[n:].mean(),
                "low": low,
                "high": high,
                "p_value": np.nan
                if np.isnan(low)
                else min(1.0, 2 * (tail + 1) / (defined + 1)),
            }
        )
    compared = pd.DataFrame(table)
    compared["p_holm"] = holm(compared["p_value"])
    return compared
