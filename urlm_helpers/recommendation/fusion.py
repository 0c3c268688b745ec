r"""One score from the probabilities of several tasks: a product of powers.

.. math:: s = \prod_t p_t^{w_t}, \qquad \log s = \sum_t w_t \log p_t

A factor on one task's probabilities, such as a head that says twice too much, changes
no order; a wrong slope of its logit does, as another weight would. All weights times
two give the same lists, so weights that sum to 1 are enough.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.arrays import Booleans, Floats, Ints
from urlm_helpers.data.schema import SchemaError

Weights = Mapping[str, float]
Mix = str | Weights | Mapping[str, Weights]
"""A task; weights of tasks; or weights of tasks for each scenario."""

LEAST = np.finfo(float).tiny
"""Stands for a probability of 0, whose logarithm is none."""


def mix_weights(mix: Mix, tasks: Sequence[str], scenarios: Sequence[str]) -> Floats:
    """Check a mix, and return its weights.

    Parameters
    ----------
    mix : str or mapping
        A task; or the weights of one task or more, 0 or above, the same everywhere;
        or such weights for each scenario.
    tasks, scenarios : sequence of str
        Of the schema.

    Returns
    -------
    ndarray, shape (scenarios, tasks)

    Raises
    ------
    SchemaError
        If a task is unknown, a weight is no number or negative, all are 0, or the
        scenarios are not those of the schema.

    Examples
    --------
    >>> mix_weights({"click": 1, "buy": 0.5}, ["click", "buy"], ["shop", "feed"])
    array([[1. , 0.5],
           [1. , 0.5]])
    >>> mix_weights({"shop": {"buy": 1}}, ["click", "buy"], ["shop"])
    array([[0., 1.]])
    """
    given: Mapping[str, Any] = {mix: 1.0} if isinstance(mix, str) else mix
    each = [isinstance(own, Mapping) for own in given.values()]
    if any(each) and not (all(each) and set(given) == set(scenarios)):
        raise SchemaError(
            f"a mix by scenario has weights for exactly {list(scenarios)}, got {given}"
        )
    found = np.zeros((len(scenarios), len(tasks)))
    for row, scenario in zip(found, scenarios, strict=True):
        own = given[scenario] if any(each) else given
        for task, weight in own.items():
            if task not in tasks:
                raise SchemaError(f"task {task!r} is not one of {list(tasks)}")
            number = isinstance(weight, Real) and not isinstance(weight, bool)
            if not number or not 0 <= weight < np.inf:
                raise SchemaError(
                    f"the weight of {task!r} must be a number of at least 0, got "
                    f"{weight!r}"
                )
            row[list(tasks).index(task)] = weight
        if not row.any():
            raise SchemaError(f"a mix needs a weight above 0, got {own!r}")
    return found


def fuse(p: Floats, weights: Floats) -> Floats:
    """Return the logarithm of the product of powers, ``(rows,)``.

    ``p`` is ``(rows, tasks)``, ``weights`` is the same or ``(tasks,)``.

    Examples
    --------
    >>> p = np.array([[0.5, 0.1], [0.2, 0.2]])
    >>> np.exp(fuse(p, np.array([1.0, 2.0]))).round(3).tolist()
    [0.005, 0.008]
    """
    logs = np.log(np.maximum(np.asarray(p, float), LEAST))
    return np.asarray((weights * logs).sum(axis=1), float)


def simplex(tasks: int, steps: int) -> Floats:
    """Return all weights that sum to 1 in steps of ``1 / steps``, ``(mixes, tasks)``.

    Examples
    --------
    >>> simplex(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    every = product(range(steps + 1), repeat=tasks)
    return np.array([w for w in every if sum(w) == steps]) / steps


def list_values(score: Floats, request: Ints, gain: Floats, look: Floats) -> Floats:
    """Return what the list of each request brings when it is ordered by a score.

    Parameters
    ----------
    score, request : ndarray, shape (rows,)
        Of the candidates; equal scores keep their order.
    gain : ndarray, shape (rows, tasks)
        What a candidate brings where it is looked at: labels, or probabilities.
    look : ndarray, shape (places,)
        Probability that a place of the list is looked at.

    Returns
    -------
    ndarray, shape (requests, tasks)
        In the order of the requests' numbers.

    Examples
    --------
    >>> gain = np.array([[1.0], [0.0], [1.0]])
    >>> list_values(np.array([1, 3, 2]), np.array([7, 7, 7]), gain, np.array([1, 0.5]))
    array([[0.5]])
    """
    order = np.lexsort((-score, request))
    asked = request[order]
    rank = np.arange(len(order)) - np.searchsorted(asked, asked)
    shown = rank < len(look)
    worth = pd.DataFrame(look[rank[shown], None] * gain[order[shown]])
    return worth.groupby(asked[shown]).sum().to_numpy()


def front(values: Floats) -> Booleans:
    """Mark the rows, ``(n, 2)``, that no other one beats: of equal ones the first.

    Examples
    --------
    >>> front(np.array([[3, 1], [2, 2], [2, 1], [1, 3], [3, 1]])).tolist()
    [True, True, False, True, False]
    """
    order = np.lexsort((-values[:, 1], -values[:, 0]))
    second = values[order, 1]
    before = np.maximum.accumulate(np.concatenate([[-np.inf], second]))[:-1]
    on = np.zeros(len(values), bool)
    on[order] = second > before
    return on


def choose(values: Floats, keep: int, gain: int, floor: float) -> Ints:
    """Choose the mix of each scenario that gains most without losing too much.

    Parameters
    ----------
    values : ndarray, shape (mixes, scenarios, tasks)
        What each mix brings in each scenario, on validation rows; for one mix
        everywhere, the sum over scenarios as the only one.
    keep, gain : int
        The task of which at least ``floor`` must stay, and that which should grow.
    floor : float
        In the unit of ``values``, summed over the scenarios.

    Returns
    -------
    ndarray of int, shape (scenarios,)
        Numbers of the mixes; no other choice brings more.

    Raises
    ------
    ValueError
        If no choice reaches the floor.

    Examples
    --------
    >>> values = np.array([[[10, 0]], [[9, 3]], [[5, 4]]])
    >>> choose(values, keep=0, gain=1, floor=8.5)
    array([1])
    """
    totals, picks = np.zeros((1, 2)), np.zeros((1, 0), int)
    for s in range(values.shape[1]):
        own = values[:, s, [keep, gain]]
        numbers = np.tile(np.arange(len(own)), len(picks))
        picks = np.column_stack([np.repeat(picks, len(own), axis=0), numbers])
        totals = (totals[:, None] + own).reshape(-1, 2)
        on = front(totals)
        totals, picks = totals[on], picks[on]
    most = totals[:, 0].max()
    if most < floor:
        raise ValueError(f"no mix reaches {floor:g}, the most is {most:g}: lower floor")
    reached = np.where(totals[:, 0] >= floor, totals[:, 1], -np.inf)
    return np.asarray(picks[int(np.argmax(reached))])
