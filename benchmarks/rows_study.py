"""How many rows a scenario needs, alone and with the others' rows beside its own.

    python benchmarks/rows_study.py

In each world, search gets 250, 1,000, 4,000 or 16,000 training rows; shop and social
keep all of theirs. A network of its own for clicks in search is held against two
unified models that see the other scenarios and tasks too, and against popularity. All
networks have the same embeddings, history encoder and match, take as many steps in a
pass, and get the same two tries of the step size, judged like the number of passes on
all of search's validation rows: more than a team with 250 rows would have, and the same
for all (the unified models by the loss of search's three tasks, the other by clicks).

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from results import Result

from urlm_helpers.data import from_frames
from urlm_helpers.features import TargetAttention
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import InputSpec, Prepared, prepare
from urlm_helpers.sharing import URLM, SharedBottom
from urlm_helpers.training import fit
from urlm_helpers.world import World, best_on_observables, expected_auc, popularity

COLUMNS = ["shift", "world", "rows", "model", "auc", "gap_closed"]
COLUMNS += ["step_size", "passes"]
SHIFTS, WORLDS, ROWS = (0.6, 1.2), (1, 2, 3, 4, 5), (250, 1_000, 4_000, 16_000)
TRIES, BATCH, SEARCH = (2e-3, 4e-3), 512, 2
LOG, TRAFFIC = 60_000, (0.4, 0.2, 0.4)


class Job:
    """One world: its rows, and the lines that its scores are held against."""

    def __init__(self, shift: float, seed: int) -> None:
        world = World(seed=seed, scenario_shift=shift, traffic=TRAFFIC)
        raw = world.dataset(LOG)
        schema = replace(raw.schema, context_categorical=("query", "position"))
        data = from_frames(raw.interactions, raw.users, raw.items, schema=schema)
        self.data = done = prepare(
            data,
            "2026-01-11",
            "2026-01-13",
            look_back=[["user"], ["item"]],
            history_fields=["item", "category"],
            history_length=10,
            buckets=0,
            counted_on="events",
        )
        spec = done.encoder.spec
        sizes = {**spec.fields, "user": world.users + 1, "item": world.items + 1}
        self.spec = replace(spec, fields=sizes)
        test, where = done.parts["test"], done.x["scenario"]
        own = test[where[test] == SEARCH]
        rows = done.rows.iloc[own].reset_index(drop=True)
        self.rows, self.seed = rows, seed
        self.at_top = done.encoder.transform(rows.assign(position=1))
        self.truth = raw.extra["truth"]["click_before"].to_numpy()[own]
        self.best = self.auc(best_on_observables(world, rows)["click_before"])
        train = done.parts["train"]
        at_random = np.random.default_rng(seed).permutation
        self.search = at_random(train[where[train] == SEARCH])
        self.others = train[where[train] != SEARCH]
        valid = done.parts["valid"]
        self.valid = valid[where[valid] == SEARCH]
        self.popular = self.popularity(len(self.search))

    def auc(self, score: Any) -> float:
        """Return the expected AUC of clicks in search."""
        return expected_auc(np.asarray(score), self.truth)

    def popularity(self, rows: int) -> float:
        """Return the AUC of the items' click rate in some rows of search."""
        return self.auc(
            popularity(self.data.rows.iloc[self.search[:rows]], self.rows, "click")
        )


def models(spec: InputSpec) -> dict[str, UnifiedRecommender]:
    """Return the three networks; all worlds use them again, from new weights."""
    alone = replace(spec, scenarios=("search",), tasks=("click",), funnel={})
    same = {"dim": 8, "bottom": 0, "match": 32}
    return {
        "URLM": UnifiedRecommender(
            spec, TargetAttention(), URLM(3, 3, units=(32, 16)), **same
        ),
        "shared bottom": UnifiedRecommender(
            spec, TargetAttention(), SharedBottom(3, 3, units=(64, 32)), **same
        ),
        "alone": UnifiedRecommender(
            alone, TargetAttention(), SharedBottom(1, 1, units=(64, 32)), **same
        ),
    }


def trained(model: UnifiedRecommender, job: Job, rows: int) -> dict[str, Any]:
    """Fit with both step sizes; return what the better one reaches."""
    done: Prepared = job.data
    own = job.search[:rows]
    train, batch = np.concatenate([job.others, own]), BATCH
    x, y, top = done.x, done.y, job.at_top
    if len(model.spec.tasks) == 1:  # knows no scenario, and takes as many steps
        x = {**x, "scenario": np.zeros(len(y), "int32")}
        top = {**top, "scenario": np.zeros(len(job.rows), "int32")}
        y, batch = y[:, :1], max(1, round(BATCH * len(own) / len(train)))
        train = own
    parts = {"train": train, "valid": job.valid}
    best: dict[str, Any] = {}
    for rate in TRIES:
        model.reset(job.seed)
        options = {"epochs": 6, "batch_size": batch, "weight_decay": 0.3}
        curve = fit(model, x, y, parts, learning_rate=rate, seed=job.seed, **options)
        loss = curve["valid_loss"].min()
        if not best or loss < best["loss"]:
            auc = job.auc(model.probabilities(top)[:, 0])
            best = {"loss": loss, "auc": auc, "step_size": rate}
            best["passes"] = int(curve["epoch"].max())
    del best["loss"]
    return best


def lines(done: set[tuple]) -> Iterator[dict[str, Any]]:
    """Yield what is missing, line by line."""
    made: dict[str, UnifiedRecommender] = {}
    for shift in SHIFTS:
        for seed in WORLDS:
            names = ("URLM", "shared bottom", "alone", "popularity")
            todo = [(n, m) for n in ROWS for m in names]
            todo = [(n, m) for n, m in todo if (shift, seed, n, m) not in done]
            if not todo:
                continue
            job = Job(shift, seed)
            made = made or models(job.spec)
            for rows, name in todo:
                if len(job.search) < rows:
                    raise ValueError(
                        f"{len(job.search):,} rows of search, not {rows:,}"
                    )
                line = {"shift": shift, "world": seed, "rows": rows, "model": name}
                if name == "popularity":
                    line["auc"] = job.popularity(rows)
                else:
                    line |= trained(made[name], job, rows)
                span = job.best - job.popular
                yield {**line, "gap_closed": (line["auc"] - job.popular) / span}


def main() -> None:
    """Run what is missing of the study."""
    result = Result("rows-world.csv", COLUMNS)
    done = {
        (float(line["shift"]), int(line["world"]), int(line["rows"]), line["model"])
        for line in result.lines()
    }
    for line in lines(done):
        result.keep(line)
        print(*line.values(), flush=True)


if __name__ == "__main__":
    main()
