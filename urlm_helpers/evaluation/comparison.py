"""Is one model better than another, on the same rows?"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from urlm_helpers.data.arrays import Floats
from urlm_helpers.evaluation.bootstrap import (
    METRICS,
    bootstrap,
    percentile_interval,
    ratio,
    resample_users,
    values,
    without_interval,
)
from urlm_helpers.evaluation.intervals import cells
from urlm_helpers.evaluation.rows import codes


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
        difference), `p_holm` (Holm's correction over the table), `positives` (rows
        with label 1) and `support`: how many users, evenly active, the rarer label
        comes from. Below 10 of them there are no interval and no p-values; for "ece"
        there are none at all, with a warning (see `evaluate`).

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
    users (unpaired: one such term per model with several runs, independent). With
    one run per model the last term is missing, and the interval speaks of these two
    trained models only. The t term stands in for resampling the runs, which with as
    few as 3 to 5 of them gives intervals that are too short.

    The interval holds the percentiles of :math:`D_r`; the p-value is
    :math:`2 \min(\#\{D_r \le 0\} + 1, \#\{D_r \ge 0\} + 1) / (R + 1)`, at most 1. The
    time grows with the number of runs.

    Examples
    --------
    Twenty users saw two items each and clicked on one. Model a has put the right one
    first for sixteen of them, b says the same of both:

    >>> a = pd.DataFrame({"user": np.arange(40) // 2, "scenario": "feed"})
    >>> a["y_click"] = [1, 0] * 20
    >>> a["p_click"] = [0.8, 0.2] * 16 + [0.2, 0.8] * 4
    >>> table = compare(a, a.assign(p_click=0.5), ["click"], resamples=200)
    >>> table[["a", "b", "difference", "low", "high", "positives", "support"]]
         a    b  difference  low  high  positives  support
    0  0.8  0.5         0.3  0.1  0.45         20     20.0
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
    made = {key: [METRICS[metric](found[key]) for found, _ in runs] for key in first}
    statistics = [s for of_cell in made.values() for s in of_cell]
    if any(s.shifted for s in statistics):
        warnings.warn(
            f"no interval for differences in {metric!r}: noise raises it, in a good "
            "model more than in a bad one, and resampling raises it once more. Compare "
            "'log_loss', and look at the 'pcoc' of each",
            stacklevel=2,
        )
    shape = (len(first), len(runs))
    full = values(statistics, [np.ones((1, users))]).reshape(shape)
    draws = values(statistics, resample_users(users, resamples, seed)).reshape(
        *shape, resamples
    )
    table = []
    weakest = {k: min(each, key=lambda s: s.support) for k, each in made.items()}
    without = without_interval(weakest)
    for key, value, draw, bare in zip(first, full, draws, without, strict=True):
        mean_a, mean_b = value[:n].mean(), value[n:].mean()
        difference = draw[:n].mean(axis=0) - draw[n:].mean(axis=0)
        if paired and len(runs_a) == len(runs_b):
            difference += run_noise(value[:n] - value[n:])
        else:
            difference += run_noise(value[:n]) - run_noise(value[n:])
        if bare:
            difference[:] = np.nan
        low, high = percentile_interval(difference, level)
        tail = min((difference <= 0).sum(), (difference >= 0).sum())
        p = np.nan if np.isnan(low) else min(1.0, 2 * (tail + 1) / (resamples + 1))
        table.append((*key, metric, mean_a, mean_b, mean_a - mean_b, low, high, p))
    names = ["scenario", "task", "metric", "a", "b", "difference", "low", "high"]
    compared = pd.DataFrame(table, columns=[*names, "p_value"])
    compared["p_holm"] = holm(compared["p_value"])
    positives = [int(cell.y.sum()) for cell in first.values()]
    support = [s.support for s in weakest.values()]
    return compared.assign(positives=positives, support=support)


def user_mean(
    value: ArrayLike,
    user: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over rows and its user-bootstrap interval.

    Two rankings of the same queries are compared by the mean of their differences:
    `user_mean(a["ndcg@10"] - b["ndcg@10"], user)` with the per-query tables of
    `urlm_helpers.evaluation.query_metrics` and the user of each query.

    Parameters
    ----------
    value, user : array, shape (rows,)
        A number per row, and whose row it is.
    resamples, seed, level
        As in `urlm_helpers.evaluation.evaluate`.

    Returns
    -------
    mean, low, high : float
        The interval is NaN, with a warning, where what is summed comes from few users
        (see `urlm_helpers.evaluation.evaluate`).

    Raises
    ------
    ValueError
        Lengths differ or a value is NaN.

    Examples
    --------
    >>> user_mean([1.0, 3.0] * 20, np.repeat(np.arange(20), 2), resamples=200)
    (2.0, 2.0, 2.0)
    """
    value = np.asarray(value, dtype=np.float64)
    code, names = codes(user, "user", len(value))
    if np.isnan(value).any():
        raise ValueError(f"value is NaN in row {int(np.argmax(np.isnan(value)))}")
    n = len(names)
    mean = ratio(code, n, value, np.ones(len(value)))
    full, interval = bootstrap({"the mean": mean}, n, resamples, seed, level)
    return float(full[0]), float(interval[0, 0]), float(interval[0, 1])


def t_interval(
    values: ArrayLike, level: float = 0.95, axis: int = 0
) -> tuple[Any, Any, Any]:
    """Mean over runs and its Student t-interval.

    One number per run: per seed, or per simulated app. Two models that were run on the
    same ones are compared by their differences, run by run.

    Parameters
    ----------
    values : array
        The numbers, at least two along the axis.
    level : float
        Of the interval.
    axis : int
        Of the runs; each place of the other axes gets its own interval.

    Returns
    -------
    mean, low, high : float, or array without the axis of the runs

    Raises
    ------
    ValueError
        Fewer than two runs: one says nothing about how far runs lie apart.

    Examples
    --------
    >>> mean, low, high = t_interval([0.03, 0.01, 0.02])
    >>> print(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    0.020 [-0.005, 0.045]
    """
    x = np.asarray(values, dtype=np.float64)
    runs = x.shape[axis] if x.ndim else 1
    if runs < 2:
        raise ValueError(f"an interval needs 2 runs or more, got {runs}")
    error = x.std(axis=axis, ddof=1) / np.sqrt(runs)
    mean, half = x.mean(axis=axis), stats.t.ppf(0.5 + level / 2, runs - 1) * error
    return mean, mean - half, mean + half
