"""The scenario × task table again, in slices: new users and items, deciles of p.

A mean over all rows hides them: most impressions are of users and items with a long
past, whose ids a model has learned, and most predictions are small.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.evaluation.bootstrap import Statistic, bootstrap, ratio
from urlm_helpers.evaluation.calibration import calibration_table, mass_bins
from urlm_helpers.evaluation.intervals import cells, evaluate
from urlm_helpers.preprocessing.lookback import LookBack


def cold_start(
    rows: pd.DataFrame, events: pd.DataFrame, enough: int = 1
) -> pd.DataFrame:
    """Mark the rows whose user or item has too short a past.

    Parameters
    ----------
    rows : DataFrame
        The rows to be evaluated: columns `user`, `item` and `time`.
    events : DataFrame
        Of the training period, with the same columns: what the model could learn
        from. With the whole log a user is cold until their first event only.
    enough : int
        Who has fewer strictly earlier events than this is cold.

    Returns
    -------
    DataFrame
        The index of `rows` and three bool columns: `warm` (neither is cold),
        `cold user` and `cold item`; the last two overlap where both are cold.

    Raises
    ------
    KeyError
        A column is missing.
    ValueError
        `enough` is below 1, which would leave nobody cold.

    Examples
    --------
    >>> day = pd.to_datetime(["2024-01-01", "2024-01-02"])
    >>> events = pd.DataFrame({"user": [1, 2], "item": ["x", "y"], "time": day})
    >>> rows = pd.DataFrame({"user": [1, 1, 3], "item": ["x", "z", "y"]})
    >>> cold_start(rows.assign(time=pd.Timestamp("2024-01-05")), events)
        warm  cold user  cold item
    0   True      False      False
    1  False      False       True
    2  False       True      False
    """
    if enough < 1:
        raise ValueError(f"enough must be at least 1, got {enough}")
    user, item = (
        LookBack(events, rows, [by]).count() < enough for by in ("user", "item")
    )
    return pd.DataFrame(
        {"warm": ~user & ~item, "cold user": user, "cold item": item}, index=rows.index
    )


def evaluate_slices(
    predictions: pd.DataFrame,
    tasks: Sequence[str],
    slices: pd.DataFrame | Mapping[str, ArrayLike],
    **options: Any,
) -> pd.DataFrame:
    """Evaluate all rows and each slice of them: one table, with a column `slice`.

    Parameters
    ----------
    predictions, tasks
        As in `evaluate`.
    slices : DataFrame or mapping of str to array of bool
        The rows of each slice, as from `cold_start`. They may overlap.
    **options
        Of `evaluate`: `metrics`, `resamples`, `seed` and `level`.

    Returns
    -------
    DataFrame
        The lines of `evaluate` behind a first column `slice`: "all", then the given
        slices. A slice, or a scenario in it, without rows has no lines.

    Raises
    ------
    ValueError
        A slice is not bool, has another length or is called "all"; and as `evaluate`.

    Notes
    -----
    Each slice resamples its own users, so its intervals speak of users like these.

    Examples
    --------
    >>> predictions = pd.DataFrame({"user": list("aabb"), "scenario": "feed"})
    >>> predictions["y_click"] = [1, 0, 0, 1]
    >>> predictions["p_click"] = [0.9, 0.2, 0.6, 0.4]
    >>> new = {"cold user": predictions["user"] == "b"}
    >>> table = evaluate_slices(predictions, ["click"], new, metrics=["auc"])
    >>> table[["slice", "scenario", "value", "rows"]]
           slice scenario  value  rows
    0        all     feed   0.75     4
    1  cold user     feed   0.00     2
    """
    parts = {"all": np.ones(len(predictions), dtype=bool)}
    for name, rows in slices.items():
        mask = np.asarray(rows)
        if mask.dtype != bool or mask.shape != (len(predictions),) or name == "all":
            raise ValueError(
                f"a slice must be bool, of shape ({len(predictions)},) and not called "
                f"'all', got {name!r} of {mask.dtype} and shape {mask.shape}"
            )
        parts[str(name)] = mask
    tables = []
    for name, mask in parts.items():
        if mask.any() or name == "all":
            table = evaluate(predictions[mask], tasks, **options)
            table.insert(0, "slice", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


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
        The bins are fixed on the full sample. An interval is NaN, with a warning,
        where the bin's positives come from few users, as in `evaluate`.

    Raises
    ------
    ValueError
        As `evaluate`; also for `bins` below 1.

    Examples
    --------
    >>> predictions = pd.DataFrame({"user": np.arange(80) // 2, "scenario": "feed"})
    >>> predictions["y_click"] = [0, 1, 1, 1] * 20
    >>> predictions["p_click"] = [0.2, 0.8, 0.2, 0.9] * 20
    >>> table = pcoc_deciles(predictions, ["click"], bins=2, resamples=200)
    >>> table[["scenario", "task", "bin", "rows", "pcoc", "low", "high"]].round(3)
      scenario   task  bin  rows  pcoc    low   high
    0     feed  click    0    40  0.40  0.320  0.571
    1     feed  click    1    40  0.85  0.835  0.862
    """
    found, users = cells(predictions, tasks, ["pcoc"])
    tables = []
    statistics: dict[tuple[object, str, int], Statistic] = {}
    for key, cell in found.items():
        table = calibration_table(cell.y, cell.p, cell.weight, bins)
        tables.append(table)
        code = mass_bins(cell.p, cell.weight, bins)
        for b in table["bin"]:
            rows = np.flatnonzero(code == b)
            w, user = cell.weight[rows], cell.user[rows]
            columns = (w * cell.p[rows], w * cell.y[rows])
            statistics[*key, b] = ratio(user, users, *columns)
    if not statistics:
        raise ValueError("no row of the predictions has a positive weight")
    _, interval = bootstrap(statistics, users, resamples, seed, level)
    table = pd.concat(tables, keys=list(found), names=["scenario", "task"])
    table = table.reset_index(["scenario", "task"]).reset_index(drop=True)
    table[["low", "high"]] = interval
    return table
