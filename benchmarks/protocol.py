r"""How contenders are compared in the studies of this book, written down once.

*Worlds.* Settings are chosen on the worlds ``TUNING``; ``RESULTS_ON`` are asked once,
after everything is chosen. None of them was looked at while models were built.

*Tuning.* Each contender gets the same search, :func:`climb`, for step size, passes,
batch and weight decay, by the loss of the validation rows. First a grid, ``FIRST`` step
sizes times the passes of the start and twice as many, on the first tuning world. From
the best of it, each setting is doubled or halved, on all tuning worlds, until no
neighbor is better by more than ``MOVE``, which is what luck makes of two worlds. So no
winner stands at an end of a grid: there are no ends, but for the batch, 16 at least.

*Passes.* The step size falls to 0 over the passes; the best pass is kept.

*Differences* are taken world by world. An interval is Student's over the worlds; the
p-values of one table are one family and corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from urlm_helpers.evaluation import holm

TUNING = (98, 99)
RESULTS_ON = tuple(range(101, 111))
FIRST = (0.002, 0.004, 0.008, 0.016)

MOVE = 2e-4  # nats a row

Way = dict[str, float]
"""``step_size``, ``passes``, ``batch`` and ``decay``."""
LEAST = {"step_size": 1e-5, "passes": 1, "batch": 16, "decay": 1e-3}
FACTOR = {"step_size": 2.0, "passes": 2.0, "batch": 2.0, "decay": 3.0}


def climb(
    loss: Callable[[Way, bool], float],
    start: Way,
    axes: tuple[str, ...] = tuple(LEAST),
) -> Way:
    """Return a way to train that no neighbor betters by more than ``MOVE``.

    Parameters
    ----------
    loss : callable
        The validation loss of a way, on the first tuning world or on all of them;
        asked once for each.
    start : mapping
        Its step size does not matter; a decay of 0 stays.
    axes : tuple of str
        What may move; the rest stays as in the start.
    """
    asked: dict[tuple[float, ...], float] = {}

    def known(way: Way) -> float:
        key = tuple(way.values())
        if key not in asked:
            asked[key] = loss(way, True)
        return asked[key]

    passes = (1, 2) if "passes" in axes else (1,)
    grid = [
        {**start, "step_size": rate, "passes": start["passes"] * more}
        for rate, more in product(FIRST, passes)
    ]
    best = min(grid, key=lambda way: loss(way, False))
    moved = True
    while moved:
        moved = False
        for axis, up in product(axes, (True, False)):
            while True:
                value = best[axis] * FACTOR[axis] ** (1 if up else -1)
                whole = axis in ("passes", "batch")
                value = int(value) if whole else float(f"{value:.3g}")
                trial = {**best, axis: value}
                if value < LEAST[axis] or known(trial) >= known(best) - MOVE:
                    break
                best, moved = trial, True
    return best


def differences(
    values: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]
) -> pd.DataFrame:
    """Return the mean difference of pairs of contenders, as one family.

    Parameters
    ----------
    values : DataFrame
        A line for each cell; columns ``(contender, world)``.
    pairs : mapping
        What a comparison is called, and the two whose values are subtracted.
    """
    tables = []
    for a, b in pairs.values():
        gap = values[a] - values[b]
        found = stats.ttest_1samp(gap, 0, axis=1)
        low, high = found.confidence_interval()
        each = {"difference": gap.mean(axis=1), "low": low, "high": high}
        tables.append(pd.DataFrame({**each, "p_value": found.pvalue}, gap.index))
    table = pd.concat(tables, keys=pairs, names=["pair"])
    return table.assign(p_holm=holm(np.asarray(table["p_value"])))
