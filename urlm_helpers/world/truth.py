"""How users of the simulated app react: the true probabilities, and the labels.

Every probability is rounded to a multiple of 2⁻²⁰ and the labels are drawn with the
rounded one, so that labels do not hang on the last bit of a processor's exponential
function.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from urlm_helpers.data.arrays import Booleans, Floats, Ints
from urlm_helpers.world.draws import normal
from urlm_helpers.world.knobs import SCENARIOS
from urlm_helpers.world.people import Population, TasteWalk

TASKS = ("click", "like", "buy")
SOCIAL, SEARCH = 1, 2
# logits at a match of 0: scenario by task
BASE = np.array([[-2.6, -1.3, -1.3], [-2.4, -1.0, -1.6], [-2.4, -0.3, -0.6]])
GAIN = 1.3  # logit per standard deviation of the match between user and item
APPEAL = np.array([0.6, 0.3, 0.3])  # logit per unit of appeal, by task
QUERY = np.array([1.0, 0.5, 0.5])  # share of the query's effect that a task gets
EXAMINED = np.array([1.0, 0.5, 1.5])  # a scenario's multiple of position_bias
GRID = 2.0**20
DAY = 86_400


class Shown(NamedTuple):
    """Rows that the app shows, before anybody reacts: one array of (rows,) each."""

    request: Ints
    user: Ints
    scenario: Ints
    second: Ints
    query: Ints
    random: Booleans
    item: Ints
    position: Ints
    propensity: Floats


def rounded(p: Floats) -> Floats:
    """Round probabilities to multiples of 2⁻²⁰, inside (0, 1)."""
    return np.clip(np.rint(p * GRID), 1, GRID - 1) / GRID


def sigmoid(logit: Floats) -> Floats:
    """Return the logistic function of the logit."""
    return 1 / (1 + np.exp(-logit))


def examination(world: Population, scenario: Ints, position: Ints) -> Floats:
    r"""Return the probability that a position is looked at, :math:`k^{-\eta_s}`.

    .. math:: \eta_{shop} = \eta, \quad \eta_{social} = \eta / 2, \quad
              \eta_{search} = 3 \eta / 2

    The position-based model: Richardson, M., Dominowska, E. and Ragno, R. (2007).
    Predicting clicks. WWW. doi:10.1145/1242572.1242643.
    """
    decay = world.position_bias * EXAMINED[scenario]
    return np.maximum(np.rint(position ** (-decay) * GRID), 1) / GRID


def logits(
    world: Population,
    taste: NDArray[np.floating],
    friends: NDArray[np.floating],
    item: NDArray[np.floating],
    appeal: NDArray[np.floating],
    scenario: Ints,
    query_match: NDArray[np.floating],
) -> Floats:
    r"""Return the logit of each task given its parent, without the confounder.

    .. math:: \ell_{s,t} = a_{s,t} + g \sqrt{\frac{1 - \kappa / 2}{k}}
              \bigl(u + [s = social]\, \beta_f \bar u\bigr)^{\!\top} A_{s,t}\, v
              + b_t\, \text{appeal} + [s = search]\, \beta_q c_t\, \text{match}

    What thresholds add for a ``threshold_share`` κ is in `segment_logits`.

    Parameters
    ----------
    taste, friends, item : array, shape (rows, latents)
        The user's taste u, the mean taste of the friends, the item's taste v.
    appeal, scenario, query_match : array, shape (rows,)

    Returns
    -------
    ndarray, shape (rows, tasks)
    """
    out = np.empty((len(scenario), len(TASKS)))
    gain = GAIN * np.sqrt(1 - world.threshold_share / 2)
    for s in range(len(SCENARIOS)):
        rows = np.flatnonzero(scenario == s)
        who: Floats = taste[rows].astype(np.float64)
        if s == SOCIAL:
            who += world.friend_effect * friends[rows]
        for t in range(len(TASKS)):
            wish = np.einsum("nk,kl->nl", who, world.maps[s, t])
            match = np.einsum("nl,nl->n", wish, item[rows].astype(np.float64))
            out[rows, t] = BASE[s, t] + gain / np.sqrt(world.latents) * match
    query = np.where(scenario == SEARCH, query_match, 0) * world.query_effect
    return out + APPEAL * appeal[:, None] + QUERY * query[:, None]


def segment_logits(world: Population, user: Ints, item: Ints, scenario: Ints) -> Floats:
    r"""Return what a user's segment adds to the logits of an item's category.

    .. math:: g \sqrt{\kappa / 2}\; E_{s,t}[\text{segment}, \text{category}]

    It hangs on the features alone, so that the best score on observables knows it.

    Parameters
    ----------
    user, item, scenario : array of int, shape (rows,)

    Returns
    -------
    ndarray, shape (rows, tasks)
    """
    if world.threshold_share == 0:
        return np.zeros((len(user), len(TASKS)))
    likes = world.segment_tables[scenario, :, world.segments[user]]
    category = world.goods.category[item][:, None, None]
    found = np.take_along_axis(likes, category, axis=2)[:, :, 0]
    return np.asarray(GAIN * np.sqrt(world.threshold_share / 2) * found)


def funnel(given: Floats, examination: Floats) -> dict[str, Floats]:
    """Name every task's probability given its parent, before and after examination."""
    before: Floats = np.cumprod(given, axis=1, dtype=np.float64)
    columns = {}
    for t, task in enumerate(TASKS):
        columns[f"{task}_given"] = given[:, t]
        columns[f"{task}_before"] = before[:, t]
        columns[task] = before[:, t] * examination
    return columns


def react(
    world: Population, rng: np.random.Generator, walk: TasteWalk, shown: Shown
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Draw the labels of what is shown; return them and the truth by column."""
    day, item = shown.second // DAY, world.goods
    taste = np.empty((len(day), world.latents), np.float32)
    for d in np.unique(day):
        rows = np.flatnonzero(day == d)
        taste[rows] = walk.at(int(d))[shown.user[rows]]
    mood = normal(rng, len(day)).astype(np.float64)
    hidden = world.confounder * mood + 0.0  # never -0
    logit = logits(
        world,
        taste,
        world.friends.taste[shown.user],
        item.taste[shown.item],
        item.appeal[shown.item],
        shown.scenario,
        item.category[shown.item] == shown.query,
    )
    logit += segment_logits(world, shown.user, shown.item, shown.scenario)
    given = rounded(sigmoid(logit + hidden[:, None]))
    look = examination(world, shown.scenario, shown.position)
    u = rng.random((len(day), 1 + len(TASKS)))
    examined = u[:, 0] < look
    done = examined
    labels: dict[str, NDArray] = {}
    for t, task in enumerate(TASKS):
        done = done & (u[:, t + 1] < given[:, t])
        labels[task] = done.astype(np.int8)
    truth: dict[str, NDArray] = {
        "examination": look,
        "examined": examined.astype(np.int8),
        "hidden": hidden,
        **funnel(given, look),
    }
    return labels, truth
