"""Resampling users: every metric on every bootstrap sample, at one cost.

A metric is turned into a `Statistic`: a function of how often each user was drawn.
What can be computed once (a sort, sums within users) is; per resample remain a matrix
product, or for the AUC a sparse one and a cumulative sum.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from urlm_helpers.data.arrays import Floats, Ints
from urlm_helpers.evaluation import calibration
from urlm_helpers.evaluation import metrics as evaluation
from urlm_helpers.evaluation.rows import divide, group_sum


class Cell(NamedTuple):
    """The rows of one scenario and task; `user` holds codes below `users`."""

    y: Floats
    p: Floats
    weight: Floats
    user: Ints
    users: int


class Statistic(NamedTuple):
    """A metric of resampled users.

    `value` maps `counts @ sums`, or with no sums the `counts` themselves, to one
    value per resample; `counts` (resamples, users) says how often each was drawn.
    `dropped` is the share of rows that no value rests on.
    """

    value: Callable[[Floats], Floats]
    sums: Floats | None = None  # (users, columns)
    dropped: float = 0.0


def user_sums(user: Ints, users: int, *columns: Floats) -> Floats:
    """Sum each row-wise column within users: (users, columns)."""
    return np.stack([group_sum(user, column, users) for column in columns], axis=1)


def quotient(total: Floats) -> Floats:
    """First column over the second."""
    return divide(total[:, 0], total[:, 1])


def ratio(user: Ints, users: int, over: Floats, under: Floats) -> Statistic:
    """Make the statistic of two row-wise columns: sum of one over sum of the other."""
    return Statistic(quotient, user_sums(user, users, over, under))


def _auc(cell: Cell) -> Statistic:
    positive = cell.y == 1
    by_score = np.flatnonzero(positive)[np.argsort(cell.p[positive])]
    order, low, high = evaluation.tie_bounds(cell.p[by_score], cell.p[~positive])
    # Positives that beat the same negatives count together, and so do the negatives
    # between two of them.
    first = np.flatnonzero(np.diff(low + high, prepend=-1))
    low, high = low[first], high[first]
    cuts = np.unique(np.concatenate([low, high]))
    gain = _runs(cell, by_score, first)
    loss = _runs(cell, np.flatnonzero(~positive)[order], np.append(0, cuts))
    low, high = np.searchsorted(cuts, low), np.searchsorted(cuts, high)

    def value(counts: Floats) -> Floats:
        found = []
        for start in range(0, len(counts), 16):  # few at a time fit the cache
            drawn = counts[start : start + 16].T
            won = gain @ drawn
            below = loss @ drawn
            np.cumsum(below, axis=0, out=below)
            beaten = np.einsum("ij,ij->j", won, below.take(low, axis=0))
            beaten += np.einsum("ij,ij->j", won, below.take(high, axis=0))
            found.append(divide(beaten, 2 * won.sum(axis=0) * below[-1]))
        return np.concatenate(found)

    return Statistic(value)


def _runs(cell: Cell, rows: Ints, starts: Ints) -> sparse.csr_array:
    """Weight of each user in each run of rows: (runs, users)."""
    stops = np.append(starts, len(rows))
    entries = (cell.weight[rows], cell.user[rows], stops)
    return sparse.csr_array(entries, shape=(len(starts), cell.users))


def _gauc(cell: Cell) -> Statistic:
    each = evaluation.user_auc(cell.y, cell.p, cell.weight, cell.user, cell.users)
    unknown = np.isnan(each)
    size = np.where(unknown, 0.0, group_sum(cell.user, cell.weight, cell.users))
    sums = np.stack([size * np.nan_to_num(each), size], axis=1)
    return Statistic(quotient, sums, float(unknown[cell.user].mean()))


def _normalized_entropy(cell: Cell) -> Statistic:
    loss = evaluation.row_log_loss(cell.y, cell.p)

    def value(total: Floats) -> Floats:
        rate = divide(total[:, 1], total[:, 2])
        return divide(divide(total[:, 0], total[:, 2]), evaluation.entropy(rate))

    w = cell.weight
    return Statistic(value, user_sums(cell.user, cell.users, w * loss, w * cell.y, w))


def _ece(cell: Cell) -> Statistic:
    code = calibration.mass_bins(cell.p, cell.weight, 10)
    gap = cell.weight * (cell.p - cell.y)
    gaps = (gap * (code == b) for b in range(10))
    return Statistic(
        lambda total: divide(np.abs(total[:, :-1]).sum(axis=1), total[:, -1]),
        user_sums(cell.user, cell.users, *gaps, cell.weight),
    )


def _ratio(name: str) -> Callable[[Cell], Statistic]:
    """Make a metric that is a sum over rows divided by another."""

    def statistic(cell: Cell) -> Statistic:
        y, p, w = cell.y, cell.p, cell.weight
        said = p >= 0.5
        hit = w * y * said
        over, under = {
            "log_loss": (w * evaluation.row_log_loss(y, p), w),
            "pcoc": (w * p, w * y),
            "accuracy": (w * (said == (y == 1)), w),
            "precision": (hit, w * said),
            "recall": (hit, w * y),
            "f1": (2 * hit, w * (said + y)),
        }[name]
        return ratio(cell.user, cell.users, over, under)

    return statistic


METRICS: Mapping[str, Callable[[Cell], Statistic]] = {
    "auc": _auc,
    "gauc": _gauc,
    "log_loss": _ratio("log_loss"),
    "normalized_entropy": _normalized_entropy,
    "pcoc": _ratio("pcoc"),
    "ece": _ece,
    **{name: _ratio(name) for name in ("accuracy", "precision", "recall", "f1")},
}
# These need the order of the scores only, so any real score will do.
ORDER_METRICS = frozenset({"auc", "gauc"})


def resample_users(users: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks (b, users) of how often each user is drawn, about 32 MB each.

    Each row of a block is `users` draws with replacement. The draws depend on
    `users` and `seed` alone.
    """
    rng = np.random.default_rng(seed)
    size = max(1, 4_000_000 // max(users, 1))
    for start in range(0, resamples, size):
        block = range(start, min(start + size, resamples))
        draws = (rng.integers(users, size=users) for _ in block)
        yield np.stack([np.bincount(d, minlength=users) for d in draws]).astype(float)


def values(statistics: Sequence[Statistic], blocks: Iterable[Floats]) -> Floats:
    """Value of every statistic under all counts: (statistics, resamples)."""
    sums = [s.sums for s in statistics if s.sums is not None]
    stops = np.cumsum([columns.shape[1] for columns in sums[:-1]], dtype=np.int64)
    matrix = np.concatenate(sums, axis=1) if sums else None
    found = []
    for counts in blocks:
        totals = [] if matrix is None else np.split(counts @ matrix, stops, axis=1)
        total = iter(totals)
        found.append(
            [s.value(counts if s.sums is None else next(total)) for s in statistics]
        )
    return np.concatenate([np.array(block) for block in found], axis=1)


def percentile_interval(draws: Floats, level: float) -> tuple[float, float]:
    """Percentiles of the defined draws; NaN where fewer than half are defined."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    defined = draws[~np.isnan(draws)]
    if 2 * len(defined) < len(draws) or not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    statistics: Sequence[Statistic], users: int, resamples: int, seed: int, level: float
) -> tuple[Floats, Floats]:
    """Value of every statistic, (statistics,), and its interval, (statistics, 2)."""
    full = values(statistics, [np.ones((1, users))])[:, 0]
    draws = values(statistics, resample_users(users, resamples, seed))
    return full, np.array([percentile_interval(draw, level) for draw in draws])
