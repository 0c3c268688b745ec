"""A simulated app whose every probability is known: shop, social and search.

Real logs never say how good a score could be. Here each label comes with the
probability it was drawn with, so that a model can be held against the truth
(`urlm_helpers.world.reference`) and each difficulty has a knob of its own.

`urlm_helpers.world.people` draws who lives in the app, `urlm_helpers.world.log` who
comes and what is shown, `urlm_helpers.world.truth` how people react.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import DataCard, Dataset, Schema
from urlm_helpers.world.knobs import SCENARIOS
from urlm_helpers.world.log import REQUESTS, SLOTS, Log, chunks, fresh
from urlm_helpers.world.people import Items, Population, Users
from urlm_helpers.world.truth import TASKS

BLOCK = REQUESTS * SLOTS


@dataclass(frozen=True)
class World(Population):
    """The knobs of a simulated app with three scenarios and a funnel of three tasks.

    `click` leads to `like` and `like` to `buy`. In shop and search a like is an item
    put into the cart; in social it is a like, and `buy` stands for a share.

    Parameters
    ----------
    **knobs
        Of :class:`~urlm_helpers.world.Knobs`, which says what each does: ``seed``,
        ``users``, ``items``, ``scenario_shift`` and 19 more.

    Raises
    ------
    ValueError
        A knob outside its range, with the range.

    Examples
    --------
    >>> world = World(seed=1, users=500, items=300)
    >>> data = world.dataset(2_000)
    >>> data
    Dataset('world-1': 2,000 interactions, 500 users, 300 items, scenarios ('shop', \
'social', 'search'), tasks ('click', 'like', 'buy'))
    >>> truth = data.extra["truth"]
    >>> rate, expected = data.interactions["click"].mean(), truth["click"].mean()
    >>> bool(abs(rate - expected) < 4 * (0.25 / 2_000) ** 0.5)
    True
    >>> World(user_overlap=1.5)
    Traceback (most recent call last):
        ...
    ValueError: user_overlap must lie in [0, 1], got 1.5
    """

    @property
    def schema(self) -> Schema:
        """Which columns are what; position and propensity are left to the reader."""
        return Schema(
            scenarios=SCENARIOS,
            tasks=TASKS,
            funnel={"like": "click", "buy": "like"},
            user_numeric=tuple(f"u{c}" for c in range(self.user_features)),
            item_categorical=("category",),
            item_numeric=(*(f"i{c}" for c in range(self.item_features)), "rating"),
            context_categorical=("query",),
            context_numeric=("query_match", "friend_match", "user_age", "item_age"),
            consumed_again=True,
        )

    def dataset(self, rows: int = 200_000) -> Dataset:
        """Run the app and log `rows` impressions.

        The interactions have, besides the schema's columns, `request` (the list a row
        belongs to), `position` (1 is the top), `propensity` (of this item at this
        position, given the candidates and what stands above) and `random` (1 in the
        random slice). `friend_match` is the match of the item with what the friends'
        features tell of their tastes, `query_match` says that the category is the one
        asked for; ages are in days since birth.

        The 20 candidates are not logged: each of the n items that live in the scenario
        on that day (``world.pools[scenario number][1].alive[day]``) is equally likely
        to be among them. At position 1 an item of the catalog hence had the propensity
        ``20 / n * propensity`` in all rows, and ``1 / n`` in the rows of the random
        slice alone, where `propensity`, which does not know the slice, is wrong. With
        either, `urlm_helpers.evaluation.off_policy` judges a policy over the whole
        catalog, but none that ranks the candidates.

        Returns
        -------
        Dataset
            ``extra["truth"]`` has the probabilities, row by row (see
            `urlm_helpers.world.Log`), ``extra["friends"]`` each friendship in
            both directions (`user`, `friend`).

        Examples
        --------
        >>> sorted(World(users=100, items=300).dataset(100).extra)
        ['friends', 'truth']
        """
        positive(rows)
        log = next(chunks(self, rows, -(-rows // BLOCK)))
        users = id_table("user", self.people)
        items = id_table("item", self.goods)
        items["rating"] = self.goods.rating
        items["category"] = np.array(self.categories, object)[self.goods.category]
        friends = {"user": self.friends.user, "friend": self.friends.friend}
        return from_frames(
            log.interactions,
            users,
            items,
            schema=self.schema,
            name=f"world-{self.seed}",
            card=DataCard(
                f"A simulated app (seed {self.seed})",
                "drawn by urlm_helpers.world; no person stands behind a row",
                "none needed",
                known_problems=("a world, not the world: effects are as large as set",),
            ),
            extra={"truth": log.truth, "friends": pd.DataFrame(friends)},
        )

    def stream(self, rows: int, chunk: int = 100_000, skip: int = 0) -> Iterator[Log]:
        """Yield the log of `dataset` in chunks, in order of time.

        The rows do not depend on the size of a chunk, and any chunk can be made alone.
        Memory is that of the users, the items and one chunk.

        Parameters
        ----------
        rows : int
            Length of the whole log.
        chunk : int
            Rows at once: a multiple of 10,000.
        skip : int
            How many chunks to leave out at the start.

        Raises
        ------
        ValueError
            `rows` is not positive, `chunk` no positive multiple, `skip` negative.

        Examples
        --------
        >>> world = World(users=100, items=300)
        >>> [len(log.truth) for log in world.stream(25_000, chunk=10_000, skip=1)]
        [10000, 5000]
        """
        positive(rows)
        if chunk < BLOCK or chunk % BLOCK or skip < 0:
            raise ValueError(
                f"chunk must be a positive multiple of {BLOCK:,} and skip at least 0, "
                f"got chunk={chunk!r}, skip={skip!r}"
            )
        return chunks(self, rows, chunk // BLOCK, skip)

    def sample(
        self, rows: int, seed: int, *, balanced: bool = False, random: bool = False
    ) -> Log:
        """Draw fresh rows of the same world, to measure a model on.

        Parameters
        ----------
        rows : int
        seed : int
            Other seeds give other rows of the same users and items.
        balanced : bool
            As many requests in each scenario, instead of the traffic's shares.
        random : bool
            Users with items drawn uniformly at position 1, instead of logged lists.
            The item is its request's only candidate, with a `propensity` of 1.

        Returns
        -------
        Log
            Rows from all days, in no order.

        Raises
        ------
        ValueError
            `rows` is not positive, `seed` negative.

        Examples
        --------
        >>> log = World(users=100, items=300).sample(600, 1, balanced=True, random=True)
        >>> log.interactions["scenario"].value_counts().tolist()
        [200, 200, 200]
        """
        positive(rows)
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed!r}")
        return fresh(self, rows, seed, balanced, random)


def positive(rows: int) -> None:
    """Refuse a log without rows."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows!r}")


def id_table(key: str, of: Users | Items) -> pd.DataFrame:
    """Make the table of the users or the items: id, day of birth, features."""
    features = {f"{key[0]}{c}": column for c, column in enumerate(of.features.T)}
    ids = np.arange(len(of.features))
    return pd.DataFrame({key: ids, "born": of.born, **features})
