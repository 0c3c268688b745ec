"""What an encoder of the history finds of an order that was planted, and of a real one.

    nice -n 10 python benchmarks/encoders_study.py

*Planted*: the label depends on a weighted share of the events that are of the item's
kind. A knob, the strength, moves the weight from all events alike to the last one. At 0
the set of events says all there is, at 1 their order decides. An encoder's vector
enters a small head as it is, or multiplied by the item.

*Real*: purchases on The Complete Journey; an encoder in the book's model reads the last
30 purchases of a household, in order or shuffled within each row; or none of them, with
a step size of its own. *Uncounted* is the same log without the counts of household and
product, which are made of the same purchases.

Each fit goes on until the validation loss has not fallen for some passes, and keeps the
best pass. Step sizes are tried on draw 0, which no result uses, in factors of three
until the best has a worse one on both sides. A line is written as soon as it is known,
and skipped when the study is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from results import Result

from urlm_helpers.data import load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.evaluation import auc
from urlm_helpers.features import (
    HSTU,
    ConvPool,
    MeanPool,
    SelfAttention,
    TargetAttention,
)
from urlm_helpers.model import FunnelLoss, UnifiedRecommender
from urlm_helpers.preprocessing import prepare
from urlm_helpers.sharing import SharedBottom
from urlm_helpers.world import expected_auc

ENCODERS: dict[str, Callable[[], keras.layers.Layer]] = {
    "mean": MeanPool,
    "target attention": TargetAttention,
    "convolution": ConvPool,
    "self-attention": lambda: SelfAttention(blocks=1),
    "HSTU": lambda: HSTU(blocks=1),
}
ORDERED = ("convolution", "self-attention", "HSTU")
"""Encoders whose output depends on the order of the events."""

FEEDS = ("match", "vector")
STRENGTHS, DRAWS = (0.0, 0.25, 0.5, 1.0), (1, 2, 3, 4, 5)
KINDS, LENGTH, DIM, BIAS, SPREAD = 4, 6, 8, -1.0, 1.0
ROWS = {"train": 10_000, "valid": 5_000, "test": 20_000}
BATCH, PATIENCE, PASSES, FIRST, FACTOR = 250, 10, 60, 1e-2, 3.0
HOUSEHOLDS, REAL_LENGTH, REAL_PATIENCE = 100, 30, 2

COLUMNS = ["study", "encoder", "feed", "strength", "order", "draw", "step_size"]
COLUMNS += ["steps", "passes", "valid_loss", "auc", "auc_order", "auc_set"]
COLUMNS += [f"moves_{j}" for j in range(1, LENGTH + 1)]
COLUMNS += ["events", "baskets"]  # of the middle history of a row of the test
KEY = COLUMNS[:7]
Line = dict[str, Any]


def planted(
    rows: int, strength: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw histories and items, and what is likely given all, and given the set."""
    past = rng.integers(KINDS, size=(rows, LENGTH), dtype="int32")
    item = rng.integers(KINDS, size=rows, dtype="int32")
    weight = np.full(LENGTH, (1 - strength) / LENGTH)
    weight[-1] += strength
    q = 1 / KINDS  # the chance that an event is of the item's kind
    gain = SPREAD / np.sqrt(q * (1 - q) * (weight**2).sum())

    def chance(share: Any, last: Any) -> Any:
        taste = (1 - strength) * share + strength * last - q
        return 1 / (1 + np.exp(-BIAS - gain * taste))

    same = past == item[:, None]  # (rows, length)
    share, last = same.mean(axis=1), same[:, -1]
    p = chance(share, last)
    by_set = share * chance(share, 1) + (1 - share) * chance(share, 0)
    click = (rng.random(rows) < p).astype("float32")
    return {"past": past, "item": item, "p": p, "by_set": by_set, "click": click}


def network(encoder: str, feed: str) -> keras.Model:
    """Return an encoder, and a small head on its vector or on the match."""
    past = keras.Input((LENGTH,), dtype="int32")
    item = keras.Input((), dtype="int32")
    start = keras.initializers.RandomNormal(stddev=0.3)
    table = keras.layers.Embedding(KINDS, DIM, embeddings_initializer=start)
    steps, target = table(past), table(item)
    mask = ops.ones_like(steps[..., 0])
    age = LENGTH + 1 - ops.cumsum(mask, axis=1)  # one event a day
    seen = ENCODERS[encoder]()(steps, mask, target, age)
    if feed == "match":
        seen = keras.layers.Dense(DIM, use_bias=False)(seen) * target
    z = ops.concatenate([seen, target], axis=-1)
    z = keras.layers.Dense(16, activation="relu")(z)
    model = keras.Model([past, item], keras.layers.Dense(1)(z))
    return ready(model, keras.losses.BinaryCrossentropy(from_logits=True))


def ready(model: keras.Model, loss: keras.losses.Loss) -> keras.Model:
    """Compile without XLA, which would take longer than a short run."""
    model.compile(
        keras.optimizers.Adam(), loss, jit_compile=False, steps_per_execution=20
    )
    model.optimizer.build(model.trainable_variables)
    return model


def compiled_pass(model: keras.Model) -> Callable[..., None]:
    """Return a pass in one call: most of a small network's time is between steps."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    variables = [v.value for v in model.trainable_variables]

    @tf.function(jit_compile=True)
    def batches(past: Any, item: Any, click: Any) -> None:
        for i in tf.range(ROWS["train"] // BATCH):
            with tf.GradientTape() as tape:
                value = loss(click[i], model([past[i], item[i]])[:, 0])
            model.optimizer.apply(tape.gradient(value, variables))

    def run(rng: np.random.Generator, *train: np.ndarray) -> None:
        order = rng.permutation(ROWS["train"]).reshape(-1, BATCH)
        batches(*(tf.constant(array[order]) for array in train))

    return run


def renew(model: keras.Model, seed: int, step_size: float) -> None:
    """Draw every weight anew, and forget the run before."""
    if isinstance(model, UnifiedRecommender):
        model.reset(seed)
    else:
        keras.utils.set_random_seed(seed)
        model.set_weights(keras.models.clone_model(model).get_weights())
    for variable in model.optimizer.variables:
        variable.assign(ops.zeros_like(variable))
    model.optimizer.learning_rate = step_size


def to_plateau(
    model: keras.Model,
    one_pass: Callable[[], Any],
    loss: Callable[[], float],
    patience: int,
) -> Line:
    """Train until the validation loss stops falling; keep the best pass."""
    seen: list[float] = []
    best = model.get_weights()
    while len(seen) < PASSES and len(seen) - np.argmin([*seen, np.inf]) <= patience:
        one_pass()
        seen.append(loss())
        if seen[-1] == min(seen):
            best = model.get_weights()
    model.set_weights(best)
    return {"passes": int(np.argmin(seen)) + 1, "valid_loss": min(seen)}


class Planted:
    """The fits on planted orders; compiled models are used again."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], tuple[keras.Model, Any]] = {}

    def fit(self, line: Line) -> Line:
        """Run one fit."""
        named = line["encoder"], line["feed"]
        if named not in self.models:
            new = network(*named)
            self.models[named] = new, compiled_pass(new)
        (model, run), strength = self.models[named], line["strength"]
        rng = np.random.default_rng([line["draw"], int(100 * strength)])
        data = {part: planted(rows, strength, rng) for part, rows in ROWS.items()}
        if line["order"] == "shuffled":
            for log in data.values():
                log["past"] = rng.permuted(log["past"], axis=1)
        x = {part: [log["past"], log["item"]] for part, log in data.items()}
        label, test = data["valid"]["click"], data["test"]

        def loss() -> float:
            z = np.asarray(model.predict_on_batch(x["valid"]))[:, 0]
            return float(np.mean(np.logaddexp(0, z) - label * z))

        renew(model, line["draw"], line["step_size"])
        train = [*x["train"], data["train"]["click"]]
        found = to_plateau(model, lambda: run(rng, *train), loss, PATIENCE)
        found["steps"] = found["passes"] * (ROWS["train"] // BATCH)
        z = np.asarray(model.predict_on_batch(x["test"]))[:, 0]
        found["auc"] = expected_auc(z, test["p"])
        found["auc_order"] = expected_auc(test["p"], test["p"])
        found["auc_set"] = expected_auc(test["by_set"], test["p"])
        return found | moves(model, test["past"][:2_000], test["item"][:2_000])


def moves(model: keras.Model, past: np.ndarray, item: np.ndarray) -> dict[str, float]:
    """Say how far the logit moves where one event becomes one of the item's kind."""
    moved = {}
    for j in range(LENGTH):
        logit = []
        for kind in (item, (item + 1) % KINDS):
            other = past.copy()
            other[:, j] = kind
            logit.append(np.asarray(model.predict_on_batch([other, item])))
        moved[f"moves_{j + 1}"] = float(np.mean(logit[0] - logit[1]))
    return moved


class Real:
    """The fits on The Complete Journey: disjoint draws of households, one encoding."""

    def __init__(self, counted: bool = True) -> None:
        log = load("complete-journey")
        rng = np.random.default_rng(0)
        drawn = rng.permutation(log.users["user"])[: (1 + len(DRAWS)) * HOUSEHOLDS]
        self.groups = drawn.reshape(1 + len(DRAWS), HOUSEHOLDS)
        schema = replace(log.schema, tasks=("buy",), funnel={}, negative_rate=1.0)
        names = ("interactions", "events", "users")
        tables = {name: getattr(log, name) for name in names}
        own = {
            n: t[t["user"].isin(drawn)].reset_index(drop=True)
            for n, t in tables.items()
        }
        cuts = [complete_journey.READING[name] for name in ("valid_from", "test_from")]
        self.data = prepare(
            replace(log, schema=schema, **own),
            *cuts,
            look_back=[["user"], ["item"]] if counted else [],
            history_fields=["item", "product_type"],
            history_length=REAL_LENGTH,
            buckets=0,
            counted_on="events",
        )
        self.user = self.data.rows["user"].to_numpy()
        self.models: dict[tuple[str, str], UnifiedRecommender] = {}

    def fit(self, line: Line) -> Line:
        """Run one fit."""
        named = line["encoder"], line["feed"]
        if named not in self.models:
            model = UnifiedRecommender(
                self.data.encoder.spec,
                ENCODERS[named[0]](),
                SharedBottom(1, 3, (32,)),
                bottom=0,
                history=named[1],
            )
            spec = model.spec
            ready(model, FunnelLoss(spec.parents, spec.negative_rate))
            self.models[named] = model
        model, own = self.models[named], np.isin(self.user, self.groups[line["draw"]])
        x, y = {}, {}
        for part, rows in self.data.parts.items():
            at = rows[own[rows]]
            x[part] = {name: array[at] for name, array in self.data.x.items()}
            y[part] = self.data.y[at]
            if line["order"] == "shuffled":
                x[part] = shuffled(x[part], line["draw"])
            elif line["order"] == "empty":
                x[part]["history"] = np.zeros_like(x[part]["history"])

        def loss() -> float:
            return float(model.loss(y["valid"], model.logits(x["valid"])))

        renew(model, line["draw"], line["step_size"])

        def one_pass() -> None:
            model.fit(x["train"], y["train"], batch_size=BATCH, verbose=0)

        found = to_plateau(model, one_pass, loss, REAL_PATIENCE)
        found["steps"] = found["passes"] * -(-len(y["train"]) // BATCH)
        score, scenario = model.logits(x["test"])[:, 0], x["test"]["scenario"]
        each, size = zip(
            *(
                (auc(y["test"][scenario == s, 0], score[scenario == s]), n)
                for s, n in enumerate(np.bincount(scenario))
            ),
            strict=True,
        )
        found["auc"] = float(np.average(each, weights=size))
        return found | self.lengths(line["draw"])

    def lengths(self, draw: int) -> Line:
        """Count what a history of the test holds: events, and moments they fall on."""
        rows = self.data.parts["test"]
        rows = rows[np.isin(self.user[rows], self.groups[draw])]
        real = (self.data.x["history"][rows] != 0).any(axis=-1)
        age = np.sort(np.where(real, self.data.x["history_age"][rows], -1.0), axis=1)
        new = (np.diff(age, axis=1, prepend=-1.0) > 0).sum(axis=1)
        return {"events": np.median(real.sum(1)), "baskets": np.median(new)}


def shuffled(x: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Put the events of each history in random order; ages and padding stay."""
    real = (x["history"] != 0).any(axis=-1)
    key = np.where(real, np.random.default_rng(seed).random(real.shape), -1.0)
    order = np.argsort(key, axis=1)[..., None]
    return {**x, "history": np.take_along_axis(x["history"], order, axis=1)}


def cases() -> list[Line]:
    """Return what the study asks, the step sizes left open; the first come first."""
    base: Line = {"study": "planted", "feed": "match", "order": "in order"}
    main = [
        base | {"encoder": e, "strength": s, "draw": d}
        for d in DRAWS
        for e in ENCODERS
        for s in STRENGTHS
    ]
    vector = [
        line | {"feed": "vector"} for line in main if line["strength"] in (0.0, 1.0)
    ]
    mixed = [
        line | {"order": "shuffled"}
        for line in main
        if line["encoder"] in ORDERED and line["strength"] in (0.25, 0.5, 1.0)
    ]
    log: Line = {"study": "real", "feed": "match", "strength": ""}
    real = [
        log | {"encoder": e, "order": order, "draw": d}
        for d in DRAWS
        for e in ENCODERS
        for order in ("in order", "shuffled")
        if order == "in order" or e in ORDERED
    ]
    fed = [
        line | {"feed": "vector"}
        for line in real
        if line["encoder"] in ("mean", "HSTU") and line["order"] == "in order"
    ]
    none = [log | {"encoder": "mean", "order": "empty", "draw": d} for d in DRAWS]
    uncounted = [line | {"study": "uncounted"} for line in [*none, *real]]
    return [*main, *mixed, *real, *vector, *fed, *none, *uncounted]


def key(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a fit from all others."""
    named = (line[name] for name in KEY)
    return tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in named)


class Study:
    """All fits, and the file that they go to."""

    def __init__(self) -> None:
        self.result = Result("encoders.csv", COLUMNS, digits=6)
        self.known = {key(line): line for line in self.result.lines()}
        self.kinds: dict[str, Any] = {}

    def run(self, line: Line) -> Mapping[str, Any]:
        """Return a fit's line, from the file or anew."""
        if key(line) not in self.known:
            made = {"uncounted": lambda: Real(counted=False)}
            made |= {"planted": Planted, "real": Real}
            if line["study"] not in self.kinds:
                self.kinds[line["study"]] = made[line["study"]]()
            done = line | self.kinds[line["study"]].fit(line)
            self.result.keep(done)
            self.known[key(line)] = {k: str(v) for k, v in done.items()}
            print(*list(done.values())[:13], flush=True)
        return self.known[key(line)]

    def step_size(self, line: Line) -> float:
        """Return the step size of a kind of fit, tried on draw 0."""
        order = "empty" if line["order"] == "empty" else "in order"
        asked = line | {"draw": 0, "order": order}
        tried: dict[float, float] = {}
        new = [FIRST / FACTOR, FIRST, FIRST * FACTOR]
        while new:
            for size in new:
                size = float(f"{size:.2g}")
                done = self.run(asked | {"step_size": size})
                tried[size] = float(done["valid_loss"])
            best = min(tried, key=tried.__getitem__)
            new = [best / FACTOR] * (best == min(tried))
            new += [best * FACTOR] * (best == max(tried))
        return best


def main() -> None:
    """Run what is missing of the study."""
    study, todo = Study(), cases()
    for i, line in enumerate(todo):
        line["step_size"] = study.step_size(line)
        if key(line) not in study.known:
            study.run(line)
            print(f"{len(todo) - i - 1} of {len(todo)} are left", flush=True)


if __name__ == "__main__":
    main()
