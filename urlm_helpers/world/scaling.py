"""How far a model is from the truth, and how that falls with its size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from urlm_helpers.data.arrays import Floats

TINY = 1e-12


def excess(truth: pd.DataFrame, logits: np.ndarray, tasks: Sequence[str]) -> Floats:
    r"""Nats per row that a model loses against the truth, without label noise.

    The labels of a row are a chain of tasks :math:`t`, each possible where the one
    before it happened. The log-likelihood of the truth minus that of the model, in
    expectation over the labels, is

    .. math:: \sum_t P(\text{parent of } t)\;
        \mathrm{KL}\bigl(p_t \,\|\, q_t\bigr), \qquad
        \mathrm{KL}(p \| q) = p \ln\frac pq + (1 - p) \ln\frac{1 - p}{1 - q}

    with the probabilities given the parent, :math:`p` of the truth and :math:`q` of
    the model. It is 0 for the truth alone.

    Parameters
    ----------
    truth : DataFrame
        Of a :class:`~urlm_helpers.world.World`.
    logits : ndarray, shape (rows, tasks)
        Of each task given its parent.
    tasks : sequence of str
        The chain, from the first task on.

    Returns
    -------
    ndarray, shape (rows,)

    Raises
    ------
    ValueError
        If there is not one logit per row and task.

    Examples
    --------
    >>> truth = pd.DataFrame({"click": [0.5, 0.5]})
    >>> excess(truth, np.array([[0.0], [np.log(3)]]), ["click"]).round(3).tolist()
    [0.0, 0.144]
    """
    z = np.asarray(logits, "float64")
    if z.shape != (len(truth), len(tasks)):
        raise ValueError(
            f"{len(truth)} rows and {len(tasks)} tasks need logits of that shape, "
            f"got {z.shape}"
        )
    total = np.zeros(len(truth))
    parent = np.ones(len(truth))
    for t, task in enumerate(tasks):
        now = truth[task].to_numpy("float64")
        p = np.clip(now / parent, TINY, 1 - TINY)
        gain = p * np.log(p) + (1 - p) * np.log1p(-p)
        cross = np.logaddexp(0, z[:, t]) - p * z[:, t]
        total += parent * (gain + cross)
        parent = now
    return total


def action_excess(
    truth: pd.DataFrame, logits: np.ndarray, tasks: Sequence[str]
) -> Floats:
    r"""Return the same for a softmax over how many tasks of the chain happened.

    Parameters
    ----------
    truth : DataFrame
        Of a world.
    logits : ndarray, shape (rows, tasks + 1)
        Of each number of tasks, from none to all.
    tasks : sequence of str
        The chain.

    Returns
    -------
    ndarray, shape (rows,)

    Examples
    --------
    >>> truth = pd.DataFrame({"click": [0.5]})
    >>> action_excess(truth, np.array([[0.0, np.log(3)]]), ["click"]).round(3).tolist()
    [0.144]
    """
    reached = [np.ones(len(truth)), *(truth[t].to_numpy("float64") for t in tasks)]
    p = np.stack([*(-np.diff(reached, axis=0)), reached[-1]], axis=1)
    p = np.clip(p, TINY, 1)
    z = np.asarray(logits, "float64")
    if z.shape != p.shape:
        raise ValueError(f"logits of shape {p.shape} are needed, got {z.shape}")
    top = z.max(axis=1, keepdims=True)
    log_q = z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return (p * (np.log(p) - log_q)).sum(axis=1)


@dataclass(frozen=True)
class PowerLaw:
    r"""A curve :math:`y = E + A\, x^{-b}`, and how sure its numbers are.

    Parameters
    ----------
    scale, exponent, floor : float
        :math:`A`, :math:`b` and :math:`E`.
    exponent_interval, floor_interval : tuple of float
        95 % of the resampled fits.
    """

    scale: float
    exponent: float
    floor: float
    exponent_interval: tuple[float, float]
    floor_interval: tuple[float, float]

    def __call__(self, x: ArrayLike) -> Floats:
        """Return the curve at ``x``."""
        return self.floor + self.scale * np.asarray(x, float) ** -self.exponent


def _curve(log_x: Floats, log_y: Floats, floor: bool) -> Floats:
    """Fit ``(ln A, b, ln E)`` to logarithms by least squares."""
    slope, start = np.polyfit(log_x, log_y, 1)
    if not floor:
        return np.array([start, -slope, -1e3])  # a floor of exactly 0

    def error(at: Floats) -> Floats:
        return np.logaddexp(at[2], at[0] - at[1] * log_x) - log_y

    bounds = ([-50, 0, -50], [50, 5, log_y.max()])
    found = []
    for share in (0.05, 0.5, 0.95):  # of the lowest value: the fit has local minima
        guess = [start, max(-slope, 0.05), log_y.min() + np.log(share)]
        found.append(least_squares(error, guess, bounds=bounds))
    return np.asarray(min(found, key=lambda fit: fit.cost).x)


def fit_power_law(
    x: ArrayLike, y: ArrayLike, floor: bool = True, resamples: int = 200, seed: int = 0
) -> PowerLaw:
    r"""Fit a power law, with or without a floor, to sizes and what was measured there.

    Least squares on :math:`\ln y`. The interval draws, at each size, as many runs as
    there are, with replacement, from the runs' distances to the curve at all sizes
    (the residual bootstrap): few runs a size are enough.

    Parameters
    ----------
    x, y : array, shape (runs,)
        Size and loss of each run, both positive.
    floor : bool
        Whether the curve levels off; without it, it is a line on logarithmic axes.
    resamples : int
        Fits behind an interval.
    seed : int
        Of the resampling.

    Returns
    -------
    PowerLaw

    Raises
    ------
    ValueError
        If a number is not positive, or there are fewer sizes than the curve has
        numbers plus one.

    References
    ----------
    .. [1] J. Hestness et al., "Deep Learning Scaling is Predictable, Empirically",
       2017. arXiv:1712.00409
    .. [2] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993,
       section 9.4.

    Examples
    --------
    >>> x = np.array([1e2, 1e3, 1e4, 1e5, 1e6])
    >>> law = fit_power_law(x, 0.1 + 3 * x**-0.5)
    >>> round(law.exponent, 3), round(law.floor, 3)
    (0.5, 0.1)
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or not ((x > 0) & (y > 0)).all():
        raise ValueError("x and y must be 1-D, of one length, and positive")
    sizes, least = len(np.unique(x)), 4 if floor else 3
    if sizes < least:
        raise ValueError(f"a curve needs runs at {least} sizes at least, got {sizes}")
    log_x, log_y = np.log(x), np.log(y)
    at = _curve(log_x, log_y, floor)
    there = np.logaddexp(at[2], at[0] - at[1] * log_x)
    # As many numbers as were fitted make the distances too small.
    off = (log_y - there) * np.sqrt(len(x) / max(len(x) - (3 if floor else 2), 1))
    rng = np.random.default_rng(seed)
    draws = (there + rng.choice(off, len(off)) for _ in range(resamples))
    fits = np.array([_curve(log_x, drawn, floor) for drawn in draws])
    spread = np.quantile(fits, [0.025, 0.975], axis=0)
    _, exponent, floors = np.array([at, *spread]).T
    b, b_low, b_high = exponent.tolist()
    e, e_low, e_high = np.exp(floors).tolist()
    return PowerLaw(float(np.exp(at[0])), b, e, (b_low, b_high), (e_low, e_high))
