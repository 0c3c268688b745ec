"""Calibration in every scenario, task and decile of the prediction."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from urlm_helpers.evaluation.bootstrap import (
    Statistic,
    percentile_interval,
    quotient,
    resample_users,
    values,
)
from urlm_helpers.evaluation.calibration import calibration_table, mass_bins
from urlm_helpers.evaluation.intervals import cells
from urlm_helpers.evaluation.metrics import group_sum


def pcoc_deciles(
    predictions: pd.DataFrame,
    tasks: Sequence[str],
    *,
    bins: int = 10,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """PCOC in slices of equal mass of every cell, with user-bootstrap intervals.

    A PCOC of 1 over a whole cell can hide small probabilities that promise too much
    and large ones that promise too little.

    Parameters
    ----------
    predictions, tasks, resamples, seed, level
        As in `urlm_helpers.evaluation.evaluate`.
    bins : int
        Slices of each scenario × task, as in `calibration_table`.

    Returns
    -------
    DataFrame
        `scenario`, `task`, the columns of `calibration_table` (`bin`, `rows`,
        `weight`, `predicted`, `observed`, `pcoc`), and `low` and `high` of the PCOC.
        The bins are fixed on the full sample. An interval is NaN where fewer than
        half of the resamples hold a positive, or the bin has one user.

    Raises
    ------
    ValueError
        As `evaluate`; also for `bins` below 1.

    Examples
    --------
    >>> predictions = pd.DataFrame(
    ...     {
    ...         "user": ["a", "b", "a", "b"],
    ...         "scenario": "feed",
    ...         "y_click": [1, 0, 1, 1],
    ...         "p_click": [0.2, 0.2, 0.8, 0.9],
    ...     }
    ... )
    >>> table = pcoc_deciles(predictions, ["click"], bins=2, resamples=200)
    >>> table[["scenario", "task", "bin", "rows", "pcoc", "low", "high"]].round(3)
      scenario   task  bin  rows  pcoc  low  high
    0     feed  click    0     2  0.40  0.2   0.4
    1     feed  click    1     2  0.85  0.8   0.9
    """
    found, users = cells(predictions, tasks, ["pcoc"])
    tables, statistics, seen = [], [], []
    for cell in found.values():
        table = calibration_table(cell.y, cell.p, cell.weight, bins)
        tables.append(table)
        code = mass_bins(cell.p, cell.weight, bins)
        for b in table["bin"]:
            rows = np.flatnonzero(code == b)
            w, user = cell.weight[rows], cell.user[rows]
            columns = (w * cell.p[rows], w * cell.y[rows])
            sums = np.stack([group_sum(user, c, users) for c in columns], axis=1)
            statistics.append(Statistic(quotient, sums))
            seen.append(len(np.unique(user)))
    if not statistics:
        raise ValueError("no row of the predictions has a positive weight")
    draws = values(statistics, resample_users(users, resamples, seed))
    table = pd.concat(tables, keys=list(found), names=["scenario", "task"])
    table = table.reset_index(["scenario", "task"]).reset_index(drop=True)
    table[["low", "high"]] = [percentile_interval(draw, level) for draw in draws]
    table.loc[np.array(seen) < 2, ["low", "high"]] = np.nan
    return table
