"""What every metric does with its rows: check, number, compare, add up, divide."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Booleans, Floats, Ints, refuse


def checked(
    y: ArrayLike,
    score: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    probability: bool = True,
) -> tuple[Floats, Floats, Floats]:
    """Return label, score and weight as float64 arrays, or say what is wrong."""
    y = np.asarray(y, dtype=np.float64)
    score = np.asarray(score, dtype=np.float64)
    weight = np.ones(y.shape) if weight is None else np.asarray(weight, np.float64)
    name = "p" if probability else "score"
    if not (y.ndim == 1 and y.shape == score.shape == weight.shape):
        raise ValueError(
            f"y, {name} and weight must be 1-D and of one length, got shapes "
            f"{y.shape}, {score.shape} and {weight.shape}"
        )
    refuse(y, (y != 0) & (y != 1), "y must be 0 or 1")
    refuse(weight, ~((weight >= 0) & np.isfinite(weight)), "weight must be >= 0")
    if probability:
        refuse(score, ~((score >= 0) & (score <= 1)), "p must lie in [0, 1]")
    else:
        refuse(score, np.isnan(score), "score must not be NaN")
    return y, score, weight


def codes(ids: ArrayLike, name: str, rows: int) -> tuple[Ints, pd.Index]:
    """Integer codes and labels, by first appearance or in a categorical's order."""
    column = pd.Series(ids)
    if len(column) != rows:
        raise ValueError(f"{name} has {len(column)} rows, expected {rows}")
    ordered = isinstance(column.dtype, pd.CategoricalDtype)
    code, labels = pd.factorize(column, sort=ordered)
    if (code < 0).any():
        raise ValueError(f"{name} is missing in row {int(np.argmax(code < 0))}")
    return code.astype(np.int64), pd.Index(labels)


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise ratio, NaN where the denominator is not positive."""
    defined = denominator > 0
    safe = np.where(defined, denominator, 1.0)
    return np.where(defined, numerator / safe, np.nan)


def group_sum(group: Ints, values: Floats, groups: int) -> Floats:
    """Sum of the values in each group; `group` holds codes below `groups`."""
    return np.bincount(group, values, groups).astype(np.float64)


def effective_sample_size(weight: ArrayLike) -> float:
    r"""Return how many rows of equal weight would be as noisy a mean.

    .. math:: \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    From 1, one row has all the weight, to the number of rows, all have the same. NaN
    where all weights are 0.

    References
    ----------
    Kish, L. (1965). Survey sampling. Wiley.

    Examples
    --------
    >>> effective_sample_size([2, 2, 2]), effective_sample_size([1, 0, 0])
    (3.0, 1.0)
    """
    w = np.asarray(weight, dtype=np.float64)
    refuse(w, ~((w >= 0) & np.isfinite(w)), "weight must be finite and >= 0")
    w = w / max(w.max(initial=0.0), np.finfo(np.float64).tiny)  # no overflow
    return float(divide(w.sum() ** 2, (w**2).sum()))


def starts(*columns: np.ndarray) -> Booleans:
    """Mark, in sorted rows, those where any of the columns takes a new value."""
    new = np.zeros(len(columns[0]), dtype=bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new
