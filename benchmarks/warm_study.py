"""The study of page 5.8b: what it costs and gains to go on, instead of training anew.

    OMP_NUM_THREADS=1 python benchmarks/warm_study.py

*New days* (``days``). A world in which tastes drift and a third of the users and items
are born after the first day. A model has learned two weeks; each of the next days is
asked with a model that stays and is told no event, one that stays, one that is only
recalibrated, one that goes on with the days since, and, on two of them, one trained
anew on all. Two controls tell what new days are worth from what was owed on the first
morning: a recalibration from the first new day alone, and a model that goes on with as
many rows, drawn from the two weeks. What is measured is the loss of the clicks above
that of the true probabilities, and the processor seconds of an update, without
compiling.

*A new scenario* (``opening``). A model has learned shop and feed; a search opens, and
its first 250, 1,000 or 4,000 rows are there. Its later rows are asked with the grown
model as it is, with a correction of slope and level, with the search's own parameters
trained on, with all weights trained on (each row of the search with one old row, as
`warm_start` does), with a model trained anew on all, once more with the search's rows
four times (two passes then see each as often as the eight of going on), and with a
regression with products, one without, and with trees on the search's rows alone. Of
the old scenarios' later rows it is measured how far a probability moved, and the loss.
All know the same users and items. Processor seconds are with the tracing of a step, as
an update would pay it.

Step size, passes and the rest of each are chosen on the world ``TUNING`` alone, from
grids wide enough that no winner stands at an end; of a new scenario at each number of
rows. A line of a result is written as soon as it is known, and skipped when the study
is started again.
"""

from __future__ import annotations

import ast
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from typing import Any

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

import lightgbm
import numpy as np
import pandas as pd
from results import Result
from sklearn.linear_model import LogisticRegression

from urlm_helpers.data import Dataset, from_frames
from urlm_helpers.evaluation import auc
from urlm_helpers.model import ProductBranch, UnifiedRecommender
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.training import devices, fit, fit_scenario, grow, grow_encoder
from urlm_helpers.world import World, excess_log_loss, expected_auc

TUNING, SEEDS = 99, (101, 102, 103, 104, 105, 106, 107, 108)
ROWS, LAST, TESTS = 100_000, 14, (16, 17, 18, 19)
DRIFTING = {"days": 20, "drift": 0.2, "new_users": 0.33, "new_items": 0.33}
RATES, PASSES = (5e-4, 1e-3, 2e-3, 4e-3), (1, 2, 4)
SMALLER, ANEW = (1e-4, 2.5e-4), (16, 18)
HOW = {"min_count": 5, "history_length": 10, "history_fields": ["item", "category"]}
FEW, OPENS, JUDGED, NEW = (250, 1_000, 4_000), 9, 13, "search"
SMALL, AGAIN, ALIKE = 64, 8, 1e-3  # batch, passes, a loss that is no other
WORLDS = (101, 102, 103, 104)
PLAIN = "own regression, no products"
WAYS: dict[str, tuple[float, float]] = {  # a first step size or strength, and a factor
    "as it is": (0.0, 0.0),
    "corrected": (1.0, 0.0),
    "own regression": (0.01, 4.0),
    PLAIN: (0.01, 4.0),
    "own trees": (40.0, 2.0),
    "its own part": (0.004, 4.0),
    "goes on": (0.001, 4.0),
    "anew on all": (0.0, 0.0),  # as tuned for the days
    "anew, its rows four times": (0.0, 0.0),  # so seen as often as by "goes on"
}
TIMES = 4
BACK = [["user"], ["item"], ["user", "item"]]
Way = dict[str, Any]
DAYS = Result(
    "warm-days.csv",
    ["seed", "method", "day", "settings", "excess", "auc", "cpu_seconds"],
    6,
)
SCENARIO = Result(
    "warm-scenario.csv",
    ["seed", "method", "rows", "settings", "excess", "auc", "old_moved", "old_excess"]
    + ["cpu_seconds"],
    6,
)


def logit(p: np.ndarray) -> np.ndarray:
    """Return log-odds."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)))


def recalibrated(past: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Correct probabilities by a slope and a level, learned from some labels."""
    if y.min() == y.max():
        return asked
    model = LogisticRegression(C=1.0).fit(logit(past)[:, None], y)
    return np.asarray(model.predict_proba(logit(asked)[:, None])[:, 1])


class Log:
    """A world's log, with the true probabilities of its clicks, by row."""

    def __init__(
        self, seed: int, n: int, knobs: Way, keep: Callable[[Any], Any]
    ) -> None:
        data = World(seed=seed, users=2_000, items=1_000, **knobs).dataset(n)
        rows = data.interactions
        self.day = (
            (rows["time"] - rows["time"].dt.normalize().min()).dt.days + 1
        ).to_numpy()
        kept = np.flatnonzero(keep(rows.assign(day=self.day)))
        self.rows, self.day = rows.iloc[kept].reset_index(drop=True), self.day[kept]
        self.truth = data.extra["truth"]["click"].to_numpy()[kept]
        self.users, self.items, self.schema = data.users, data.items, data.schema
        self.seed = seed

    def dataset(self, rows: np.ndarray, scenarios: tuple[str, ...]) -> Dataset:
        """Make a dataset of some rows."""
        schema = replace(self.schema, scenarios=scenarios)
        log = self.rows.iloc[rows]
        return from_frames(log, self.users, self.items, schema=schema)

    def judged(self, p: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        """Return the excess loss and the AUC of the clicks of some rows."""
        y = self.rows["click"].to_numpy()[rows]
        return {
            "excess": excess_log_loss(self.truth[rows], p),
            "auc": auc(y, p),
        }


class Learner:
    """One compiled model; every way of training starts from some weights of it."""

    def __init__(self, spec: Any, seed: int, batch: int) -> None:
        self.batch = batch
        self.model = UnifiedRecommender(spec, bottom=64, match=32)
        self.model.reset(seed)
        self.seed, self.fresh = seed, self.model.get_weights()

    def train(
        self, weights: Any, x: Any, y: np.ndarray, *, rate: float, passes: int, **_: Any
    ) -> float:
        """Train from some weights on; return the processor seconds."""
        self.model.set_weights(weights)
        rows = np.arange(len(y))
        some = np.random.default_rng(0).permutation(rows)[:1_000]
        start = time.process_time()
        fit(
            self.model,
            x,
            y,
            {"train": rows, "valid": some},
            epochs=passes,
            patience=passes,
            learning_rate=rate,
            batch_size=self.batch,
            weight_decay=0.3,
            seed=self.seed,
        )
        return time.process_time() - start

    def clicks(self, x: Any) -> np.ndarray:
        """Return the probability of a click of some rows."""
        return np.asarray(self.model.probabilities(x)[:, 0])


def taken(x: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of the inputs."""
    return {name: array[rows] for name, array in x.items()}


# --- new days -------------------------------------------------------------------------


class Days:
    """The days of a world, and what each way makes of them."""

    def __init__(self, seed: int) -> None:
        self.log = log = Log(seed, ROWS, DRIFTING, lambda rows: rows["day"] > 0)
        every = np.arange(len(log.rows))
        data = log.dataset(every, log.schema.scenarios)
        self.first = pd.Timestamp(log.rows["time"].min()).normalize()
        self.encoder = Encoder(data, self.at(LAST + 1), look_back=BACK, **HOW)
        encoders = {LAST: self.encoder}
        for day in range(LAST + 1, max(TESTS)):
            until = self.at(day + 1)
            known = encoders[day - 1]
            encoders[day] = grow_encoder(known, data, until, min_count=5)
        # the codes of the last day are those of each day, but for what it can't know
        self.x = encoders[max(TESTS) - 1].transform(log.rows)
        self.y = log.rows[list(log.schema.tasks)].to_numpy("int8")
        self.specs = {day: encoder.spec for day, encoder in encoders.items()}
        self.learner = Learner(self.specs[max(TESTS) - 1], seed, 256)

    def at(self, day: int) -> pd.Timestamp:
        """Return the first moment of a day, counted from 1."""
        return self.first + pd.Timedelta(days=day - 1)

    def inputs(self, rows: np.ndarray, known: int) -> dict[str, np.ndarray]:
        """Return rows as the encoder of a day gives them."""
        x, spec = taken(self.x, rows), self.specs[known]
        sizes = np.array([*spec.fields.values()])
        x["fields"] = np.where(x["fields"] < sizes, x["fields"], 0)
        sizes = np.array([spec.fields[name] for name in spec.history_fields])
        x["history"] = np.where(x["history"] < sizes, x["history"], 0)
        return x

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return the rows of some days, the last among them."""
        return np.flatnonzero((self.log.day >= first) & (self.log.day <= last))

    def grown(self, weights: Any, known: int) -> Any:
        """Let the values that are new on a day start as what is unseen."""
        table = [
            w is self.learner.model.embedding.table.embeddings
            for w in self.learner.model.weights
        ].index(True)
        value, start = weights[table].copy(), 0
        before, largest = self.specs[known - 1], self.specs[max(TESTS) - 1]
        for name, size in largest.fields.items():
            value[start + before.fields[name] : start + size] = value[start]
            start += size
        return [*weights[:table], value, *weights[table + 1 :]]

    @cached_property
    def still(self) -> Encoder:
        """An encoder that no event reaches after the first two weeks."""
        data = self.log.dataset(self.rows(1, LAST), self.log.schema.scenarios)
        data = replace(data, users=self.log.users, items=self.log.items)
        return Encoder(data, self.at(LAST + 1), look_back=BACK, **HOW)

    @cached_property
    def base(self) -> Any:
        """Weights after the first two weeks."""
        return self.trained(1, LAST, BASE)[0]

    def trained(self, first: int, last: int, way: Way) -> tuple[Any, float]:
        """Train anew on some days."""
        rows = self.rows(first, last)
        x = self.inputs(rows, last)
        spent = self.learner.train(self.learner.fresh, x, self.y[rows], **way)
        return self.learner.model.get_weights(), spent

    def clicks(self, weights: Any, rows: np.ndarray, known: int) -> np.ndarray:
        """Ask some weights."""
        self.learner.model.set_weights(weights)
        return self.learner.clicks(self.inputs(rows, known))

    def run(self, method: str, way: Way) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield what a method makes of each day that is asked."""
        weights, spent, rng = self.base, 0.0, np.random.default_rng(self.log.seed)
        for day in TESTS:
            known, asked = day - 1, self.rows(day, day)
            since = self.rows(LAST + 1, known)
            if method in ("goes on", OVER_OLD):
                rows = self.rows(LAST + 1 if day == TESTS[0] else known, known)
                old = self.rows(1, int(self.log.day[rows[0]]) - 1)
                if method == OVER_OLD:
                    rows = rng.choice(self.rows(1, LAST), len(rows), replace=False)
                again = rng.choice(old, int(way["replay"] * len(rows)), replace=False)
                rows = np.concatenate([again, rows])
                x = self.inputs(rows, known)
                start = self.grown(weights, known)
                spent = self.learner.train(start, x, self.y[rows], **way)
                weights = self.learner.model.get_weights()
            elif method == "anew on all":
                if day not in ANEW:
                    continue
                weights, spent = self.trained(1, known, way)
            stays = method not in ("goes on", OVER_OLD, "anew on all")
            p = self.clicks(weights, asked, LAST if stays else known)
            if method == "counts nothing":
                p = self.learner.clicks(self.still.transform(self.log.rows.iloc[asked]))
            if method in ("is recalibrated", ONCE):
                begin = time.process_time()
                since = since if method != ONCE else self.rows(LAST + 1, LAST + 1)
                past = self.clicks(weights, since, LAST)
                scenario, y = self.x["scenario"], self.y[:, 0]
                for s in np.unique(scenario[asked]):
                    a, b = scenario[since] == s, scenario[asked] == s
                    p[b] = recalibrated(past[a], y[since[a]], p[b])
                spent = time.process_time() - begin
            yield day, {**self.log.judged(p, asked), "cpu_seconds": spent}


BASE: Way = {"rate": 2e-3, "passes": 2}
ONCE, OVER_OLD = "is recalibrated once", "goes over old days"


def grids(method: str) -> list[Way]:
    """Return the settings that are tried."""
    if method in ("counts nothing", "stays", "is recalibrated"):
        return [{}]
    if method == "goes on":
        tries = product((*SMALLER, *RATES), (1,), (0.0, 1.0))
        return [dict(zip(("rate", "passes", "replay"), t, strict=True)) for t in tries]
    tries = product(RATES, PASSES)
    return [dict(zip(("rate", "passes"), t, strict=True)) for t in tries]


METHODS = ("anew on all", "counts nothing", "stays", "is recalibrated", "goes on")
CONTROLS = {ONCE: "is recalibrated", OVER_OLD: "goes on"}  # with the other's settings


def days() -> None:
    """Run the study of new days."""
    done = {(int(r["seed"]), r["method"], r["settings"]) for r in DAYS.lines()}
    for seed in (TUNING, *SEEDS):
        world: Days | None = None
        for method in (*METHODS, *CONTROLS):
            if method in CONTROLS and seed == TUNING:
                continue
            of = CONTROLS.get(method, method)
            ways = grids(method) if seed == TUNING else [chosen(DAYS, of)]
            for way in ways:
                if (seed, method, str(way)) in done:
                    continue
                world = world or Days(seed)
                if not (seed == TUNING and method == "anew on all"):
                    BASE.update(chosen(DAYS, "anew on all"))
                lines = [
                    {"seed": seed, "method": method, "day": day, "settings": str(way)}
                    | found
                    for day, found in tried(world, method, way)
                ]
                DAYS.keep(*lines)
                mean = np.mean([line["excess"] for line in lines])
                print(seed, method, way, f"{mean:.5f}", flush=True)


def tried(world: Days, method: str, way: Way) -> Iterator[Any]:
    """Try a way; one that trains anew on all is tuned on the first two weeks."""
    if world.log.seed == TUNING and method == "anew on all":
        weights, spent = world.trained(1, LAST, way)
        rows = world.rows(LAST + 1, LAST + 2)
        p = world.clicks(weights, rows, LAST)
        yield LAST + 1, {**world.log.judged(p, rows), "cpu_seconds": spent}
        return
    yield from world.run(method, way)


# --- a new scenario -------------------------------------------------------------------


class Opening:
    """A world in which a search opens, and a model that knows shop and feed."""

    def __init__(self, seed: int) -> None:
        self.log = log = Log(
            seed,
            ROWS // 2,
            {"traffic": (0.33, 0.33, 0.34)},
            lambda rows: (rows["scenario"] != NEW) | (rows["day"] >= OPENS),
        )
        known = tuple(s for s in log.schema.scenarios if s != NEW)
        new = (log.rows["scenario"] == NEW).to_numpy()
        self.before = np.flatnonzero(log.day < OPENS)
        self.own = np.flatnonzero(new & (log.day < JUDGED))
        self.asked, self.others = (
            np.flatnonzero((log.day >= JUDGED) & of) for of in (new, ~new)
        )
        start = log.rows["time"].min().normalize() + pd.Timedelta(days=OPENS - 1)
        old = Encoder(log.dataset(self.before, known), start, look_back=BACK, **HOW)
        small = Learner(old.spec, seed, 256)
        x = old.transform(log.rows.iloc[self.before])
        self.y = log.rows[list(log.schema.tasks)].to_numpy("int8")
        small.train(small.fresh, x, self.y[self.before], **BASE)
        whole = log.dataset(np.arange(len(log.rows)), (*known, NEW))
        until = log.rows["time"].iloc[self.own[max(FEW)]]
        encoder = grow_encoder(old, whole, until, min_count=5)
        self.grown = grow(small.model, encoder.spec)
        self.x = encoder.transform(log.rows)
        for name, size in old.spec.fields.items():  # all know the same values
            if name != "scenario":
                column = self.x["fields"][:, [*old.spec.fields].index(name)]
                column[column >= size] = 0
        for k, name in enumerate(old.spec.history_fields):
            column = self.x["history"][..., k]
            column[column >= old.spec.fields[name]] = 0
        self.start = self.grown.get_weights()
        self.learner = Learner(encoder.spec, seed, 256)
        self.branch = ProductBranch(encoder.spec)
        self.shared = self.clicks(self.start, self.asked)
        self.kept = self.clicks(self.start, self.others)

    def clicks(self, weights: Any, rows: np.ndarray) -> np.ndarray:
        """Ask some weights."""
        self.learner.model.set_weights(weights)
        return self.learner.clicks(taken(self.x, rows))

    def run(self, method: str, n: int, rate: float) -> dict[str, float]:
        """Return what a method makes of the first rows of the feed."""
        rows, start = self.own[:n], time.process_time()
        y, found = self.y[rows, 0], self.shared
        weights = self.start
        if method == "corrected":
            found = recalibrated(self.clicks(self.start, rows), y, self.shared)
        elif method in ("own regression", PLAIN):
            here, there = self.columns(rows), self.columns(self.asked)
            if method == PLAIN:
                single = [" × " not in name for name in self.branch.names]
                here, there = here[:, single], there[:, single]
            model = LogisticRegression(C=rate, max_iter=2_000).fit(here, y)
            found = model.predict_proba(there)[:, 1]
        elif method == "own trees":
            how = {"num_leaves": 7, "min_data_in_leaf": 10, "num_threads": 1}
            how |= {"objective": "binary", "verbose": -1, "learning_rate": 0.05}
            data = lightgbm.Dataset(self.columns(rows), y)
            booster = lightgbm.train(how, data, num_boost_round=int(rate))
            found = np.asarray(booster.predict(self.columns(self.asked)))
        elif method != "as it is":
            weights = self.trained(method, rows, rate)
            found = self.clicks(weights, self.asked)
        line = {"cpu_seconds": time.process_time() - start}
        truth = self.log.truth[self.asked]
        line |= self.log.judged(found, self.asked)
        line["auc"] = expected_auc(found, truth)
        if not method.startswith("own"):
            others = self.clicks(weights, self.others)
            line["old_moved"] = float(np.abs(others - self.kept).max())
            line["old_excess"] = self.log.judged(others, self.others)["excess"]
        return line

    def columns(self, rows: np.ndarray) -> np.ndarray:
        """Return numbers, kinds and products, as the regression in a model has them."""
        return np.concatenate([*self.branch.tables(self.x, rows)])

    def trained(self, method: str, rows: np.ndarray, rate: float) -> Any:
        """Return the weights after a training on these rows, or on all before too."""
        if method == "its own part":
            self.grown.set_weights(self.start)
            how: Way = {"epochs": AGAIN, "patience": AGAIN, "batch_size": SMALL}
            parts = {"train": rows, "valid": rows}
            fit_scenario(
                self.grown, self.x, self.y, parts, NEW, learning_rate=rate, **how
            )
            return self.grown.get_weights()
        start, passes = self.start, AGAIN
        if method != "goes on":
            start = self.learner.fresh
        if method.startswith("anew"):
            own = np.repeat(rows, TIMES if method != "anew on all" else 1)
            rows = np.concatenate([self.before, own])
            rate, passes = BASE["rate"], BASE["passes"]
        if method == "goes on":
            rng = np.random.default_rng(self.log.seed)
            old = rng.choice(self.before, len(rows), replace=False)
            rows = np.concatenate([old, rows])
        self.learner.batch = 256 if method.startswith("anew") else SMALL
        self.learner.train(
            start, taken(self.x, rows), self.y[rows], rate=rate, passes=passes
        )
        return self.learner.model.get_weights()


def openings() -> None:
    """Run the study of a new scenario."""
    devices.XLA = False  # short trainings of many shapes: compiling would take longer
    BASE.update(chosen(DAYS, "anew on all"))
    for seed in (TUNING, *WORLDS):
        asking = Asking(seed)
        for method, n in product(WAYS, FEW):
            first, factor = WAYS[method]
            if method == "as it is" and n != FEW[0]:
                continue
            if seed != TUNING:
                tuned = chosen_setting(SCENARIO, method, n) if factor else first
                asking(method, n, float(tuned))
            elif factor:
                search(partial(asking, method, n), first, factor)


class Asking:
    """One world's new scenario; a line that is known is not measured again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @cached_property
    def world(self) -> Opening:
        """The world, made when first asked."""
        return Opening(self.seed)

    def __call__(self, method: str, n: int, setting: float) -> float:
        """Return the loss of a method at some rows, and keep its line."""
        key = (str(self.seed), method, str(n))
        for line in SCENARIO.lines():
            same = (line["seed"], line["method"], line["rows"]) == key
            if same and np.isclose(float(line["settings"]), setting):
                return float(line["excess"])
        found = self.world.run(method, n, setting)
        given = {"seed": self.seed, "method": method, "rows": n, "settings": setting}
        SCENARIO.keep(given | found)
        print(*(given | found).values(), flush=True)
        return found["excess"]


def search(ask: Callable[[float], float], first: float, factor: float) -> None:
    """Ask a setting and its neighbors, until the best has worse ones on both sides.

    Or until a smaller one makes no difference.
    """
    found = {first: ask(first)}
    while True:
        best = min(found, key=lambda rate: found[rate])
        near = [best / factor, best * factor]
        if best * factor in found and found[best * factor] - found[best] < ALIKE:
            return  # smaller steps come to no step at all
        new = [r for r in near if not any(np.isclose(r, old) for old in found)]
        if not new:
            return
        found |= {rate: ask(rate) for rate in new}


def chosen_setting(result: Result, method: str, rows: int | None = None) -> str:
    """Return the best settings of a method on the tuning world, as text."""
    table = pd.DataFrame(result.lines())
    own = table[(table["seed"] == str(TUNING)) & (table["method"] == method)]
    if rows is not None:
        own = own[own["rows"] == str(rows)]
    mean = own.assign(excess=own["excess"].astype(float)).groupby("settings")["excess"]
    return str(mean.mean().idxmin())


def chosen(result: Result, method: str) -> Way:
    """Return the best settings of a method on the tuning world."""
    return dict(ast.literal_eval(chosen_setting(result, method)))


if __name__ == "__main__":
    for part in sys.argv[1:] or ("days", "opening"):
        {"days": days, "opening": openings}[part]()
