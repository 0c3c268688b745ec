"""Shrunk means: constant, popularity, past counts and user + item means are one."""

from collections.abc import Mapping, Sequence

import numpy as np

from urlm_helpers.data.arrays import Floats, Ints
from urlm_helpers.evaluation.metrics import log_loss

STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
"""How many rows of the scenario's rate a group's own rows are weighed against."""


class Means:
    r"""A scenario's rate, plus the shrunk deviation of one group after the other.

    .. math:: p = r_s + \sum_g d_g, \qquad
              d_g = \frac{\sum_{i \in g} w_i (y_i - p_i)}{\sum_{i \in g} w_i + n}

    where each group takes what the ones before it left, and n is chosen on validation
    rows. No group is a constant; scenario × item is popularity; item, then user, are
    user and item means. A group without training rows deviates by 0.

    Parameters
    ----------
    *groups : tuple of str
        Columns whose values, taken together, number the groups.

    Examples
    --------
    >>> x = {"scenario": np.zeros(6, int), "item": np.array([0, 0, 1, 1, 0, 2])}
    >>> y = np.array([[1], [1], [0], [0], [1], [0]])
    >>> popular = Means(("scenario", "item"))
    >>> popular.fit(x, y, np.ones(6), np.arange(4), np.array([4, 5])).strengths
    [3.0]
    >>> popular.probabilities(x)[:, 0].round(2).tolist()
    [0.7, 0.7, 0.3, 0.3, 0.7, 0.5]
    """

    def __init__(self, *groups: Sequence[str]) -> None:
        self.groups = [tuple(group) for group in groups]
        self.sizes: dict[str, int] = {}
        self.rates = np.zeros((0, 0))
        self.deviations: list[list[Floats]] = []  # task, group
        self.strengths: list[float] = []

    def fit(
        self,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        weight: np.ndarray,
        train: np.ndarray,
        valid: np.ndarray,
    ) -> "Means":
        """Count on training rows, choose the strength on validation rows.

        Parameters
        ----------
        x : mapping of str to ndarray of int
            ``scenario`` and the columns of the groups, ``(n,)``, from 0; -1 is unseen.
        y, weight : ndarray, shape (n, tasks) and (n,)
        train, valid : ndarray of int
            Row numbers.
        """
        names = {"scenario", *(name for group in self.groups for name in group)}
        # one number more than there are: of the values that come later
        self.sizes = {name: int(x[name][train].max()) + 2 for name in sorted(names)}
        past, later = ({n: x[n][rows] for n in names} for rows in (train, valid))
        self.rates, self.deviations, self.strengths = np.zeros((0, 0)), [], []
        rates = []
        for t in range(y.shape[1]):
            tries = []
            for strength in STRENGTHS if self.groups else STRENGTHS[:1]:
                found = self._count(past, y[train, t], weight[train], strength)
                p = self._predict(later, *found)
                tries.append((log_loss(y[valid, t], p, weight[valid]), strength, found))
            _, strength, (rate, deviations) = min(tries, key=lambda one: one[:2])
            self.strengths.append(strength)
            self.deviations.append(deviations)
            rates.append(rate)
        self.rates = np.array(rates)
        return self

    def probabilities(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of each task, ``(rows, tasks)``."""
        fitted = zip(self.rates, self.deviations, strict=True)
        return np.stack([self._predict(x, *one) for one in fitted], axis=1)

    def _code(self, x: Mapping[str, np.ndarray], group: Sequence[str]) -> Ints:
        sizes = [self.sizes[name] for name in group]
        # the last number stands for what is unseen, -1 or later than the training
        at = [
            np.where(x[name] < 0, size - 1, np.minimum(x[name], size - 1))
            for name, size in zip(group, sizes, strict=True)
        ]
        return np.asarray(np.ravel_multi_index(at, sizes), np.int64)

    def _count(
        self, x: Mapping[str, np.ndarray], y: Floats, weight: Floats, strength: float
    ) -> tuple[Floats, list[Floats]]:
        """Return each scenario's rate and the deviations of the groups."""
        where, size = x["scenario"], self.sizes["scenario"]
        overall = (weight * y).sum() / weight.sum()
        sums, rows = (np.bincount(where, v, size) for v in (weight * y, weight))
        rate = np.where(rows > 0, sums / np.maximum(rows, 1e-300), overall)
        p, deviations = rate[where], []
        for group in self.groups:
            code, shape = self._code(x, group), [self.sizes[n] for n in group]
            left = np.bincount(code, weight * (y - p), int(np.prod(shape)))
            own = left / (np.bincount(code, weight, len(left)) + strength)
            for axis in range(len(shape)):
                np.moveaxis(own.reshape(shape), axis, 0)[-1] = 0.0
            deviations.append(own)
            p = p + own[code]
        return rate, deviations

    def _predict(
        self, x: Mapping[str, np.ndarray], rate: Floats, deviations: Sequence[Floats]
    ) -> Floats:
        base = rate[self._code(x, ("scenario",))]
        p = base + sum(
            own[self._code(x, group)]
            for group, own in zip(self.groups, deviations, strict=True)
        )
        # a sum of means may leave [0, 1]: stay within a twentieth of the rate
        return np.clip(p, base / 20, 1 - (1 - base) / 20)
