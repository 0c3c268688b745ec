"""What would another policy have earned? Estimates from the log of the present one.

A log tells what happened to the items that were shown. It judges a policy that shows
others only if the log's own choice was random with known probabilities, such as the
slice of traffic in which an app shows items drawn at random: there every item of a
catalog of n had the propensity 1/n.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urlm_helpers.data.arrays import Floats, refuse
from urlm_helpers.evaluation.bootstrap import bootstrap, ratio
from urlm_helpers.evaluation.rows import codes, effective_sample_size


def policy_value(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    user: ArrayLike,
    *,
    q_logged: ArrayLike | None = None,
    q_target: ArrayLike | None = None,
    clip: float = np.inf,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Mean reward per impression of a target policy, by four estimators.

    With the reward :math:`r_i` of the logged action :math:`a_i` in the context
    :math:`x_i`, the weight :math:`w_i = \pi(a_i|x_i) / \pi_0(a_i|x_i)` of the target
    policy over the logging one, and a model :math:`\hat q(x, a)` of the reward:

    .. math::

        \mathrm{DM} &= \frac1n \sum_i \hat q(x_i, \pi), \qquad
            \hat q(x, \pi) = \sum_a \pi(a|x) \, \hat q(x, a) \\
        \mathrm{IPS} &= \frac1n \sum_i w_i r_i \\
        \mathrm{SNIPS} &= \frac{\sum_i w_i r_i}{\sum_i w_i} \\
        \mathrm{DR} &= \frac1n \sum_i \bigl( \hat q(x_i, \pi)
            + w_i (r_i - \hat q(x_i, a_i)) \bigr)

    DM is as biased as its model. IPS is unbiased where the propensities are right and
    no action that the target takes is impossible in the log, but few large weights
    make it noisy. SNIPS gives up a little bias for less noise. DR is unbiased if
    either the propensities or the model is right, given a model that was fitted to
    other rows than these.

    Parameters
    ----------
    reward : array, shape (rows,)
        Any finite numbers.
    propensity : array, shape (rows,)
        The logging policy's probability of the action it took, in (0, 1].
    target : array, shape (rows,)
        The target policy's probability of that same action, in [0, 1]; for a policy
        without chance 1 where it would have done the same, else 0.
    user : array, shape (rows,)
        The user of each row.
    q_logged, q_target : array, shape (rows,), optional
        The model's reward of the logged action, and its mean over the target's
        actions. Both, or neither; without them there is no DM and no DR.
    clip : float
        Weights above it are cut to it: less noise, but also a bias, for IPS towards
        0 and for DR towards DM.
    resamples, seed, level
        Of the user bootstrap, as in `urlm_helpers.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        One row per estimator, `dm`, `ips`, `snips` and `dr`: `estimator`, `value`,
        `low`, `high`, `rows`, `users`, and of the weights `mean_weight` (near 1, or
        the propensities are wrong or lack support), `largest_weight`, `clipped`
        (share of rows cut) and `ess`, the effective sample size
        :math:`(\sum_i w_i)^2 / \sum_i w_i^2`. These are NaN for `dm`, which has no
        weights. Where all weights are 0, SNIPS and `ess` are NaN.

    Raises
    ------
    ValueError
        Lengths differ or are 0, a value is outside its range or not finite, a user is
        missing, `clip` is not positive, or one of `q_logged` and `q_target` is given.

    Notes
    -----
    The rows of one user are not independent, so the intervals resample users. They
    are NaN, with a warning, where the weighted rewards are those of few users (see
    `urlm_helpers.evaluation.evaluate`). Where a few weights are large (a small `ess`)
    they are too short: the rewards that would have mattered most may not be in the log.

    References
    ----------
    Horvitz, D. G. and Thompson, D. J. (1952). A generalization of sampling without
    replacement from a finite universe. JASA 47(260) (IPS).
    Swaminathan, A. and Joachims, T. (2015). The self-normalized estimator for
    counterfactual learning. NIPS (SNIPS).
    Dudík, M., Erhan, D., Langford, J. and Li, L. (2014). Doubly robust policy
    evaluation and optimization. Statistical Science 29(4). arXiv:1503.02834 (DR).
    Saito, Y., Aihara, S., Matsutani, M. and Narita, Y. (2021). Open bandit dataset
    and pipeline. NeurIPS Datasets and Benchmarks. arXiv:2008.07146.

    Examples
    --------
    Four users were shown one of two items by the toss of a coin, and a policy would
    show three of them the item that they got:

    >>> table = policy_value(
    ...     reward=[1, 0, 1, 1], propensity=[0.5] * 4, target=[1, 1, 1, 0],
    ...     user=["a", "b", "c", "d"],
    ... )
    >>> table[["estimator", "value", "mean_weight", "ess"]].round(3)
      estimator  value  mean_weight  ess
    0       ips  1.000          1.5  3.0
    1     snips  0.667          1.5  3.0

    A model of the reward adds the other two:

    >>> table = policy_value(
    ...     reward=[1, 0, 1, 1], propensity=[0.5] * 4, target=[1, 1, 1, 0],
    ...     user=["a", "b", "c", "d"], q_logged=[0.5] * 4, q_target=[0.5] * 4,
    ... )
    >>> table[["estimator", "value"]].round(3)
      estimator  value
    0        dm  0.500
    1       ips  1.000
    2     snips  0.667
    3        dr  0.750
    """
    if (q_logged is None) != (q_target is None):
        raise ValueError("q_logged and q_target must be given together")
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}")
    given = {"reward": reward, "propensity": propensity, "target": target}
    if q_logged is not None and q_target is not None:
        given |= {"q_logged": q_logged, "q_target": q_target}
    column = _columns(given)
    n = len(column["reward"])
    code, names = codes(user, "user", n)
    full_weight = column["target"] / column["propensity"]
    w, one = np.minimum(full_weight, clip), np.ones(n)
    parts = {  # numerator and denominator of each estimate, by row
        "ips": (w * column["reward"], one),
        "snips": (w * column["reward"], w),
    }
    if q_logged is not None:
        q = column["q_target"]
        corrected = q + w * (column["reward"] - column["q_logged"])
        parts = {"dm": (q, one), **parts, "dr": (corrected, one)}
    users = len(names)
    statistics = {name: ratio(code, users, *pair) for name, pair in parts.items()}
    if "dr" in statistics:  # the model's part hides how few rewards correct it
        support = min(statistics[name].support for name in ("dr", "ips"))
        statistics["dr"] = statistics["dr"]._replace(support=support)
    value, interval = bootstrap(statistics, users, resamples, seed, level)
    table = pd.DataFrame({"estimator": list(parts), "value": value})
    table[["low", "high"]] = interval
    about_weights = {
        "mean_weight": w.mean(),
        "largest_weight": w.max(),
        "clipped": (full_weight > clip).mean(),
        "ess": effective_sample_size(w),
    }
    table = table.assign(rows=n, users=users, **about_weights)
    table.loc[table["estimator"] == "dm", list(about_weights)] = np.nan
    return table


def _columns(given: dict[str, ArrayLike]) -> dict[str, Floats]:
    """Return the arrays as float64, or say what is wrong."""
    column = {name: np.asarray(v, dtype=np.float64) for name, v in given.items()}
    shapes = {name: v.shape for name, v in column.items()}
    if len(set(shapes.values())) > 1 or column["reward"].ndim != 1:
        raise ValueError(f"all must be 1-D and of one length, got {shapes}")
    if not len(column["reward"]):
        raise ValueError("the log has no rows")
    v = column["propensity"]
    refuse(v, ~((v > 0) & (v <= 1)), "propensity must lie in (0, 1]")
    v = column["target"]
    refuse(v, ~((v >= 0) & (v <= 1)), "target must lie in [0, 1]")
    for name, v in column.items():
        refuse(v, ~np.isfinite(v), f"{name} must be finite")
    return column
