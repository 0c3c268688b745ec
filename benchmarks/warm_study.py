"""The study of page 5.8: what it costs and gains to go on, instead of training anew.

    OMP_NUM_THREADS=1 python benchmarks/warm_study.py

*New days.* A world in which tastes drift and a third of the users and items are born
after the first day. A model has learned two weeks; each of the next days is asked with
a model that stays and is told no event, one that stays, one that is only recalibrated,
one that goes on with the days since, and, on two of them, one trained anew on all. What
is measured is the loss of the clicks above that of the true probabilities, and the
processor seconds of an update, without compiling.

Step size, passes and the rest of each are chosen on the world ``TUNING`` alone, from
grids wide enough that no winner stands at an end. A line of a result is written as soon
as it is known, and skipped when the study is started again.
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

import numpy as np
import pandas as pd
from results import Result
from sklearn.linear_model import LogisticRegression

from urlm_helpers.data import Dataset, from_frames
from urlm_helpers.evaluation import auc
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.training import fit, grow_encoder
from urlm_helpers.world import World, excess_log_loss

TUNING, SEEDS = 99, (101, 102)
ROWS, LAST, TESTS = 100_000, 14, (16, 17, 18, 19)
DRIFTING = {"days": 20, "drift": 0.2, "new_users": 0.33, "new_items": 0.33}
RATES, PASSES = (5e-4, 1e-3, 2e-3, 4e-3), (1, 2, 4)
SMALLER, ANEW = (1e-4, 2.5e-4), (16, 18)
HOW = {"min_count": 5, "history_length": 10, "history_fields": ["item", "category"]}
BACK = [["user"], ["item"], ["user", "item"]]
Way = dict[str, Any]
DAYS = Result(
    "warm-days.csv",
    ["seed", "method", "day", "settings", "excess", "auc", "cpu_seconds"],
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
            if method == "goes on":
                rows = self.rows(LAST + 1 if day == TESTS[0] else known, known)
                old = self.rows(1, int(self.log.day[rows[0]]) - 1)
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
            stays = method not in ("goes on", "anew on all")
            p = self.clicks(weights, asked, LAST if stays else known)
            if method == "counts nothing":
                p = self.learner.clicks(self.still.transform(self.log.rows.iloc[asked]))
            if method == "is recalibrated":
                begin = time.process_time()
                past = self.clicks(weights, since, LAST)
                scenario, y = self.x["scenario"], self.y[:, 0]
                for s in np.unique(scenario[asked]):
                    a, b = scenario[since] == s, scenario[asked] == s
                    p[b] = recalibrated(past[a], y[since[a]], p[b])
                spent = time.process_time() - begin
            yield day, {**self.log.judged(p, asked), "cpu_seconds": spent}


BASE: Way = {"rate": 2e-3, "passes": 2}


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


def days() -> None:
    """Run the study of new days."""
    done = {(int(r["seed"]), r["method"], r["settings"]) for r in DAYS.lines()}
    for seed in (TUNING, *SEEDS):
        world: Days | None = None
        for method in METHODS:
            ways = grids(method) if seed == TUNING else [chosen(DAYS, method)]
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


def chosen(result: Result, method: str) -> Way:
    """Return the best settings of a method on the tuning world."""
    table = pd.DataFrame(result.lines())
    own = table[(table["seed"] == str(TUNING)) & (table["method"] == method)]
    mean = own.assign(excess=own["excess"].astype(float)).groupby("settings")["excess"]
    return dict(ast.literal_eval(str(mean.mean().idxmin())))


if __name__ == "__main__":
    days()
