"""How losses of several tasks are put together.

    nice -n 10 python benchmarks/balance_study.py

The study of page 3.2.3d, on small simulated apps of three tasks in a funnel. *Schemes*:
the plain sum; fixed weights, a grid of what the click counts; uncertainty weights as
they are, without weight decay on them, and with log-variances that start at their best
for the rates and move ten times as fast; GradNorm; PCGrad.

*Worlds*: the app as it is; the app with the click's loss in other units, a hundred
times as large (a positive control: there a balance has something to mend), which is
looked at on the app `TUNING` alone, as are uncertainty weights as they are.

Each scheme's step size is doubled or halved from `FIRST` on the apps `TUNING` until
both neighbors are worse, by the plain sum of the validation losses, the number that
also keeps the best pass; fixed weights take that of the plain sum. Results are those
of other apps. A line is written as soon as it is known. One core needs some four
minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops
from results import Result

from urlm_helpers.features.base import PACKAGE
from urlm_helpers.model import (
    FunnelLoss,
    GradNorm,
    PCGrad,
    UncertaintyWeights,
    UnifiedRecommender,
)
from urlm_helpers.model.balance import Balance
from urlm_helpers.preprocessing import prepare
from urlm_helpers.sharing import SharedBottom
from urlm_helpers.training import fit
from urlm_helpers.world import World, expected_auc

TASKS, SCENARIOS = ("click", "like", "buy"), ("shop", "social", "search")
PAIRS = ((0, 1), (0, 2), (1, 2))
TUNING, APPS = (3,), tuple(range(11, 17))
FIRST, MOST = 0.016, 0.128
UNIT = 100.0
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 512, "weight_decay": 0.3}

COLUMNS = ["world", "scheme", "app", "step_size", "watched"]
COLUMNS += [f"valid_{t}" for t in TASKS] + [f"train_{t}" for t in TASKS]
COLUMNS += [f"auc_{t}" for t in TASKS] + [f"given_{t}" for t in TASKS]
COLUMNS += [f"auc_{t}_{s}" for t in TASKS for s in SCENARIOS]
COLUMNS += [f"weight_{t}" for t in TASKS]
COLUMNS += [f"conflict_{TASKS[i]}_{TASKS[j]}" for i, j in PAIRS]
COLUMNS += [f"cosine_{TASKS[i]}_{TASKS[j]}" for i, j in PAIRS] + ["length", "turn"]
Line = dict[str, Any]


@keras.saving.register_keras_serializable(PACKAGE)
class Fixed(Balance):
    """Weights that do not learn."""

    def build(self, losses_shape: Any) -> None:
        """Create what is kept."""
        super().build(losses_shape)
        self.w = self.add_weight(losses_shape, "ones", trainable=False, name="w")

    def call(self, losses: Any) -> Any:
        """Map the mean loss of each task, ``(tasks,)``, to one number."""
        return ops.sum(self.w * losses)


@keras.saving.register_keras_serializable(PACKAGE)
class Free(UncertaintyWeights):
    """Uncertainty weights that arrive: a good start, and steps of their own."""

    def build(self, losses_shape: Any) -> None:
        """Create what is kept."""
        super().build(losses_shape)
        self.start = self.add_weight(losses_shape, "zeros", trainable=False, name="s0")

    def s(self) -> Any:
        """Return the log-variances."""
        return self.start + 10.0 * ops.convert_to_tensor(self.log_variance)

    def call(self, losses: Any) -> Any:
        """Map the mean loss of each task, ``(tasks,)``, to one number."""
        return ops.sum(ops.exp(-self.s()) * losses + 0.5 * self.s())


@keras.saving.register_keras_serializable(PACKAGE)
class Watched(PCGrad):
    """PCGrad that keeps a record of the angles."""

    def build(self, losses_shape: Any) -> None:
        """Create what is kept."""
        super().build(losses_shape)
        self.record = self.add_weight((9,), "zeros", trainable=False, name="record")

    def surgery_weights(self, shared: Any) -> Any:
        """Return what each task's gradient counts; note the angles."""
        import tensorflow as tf

        gram = self.products(shared)
        count = super().surgery_weights(shared)
        size = tf.sqrt(tf.linalg.diag_part(gram)) + 1e-20
        cosine = gram / (size[:, None] * size[None])
        pairs = tf.stack([cosine[i, j] for i, j in PAIRS])
        after = tf.reduce_sum(count[:, None] * gram * count[None])
        length = tf.sqrt(after / (tf.reduce_sum(gram) + 1e-20))
        inner = tf.reduce_sum(count[:, None] * gram)
        turn = inner / (tf.sqrt(after * tf.reduce_sum(gram)) + 1e-20)
        new = [tf.cast(pairs < 0, "float32"), pairs, [length, turn, 1.0]]
        new = tf.concat(new, 0)
        self.record.assign_add(new)
        return count


class Units(UnifiedRecommender):
    """A model whose training counts the click's loss in other units."""

    def task_losses(self, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the mean loss of each task, the click's in its unit."""
        unit = ops.convert_to_tensor([UNIT, 1.0, 1.0])
        return unit * super().task_losses(y, y_pred, sample_weight)


def given_auc(score: np.ndarray, p: np.ndarray, weight: np.ndarray) -> float:
    """Return the expected AUC where a row counts by the chance of its parent."""
    order = np.argsort(score, kind="stable")
    yes, no = (weight * p)[order], (weight * (1 - p))[order]
    itself = (yes * no).sum()
    won = (yes * (np.cumsum(no) - no)).sum()
    return float(won / (yes.sum() * no.sum() - itself))


class Study:
    """All runs, and the file that they go to."""

    def __init__(self) -> None:
        self.result = Result("balance.csv", COLUMNS, digits=6)
        self.known = {self.key(line): line for line in self.result.lines()}
        self.apps: dict[int, Any] = {}
        self.models: dict[tuple[str, str], UnifiedRecommender] = {}

    @staticmethod
    def key(line: Any) -> tuple[str, ...]:
        """Return what tells a run from all others."""
        return (
            *(str(line[name]) for name in COLUMNS[:3]),
            f"{float(line['step_size']):g}",
        )

    def app(self, seed: int) -> Any:
        """Return an app, prepared, and the truth of its test days."""
        if seed not in self.apps:
            data = World(seed=seed, users=1_000, items=500).dataset(40_000)
            how: dict[str, Any] = {"look_back": [["user"], ["item"]]}
            ready = prepare(
                data, "2026-01-11", "2026-01-13", buckets=0, counted_on="events", **how
            )
            truth = data.extra["truth"].iloc[ready.parts["test"]]
            self.apps[seed] = ready, truth
        return self.apps[seed]

    def model(self, world: str, scheme: str) -> UnifiedRecommender:
        """Return a model with a scheme in its slot; those alike are made once."""
        kind, _, setting = scheme.partition(": ")
        kind = "fixed" if kind == "plain sum" else kind.removesuffix(", no decay")
        name = f"{kind}{setting}" if kind == "GradNorm" else kind
        if (world, name) not in self.models:
            spec = self.app(TUNING[0])[0].encoder.spec
            spec = replace(spec, fields={**spec.fields, "user": 1_001, "item": 501})
            balance = {
                "fixed": Fixed,
                "uncertainty": UncertaintyWeights,
                "uncertainty, free": Free,
                "PCGrad": Watched,
                "GradNorm": lambda: GradNorm("tower/bottom", alpha=float(setting)),
            }[kind]()
            made = Units if world == "units" else UnifiedRecommender
            sharing = SharedBottom(3, 3, (16,), name="tower")
            self.models[world, name] = made(
                spec, None, sharing, bottom=32, match=16, balance=balance
            )
        return self.models[world, name]

    def run(self, world: str, scheme: str, app: int, step: float) -> Any:
        """Return a run's line, from the file or anew."""
        line: Line = {"world": world, "scheme": scheme, "app": app, "step_size": step}
        if self.key(line) in self.known:
            return self.known[self.key(line)]
        ready, truth = self.app(app)
        model, (kind, _, setting) = self.model(world, scheme), scheme.partition(": ")
        model.reset(app)
        y = ready.y[ready.parts["train"]]
        if kind == "fixed":
            model.balance.w.assign([float(setting), 1.0, 1.0])
        if kind == "uncertainty, free":
            happened = np.column_stack([np.ones(len(y)), y[:, 0], y[:, 1]])
            rate = y.sum(axis=0) / happened.sum(axis=0)
            entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
            floor = entropy * happened.mean(axis=0)
            unit = np.array([UNIT if world == "units" else 1.0, 1.0, 1.0])
            model.balance.start.assign(np.log(2 * floor * unit))
        how = {**OPTIONS, "learning_rate": step, "seed": app}
        how["balance_decays"] = not kind.endswith(", no decay")
        curve = fit(model, ready.x, ready.y, ready.parts, **how)
        line["watched"] = float(curve["valid_loss"].min())
        line |= self.judged(model, ready, truth)
        self.result.keep(line)
        self.known[self.key(line)] = line
        print(*(line[name] for name in COLUMNS[:5]), flush=True)
        return line

    def judged(self, model: UnifiedRecommender, ready: Any, truth: Any) -> Line:
        """Return what is kept of a fitted model."""
        line: Line = {}
        plain = FunnelLoss(model.spec.parents)
        for part in ("valid", "train"):
            at = ready.parts[part]
            each = plain.tasks(ready.y[at], model.logits(ready.take(at))).numpy()
            line |= {
                f"{part}_{t}": float(v)
                for t, v in zip(TASKS, each.mean(0), strict=True)
            }
        asked = ready.take(ready.parts["test"])
        z, p = model.logits(asked), model.probabilities(asked)
        parent = np.ones(len(z))
        for k, task in enumerate(TASKS):
            joint = truth[f"{task}_before"].to_numpy()
            line[f"auc_{task}"] = expected_auc(p[:, k], joint)
            line[f"given_{task}"] = given_auc(z[:, k], joint / parent, parent)
            for s, scenario in enumerate(SCENARIOS):
                own = asked["scenario"] == s
                line[f"auc_{task}_{scenario}"] = expected_auc(p[own, k], joint[own])
            parent = joint
        balance = model.balance
        weights = {
            Free: lambda: np.exp(-np.asarray(balance.s())),
            UncertaintyWeights: lambda: np.exp(-np.asarray(balance.log_variance)),
            GradNorm: lambda: np.asarray(balance.task_weights),
        }.get(type(balance))
        if weights:
            line |= {
                f"weight_{t}": float(w) for t, w in zip(TASKS, weights(), strict=True)
            }
        if isinstance(balance, Watched):
            record = np.asarray(balance.record)
            record = record / record[-1]
            line |= dict(zip(COLUMNS[-8:], map(float, record[:8]), strict=True))
        return line

    def step(self, world: str, scheme: str) -> float:
        """Return a scheme's step size: no neighbor is better on the tuning apps."""

        def loss(step: float) -> float:
            runs = (self.run(world, scheme, app, step) for app in TUNING)
            return float(np.mean([float(line["watched"]) for line in runs]))

        best = FIRST
        for factor in (0.5, 2.0):
            while best * factor <= MOST and loss(best * factor) < loss(best):
                best *= factor
        return best


SCHEMES: dict[str, tuple[str, ...]] = {
    "funnel": (
        *("plain sum", "uncertainty, free", "fixed: 3", "fixed: 0.3", "fixed: 0.1"),
        *("GradNorm: 1.5", "PCGrad", "uncertainty, no decay"),
    ),
}
"""What is run in the apps of a world; `fixed` says what the click counts."""
LOOKED_AT: dict[str, tuple[str, ...]] = {
    "funnel": ("uncertainty",),
    "units": (
        *("plain sum", "uncertainty, free", "GradNorm: 1.5", "uncertainty, no decay"),
        "uncertainty",
    ),
}
"""What is run on `TUNING` alone."""


def main() -> None:
    """Run what is missing of the study."""
    study = Study()
    for world, named in SCHEMES.items():
        steps: dict[str, float] = {}
        for scheme in named:
            own = not scheme.startswith("fixed")
            steps[scheme] = study.step(world, scheme) if own else steps["plain sum"]
            for app in APPS:
                study.run(world, scheme, app, steps[scheme])
    for app in APPS:  # the plain sum again, with another scheme's step size
        study.run("funnel", "fixed: 1", app, steps["uncertainty, no decay"])
    for world, named in LOOKED_AT.items():
        for scheme in named:
            study.step(world, scheme)


if __name__ == "__main__":
    main()
