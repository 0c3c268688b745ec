"""One backbone for tokens: how loss falls with parameters, operations and time.

    nice -n 10 python benchmarks/backbone_study.py

Networks get the same inputs, the same table of vectors of length 8, the same products
of user and item, and one linear output per scenario and task. What lies between is a
backbone: two dense layers (*MLP*), RankMixer's blocks, a transformer over events and
features with weights of its own for each feature (*OneTrans*), HSTU's blocks over the
same tokens, or the book's *URLM*. Each is built in widths that span two decades of
dense parameters. *trees* are LightGBM's.

*Data*: the book's simulated app as it is (``world``) and with jumps (``thresholds``),
and a share of the rows of The Complete Journey. On a world the loss is the excess over
the truth, on the log it is that of the labels, also by groups of households.

*Tuning*: a step size for each network, width and data set, in factors of two or so, on
a world that no result uses (on the log: on the validation weeks, and the test rows of
the run that is chosen are the result), until the best has a worse one on both sides;
the loss of the validation rows decides. The step size falls to 0 over ``PASSES``
passes; then twice as many are tried, with this step size and the next smaller one, as
long as that gains ``MOVE``. The best pass is kept. A line is written as soon as it is
known, and skipped when the study is started again. What a forward pass costs is counted
and timed at the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops
from protocol import MOVE, boosted
from results import Result

from urlm_helpers.data import from_frames, load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.evaluation import auc
from urlm_helpers.features import HSTU, FieldEmbedding, TargetAttention
from urlm_helpers.model import FunnelLoss, ProductBranch, UnifiedRecommender
from urlm_helpers.model.heads import Heads
from urlm_helpers.preprocessing import InputSpec, prepare
from urlm_helpers.sharing import URLM
from urlm_helpers.world import World, best_on_observables, excess

DIM, EVENTS, BLOCKS, GROW, HEADS = 8, 10, 2, 2, 2
BATCH, PASSES, MOST, GROUPS = 256, 2, 32, 20
RATES = tuple(float(f"{4e-3 * 3.0**j:.2g}") for j in range(-4, 7))
MIDDLE = 6  # the rate that is tried first
TUNING, SEEDS = 98, (101, 102)
WIDTHS: dict[str, tuple[int, ...]] = {
    "RankMixer": (8, 16, 32),
    "URLM": (4, 16, 48),
    "OneTrans": (4, 8, 12),
    "HSTU": (8, 16, 32),
}
CUT = "OneTrans without cross features"
LOG = "complete-journey"
DATA = ("world", "thresholds", LOG)
ROWS = {"world": 60_000, "train": 40_000, "valid": 10_000, "test": 30_000}
TREES = ((4, 0.1, 0.5), (15, 0.1, 0.5), (31, 0.05, 0.5))
COLUMNS = ["data", "contender", "width", "stage", "seed", "step_size", "most"]
COLUMNS += ["passes", "valid_loss", "loss", "auc", "parameters", "seconds"]
COLUMNS += ["operations", "milliseconds"]  # of trees; those of networks: COSTS
COLUMNS += [*(f"loss_{g}" for g in range(GROUPS))]
KEY = COLUMNS[:7]
COSTS = ["data", "contender", "width", "parameters", "operations", "milliseconds"]
Inputs = Mapping[str, Any]
Way = tuple[int, int]
"""The place of a step size in ``RATES``, and how many passes it takes to fall to 0."""


# Tokens


def groups_of(spec: InputSpec) -> dict[str, tuple[list[int], list[int]]]:
    """Return the fields and the numbers of each token: whose feature is it?"""
    found: dict[str, tuple[list[int], list[int]]] = {
        name: ([], []) for name in ("user", "item", "cross", "context")
    }
    for kind, names in enumerate((list(spec.fields), spec.numeric)):
        for column, name in enumerate(names):
            base = name.removesuffix(" (bucket)")
            if name in spec.user_side or base in spec.user_side:
                whose = "user"
            elif name in spec.item_side or base in spec.item_side:
                whose = "item"
            else:
                both = "×" in name or name.endswith("_match")
                whose = "cross" if both else "context"
            found[whose][kind].append(column)
    return found


class Front(keras.layers.Layer):
    """Vectors of a row: what is known of each side, of both, of the past."""

    def __init__(self, spec: InputSpec, width: int, cross: bool = True) -> None:
        super().__init__()
        self.spec, self.width, self.cross = spec, width, cross
        self.table = FieldEmbedding(list(spec.fields.values()), DIM)
        self.groups = groups_of(spec)
        self.place = keras.layers.Embedding(len(spec.scenarios), width)
        names = list(spec.fields)
        self.history = [names.index(name) for name in spec.history_fields]
        self.sides = [keras.layers.Dense(width) for _ in range(2)]
        self.pool = TargetAttention()

    def build(self, shape: Any) -> None:
        """Leave it to the first call."""

    def call(self, x: Inputs) -> dict[str, Any]:
        """Return one array for each group, and events with mask and age."""
        parts = {}
        for name, (fields, numbers) in self.groups.items():
            seen = [ops.take(x["numeric"], numbers, axis=1)] if numbers else []
            if fields:
                vectors = self.look_up(x["fields"], fields)
                seen.append(ops.reshape(vectors, (-1, len(fields) * DIM)))
            parts[name] = ops.concatenate(seen, axis=-1)
        of_user, of_item = self.sides
        parts["product"] = of_user(parts["user"]) * of_item(parts["item"])
        if not self.cross:
            del parts["cross"], parts["product"]
        parts["scenario"] = self.place(x["scenario"])
        past = x["history"][:, -EVENTS:]
        parts["events"] = ops.sum(self.table(past, fields=self.history), axis=2)
        parts["mask"] = ops.cast(ops.any(past != 0, axis=-1), "float32")
        parts["age"] = x["history_age"][:, -EVENTS:]
        parts["target"] = ops.sum(self.look_up(x["fields"], self.history), axis=1)
        return parts

    def look_up(self, fields: Any, columns: list[int]) -> Any:
        """Return the vectors of some fields."""
        return self.table(ops.take(fields, columns, axis=1), fields=columns)

    def pooled(self, parts: dict[str, Any]) -> list[Any]:
        """Return the past as one vector, and its product with the item's."""
        target = parts["target"]
        past = self.pool(parts["events"], parts["mask"], target, parts["age"])
        return [past, past * target]


# Backbones


class Mixer(keras.layers.Layer):
    """RankMixer's block: tokens swap slices, then each has a network of its own."""

    def build(self, shape: Any) -> None:
        """Create one network per token."""
        _, count, width = shape
        for name, size in (
            ("up", (width, GROW * width)),
            ("down", (GROW * width, width)),
        ):
            start = keras.initializers.RandomNormal(stddev=size[0] ** -0.5)
            setattr(self, name, self.add_weight((count, *size), start))
            bias = self.add_weight((count, size[1]), "zeros")
            setattr(self, f"{name}_bias", bias)
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-5) for _ in range(2)]
        for norm in self.norms:
            norm.build(shape)

    def mixed(self, tokens: Any) -> Any:
        """Give the new token h the slice h of every token: a transpose."""
        _, count, width = tokens.shape
        slices = ops.reshape(tokens, (-1, count, count, width // count))
        return ops.reshape(ops.transpose(slices, (0, 2, 1, 3)), (-1, count, width))

    def call(self, tokens: Any) -> Any:
        """Map ``(batch, tokens, width)`` to the same."""
        tokens = self.norms[0](self.mixed(tokens) + tokens)
        hidden = ops.einsum("btd,tde->bte", tokens, self.up) + self.up_bias
        hidden = ops.gelu(hidden)
        out = ops.einsum("bte,ted->btd", hidden, self.down) + self.down_bias
        return self.norms[1](out + tokens)


class Mixed(keras.layers.Layer):
    """A linear map: one for all events, and one for each feature."""

    def __init__(self, units: int, events: int) -> None:
        super().__init__()
        self.units, self.events = units, events

    def build(self, shape: Any) -> None:
        """Create the shared map, and one for each token after the events."""
        own = shape[1] - self.events
        self.shared = self.add_weight((shape[2], self.units), "glorot_uniform")
        limit = np.sqrt(6 / (shape[2] + self.units))
        start = keras.initializers.RandomUniform(-limit, limit)
        self.own = self.add_weight((own, shape[2], self.units), start)

    def call(self, tokens: Any) -> Any:
        """Map ``(batch, tokens, width)`` to ``(batch, tokens, units)``."""
        events, rest = tokens[:, : self.events], tokens[:, self.events :]
        rest = ops.einsum("btd,tde->bte", rest, self.own)
        return ops.concatenate([ops.matmul(events, self.shared), rest], axis=1)


class Attending(keras.layers.Layer):
    """A causal transformer block whose features have weights of their own."""

    def __init__(self, width: int, events: int) -> None:
        super().__init__()
        self.width = width
        self.norms = [keras.layers.RMSNormalization() for _ in range(2)]
        sizes = 3 * width, width, GROW * width, width
        self.qkv, self.out, self.up, self.down = (Mixed(n, events) for n in sizes)

    def build(self, *shapes: Any) -> None:
        """Leave it to the first call."""

    def call(self, tokens: Any, mask: Any) -> Any:
        """Map ``(batch, tokens, width)`` and which of them are there to the same."""
        count, size = tokens.shape[1], self.width // HEADS
        heads = ops.reshape(
            self.qkv(self.norms[0](tokens)), (-1, count, 3, HEADS, size)
        )
        q, k, v = (heads[:, :, j] for j in range(3))
        logits = ops.einsum("bqhd,bkhd->bhqk", q, k) / size**0.5
        seen = ops.tril(ops.ones((count, count))) * mask[:, None, None]
        weight = ops.softmax(logits - 1e4 * (1 - seen))
        pooled = ops.einsum("bhqk,bkhd->bqhd", weight, v)
        tokens = tokens + self.out(ops.reshape(pooled, (-1, count, self.width)))
        return tokens + self.down(ops.gelu(self.up(self.norms[1](tokens))))


class Backbone(keras.Model):
    """Tokens, a backbone, and one linear output per scenario and task."""

    def __init__(self, name: str, spec: InputSpec, width: int) -> None:
        super().__init__()
        self.kind, self.spec, self.width = name.split()[0], spec, width
        self.front = Front(spec, width, cross=name != CUT)
        self.heads = Heads(len(spec.scenarios))
        self.lift = [keras.layers.Dense(width) for _ in range(8)]
        self.tasks = keras.layers.Embedding(len(spec.tasks), width)
        self.when = keras.layers.Embedding(16, width)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.layers_of = {
            "RankMixer": lambda: [Mixer() for _ in range(BLOCKS)],
            "OneTrans": lambda: [Attending(width, EVENTS) for _ in range(BLOCKS)],
            "HSTU": lambda: [HSTU(BLOCKS, HEADS)],
        }[self.kind]()
        if self.kind == "HSTU":
            self.layers_of[0].build((None, EVENTS + 6 + len(spec.tasks), width))
        self(spec.example())

    def build(self, shape: Any = None) -> None:
        """Leave it to the first call."""

    def call(self, x: Inputs) -> Any:
        """Return the logit of each task given its parent, ``(batch, tasks)``."""
        parts = self.front(x)
        tasks = len(self.spec.tasks)
        if self.kind in ("OneTrans", "HSTU"):
            vectors = self.over_events(parts)
        else:
            names = ("user", "item", "cross", "context", "product", "scenario")
            each = [*(parts[name] for name in names), *self.front.pooled(parts)]
            lifted = (f(part) for f, part in zip(self.lift, each, strict=True))
            state = ops.stack(list(lifted), axis=1)
            for block in self.layers_of:
                state = block(state)
            vectors = [ops.mean(state, axis=1)] * tasks
        return self.heads(vectors, x["scenario"])

    def over_events(self, parts: dict[str, Any]) -> list[Any]:
        """Read events, features and tasks as one sequence; return the tasks' states."""
        names = ("user", "scenario", "context", "cross", "product", "item")
        here = [parts[name] for name in names if name in parts]
        mask, age = parts["mask"], parts["age"]
        features = [f(part) for f, part in zip(self.lift[1:], here, strict=False)]
        one = ops.ones_like(mask[:, :1])
        number = ops.cast(one, "int32")
        tasks = [self.tasks(t * number)[:, 0] for t in range(len(self.spec.tasks))]
        events = self.lift[0](parts["events"])
        if self.kind == "OneTrans":  # HSTU's blocks look at the time by themselves
            bucket = 1.0 + ops.floor(ops.log2(ops.maximum(24.0 * age, 0.5)))
            events = events + self.when(ops.cast(ops.minimum(bucket, 15.0), "int32"))
        more = ops.stack([*features, *tasks], axis=1)
        tokens = ops.concatenate([events * mask[..., None], more], axis=1)
        there = ops.concatenate([mask, *[one] * more.shape[1]], axis=1)
        if self.kind == "HSTU":
            age = ops.concatenate([age, *[0 * one] * more.shape[1]], axis=1)
            states = self.layers_of[0].states(tokens, there, None, age, last=len(tasks))
        else:
            for block in self.layers_of:
                tokens = block(tokens, there)
            states = tokens[:, -len(tasks) :]
        states = self.norm(states)
        return [states[:, t] for t in range(len(tasks))]


def build(name: str, spec: InputSpec, width: int) -> keras.Model:
    """Return a contender of some width."""
    if name != "URLM":
        return Backbone(name, spec, width)
    return UnifiedRecommender(
        replace(spec, history_length=EVENTS),
        TargetAttention(),
        URLM(len(spec.tasks), len(spec.scenarios), (2 * width, width)),
        dim=DIM,
        bottom=0,
        match=max(width, 16),
        bypass=False,
    )


def table_of(model: keras.Model) -> keras.layers.Layer:
    """Return the table of vectors, which no width changes."""
    return (
        model.embedding if isinstance(model, UnifiedRecommender) else model.front.table
    )


# What a forward pass costs


def dot_operations(hlo: str) -> int:
    """Count the operations of all products of matrices in a program for XLA.

    A product whose result has n numbers, each a sum of k products, takes 2 n k.
    """
    shapes: dict[str, list[int]] = {}
    total = 0
    for line in hlo.splitlines():
        made = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = \w+\[([\d,]*)\]", line)
        if not made:
            continue
        shapes[made[1]] = [int(n) for n in made[2].split(",") if n]
        asked = re.search(r" dot\((.*?)\), .*?lhs_contracting_dims=\{([\d,]*)\}", line)
        if asked:
            first = re.search(r"\w+\[([\d,]*)\]", asked[1].split("%")[0])
            left = re.findall(r"%?([A-Za-z][\w.-]*)(?:,|$)", asked[1])
            shape = (
                [int(n) for n in first[1].split(",") if n] if first else shapes[left[0]]
            )
            summed = np.prod([shape[int(d)] for d in asked[2].split(",") if d])
            total += int(2 * np.prod(shapes[made[1]]) * summed)
    return total


def cost(model: keras.Model, x: Inputs, rows: int = 100) -> dict[str, float]:
    """Return operations a row, and milliseconds for a request of ``rows`` rows."""
    some = {name: tf.constant(array[:rows]) for name, array in x.items()}
    names = sorted(some)

    def forward(*arrays: Any) -> Any:
        return model(dict(zip(names, arrays, strict=True)))

    arrays = [some[name] for name in names]
    program = tf.function(forward, jit_compile=True)
    hlo = program.experimental_get_compiler_ir(*arrays)(stage="hlo")
    forward = tf.function(forward)
    for _ in range(5):
        forward(*arrays)
    spent = []
    for _ in range(100):
        start = time.perf_counter()
        forward(*arrays).numpy()
        spent.append(1e3 * (time.perf_counter() - start))
    return {
        "operations": dot_operations(hlo) / rows,
        "milliseconds": float(np.min(spent)),
    }


# Data


@dataclass(frozen=True)
class Rows:
    """Inputs and labels of the parts, and how logits of the test are judged."""

    spec: InputSpec
    x: dict[str, dict[str, np.ndarray]]
    y: dict[str, np.ndarray]
    judge: Callable[[np.ndarray], dict[str, float]]
    best: float = float("nan")


def auc_of_root(y: np.ndarray, z: np.ndarray, scenario: np.ndarray) -> float:
    """Return the AUC of the first task within scenarios, by how many rows they have."""
    each, size = zip(
        *(
            (auc(y[scenario == s, 0], z[scenario == s, 0]), (scenario == s).sum())
            for s in np.unique(scenario)
        ),
        strict=True,
    )
    return float(np.average(each, weights=size))


def nats(y: np.ndarray, z: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the loss of each row, over the funnel."""
    loss = FunnelLoss(spec.parents, spec.negative_rate)
    return np.asarray(loss.call(y.astype("float32"), ops.convert_to_tensor(z)))


def shortened(x: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows, with the last events of each history."""
    out = {name: array[rows] for name, array in x.items()}
    for name in ("history", "history_age"):
        out[name] = out[name][:, -EVENTS:]
    return out


@cache
def world(seed: int, thresholds: float) -> Rows:
    """Return the world of a seed: ten days, two to validate, two to test."""
    made = World(seed=seed, threshold_share=thresholds)
    raw = made.dataset(ROWS["world"])
    schema = replace(raw.schema, context_categorical=("query", "position"))
    done = prepare(
        from_frames(raw.interactions, raw.users, raw.items, schema=schema, name="w"),
        "2026-01-11",
        "2026-01-13",
        look_back=[["user"], ["item"]],
        history_fields=["item", "category"],
        history_length=EVENTS,
        buckets=0,
        counted_on="events",
    )
    spec = done.encoder.spec
    sizes = {**spec.fields, "user": made.users + 1, "item": made.items + 1}
    spec = replace(spec, fields=sizes)
    test = done.parts["test"]
    truth = raw.extra["truth"].iloc[test].reset_index(drop=True)
    known = best_on_observables(made, done.rows.iloc[test].reset_index(drop=True))
    root, *rest = spec.tasks  # whether it is looked at is part of the root
    known = known[[root, *(f"{task}_given" for task in rest)]].to_numpy()
    best = excess(truth, np.log(known / (1 - known)), spec.tasks).mean()
    y, scenario = done.y[test], done.x["scenario"][test]

    def judge(z: np.ndarray) -> dict[str, float]:
        lost = excess(truth, z, spec.tasks).mean()
        return {"loss": float(lost), "auc": auc_of_root(y, z, scenario)}

    x = {part: shortened(done.x, rows) for part, rows in done.parts.items()}
    labels = {part: done.y[rows] for part, rows in done.parts.items()}
    return Rows(spec, x, labels, judge, float(best))


@cache
def shopping() -> Rows:
    """Return a share of the rows of Complete Journey, the weeks as in Part 5."""
    done = prepare(load("complete-journey"), **complete_journey.READING)
    rng = np.random.default_rng(0)
    parts = {
        part: np.sort(rng.choice(rows, ROWS[part], replace=False))
        for part, rows in done.parts.items()
    }
    spec, test = replace(done.encoder.spec, history_length=EVENTS), parts["test"]
    people = pd.factorize(done.rows["user"].to_numpy()[test], sort=True)[0]
    group = rng.permutation(people.max() + 1)[people] % GROUPS
    y, scenario = done.y[test], done.x["scenario"][test]

    def judge(z: np.ndarray) -> dict[str, float]:
        each = nats(y, z, spec)
        per = np.bincount(group, each) / np.bincount(group)
        named = {f"loss_{g}": float(loss) for g, loss in enumerate(per)}
        found = {"loss": float(each.mean()), "auc": auc_of_root(y, z, scenario)}
        return found | named

    x = {part: shortened(done.x, rows) for part, rows in parts.items()}
    return Rows(spec, x, {part: done.y[rows] for part, rows in parts.items()}, judge)


def rows_of(data: str, seed: int) -> Rows:
    """Return a data set; that of a log is one for all seeds."""
    if data == LOG:
        return shopping()
    return world(seed, 1.0 if data == "thresholds" else 0.0)


DECAY = {"world": 0.3, "thresholds": 0.3, "complete-journey": 0.01}


# Training


class Trainer:
    """A network of one size, compiled once, trained from any seed and step size."""

    def __init__(self, name: str, width: int, data: str, rows: Rows) -> None:
        keras.backend.clear_session()
        self.model, self.spec = build(name, rows.spec, width), rows.spec
        dense = self.model.count_params() - table_of(self.model).count_params()
        self.line = {"parameters": dense}
        self.optimizer = keras.optimizers.AdamW(weight_decay=DECAY[data])
        self.optimizer.build(self.model.trainable_variables)
        self.fresh = lambda: build(name, rows.spec, width).get_weights()
        self.starts: dict[int, list[np.ndarray]] = {}
        loss = FunnelLoss(self.spec.parents, self.spec.negative_rate)
        variables = [v.value for v in self.model.trainable_variables]
        self.names = sorted(rows.x["train"])

        @tf.function
        def one_pass(rates: Any, y: Any, *arrays: Any) -> Any:
            total = 0.0
            for i in tf.range(tf.shape(rates)[0]):
                self.optimizer.learning_rate.assign(rates[i])
                x = {n: a[i] for n, a in zip(self.names, arrays, strict=True)}
                with tf.GradientTape() as tape:
                    value = tf.reduce_mean(loss.call(y[i], self.model(x)))
                self.optimizer.apply(tape.gradient(value, variables))
                total += value
            return total

        @tf.function
        def forward(*arrays: Any) -> Any:
            return self.model(dict(zip(self.names, arrays, strict=True)))

        self.one_pass, self.forward = one_pass, forward

    def logits(self, x: Inputs, size: int = 2_000) -> np.ndarray:
        """Return the logits of all rows, in batches of one size."""
        n = len(x["scenario"])
        at = np.arange(-(-n // size) * size) % n
        found = [
            self.forward(*(x[name][rows] for name in self.names)).numpy()
            for rows in at.reshape(-1, size)
        ]
        return np.concatenate(found)[:n]

    def fit(
        self, rows: Rows, step_size: float, most: int, seed: int
    ) -> dict[str, float]:
        """Train for some passes, keep the best, and judge it."""
        began = time.perf_counter()
        if seed not in self.starts:
            keras.utils.set_random_seed(seed)
            self.starts[seed] = self.fresh()
        self.model.set_weights(self.starts[seed])
        for variable in self.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        rng, x, y = np.random.default_rng(seed), rows.x["train"], rows.y["train"]
        steps = len(y) // BATCH
        share = np.arange(most * steps) / (most * steps)
        rates = 0.5 * step_size * (1 + np.cos(np.pi * share)).astype("float32")
        best: dict[str, Any] = {"valid_loss": np.inf}
        for number, falling in enumerate(rates.reshape(most, steps), 1):
            order = rng.permutation(len(y))[: steps * BATCH].reshape(steps, BATCH)
            arrays = (tf.constant(x[name][order]) for name in self.names)
            labels = tf.constant(y[order].astype("float32"))
            self.one_pass(tf.constant(falling), labels, *arrays)
            z = self.logits(rows.x["valid"])
            value = float(nats(rows.y["valid"], z, self.spec).mean())
            if value < best["valid_loss"]:
                best = {"valid_loss": value, "passes": number}
                kept = self.model.get_weights()
        if not np.isfinite(best["valid_loss"]):
            return {"valid_loss": float("inf")}
        self.model.set_weights(kept)
        best |= rows.judge(self.logits(rows.x["test"]))
        return best | self.line | {"seconds": time.perf_counter() - began}


# Trees


def trees(rows: Rows, data: str, seed: int) -> dict[str, float]:
    """Boost trees for each task, as long as the validation rows gain."""
    began, spec, cross = time.perf_counter(), rows.spec, data != LOG
    branch, names = ProductBranch(spec), list(spec.fields)
    ids = [f for f, name in enumerate(names) if "(bucket)" not in name]

    def seen(part: str) -> np.ndarray:
        x = rows.x[part]
        every = np.arange(len(x["scenario"]))
        parts = [np.concatenate([*branch.tables(x, every)])] if cross else []
        for column, name in enumerate(spec.history_fields):
            past, now = x["history"][..., column], x["fields"][:, names.index(name)]
            parts.append(((past == now[:, None]) & (past > 0)).sum(1, keepdims=True))
        both = [*parts, x["numeric"], x["fields"][:, ids]]
        return np.hstack(both).astype("float32")

    x = {part: seen(part) for part in rows.x}
    kinds = list(range(x["train"].shape[1] - len(ids), x["train"].shape[1]))
    z = np.zeros((len(x["test"]), len(spec.tasks)))
    cost = {"parameters": 0.0, "operations": 0.0, "milliseconds": 0.0}
    valid = np.zeros((len(x["valid"]), len(spec.tasks)))
    for t, parent in enumerate(spec.parents):
        happened = {
            part: y[:, parent] == 1 if parent >= 0 else np.ones(len(y), bool)
            for part, y in rows.y.items()
        }
        best, kept = np.inf, None
        own = {p: (x[p][m], rows.y[p][m, t]) for p, m in happened.items()}
        for setting in TREES:
            model, loss = boosted(own["train"], own["valid"], kinds, setting, seed)
            if loss < best:
                best, kept = loss, model
        offset = np.log(spec.negative_rate) if parent < 0 else 0.0
        z[:, t] = kept.predict(x["test"], raw_score=True) + offset
        valid[:, t] = kept.predict(x["valid"], raw_score=True) + offset
        grown = kept.trees_to_dataframe()
        grown = grown[grown["tree_index"] < kept.best_iteration]
        leaf = grown["left_child"].isna()
        cost["parameters"] += leaf.sum() + 2 * (~leaf).sum()
        path = grown[leaf].assign(
            path=lambda g: g["count"] * (g["node_depth"] - 1),
        )
        cost["operations"] += (
            path["path"].sum() / path["count"].sum() * (kept.best_iteration)
        )
        spent = []
        for _ in range(30):
            start = time.perf_counter()
            kept.predict(x["test"][:100], raw_score=True, num_threads=1)
            spent.append(1e3 * (time.perf_counter() - start))
        cost["milliseconds"] += float(np.min(spent))
    found = {
        "valid_loss": float(nats(rows.y["valid"], valid.astype("float32"), spec).mean())
    }
    found |= rows.judge(z.astype("float32"))
    return found | cost | {"seconds": time.perf_counter() - began}


# The study


NUMBERS = ("width", "seed", "step_size", "most")


def key(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a run from all others."""
    return tuple(
        f"{float(line[name]):.4g}" if name in NUMBERS else str(line[name])
        for name in KEY
    )


def search(loss: Callable[[int], float], start: int, count: int) -> int:
    """Return the place of a rate that has a worse one on both sides.

    Parameters
    ----------
    loss : callable
        Of a place among ``count`` rates, asked once for each.
    start : int
        Where to begin.
    """
    asked: dict[int, float] = {}
    new = [start - 1, start, start + 1]
    while new:
        for place in new:
            if not 0 <= place < count:
                raise ValueError("the best step size is at an end of the grid")
            asked[place] = loss(place)
        best = min(asked, key=asked.__getitem__)
        new = [p for p in (best - 1, best + 1) if p not in asked]
    return best


def longer(loss: Callable[[Way], float], way: Way) -> Way:
    """Return a way whose passes cannot be doubled with a gain, asking as little."""
    while way[1] < MOST:
        more = [(at, 2 * way[1]) for at in (way[0], way[0] - 1) if at >= 0]
        best = min(more, key=loss)
        if loss(best) >= loss(way) - MOVE:
            break
        way = best
    return way


class Study:
    """All runs, and the file that they go to."""

    def __init__(self) -> None:
        self.result = Result("backbone.csv", COLUMNS, digits=6)
        self.known = {key(line): line for line in self.result.lines()}
        self.at: dict[tuple[str, str], int] = {}

    def run(self, line: dict[str, Any], fit: Callable[[], Mapping[str, Any]]) -> float:
        """Return the validation loss of a run, from the file or anew."""
        if key(line) not in self.known:
            done = {**line, **fit()}
            self.result.keep(done)
            self.known[key(line)] = {k: str(v) for k, v in done.items()}
            shown = [*done.values()][:14]
            print(
                *(f"{v:.5g}" if isinstance(v, float) else v for v in shown), flush=True
            )
        return float(self.known[key(line)]["valid_loss"])

    def network(self, name: str, width: int, where: Sequence[str]) -> None:
        """Tune a network of one width, then train it on what results are read from.

        It is tuned on the first of some data sets, whose inputs have the same shape.
        """
        trainer: list[Trainer] = []

        def fit(data: str, seed: int, way: Way) -> Mapping[str, Any]:
            rows = rows_of(data, seed)
            if not trainer:
                trainer.append(Trainer(name, width, data, rows))
            return trainer[0].fit(rows, RATES[way[0]], way[1], seed)

        base = {"contender": name, "width": width}

        def run(data: str, stage: str, seed: int, way: Way) -> float:
            line = {**base, "data": data, "stage": stage, "seed": seed}
            line |= {"step_size": RATES[way[0]], "most": way[1]}
            return self.run(line, partial(fit, data, seed, way))

        loss = partial(run, where[0], "tuning", TUNING)
        start = self.at.get((where[0], name), MIDDLE)
        place = search(lambda at: loss((at, PASSES)), start, len(RATES))
        self.at[where[0], name] = place
        way = longer(loss, (place, PASSES))
        for data in where if where[0] != LOG else ():
            for seed in SEEDS:
                run(data, "result", seed, way)

    def trees(self, data: str) -> None:
        """Grow trees on what results are read from."""
        for seed in SEEDS if data != LOG else (TUNING,):
            line = {"data": data, "contender": "trees", "width": 0}
            line |= {"stage": "result", "seed": seed, "step_size": 0.0, "most": 0}
            self.run(line, lambda seed=seed: trees(rows_of(data, seed), data, seed))

    def level(self, data: str) -> None:
        """Note what the best model of what can be seen would lose on a world."""
        for seed in SEEDS:
            line = {"data": data, "contender": "best on features", "width": 0}
            line |= {"stage": "result", "seed": seed, "step_size": 0.0, "most": 0}
            self.run(
                line,
                lambda seed=seed: {
                    "valid_loss": np.nan,
                    "loss": rows_of(data, seed).best,
                },
            )


def costs(where: Sequence[str] = DATA[1:2]) -> None:
    """Count and time the forward pass of each network."""
    result = Result("backbone-costs.csv", COSTS, digits=6)
    done = {(line["data"], line["contender"], line["width"]) for line in result.lines()}
    for data in where:
        rows = rows_of(data, TUNING)
        for name, widths in WIDTHS.items():
            for width in widths:
                if (data, name, str(width)) in done:
                    continue
                keras.backend.clear_session()
                model = build(name, rows.spec, width)
                dense = model.count_params() - table_of(model).count_params()
                line = {"data": data, "contender": name, "width": width}
                line |= {"parameters": dense, **cost(model, rows.x["test"])}
                result.keep(line)
                print(*line.values(), flush=True)


def main() -> None:
    """Run what is missing of the study, the small sizes first, then the large."""
    study = Study()
    for where in (DATA[:2], DATA[2:]):
        for data in where:
            study.trees(data)
        for place in (0, 2, 1):
            for name, widths in WIDTHS.items():
                study.network(name, widths[place], where)
        study.network(CUT, WIDTHS["OneTrans"][2], where)
    for data in DATA[:2]:
        study.level(data)
    costs()


if __name__ == "__main__":
    main()
