"""Who lives in the simulated app: users, items, friendships, and how tastes drift.

Every array comes from a random stream of its own, so that one knob of
`urlm_helpers.world.World` changes what it stands for and leaves the rest alone.
Latents and features are kept as float32 and matrix products go through `einsum`: a
last bit that differs between two processors' libraries is rounded away.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from urlm_helpers.data.arrays import Floats, Ints, Singles
from urlm_helpers.world.draws import (
    SEGMENT_COLUMNS,
    Pool,
    births,
    generator,
    homes,
    normal,
    segment_tables,
    taste_maps,
    tastes,
    view,
)
from urlm_helpers.world.knobs import CANDIDATES, SCENARIOS, Knobs

PICKS = 5  # friends that each user picks; others pick them as well
STRANGERS = 8  # among whom a like-minded pick is made
BLOCK = 20_000  # users whose friends are picked at once


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


@dataclass(frozen=True)
class Population(Knobs):
    """The knobs, and who lives in the app that they describe; drawn when asked for."""

    @cached_property
    def user_view(self) -> Floats:
        """The matrix behind the users' features, (user_features, latents)."""
        return view(generator(self, "users", 1), self.user_features, self.latents)

    @cached_property
    def item_view(self) -> Floats:
        """The matrix behind the items' features, (item_features, latents)."""
        return view(generator(self, "items", 1), self.item_features, self.latents)

    @cached_property
    def maps(self) -> Floats:
        """How scenarios and tasks turn tastes, (3, 3, latents, latents)."""
        return taste_maps(self)

    @cached_property
    def segment_tables(self) -> Floats:
        """What segments like among the categories, (3, 3, segments, categories)."""
        return segment_tables(self)

    @cached_property
    def segments(self) -> Ints:
        """The number of each user's segment, by the signs of the first features."""
        positive = self.people.features[:, :SEGMENT_COLUMNS] > 0
        return np.asarray(positive @ (2 ** np.arange(positive.shape[1])))

    @cached_property
    def people(self) -> Users:
        """The users, with their hidden tastes."""
        rng, n = generator(self, "users"), self.users
        drawn = self._drawn(rng, n, self.user_view, self.new_users, self.user_overlap)
        activity = np.exp(rng.standard_normal(n)).astype(np.float32)
        return Users(*drawn, activity.astype(np.float64))

    @cached_property
    def goods(self) -> Items:
        """The items, with their hidden tastes and appeal."""
        rng, n = generator(self, "items"), self.items
        drawn = self._drawn(rng, n, self.item_view, self.new_items, self.item_overlap)
        appeal = normal(rng, n)
        rating = (appeal + self.feature_noise * normal(rng, n)).astype(np.float32)
        return Items(*drawn, appeal, rating, np.argmax(drawn[1], axis=1))

    def _drawn(
        self, rng: Generator, n: int, matrix: Floats, late: float, overlap: float
    ) -> tuple[Singles, Singles, Singles, Ints, Ints]:
        """Draw what users and items have in common: the first five columns."""
        taste = tastes(rng, n, matrix, self.feature_noise)
        born = births(rng, n, late, self.days)
        return *taste, born, homes(rng, n, overlap, self.traffic)

    @cached_property
    def friends(self) -> Friends:
        """The friendships: strangers, or with homophily those who look alike.

        People compare what they can see, the features, never the hidden taste: a
        friendship then says nothing about a taste that the features do not say, and
        the best score on observables stays exact.
        """
        one = np.repeat(np.arange(self.users), PICKS)
        two = self._picked_friends().ravel()
        both = np.concatenate([one * self.users + two, two * self.users + one])
        both.sort()  # a hash table, as in np.unique, takes 20 times as long
        once = np.concatenate([[True], both[1:] != both[:-1]])
        user, friend = np.divmod(both[once], self.users)
        degree = np.bincount(user, minlength=self.users)

        def mean(values: Singles) -> Singles:
            total = [np.bincount(user, v[friend], self.users) for v in values.T]
            return (np.stack(total, axis=1) / degree[:, None]).astype(np.float32)

        people = self.people
        return Friends(user, friend, degree, mean(people.taste), mean(people.guess))

    def _picked_friends(self) -> Ints:
        """Let every user pick friends, (users, picks)."""
        rng, guess = generator(self, "friends"), self.people.guess
        length = np.sqrt(np.einsum("nk,nk->n", guess, guess, dtype=np.float64))
        looks = guess / np.maximum(length, 1e-12)[:, None]
        picked = []
        for start in range(0, self.users, BLOCK):
            user = np.arange(start, min(start + BLOCK, self.users))
            # a step of 1 to users - 1 never leads back to oneself
            step = rng.integers(1, self.users, (len(user), PICKS, STRANGERS))
            other = (user[:, None, None] + step) % self.users
            looks_of = np.take(looks, other, axis=0)
            alike = np.einsum("nk,nfsk->nfs", looks[user], looks_of)
            by_looks = rng.random((len(user), PICKS)) < self.homophily
            best = np.where(by_looks, alike.argmax(axis=2), 0)
            picked.append(np.take_along_axis(other, best[:, :, None], 2)[:, :, 0])
        return np.concatenate(picked)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Names of the items' categories, which are also the queries."""
        return tuple(f"category {c}" for c in range(self.item_features))

    @cached_property
    def pools(self) -> tuple[tuple[Pool, Pool], ...]:
        """Users and items of each scenario, or an error where too few are left."""
        people, goods, alike = self.people, self.goods, np.ones(self.items)
        return tuple(
            (
                self._pool(s, "user", people, people.activity, 1),
                self._pool(s, "item", goods, alike, CANDIDATES),
            )
            for s in range(len(SCENARIOS))
        )

    def _pool(
        self, scenario: int, what: str, of: Users | Items, weight: Floats, least: int
    ) -> Pool:
        pool = Pool(of.born, of.home, weight, scenario, self.days)
        if pool.alive[0] < least:
            raise ValueError(
                f"{SCENARIOS[scenario]} has {pool.alive[0]} {what}s on the first day "
                f"and needs {least}: raise {what}s or {what}_overlap, or lower "
                f"new_{what}s"
            )
        return pool


class TasteWalk:
    r"""The users' tastes day by day: an autoregression that keeps their variance.

    .. math:: u_d = \sqrt{1 - \delta^2}\, u_{d-1} + \delta\, \xi_d, \qquad
              \xi_d \sim N(0, I)

    from the day of birth on. Each day's innovations have a random stream of their
    own; only one day is held.
    """

    def __init__(self, world: Population) -> None:
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
