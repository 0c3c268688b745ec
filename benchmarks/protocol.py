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

*Differences* are taken world by world, on the pages. An interval is Student's over the
worlds; the p-values of one table are one family and corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

TUNING = (98, 99)
RESULTS_ON = tuple(range(101, 111))
FIRST = (0.002, 0.004, 0.008, 0.016)

MOVE = 2e-4  # nats a row

Way = dict[str, float]
"""``step_size``, ``passes``, ``batch`` and ``decay``."""
LEAST = {"step_size": 1e-5, "passes": 1, "batch": 16, "decay": 1e-3}
FACTOR = {"step_size": 2.0, "passes": 2.0, "batch": 2.0, "decay": 3.0}


def climb(loss: Callable[[Way, bool], float], start: Way) -> Way:
    """Return a way to train that no neighbor betters by more than ``MOVE``.

    Parameters
    ----------
    loss : callable
        The validation loss of a way, on the first tuning world or on all of them;
        asked once for each.
    start : mapping
        Its step size does not matter.
    """
    asked: dict[tuple[float, ...], float] = {}

    def known(way: Way) -> float:
        key = tuple(way.values())
        if key not in asked:
            asked[key] = loss(way, True)
        return asked[key]

    grid = [
        {**start, "step_size": rate, "passes": start["passes"] * more}
        for rate, more in product(FIRST, (1, 2))
    ]
    best = min(grid, key=lambda way: loss(way, False))
    moved = True
    while moved:
        moved = False
        for axis, up in product(LEAST, (True, False)):
            while True:
                value = best[axis] * FACTOR[axis] ** (1 if up else -1)
                whole = axis in ("passes", "batch")
                value = int(value) if whole else float(f"{value:.3g}")
                trial = {**best, axis: value}
                if value < LEAST[axis] or known(trial) >= known(best) - MOVE:
                    break
                best, moved = trial, True
    return best


def boosted(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    kinds: list[int],
    setting: tuple[int, float, float],
    seed: int,
) -> tuple[Any, float]:
    """Boost trees as long as the validation rows gain; return them and their loss.

    Parameters
    ----------
    train, valid : pair of array
        Rows and labels.
    kinds : list of int
        The columns whose numbers are names.
    setting : tuple
        Leaves, learning rate, and the share of the columns that each tree sees.
    seed : int
        Draws these columns.
    """
    import lightgbm

    leaves, rate, share = setting
    how = {"objective": "binary", "verbose": -1, "seed": seed}
    how |= {"num_leaves": leaves, "learning_rate": rate, "max_bin": 63}
    how |= {"feature_fraction": share, "lambda_l2": 5.0, "num_threads": 1}
    how |= {"cat_smooth": 100, "min_data_per_group": 200}
    how |= {"deterministic": True, "force_row_wise": True}
    rows = lightgbm.Dataset(*train, params=how, categorical_feature=kinds)
    watched = rows.create_valid(*valid)
    stop = [lightgbm.early_stopping(20, verbose=False)]
    model = lightgbm.train(how, rows, 600, [watched], callbacks=stop)
    return model, model.best_score["valid_0"]["binary_logloss"]
