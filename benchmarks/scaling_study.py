"""Scaling curves: how the excess loss falls with rows, parameters and compute.

    python benchmarks/scaling_study.py

Two models on worlds whose truth is known. The first is the unified recommender: with
its dense parameters (the width of two layers), the rows of its table of users and items
(hashed to fewer) and the training rows changed one at a time, and together for the
frontier of compute. The second is the generative next-action model, with its width, and
the number of people whose sequences it is trained on. Each run gets two tries of the
step size and as many passes as lower its validation loss; what it reaches is measured
on fresh rows against the truth (`urlm_helpers.world.excess`), in nats.

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from results import Result

from urlm_helpers.features import CompactEmbedding, FieldEmbedding
from urlm_helpers.model import NextAction, UnifiedRecommender, sequences
from urlm_helpers.preprocessing import world_inputs
from urlm_helpers.sharing import SharedBottom
from urlm_helpers.training import fit
from urlm_helpers.world import World, action_excess, excess

COLUMNS = ["study", "seed", "rows", "width", "table_rows", "dense", "table"]
COLUMNS += ["flops", "excess", "step_size", "passes", "seconds"]
WORLD = {
    "users": 4_000,
    "items": 1_000,
    "feature_noise": 1.0,
    "position_bias": 0.0,
    "drift": 0.0,
    "new_users": 0.0,
    "new_items": 0.0,
    "user_overlap": 1.0,
    "item_overlap": 1.0,
}
LOG, VALID, TEST, DIM, SCALE = 2_000_000, 20_000, 100_000, 8, 10.0
SEEDS, STEP_SIZES = (0, 1), (1e-3, 4e-3)
GENERATIVE_SEEDS = 1
ROWS = tuple(int(r) for r in np.geomspace(2_000, LOG, 10).round(-2))
WIDTHS = (1, 2, 4, 8, 16, 64, 256, 512)
TABLES = (5, 16, 50, 160, 500, 1_600, 5_000)
FULL, WIDE, MANY = 5_000, 128, 500_000
VISITS, PASSES = 2_000_000, 20
LENGTH = 40
PEOPLE = (16, 50, 160, 500, 1_600, 5_000, 16_000)
GENERATIVE_WIDTHS = (4, 8, 16, 32, 64, 128)
PEOPLE_AT, WIDTH_AT, HELD_OUT = 5_000, 64, 1_000


class Run(NamedTuple):
    """One point of a curve."""

    study: str
    seed: int
    rows: int
    width: int
    table_rows: int


def runs(seed: int) -> Iterator[Run]:
    """Yield the points of one world, each once."""
    seen: set[tuple[int, ...]] = set()
    wanted = [("rows", r, WIDE, FULL) for r in ROWS]
    wanted += [("dense", MANY, w, FULL) for w in WIDTHS]
    wanted += [("table", MANY, WIDE, t) for t in TABLES]
    wanted += [("grid", r, w, FULL) for r in ROWS[1::3] for w in WIDTHS[::2]]
    for study, rows, width, table in wanted:
        if (rows, width, table) not in seen:
            seen.add((rows, width, table))
            yield Run(study, seed, rows, width, table)
    if seed >= GENERATIVE_SEEDS:
        return
    for people in PEOPLE:
        yield Run("people", seed, people, WIDTH_AT, 0)
    for width in GENERATIVE_WIDTHS:
        if width != WIDTH_AT:
            yield Run("tokens", seed, PEOPLE_AT, width, 0)


class Log:
    """The rows of one world, encoded, and the fresh rows to measure on."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed=seed, **WORLD)  # type: ignore[arg-type]
        log = next(self.world.stream(LOG + VALID, -(-(LOG + VALID) // 10_000) * 10_000))
        self.x, self.y, self.spec = world_inputs(self.world, log.interactions)
        # In order of time, but nothing drifts: any rows do.
        self.order = np.random.default_rng(seed).permutation(LOG + VALID)
        fresh = self.world.sample(TEST, seed=1)
        self.test, _, _ = world_inputs(self.world, fresh.interactions)
        self.truth = fresh.truth


def unified(log: Log, width: int, table_rows: int) -> UnifiedRecommender:
    """Return a model with two dense layers of one width."""
    sizes = list(log.spec.fields.values())
    if table_rows < FULL:
        table: FieldEmbedding = CompactEmbedding(
            sizes, DIM, table_rows, above=500, scale=SCALE
        )
    else:
        table = FieldEmbedding(sizes, DIM, scale=SCALE)
    return UnifiedRecommender(
        log.spec,
        sharing=SharedBottom(3, 3, units=(width, width)),
        dim=DIM,
        bottom=0,
        embedding=table,
    )


def train_unified(log: Log, run: Run) -> dict[str, Any]:
    """Fit with both step sizes; measure the one with the lower validation loss."""
    keras.backend.clear_session()
    model = unified(log, run.width, run.table_rows)
    parts = {"train": log.order[: run.rows], "valid": log.order[LOG:]}
    batch = int(np.clip(run.rows // 100, 32, 2048))
    passes = int(np.clip(VISITS // run.rows, 2, PASSES))
    best: dict[str, Any] = {}
    for step_size in STEP_SIZES:
        model.reset(run.seed)
        curve = fit(
            model,
            log.x,
            log.y,
            parts,
            batch_size=batch,
            epochs=passes,
            patience=2,
            learning_rate=step_size,
        )
        loss = curve["valid_loss"].min()
        if not best or loss < best["loss"]:
            lost = excess(log.truth, model.logits(log.test), log.spec.tasks).mean()
            best = {"loss": loss, "excess": lost, "step_size": step_size}
            best["passes"] = len(curve)
    table = model.embedding.count_params()
    dense = model.count_params() - table
    flops = 6.0 * dense * run.rows * best["passes"]
    return {**best, "dense": dense, "table": table, "flops": flops}


class People:
    """Sequences of one world, and the truth at each of their events."""

    def __init__(self, seed: int) -> None:
        people = PEOPLE[-1] + 2 * HELD_OUT
        own = {**WORLD, "users": people}
        self.world = World(seed=100 + seed, **own)  # type: ignore[arg-type]
        rows = people * LENGTH // 10_000 * 10_000
        log = next(self.world.stream(rows, rows))
        x, _, spec = world_inputs(self.world, log.interactions)
        known = self.world.user_features  # what is known of the person stays out
        contents = {"fields": x["fields"][:, 1:], "numeric": x["numeric"][:, known:]}
        names = list(spec.fields)[1:]
        self.fields = {name: spec.fields[name] for name in names}
        self.tasks = list(spec.tasks)
        self.x, self.rows = sequences(log.interactions, contents, self.tasks, LENGTH)
        order = np.random.default_rng(seed).permutation(len(self.rows))
        self.train = order[: -2 * HELD_OUT]
        self.valid, self.test = order[-2 * HELD_OUT :].reshape(2, -1)
        self.truth = log.truth[self.tasks]

    def model(self, width: int) -> NextAction:
        """Return the generative model of one width."""
        numbers = self.x["numeric"].shape[-1]
        return NextAction(self.fields, numbers, len(self.tasks) + 1, LENGTH, dim=width)

    def inputs(self, people: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        """Return the inputs of some people, their actions and which events exist."""
        x = {name: array[people] for name, array in self.x.items()}
        return x, x["action"], x["mask"]

    def lost(self, model: NextAction, people: np.ndarray) -> np.ndarray:
        """Return the excess loss at each event, NaN where there is none."""
        logits = model.predict(self.inputs(people)[0], batch_size=64, verbose=0)
        rows = self.rows[people]
        out = np.full(rows.shape, np.nan)
        there = rows >= 0
        truth = self.truth.iloc[rows[there]]
        out[there] = action_excess(truth, logits[there], self.tasks)
        return out


def train_generative(data: People, run: Run) -> dict[str, Any]:
    """Fit with both step sizes; measure the one with the lower validation loss."""
    people = data.train[: run.rows]
    batch = int(np.clip(run.rows // 32, 4, 64))
    passes = int(np.clip(PEOPLE_AT * 4 // run.rows, 3, 60))
    best: dict[str, Any] = {}
    for step_size in STEP_SIZES:
        keras.utils.set_random_seed(run.seed)
        keras.backend.clear_session()
        model = data.model(run.width)
        steps = passes * -(-len(people) // batch)
        falling = keras.optimizers.schedules.CosineDecay(step_size, steps)
        model.compile(
            keras.optimizers.Adam(falling),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=True,
        )
        x, y, mask = data.inputs(people)
        stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
        curve = model.fit(
            x,
            y,
            batch_size=batch,
            sample_weight=mask,
            epochs=passes,
            validation_data=data.inputs(data.valid),
            verbose=0,
            callbacks=[stop],
        ).history["val_loss"]
        if not best or min(curve) < best["loss"]:
            lost = np.nanmean(data.lost(model, data.test))
            best = {"loss": min(curve), "excess": lost, "step_size": step_size}
            best["passes"] = len(curve)
    table = model.embedding.count_params()
    dense = model.count_params() - table
    flops = 6.0 * dense * run.rows * 2 * LENGTH * best["passes"]
    return {**best, "dense": dense, "table": table, "flops": flops}


def main() -> None:
    """Run what is not in the result yet."""
    result = Result("scaling.csv", COLUMNS, digits=6)
    done = {
        Run(line["study"], *(int(line[c]) for c in COLUMNS[1:5]))
        for line in result.lines()
    }
    only = sys.argv[1:]
    for seed in SEEDS:
        log: Log | None = None
        people: People | None = None
        for run in runs(seed):
            if run in done or (only and run.study not in only):
                continue
            start = time.perf_counter()
            if run.study in ("people", "tokens"):
                people = people or People(seed)
                found = train_generative(people, run)
            else:
                log = log or Log(seed)
                found = train_unified(log, run)
            found["seconds"] = time.perf_counter() - start
            line = {**run._asdict(), **found}
            result.keep(line)
            shown = ", ".join(f"{c} {line[c]:g}" for c in COLUMNS[2:])
            print(run.study, f"seed {seed}", shown, flush=True)


if __name__ == "__main__":
    main()
