"""The log of the simulated app: who comes, what is shown, and the rows in tables.

The log is drawn in blocks of 2,000 requests, each from a random stream of its own and
evenly over time: any block can be drawn alone, and a long log never has to be held.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urlm_helpers.data.arrays import Booleans, Floats, Ints
from urlm_helpers.world.draws import generator, normal
from urlm_helpers.world.knobs import CANDIDATES, SCENARIOS
from urlm_helpers.world.people import Population, TasteWalk
from urlm_helpers.world.truth import APPEAL, DAY, GAIN, SEARCH, SOCIAL, Shown, react

SLOTS = 5  # positions of one list
REQUESTS = 2_000  # lists drawn from one random stream
TEMPERATURE = 1.0  # of the policy: 0 would always show the best candidates
TYPO = 1.0  # noise of a query, where the wish behind it has about unit variance
FIRST_DAY = np.datetime64("2026-01-01", "s")


class Log(NamedTuple):
    """Rows of a log, and the truth about each.

    `interactions` has the columns of `urlm_helpers.world.World.dataset`. `truth` has
    the same rows and index: `examination` (the probability that the position is
    looked at), `examined` (whether it was), `hidden` (the confounder, which all
    probabilities know) and, for each task t, three probabilities: `t_given` (given its
    parent task, and given that the row is examined), `t_before` (the product of these
    up to t: what the task's rate would be if every row were examined) and `t` (with
    examination: the rate of the label).
    """

    interactions: pd.DataFrame
    truth: pd.DataFrame


def ask(world: Population, rng: np.random.Generator, user: Ints) -> Ints:
    """Draw the category that each user types: the likeliest wish, with noise."""
    guess = world.people.guess[user].astype(np.float64)
    wish = np.einsum("nk,ck->nc", guess, world.item_view)
    return np.argmax(wish + TYPO * normal(rng, *wish.shape), axis=1)


def stale_score(
    world: Population, user: Ints, item: Ints, scenario: Ints, query: Ints
) -> Floats:
    """Score candidates (requests, candidates) as the logging policy does.

    It knows the features of the day of birth, one taste for all scenarios, and no
    drift. A policy that saw the hidden taste would leak it: what is shown would tell
    more about a user than the features do.
    """
    guess, goods = world.people.guess, world.goods
    match = np.einsum("nk,nck->nc", guess[user], goods.guess[item], dtype=np.float64)
    same = (goods.category[item] == query[:, None]) & (scenario == SEARCH)[:, None]
    score = GAIN / np.sqrt(world.latents) * match + APPEAL[0] * goods.rating[item]
    return score + world.query_effect * same


def choose(
    rng: np.random.Generator, score: Floats, random: Booleans, share: float
) -> tuple[Ints, Floats]:
    r"""Fill the slots one after the other from softmax(score), or at random.

    The Plackett-Luce model, drawn by a race of exponential clocks. The propensity of
    a slot is that of a logger who does not look at the coin `random`: with list
    probabilities :math:`L_j, R_j` of the first j slots under the two policies,

    .. math:: \pi_j = \frac{(1-\varepsilon) L_j + \varepsilon R_j}
              {(1-\varepsilon) L_{j-1} + \varepsilon R_{j-1}}

    Parameters
    ----------
    score : array, shape (requests, candidates)
    random : array of bool, shape (requests,)
        Which requests show candidates in random order.
    share : float
        The share ε of these.

    Returns
    -------
    order : ndarray of int, shape (requests, candidates)
        Candidates by position.
    propensity : ndarray, shape (requests, candidates)
        Probability of each, given the candidates and what stands above.
    """
    weight = np.exp((score - score.max(axis=1, keepdims=True)) / TEMPERATURE)
    clock = rng.standard_exponential(score.shape)
    speed = np.where(random[:, None], 1.0, weight)
    order = np.argsort(clock / speed, axis=1)
    placed = np.take_along_axis(weight, order, 1)
    left = np.cumsum(placed[:, ::-1], axis=1)[:, ::-1]
    ranked = np.cumprod(placed / left, axis=1)
    shuffled = np.cumprod(1 / np.arange(score.shape[1], 0, -1))
    mixed = (1 - share) * ranked + share * shuffled
    above = np.concatenate([np.ones((len(score), 1)), mixed[:, :-1]], axis=1)
    return order, mixed / above


def show(
    world: Population,
    rng: np.random.Generator,
    request: Ints,
    second: Ints,
    scenario: Ints,
    slots: int,
    candidates: int,
) -> Shown:
    """Draw the users of the requests and what the policy shows them."""
    day = second // DAY
    who, start = rng.random((2, len(day)))
    where = rng.random((len(day), candidates))
    user = np.empty(len(day), np.int64)
    item = np.empty(where.shape, np.int64)
    for s in range(len(SCENARIOS)):
        at = np.flatnonzero(scenario == s)
        users, items = world.pools[s]
        user[at] = users.weighted(day[at], who[at])
        item[at] = items.spread(day[at], start[at], where[at])
    query = np.where(scenario == SEARCH, ask(world, rng, user), -1)
    random = rng.random(len(day)) < (world.random_share if candidates > 1 else 1.0)
    score = stale_score(world, user, item, scenario, query)
    order, propensity = choose(rng, score, random, world.random_share)
    shown = np.take_along_axis(item, order[:, :slots], 1)
    of_request = (request, user, scenario, second, query, random)
    return Shown._make(
        [
            *(np.repeat(values, slots) for values in of_request),
            shown.ravel(),
            np.tile(np.arange(1, slots + 1), len(day)),
            propensity[:, :slots].ravel(),
        ]
    )


def to_frames(
    world: Population,
    shown: Shown,
    labels: dict[str, NDArray],
    truth: dict[str, NDArray],
) -> Log:
    """Name everything that the app can log, and what it can't, in two tables."""
    day = shown.second // DAY
    people, goods = world.people, world.goods
    social = np.flatnonzero(shown.scenario == SOCIAL)
    friend_match = np.zeros(len(day), np.float32)
    friend_match[social] = np.einsum(
        "nk,nk->n",
        world.friends.guess[shown.user[social]],
        goods.guess[shown.item[social]],
        dtype=np.float64,
    ) / np.sqrt(world.latents)
    query_match = goods.category[shown.item] == shown.query
    interactions = pd.DataFrame(
        {
            "user": shown.user,
            "item": shown.item,
            "scenario": np.array(SCENARIOS, object)[shown.scenario],
            "time": (FIRST_DAY + shown.second).astype("datetime64[ns]"),
            **labels,
            "request": shown.request,
            "position": shown.position.astype(np.int8),
            "propensity": shown.propensity.astype(np.float32),
            "random": shown.random.astype(np.int8),
            # -1, no query, is the last name
            "query": np.array([*world.categories, "none"], object)[shown.query],
            "query_match": query_match.astype(np.int8),
            "friend_match": friend_match,
            "user_age": (day - people.born[shown.user]).astype(np.int16),
            "item_age": (day - goods.born[shown.item]).astype(np.int16),
        }
    )
    return Log(interactions, pd.DataFrame(truth))


def visits(world: Population, rng: np.random.Generator, n: int) -> Ints:
    """Draw the scenarios of requests by traffic."""
    drawn = np.searchsorted(np.cumsum(world.traffic), rng.random(n), side="right")
    return np.minimum(drawn, len(SCENARIOS) - 1)


def draw(
    world: Population,
    rng: np.random.Generator,
    walk: TasteWalk,
    request: Ints,
    when: Floats,
    scenario: Ints,
    sizes: tuple[int, int] = (SLOTS, CANDIDATES),
) -> Log:
    """Show lists to the users of the requests, at `when` in days; let them react."""
    second = np.minimum((when * DAY).astype(np.int64), world.days * DAY - 1)
    shown = show(world, rng, request, second, scenario, *sizes)
    return to_frames(world, shown, *react(world, rng, walk, shown))


def block(world: Population, walk: TasteWalk, start: int, stop: int, total: int) -> Log:
    """Draw the requests from `start` to `stop` of `total`."""
    rng = generator(world, "log", start // REQUESTS)
    request = np.arange(start, stop)
    when = (request + rng.random(len(request))) * (world.days / total)
    return draw(world, rng, walk, request, when, visits(world, rng, len(request)))


def chunks(world: Population, rows: int, blocks: int, skip: int = 0) -> Iterator[Log]:
    """Yield the log of `rows` rows, `blocks` blocks at once, after `skip` chunks."""
    walk, requests, step = TasteWalk(world), -(-rows // SLOTS), blocks * REQUESTS
    for start in range(skip * step, requests, step):
        stop = min(start + step, requests)
        edges = [*range(start, stop, REQUESTS), stop]
        logs = [block(world, walk, a, b, requests) for a, b in pairwise(edges)]
        index = pd.RangeIndex(start * SLOTS, min(stop * SLOTS, rows))
        whole = [pd.concat(t, ignore_index=True) for t in zip(*logs, strict=True)]
        yield Log(*(table[: len(index)].set_axis(index) for table in whole))


def fresh(world: Population, rows: int, seed: int, balanced: bool, random: bool) -> Log:
    """Draw the rows of `urlm_helpers.world.World.sample`."""
    rng, walk = generator(world, "sample", seed), TasteWalk(world)
    sizes = (1, 1) if random else (SLOTS, CANDIDATES)
    request = np.arange(-(-rows // sizes[0]))
    when = rng.random(len(request)) * world.days
    drawn = visits(world, rng, len(request))
    scenario = request % len(SCENARIOS) if balanced else drawn
    log = draw(world, rng, walk, request, when, scenario, sizes)
    return Log(log.interactions[:rows], log.truth[:rows])
