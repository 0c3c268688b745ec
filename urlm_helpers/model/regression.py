"""One logistic regression per scenario, shrunk around a common one."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from urlm_helpers.data.arrays import Floats, Singles

STRENGTHS = (1e5, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
"""Inverse variances of a weight that are tried, of columns with variance 1."""
LEVEL = 1e-3  # that of an intercept: hardly any
STEPS = 30
PRECISION = 1e-7  # nats a row that another step must bring
NOTHING = 12.0  # nats of evidence behind the best: the rest would not count
BLOCK = 16_384
CURVE_ROWS = 50_000  # rows that tell the curvature; the loss is that of all


class ShrunkRegression:
    r"""Logistic regressions of scenarios that lean on each other as much as is right.

    .. math:: \ell_s(x) = (w + \delta_s)^\top x + b_s, \qquad
        w_j \sim N(0, \lambda_0^{-1}), \quad \delta_{sj} \sim N(0, \lambda_s^{-1})

    First :math:`w` from the rows of all scenarios, then each :math:`\delta_s` from the
    scenario's own, around it [1]_. With :math:`\lambda_s \to \infty` a scenario takes
    the common regression over, with a small :math:`\lambda_s` it has its own. Which is
    right, the *evidence* says [2]_: the probability of the labels with the weights
    integrated out, by Laplace's approximation

    .. math:: \ln p(y \mid \lambda) \approx -L(\hat\delta)
        - \tfrac{\lambda}{2} \lVert\hat\delta\rVert^2 + \tfrac{d}{2} \ln \lambda
        - \tfrac12 \ln\det H(\hat\delta)

    with the log-loss :math:`L`, its sum over the rows, and the Hessian :math:`H` of
    what is minimized. The weights are averaged over the :math:`\lambda` of a grid, each
    by its evidence. That takes no validation rows, which a small scenario hardly has.

    Parameters
    ----------
    strengths : sequence of float
        The :math:`\lambda` of the grid.

    Attributes
    ----------
    mean, scale : ndarray, shape (columns,)
        Of the columns in training; a column that does not vary has a scale of 1.
    weights : ndarray, shape (scenarios, columns)
        :math:`w + \delta_s`, of the columns as they come.
    levels : ndarray, shape (scenarios,)
        :math:`b_s`, likewise.
    shared : ndarray, shape (columns,)
        :math:`w`, likewise.
    strength : ndarray, shape (1 + scenarios,)
        Of :math:`\lambda_0, \lambda_1, \ldots` the (geometric) mean by evidence;
        infinity for a scenario without rows.

    Notes
    -----
    In [1]_ common and own weights are fitted in one problem. Here the common ones come
    first and stay: the fits are small, and a large scenario speaks for all of them.
    With some hundred rows and other tastes than the rest a scenario pays for that: the
    common weights point elsewhere, and its rows are too few to say so.

    References
    ----------
    .. [1] T. Evgeniou, M. Pontil, "Regularized Multi-Task Learning", KDD 2004.
       doi:10.1145/1014052.1014067
    .. [2] D. J. C. MacKay, "The Evidence Framework Applied to Classification Networks",
       Neural Computation 4(5), 1992. doi:10.1162/neco.1992.4.5.720

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, scenario = rng.normal(size=(4_000, 3)), rng.integers(0, 2, 4_000)
    >>> turned = np.where(scenario == 1, -1, 1) * x[:, 0]  # the second wants less of it
    >>> y = rng.random(4_000) < 1 / (1 + np.exp(-turned - x[:, 1]))
    >>> model = ShrunkRegression().fit(x, y, scenario)
    >>> (model.weights.round() + 0.0).tolist()
    [[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]
    """

    def __init__(self, strengths: Sequence[float] = STRENGTHS) -> None:
        if not len(strengths) or min(strengths) <= 0:
            raise ValueError(f"strengths must be positive numbers, got {strengths}")
        self.strengths = tuple(sorted(strengths, reverse=True))

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        scenario: np.ndarray,
        weight: np.ndarray | None = None,
        scenarios: int | None = None,
    ) -> Self:
        """Fit to rows.

        Parameters
        ----------
        x : ndarray, shape (rows, columns)
        y : ndarray of 0 and 1, shape (rows,)
        scenario : ndarray of int, shape (rows,)
        weight : ndarray, shape (rows,), optional
            What a row counts, relative to the mean.
        scenarios : int, optional
            How many there are; by default as many as `scenario` names.

        Returns
        -------
        ShrunkRegression
            Itself.

        Raises
        ------
        ValueError
            If the lengths differ, there are no rows, or a number is not finite.
        """
        x, y = np.asarray(x, "float32"), np.asarray(y, "float32")
        scenario = np.asarray(scenario)
        if not (len(x) == len(y) == len(scenario) > 0):
            raise ValueError(
                "x, y and scenario must have one length, and at least one row; got "
                f"{len(x)}, {len(y)} and {len(scenario)}"
            )
        if not np.isfinite(x).all():
            column = int(np.argmin(np.isfinite(x).all(axis=0)))
            raise ValueError(f"column {column} of x holds a number that is not finite")
        weight = np.ones(len(y)) if weight is None else weight / np.mean(weight)
        weight = weight.astype("float32")
        kinds = int(scenario.max()) + 1 if scenarios is None else scenarios
        self.mean, spread = x.mean(axis=0), x.std(axis=0)
        self.scale = np.where(spread > 1e-6, spread, 1).astype("float32")
        columns = x.shape[1]
        x = (x - self.mean) / self.scale
        # the scenarios' levels are columns beside the others, not shrunk
        level = np.eye(kinds, dtype="float32")[scenario]
        # not shrunk: the levels
        free = np.append(np.full(columns, np.nan), np.full(kinds, LEVEL))
        start, first = self._averaged(np.hstack([x, level]), y, weight, free)
        common, base = start[:columns], start[columns:]
        weights, levels = np.tile(common, (kinds, 1)), base.copy()
        self.strength = np.array([first, *np.full(kinds, np.inf)])
        one = np.ones((len(x), 1), "float32")
        for s in range(kinds):
            own = scenario == s
            if not 0 < y[own].sum() < own.sum():
                continue  # one class: nothing to learn but the level
            offset = x[own] @ common + base[s]
            own_x = np.hstack([x[own], one[own]])
            moved, self.strength[1 + s] = self._averaged(
                own_x, y[own], weight[own], free[: columns + 1], offset
            )
            weights[s] += moved[:-1]
            levels[s] += moved[-1]
        self.shared, self.weights = common / self.scale, weights / self.scale
        self.levels = levels - self.weights @ self.mean
        return self

    def logits(self, x: np.ndarray, scenario: np.ndarray) -> Floats:
        """Return the logit of rows ``(rows, columns)``, each in its scenario."""
        every = np.asarray(x) @ self.weights.T + self.levels
        return np.asarray(np.take_along_axis(every, scenario[:, None], 1)[:, 0])

    def _averaged(
        self,
        x: Singles,
        y: Singles,
        weight: Singles,
        free: Floats,
        offset: Singles | float = 0.0,
    ) -> tuple[Singles, float]:
        """Return the weights, and the strength, averaged by evidence."""
        found: list[Singles] = []
        evidence: list[float] = []
        w, curve = np.zeros(x.shape[1], "float32"), None
        for strength in self.strengths:
            penalty = np.where(np.isnan(free), strength, free)
            w, curve, said = newton(x, y, weight, penalty, offset, w, curve)
            found.append(w)
            evidence.append(said)
            if said < max(evidence) - NOTHING:
                break
        share = np.exp(np.array(evidence) - max(evidence))
        share /= share.sum()
        tried = np.log(self.strengths[: len(share)])
        mean: Singles = (share @ np.array(found)).astype("float32")
        return mean, float(np.exp(share @ tried))


def newton(
    x: Singles,
    y: Singles,
    weight: Singles,
    penalty: Floats,
    offset: Singles | float = 0.0,
    start: Singles | None = None,
    curve: Floats | None = None,
) -> tuple[Singles, Floats, float]:
    r"""Minimize :math:`L(w) + \frac12 \sum_j \lambda_j w_j^2` by Newton's steps.

    Parameters
    ----------
    x : ndarray, shape (rows, columns)
    y, weight : ndarray, shape (rows,)
    penalty : ndarray, shape (columns,)
        The :math:`\lambda_j`, all positive.
    offset : ndarray, shape (rows,), or float
        Added to the logits.
    start : ndarray, shape (columns,), optional
    curve : ndarray, shape (columns, columns), optional
        The Hessian of :math:`L` near the start. It serves for all steps as long as
        they gain, since it costs far more than a step.

    Returns
    -------
    weights : ndarray, shape (columns,)
    curve : ndarray, shape (columns, columns)
        The Hessian of :math:`L` at the minimum.
    evidence : float
        Laplace's approximation of the log probability of the labels.

    Examples
    --------
    >>> x, y = np.ones((4, 1), "float32"), np.array([1, 1, 1, 0], "float32")
    >>> w, _, _ = newton(x, y, np.ones(4, "float32"), np.array([1e-6]))
    >>> round(float(w[0]), 3)  # the log-odds of three quarters
    1.099
    """
    w: Singles = np.zeros(x.shape[1], "float32") if start is None else start

    def cost(w: np.ndarray) -> float:
        z = x @ w + offset
        loss = weight * (np.logaddexp(0, z) - y * z)
        return float(loss.sum(dtype="float64") + 0.5 * penalty @ w.astype("f8") ** 2)

    now, fresh = cost(w), curve is None
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ w + offset)))
        if curve is None:
            curve = _curve(x, weight * p * (1 - p))
        gradient = x.T @ (weight * (p - y)) + penalty * w
        step = np.linalg.solve(curve + np.diag(penalty), gradient)
        shorter = ((cost(w - part * step), part) for part in (1, 0.5, 0.25, 0.1, 0.01))
        after, part = next((found for found in shorter if found[0] < now), (now, 0))
        gain, now = now - after, after
        w = np.asarray(w - part * step, "float32")
        if gain < PRECISION * len(x):
            if fresh:
                break
            fresh, curve = True, None  # no gain with an old one proves nothing
        elif part < 1:
            fresh, curve = True, None
    p = 1 / (1 + np.exp(-(x @ w + offset)))
    curve = _curve(x, weight * p * (1 - p))
    volume = np.linalg.slogdet(curve + np.diag(penalty))[1] - np.log(penalty).sum()
    return w, curve, -now - 0.5 * volume


def _curve(x: Singles, bend: Singles) -> Floats:
    """Return the Hessian of the log-loss, from some rows where there are very many.

    Block by block, so that no second table is made.
    """
    apart = max(len(x) // CURVE_ROWS, 1)
    x, bend = x[::apart], np.sqrt(apart * bend[::apart])
    found = np.zeros((x.shape[1],) * 2)
    for at in range(0, len(x), BLOCK):
        part = x[at : at + BLOCK] * bend[at : at + BLOCK, None]
        found += part.T @ part
    return found
