"""Resampling users: every metric on every bootstrap sample, at one cost.

A metric is turned into a `Statistic`: a function of how often each user was drawn.
What can be computed once (a sort, sums within users) is; per resample remain a matrix
product, or for the AUC a sparse one and a cumulative sum.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from urlm_helpers.data.arrays import Booleans, Floats, Ints
from urlm_helpers.evaluation import calibration
from urlm_helpers.evaluation import metrics as evaluation
from urlm_helpers.evaluation.rows import divide, effective_sample_size, group_sum

# Intervals that rest on fewer users are too short: `benchmarks/interval_coverage.py`.
ENOUGH = 10.0


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
    `dropped` is the share of rows that no value rests on, `support` the number of
    users, had each the same part in it, that it does rest on. `shifted` says that
    noise moves the value to one side and resampling moves it once more, so that the
    percentiles of the resamples are no interval.
    """

    value: Callable[[Floats], Floats]
    sums: Floats | None = None  # (users, columns)
    dropped: float = 0.0
    support: float = np.inf
    shifted: bool = False


def user_sums(user: Ints, users: int, *columns: Floats) -> Floats:
    """Sum each row-wise column within users: (users, columns)."""
    return np.stack([group_sum(user, column, users) for column in columns], axis=1)


def quotient(total: Floats) -> Floats:
    """First column over the second."""
    return divide(total[:, 0], total[:, 1])


def ratio(user: Ints, users: int, over: Floats, under: Floats) -> Statistic:
    """Make the statistic of two row-wise columns: sum of one over sum of the other."""
    support = min(effective_users(user, users, column) for column in (over, under))
    return Statistic(quotient, user_sums(user, users, over, under), support=support)


def effective_users(user: Ints, users: int, amount: Floats) -> float:
    """Count the users that a row-wise amount is spread over, those with more for less.

    Ten users with one positive each are 10, and so are ten with five each; one user
    with a hundred beside nine with one is 1.2.
    """
    each = group_sum(user, np.abs(amount), users)
    return float(np.nan_to_num(effective_sample_size(each)))


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
    dropped = unknown[cell.user]
    support = effective_users(cell.user, cell.users, cell.weight * ~dropped)
    return Statistic(quotient, sums, float(dropped.mean()), support)


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
        shifted=True,
    )


def _sums(cell: Cell, over: Floats, under: Floats) -> Statistic:
    """A quotient that rests on the labels alone, whatever is predicted."""
    return Statistic(quotient, user_sums(cell.user, cell.users, over, under))


def _decision(cell: Cell, name: str) -> Statistic:
    columns = evaluation.decision_columns(cell.y, cell.p, cell.weight)
    return ratio(cell.user, cell.users, *columns[name])


def _on_both_classes(make: Callable[[Cell], Statistic]) -> Callable[[Cell], Statistic]:
    """Let the statistic of a cell rest on the users of its rarer label."""

    def statistic(cell: Cell) -> Statistic:
        made = make(cell)
        classes = (cell.weight * cell.y, cell.weight * (1 - cell.y))
        each = (effective_users(cell.user, cell.users, amount) for amount in classes)
        return made._replace(support=min(made.support, *each))

    return statistic


_BARE: Mapping[str, Callable[[Cell], Statistic]] = {
    "auc": _auc,
    "gauc": _gauc,
    "log_loss": lambda cell: _sums(
        cell, cell.weight * evaluation.row_log_loss(cell.y, cell.p), cell.weight
    ),
    "normalized_entropy": _normalized_entropy,
    "pcoc": lambda cell: _sums(cell, cell.weight * cell.p, cell.weight * cell.y),
    "ece": _ece,
    **{
        name: partial(_decision, name=name)
        for name in ("accuracy", "precision", "recall", "f1")
    },
}
METRICS = {name: _on_both_classes(make) for name, make in _BARE.items()}
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


def without_interval(named: Mapping[Any, Statistic]) -> Booleans:
    """Mark what is shifted or rests on fewer than `ENOUGH` users; warn of the few."""
    few = {
        name: round(s.support, 1)
        for name, s in named.items()
        if s.support < ENOUGH and not s.shifted
    }
    if few:
        warnings.warn(
            f"no interval for {len(few)} of {len(named)} values: the rarer label, or "
            f"what is summed, comes from fewer than {ENOUGH:.0f} users, counted by "
            f"their shares: {few}. More days, or scenarios taken together, have more",
            stacklevel=3,
        )
    return np.array([s.shifted or name in few for name, s in named.items()])


def bootstrap(
    named: Mapping[Any, Statistic], users: int, resamples: int, seed: int, level: float
) -> tuple[Floats, Floats]:
    """Value of every statistic, (statistics,), and its interval, (statistics, 2)."""
    made = list(named.values())
    full = values(made, [np.ones((1, users))])[:, 0]
    draws = values(made, resample_users(users, resamples, seed))
    interval = np.array([percentile_interval(draw, level) for draw in draws])
    interval[without_interval(named)] = np.nan
    return full, interval
