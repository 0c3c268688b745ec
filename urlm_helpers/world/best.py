"""The best that any score of the features can do, and the lines to draw in a plot.

What lies between the best on observables and the oracle is information that the app
does not have. A model that also learns from the ids of users and items can pass the
first line, never the second.
"""

from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.polynomial.hermite_e import hermegauss

from urlm_helpers.data.arrays import Floats
from urlm_helpers.world.draws import seen_through
from urlm_helpers.world.knobs import SCENARIOS
from urlm_helpers.world.people import Population
from urlm_helpers.world.reference import expected_auc, popularity
from urlm_helpers.world.truth import (
    APPEAL,
    GAIN,
    SOCIAL,
    TASKS,
    examination,
    funnel,
    logits,
    segment_logits,
    sigmoid,
)

NODES = 4  # of the integral over each task's logit


def best_on_observables(world: Population, rows: pd.DataFrame) -> pd.DataFrame:
    r"""Probability of each task given what a row's features tell: E[p | observed].

    Observed are the features of the user, the friends and the item, scenario, query,
    ages and position. Tastes given noisy features are normal
    (`urlm_helpers.world.seen_through`), u ~ N(m, S) and v ~ N(n, R), which
    makes the tasks' logits nearly jointly normal, with mean :math:`m^\top A_t n` and
    covariance

    .. math:: m^\top A_t R A_{t'}^\top m + n^\top A_t^\top S A_{t'} n
              + \mathrm{tr}(A_t R A_{t'}^\top S)

    plus those of appeal and confounder. The products of the logits' sigmoids are
    integrated over that normal with Gauss-Hermite nodes: a child task's probability
    counts where its parent happens, as in the log.

    Nearly all errors of a probability are below 0.01 for `feature_noise` up to 0.6 and
    `confounder` up to 1; they grow to 0.1 where both are at their largest.

    Parameters
    ----------
    world : World
    rows : DataFrame
        Interactions of that world.

    Returns
    -------
    DataFrame
        Columns `t_given`, `t_before` and `t` for each task t, as in the truth; the
        index of `rows`.

    Raises
    ------
    ValueError
        A scenario that no world has.
    """
    scenario = pd.Index(SCENARIOS).get_indexer(pd.Index(rows["scenario"]))
    if (scenario < 0).any():
        wrong = rows["scenario"].iloc[int(np.argmin(scenario))]
        raise ValueError(f"scenario must be one of {SCENARIOS}, got {wrong!r}")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    people, goods, friends = world.people, world.goods, world.friends
    noise = world.feature_noise
    keep = (1 - world.drift**2) ** (rows["user_age"].to_numpy(np.float64) / 2)
    mean_user = keep[:, None] * people.guess[user]
    appeal = goods.rating[item] / (1 + noise**2)
    mean = logits(
        world,
        mean_user,
        friends.guess[user],
        goods.guess[item],
        appeal,
        scenario,
        rows["query_match"].to_numpy(np.float64),
    )
    mean += segment_logits(world, user, item, scenario)
    spread = covariance(world, mean_user, keep**2, scenario, user, item)
    # nothing at all is hidden where features have no noise: keep the root real
    root = np.linalg.cholesky(spread + 1e-5 * np.eye(len(TASKS)))
    before = np.zeros_like(mean)
    node, weight = hermegauss(NODES)
    for at in product(range(NODES), repeat=len(TASKS)):
        z, w = node[list(at)], (weight[list(at)] / weight.sum()).prod()
        before += w * np.cumprod(sigmoid(mean + root @ z), axis=1)
    given = before / np.column_stack([np.ones(len(before)), before[:, :-1]])
    look = examination(world, scenario, rows["position"].to_numpy(np.float64))
    return pd.DataFrame(funnel(given, look), index=rows.index)


def covariance(
    world: Population,
    mean_user: Floats,
    kept: Floats,
    scenario: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
) -> Floats:
    """Covariance of the tasks' logits given the features, (rows, tasks, tasks).

    `kept` is the share of a taste's variance that is still that of the day of birth.
    """
    noise, tasks = world.feature_noise, range(len(TASKS))
    s = seen_through(world.user_view, noise)[1]
    r = seen_through(world.item_view, noise)[1]
    out = np.empty((len(user), len(TASKS), len(TASKS)))
    for c in range(len(SCENARIOS)):
        rows = np.flatnonzero(scenario == c)
        m, n = mean_user[rows], world.goods.guess[item[rows]].astype(np.float64)
        old = kept[rows]  # the user's covariance is old * s + new * one
        new = 1 - old
        if c == SOCIAL:
            m = m + world.friend_effect * world.friends.guess[user[rows]]
            old = old + world.friend_effect**2 / world.friends.degree[user[rows]]
        for a, b in product(tasks, tasks):
            one_map, other = world.maps[c, a], world.maps[c, b]
            goods = one_map @ r @ other.T
            seen, fresh = one_map.T @ s @ other, one_map.T @ other
            out[rows, a, b] = (
                np.einsum("nk,nk->n", m @ goods, m)
                + old * (np.einsum("nk,nk->n", n @ seen, n) + np.trace(goods @ s))
                + new * (np.einsum("nk,nk->n", n @ fresh, n) + np.trace(goods))
            )
    out *= GAIN**2 * (1 - world.threshold_share / 2) / world.latents
    rating = noise**2 / (1 + noise**2)
    return out + rating * np.outer(APPEAL, APPEAL) + world.confounder**2


def reference_lines(
    world: Population,
    train: pd.DataFrame,
    rows: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    examined: bool = False,
) -> pd.DataFrame:
    """Expected AUC of popularity, best on observables and oracle.

    Parameters
    ----------
    world : World
    train : DataFrame
        Interactions to count popularity on.
    rows, truth : DataFrame
        Interactions to measure on, and their truth.
    examined : bool
        Measure the probability given that a row is examined, without the position's
        share in it.

    Returns
    -------
    DataFrame
        Indexed by scenario and task; NaN for the popularity in a scenario without
        training rows.

    Examples
    --------
    >>> from urlm_helpers.world import World
    >>> world = World(users=200, items=300)
    >>> train, test = world.sample(5_000, 1), world.sample(2_000, 2)
    >>> lines = reference_lines(world, train.interactions, *test)
    >>> bool((lines["oracle"] >= lines["observables"]).all())
    True
    """
    best, suffix = best_on_observables(world, rows), "_before" if examined else ""
    lines = {}
    for scenario, task in product(SCENARIOS, TASKS):
        at, column = (rows["scenario"] == scenario).to_numpy(), task + suffix
        p, counted = truth.loc[at, column], popularity(train, rows[at], task)
        lines[scenario, task] = (
            np.nan if np.isnan(counted).any() else expected_auc(counted, p),
            expected_auc(best.loc[at, column], p),
            expected_auc(p, p),
        )
    table = pd.DataFrame(lines, index=["popularity", "observables", "oracle"]).T
    return table.rename_axis(["scenario", "task"])


def task_correlation(rows: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Measure how related tasks are: correlation of the true logits over the rows.

    Logits are those given the parent task, so that a pair is no more alike for being
    in one funnel. Appeal, confounder and query, which tasks share, count as well: even
    at a `task_shift` of 0 or π/2 the result is not quite 1 or 0.

    Parameters
    ----------
    rows, truth : DataFrame
        Interactions and their truth, best of a random sample: the items of a list
        are alike.

    Returns
    -------
    DataFrame
        Indexed by scenario, one column for each pair of tasks.

    References
    ----------
    Ma, J., Zhao, Z., Yi, X., Chen, J., Hong, L. and Chi, E. H. (2018). Modeling task
    relationships in multi-task learning with multi-gate mixture-of-experts. KDD.
    doi:10.1145/3219819.3220007 (who vary an angle, and report the correlation).

    Examples
    --------
    >>> from urlm_helpers.world import World
    >>> world = World(users=500, items=300, task_shift=0)
    >>> log = world.sample(3_000, 1, balanced=True, random=True)
    >>> task_correlation(*log).round(1).loc["shop"].to_dict()
    {'click, like': 1.0, 'click, buy': 1.0, 'like, buy': 1.0}
    """
    given = truth[[f"{task}_given" for task in TASKS]].to_numpy()
    logit = np.log(given / (1 - given))
    pairs = list(combinations(range(len(TASKS)), 2))
    lines = {}
    for scenario in SCENARIOS:
        matrix = np.corrcoef(logit[(rows["scenario"] == scenario).to_numpy()].T)
        lines[scenario] = [matrix[pair] for pair in pairs]
    names = [f"{TASKS[a]}, {TASKS[b]}" for a, b in pairs]
    return pd.DataFrame(lines, index=names).T.rename_axis("scenario")
