"""Who lives in the simulated app: users, items, friendships, and how tastes drift.

Every array comes from a random stream of its own, so that one knob of
`urlm_helpers.world.World` changes what it stands for and leaves the rest alone.
Latents and features are kept as float32 and matrix products go through `einsum`: a
last bit that differs between two processors' libraries is rounded away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from urlm_helpers.world import World

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCENARIOS = ("shop", "social", "search")
CANDIDATES = 20  # items that the policy chooses a list from
EVERYWHERE = -1  # the home of a user or an item that all scenarios share
PICKS = 5  # friends that each user picks; others pick them as well
STRANGERS = 8  # among whom a like-minded pick is made
BLOCK = 20_000  # users whose friends are picked at once
TAGS = {  # a random stream for each purpose
    "users": 1,
    "items": 2,
    "friends": 3,
    "taste": 4,
    "maps": 5,
    "log": 6,
    "sample": 7,
}


class Users(NamedTuple):
    """The users of a world, one row each.

    `taste` (users, latents) is the truth on the day of birth, `features` (users,
    columns) the noisy view of it that the app sees, `guess` the mean of the taste
    given that view. `born` is a day, `home` a scenario's number or `EVERYWHERE`,
    `activity` how often a user comes back, relative to others.
    """

    taste: Singles
    features: Singles
    guess: Singles
    born: Ints
    home: Ints
    activity: Floats


class Items(NamedTuple):
    """The items of a world, one row each.

    `taste`, `features`, `guess`, `born` and `home` as for `Users`. `appeal` is what
    everybody likes about an item, `rating` the app's noisy view of it. The category
    is the largest feature's number.
    """

    taste: Singles
    features: Singles
    guess: Singles
    born: Ints
    home: Ints
    appeal: Singles
    rating: Singles
    category: Ints


class Friends(NamedTuple):
    """Friendships, each in both directions, sorted by user.

    `taste` and `guess` (users, latents) are the means over a user's friends, of what
    they liked on their days of birth; `degree` is how many friends there are.
    """

    user: Ints
    friend: Ints
    degree: Ints
    taste: Singles
    guess: Singles


def generator(world: World, what: str, number: int = 0) -> np.random.Generator:
    """Return the world's random stream for one purpose."""
    return np.random.default_rng([world.seed, TAGS[what], number])


def normal(rng: np.random.Generator, *shape: int) -> Singles:
    """Draw standard normals and round them to float32."""
    return rng.standard_normal(shape).astype(np.float32)


def orthogonal(rng: np.random.Generator, size: int) -> Floats:
    """Draw a rotation or reflection, uniform over all of them, (size, size)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    signed = q * np.sign(np.diag(r))  # makes the factorisation unique
    return signed.astype(np.float32).astype(np.float64)


def taste_maps(world: World) -> Floats:
    r"""Return how scenarios and tasks turn a user's taste, (3, 3, latents, latents).

    .. math:: A_{s,t} = M_s T_t, \quad M_s = \cos\theta\, I + \sin\theta\, Q_s,
              \quad T_t = \cos\varphi\, I + \sin\varphi\, Q_t, \quad T_{click} = I

    with random orthogonal Q: at θ = 0 all scenarios share one taste, at φ = 0 all
    tasks do. A Q that happens to keep much of a taste helps the logging policy, which
    knows no scenario: click rates of a scenario differ between seeds.
    """
    rng, one = generator(world, "maps"), np.eye(world.latents)

    def turned(angle: float) -> Floats:
        q = orthogonal(rng, world.latents)
        return np.cos(angle) * one + np.sin(angle) * q

    scenario = [turned(world.scenario_shift) for _ in range(3)]
    task = [one, turned(world.task_shift), turned(world.task_shift)]
    maps = [[np.einsum("ij,jk->ik", m, t) for t in task] for m in scenario]
    return np.array(maps).astype(np.float32).astype(np.float64)


def view(rng: np.random.Generator, columns: int, latents: int) -> Floats:
    """Return the matrix that turns a taste into features, (columns, latents).

    Its columns are orthogonal (its rows, where there are fewer columns than latents)
    and a feature's variance is 1 on average before noise.
    """
    size = max(columns, latents)
    return orthogonal(rng, size)[:columns, :latents] * np.sqrt(size / latents)


def seen_through(matrix: Floats, noise: float) -> tuple[Floats, Floats]:
    r"""Return mean map and covariance of a taste given its noisy features.

    For :math:`z \sim N(0, I)` and :math:`x = W z + \sigma\varepsilon`,

    .. math:: E[z \mid x] = \frac{W^\top x}{c + \sigma^2}, \qquad
              \mathrm{Cov}[z \mid x] = I - \frac{W^\top W}{c + \sigma^2}

    where c is the one eigenvalue of :math:`W W^\top` that is not 0.

    Returns
    -------
    mean : ndarray, shape (latents, columns)
    covariance : ndarray, shape (latents, latents)
    """
    columns, latents = matrix.shape
    scale = max(columns, latents) / latents + noise**2
    gram = np.einsum("ci,cj->ij", matrix, matrix)
    return matrix.T / scale, np.eye(latents) - gram / scale


def homes(
    rng: np.random.Generator, n: int, overlap: float, traffic: tuple[float, ...]
) -> Ints:
    """Draw where each id lives: everywhere, or in one scenario by its traffic."""
    edges = np.cumsum(traffic) / np.sum(traffic)
    home = np.minimum(np.searchsorted(edges, rng.random(n), side="right"), 2)
    return np.where(rng.random(n) < overlap, EVERYWHERE, home).astype(np.int64)


def births(rng: np.random.Generator, n: int, late: float, days: int) -> Ints:
    """Draw the day of birth: 0, or for a share `late` any later day."""
    later, day = rng.random(n) < late, rng.integers(1, max(days, 2), n)
    return np.where(later & (days > 1), day, 0).astype(np.int64)


def tastes(
    rng: np.random.Generator, n: int, matrix: Floats, noise: float
) -> tuple[Singles, Singles, Singles]:
    """Draw tastes, their noisy features, and the mean taste given the features."""
    columns, latents = matrix.shape
    taste = normal(rng, n, latents)
    clean = np.einsum("nk,ck->nc", taste, matrix)
    features = (clean + noise * normal(rng, n, columns)).astype(np.float32)
    guess = np.einsum("nc,kc->nk", features, seen_through(matrix, noise)[0])
    return taste, features, guess.astype(np.float32)


def make_users(world: World) -> Users:
    """Draw the users."""
    rng, n = generator(world, "users"), world.users
    drawn = tastes(rng, n, world.user_view, world.feature_noise)
    born = births(rng, n, world.new_users, world.days)
    home = homes(rng, n, world.user_overlap, world.traffic)
    activity = np.exp(rng.standard_normal(n)).astype(np.float32)
    return Users(*drawn, born, home, activity.astype(np.float64))


def make_items(world: World) -> Items:
    """Draw the items."""
    rng, n = generator(world, "items"), world.items
    drawn = tastes(rng, n, world.item_view, world.feature_noise)
    born = births(rng, n, world.new_items, world.days)
    home = homes(rng, n, world.item_overlap, world.traffic)
    appeal = normal(rng, n)
    rating = (appeal + world.feature_noise * normal(rng, n)).astype(np.float32)
    return Items(*drawn, born, home, appeal, rating, np.argmax(drawn[1], axis=1))


def make_friends(world: World) -> Friends:
    """Let every user pick friends: strangers, or with homophily those who look alike.

    People compare what they can see, the features, never the hidden taste: a
    friendship then says nothing about a taste that the features do not say, and the
    best score on observables stays exact.
    """
    rng, guess = generator(world, "friends"), world.people.guess
    length = np.sqrt(np.einsum("nk,nk->n", guess, guess, dtype=np.float64))
    looks = guess / np.maximum(length, 1e-12)[:, None]
    picked = []
    for start in range(0, world.users, BLOCK):
        user = np.arange(start, min(start + BLOCK, world.users))
        # a step of 1 to users - 1 never leads back to oneself
        step = rng.integers(1, world.users, (len(user), PICKS, STRANGERS))
        other = (user[:, None, None] + step) % world.users
        looks_of = np.take(looks, other, axis=0)
        alike = np.einsum("nk,nfsk->nfs", looks[user], looks_of)
        best = np.where(
            rng.random((len(user), PICKS)) < world.homophily, alike.argmax(axis=2), 0
        )
        picked.append(np.take_along_axis(other, best[:, :, None], 2)[:, :, 0])
    one = np.repeat(np.arange(world.users), PICKS)
    two = np.concatenate(picked).ravel()
    both = np.concatenate([one * world.users + two, two * world.users + one])
    both.sort()  # a hash table, as in np.unique, takes 20 times as long
    once = np.concatenate([[True], both[1:] != both[:-1]])
    user, friend = np.divmod(both[once], world.users)
    degree = np.bincount(user, minlength=world.users)

    def mean(values: Singles) -> Singles:
        total = [np.bincount(user, v[friend], world.users) for v in values.T]
        return (np.stack(total, axis=1) / degree[:, None]).astype(np.float32)

    return Friends(user, friend, degree, mean(world.people.taste), mean(guess))


class TasteWalk:
    r"""The users' tastes day by day: an autoregression that keeps their variance.

    .. math:: u_d = \sqrt{1 - \delta^2}\, u_{d-1} + \delta\, \xi_d, \qquad
              \xi_d \sim N(0, I)

    from the day of birth on. Each day's innovations have a random stream of their
    own; only one day is held.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.day, self.taste = 0, world.people.taste

    def at(self, day: int) -> Singles:
        """Return all users' tastes on a day, (users, latents)."""
        if day < self.day:
            self.day, self.taste = 0, self.world.people.taste
        delta = self.world.drift
        while self.day < day:
            self.day += 1
            if delta > 0:
                rng = generator(self.world, "taste", self.day)
                news = normal(rng, *self.taste.shape)
                moved = np.sqrt(1 - delta**2) * self.taste + delta * news
                alive = self.world.people.born < self.day
                self.taste = np.where(alive[:, None], moved, self.taste).astype("f4")
        return self.taste


class Pool:
    """Who or what can turn up in one scenario on each day, in order of birth."""

    def __init__(
        self, born: Ints, home: Ints, weight: Floats, scenario: int, days: int
    ) -> None:
        here = np.flatnonzero((home == EVERYWHERE) | (home == scenario))
        self.ids = here[np.argsort(born[here], kind="stable")]
        self.alive = np.cumsum(np.bincount(born[here], minlength=days))
        self.reach = np.cumsum(weight[self.ids])

    def weighted(self, day: Ints, u: Floats) -> Ints:
        """Pick an id alive on each `day` with its weight, by the uniforms `u`."""
        last = self.alive[day] - 1
        found = np.searchsorted(self.reach, u * self.reach[last], side="right")
        return self.ids[np.minimum(found, last)]

    def spread(self, day: Ints, start: Floats, u: Floats) -> Ints:
        """Pick different ids alive on each `day`: one from each of equal stretches.

        `start` (rows,) says where the first stretch begins and `u` (rows, picks)
        where in its stretch each pick lies, so that every id is equally likely.
        """
        picks, alive = u.shape[1], self.alive[day][:, None]
        length = alive // picks
        inside = (u * length).astype(np.int64) + np.arange(picks) * length
        return self.ids[((start[:, None] * alive).astype(np.int64) + inside) % alive]


def make_pools(world: World) -> tuple[tuple[Pool, Pool], ...]:
    """Return users and items of each scenario, or say where too few are left."""
    people, goods = world.people, world.goods
    pools = []
    for s, scenario in enumerate(SCENARIOS):
        users = Pool(people.born, people.home, people.activity, s, world.days)
        alike = np.ones(world.items)
        items = Pool(goods.born, goods.home, alike, s, world.days)
        for what, pool, least in (("user", users, 1), ("item", items, CANDIDATES)):
            if pool.alive[0] < least:
                raise ValueError(
                    f"{scenario} has {pool.alive[0]} {what}s on the first day and "
                    f"needs {least}: raise {what}s or {what}_overlap, or lower "
                    f"new_{what}s"
                )
        pools.append((users, items))
    return tuple(pools)
