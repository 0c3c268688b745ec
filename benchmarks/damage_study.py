"""What each of six damages to the four steps costs, in order and in probability.

    nice -n 10 python benchmarks/damage_study.py

The study of page 3.1, on its app. The whole, damages A to D and *no ids* are trained on
the seeds `SEEDS`; run i of each shares its seed with run i of the whole. E (the product
along the funnel forgotten), F (zeros served where training had counts) and *means
served* are the runs of the whole, read or fed otherwise, and *A repaired* those of A
with the odds of a click halved. D trains a model for each scenario, with smaller
batches and as many passes as the validation days of seed 0 of another app asked for;
all else takes the settings of the whole.

A row is judged by its true probability: it counts as π of a click and 1 - π of none. A
line is one fit in one cell, a scenario or (clicks of the whole and of C) the test rows
of items by how many training rows they had: the expected AUC and log-loss, and the
predicted over the true number. The lines with `users` for a seed are no fit: they hold
the standard deviation, over `RESAMPLES` draws of the users, of a version's mean over
the seeds, less the whole's.

A line is written as soon as it is known, and what is there is not run again; the
predictions wait in `benchmarks/scores/`. One core needs some three minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results import Result

from urlm_helpers.data import clean, from_frames
from urlm_helpers.evaluation import METRICS
from urlm_helpers.evaluation.bootstrap import resample_users, values
from urlm_helpers.evaluation.intervals import cells
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import Prepared, prepare
from urlm_helpers.training import fit
from urlm_helpers.world import World

SEEDS, RESAMPLES = range(4), 300
JUDGED, MEASURES = ("click", "buy"), ("auc", "log_loss")
VALID_FROM, TEST_FROM = pd.Timestamp("2026-01-10"), pd.Timestamp("2026-01-12")
OPTIONS: dict[str, Any] = {
    "look_back": [["user"], ["item"], ["user", "category"], ["user", "item"]],
    "history_fields": ["item", "category"],
    "history_length": 10,
    "buckets": 0,
    "counted_on": "events",
}
SETTINGS = {"epochs": 3, "patience": 3, "batch_size": 512, "learning_rate": 8e-3}
OWN = {"batch_size": 256, "learning_rate": 4e-3}  # of D: fewer rows, smaller batches
PASSES = {"shop": 3, "social": 6, "search": 10}
SLICES, CUTS = ("0", "1-9", "10-29", "30-59", "60+"), (1, 10, 30, 60)

WHOLE, A, C = "whole", "A not cleaned", "C ids only"
D, E = "D one model each", "E no product"
F, MEANS = "F zeros served", "means served"
B, NO_IDS, REPAIRED = "B not scaled", "no ids", "A repaired"
VERSIONS = (WHOLE, A, B, C, D, E, F, NO_IDS, MEANS, REPAIRED)
COLUMNS = ["version", "seed", "cell", "task", *MEASURES, "ratio"]
SCORES = Path(__file__).with_name("scores")
Inputs = dict[str, np.ndarray]


class Study:
    """The app, its damaged versions, and their predictions of the test rows."""

    def __init__(self) -> None:
        world = World(seed=10, position_bias=0.0)
        app = world.dataset(60_000)

        def step_1(log: pd.DataFrame) -> Prepared:
            data = from_frames(log, app.users, app.items, schema=app.schema)
            return prepare(data, VALID_FROM, TEST_FROM, **OPTIONS)

        copies = np.random.default_rng(0).integers(0, 3, len(app.interactions))
        copies = np.where(app.interactions["click"] == 1, copies, 0)
        sent = app.interactions.loc[app.interactions.index.repeat(1 + copies)]
        raw = sent.reset_index(drop=True)
        log, _ = clean(raw, name="log", key=["request", "position"])
        self.cleaned, self.uncleaned = step_1(log), step_1(raw)
        self.spec, self.parts = self.cleaned.encoder.spec, self.cleaned.parts
        test = self.parts["test"]
        self.rows = self.cleaned.rows.iloc[test].reset_index(drop=True)
        self.true = app.extra["truth"].iloc[test].reset_index(drop=True)
        met = self.cleaned.rows["item"].iloc[self.parts["train"]].value_counts()
        count = self.rows["item"].map(met).fillna(0).to_numpy()
        self.slices = np.array(SLICES)[np.digitize(count, CUTS)]
        self.models: dict[str, UnifiedRecommender] = {}

    def unscaled(self, x: Inputs) -> Inputs:
        """B: the numbers as they are."""
        scaler = self.cleaned.encoder.scaler
        numeric = x["numeric"] * scaler.std + scaler.mean
        return {**x, "numeric": numeric.astype("float32")}

    def ids_only(self, x: Inputs) -> Inputs:
        """C: user, item and scenario; all else is unseen, empty or zero."""
        kept = np.isin(list(self.spec.fields), ["user", "item", "scenario"])
        empty = {n: np.zeros_like(x[n]) for n in ["numeric", "history", "history_age"]}
        fields = np.where(kept, x["fields"], 0).astype("int32")
        return {**x, **empty, "fields": fields}

    def no_ids(self, x: Inputs) -> Inputs:
        """Users and items are unseen, in the history too."""
        kept = ~np.isin(list(self.spec.fields), ["user", "item"])
        history = x["history"] * np.array([0, 1], "int32")  # item, category
        return {**x, "fields": (x["fields"] * kept).astype("int32"), "history": history}

    def served(self, x: Inputs, means: bool) -> Inputs:
        """F, or its rival: one default for all counts and days, zero or the mean."""
        numeric, scaler = x["numeric"].copy(), self.cleaned.encoder.scaler
        counts = [i for i, name in enumerate(self.spec.numeric) if ": " in name]
        default = scaler.mean if means else 0.0
        numeric[:, counts] = ((default - scaler.mean) / scaler.std)[counts]
        return {**x, "numeric": numeric}

    def train(
        self, data: Prepared, x: Inputs, parts: Any, seed: int, **settings: Any
    ) -> UnifiedRecommender:
        """Return a model fitted anew; those of one log are made once."""
        name = "uncleaned" if data is self.uncleaned else "cleaned"
        if name not in self.models:
            self.models[name] = UnifiedRecommender(data.encoder.spec)
        model = self.models[name]
        model.reset(seed)
        fit(model, x, data.y, parts, seed=seed, **{**SETTINGS, **settings})
        return model

    def fitted(self, version: str, seed: int) -> dict[str, np.ndarray]:
        """Train one version; return its probabilities of the test rows, as fed."""
        data, test = self.cleaned, self.parts["test"]
        if version == D:
            joined = np.zeros((len(test), len(self.spec.tasks)))
            for s, scenario in enumerate(self.spec.scenarios):
                at = {n: p[data.x["scenario"][p] == s] for n, p in self.parts.items()}
                how = {**OWN, "epochs": PASSES[scenario]}
                model = self.train(data, data.x, at, seed, **how)
                here = data.x["scenario"][test] == s
                joined[here] = model.probabilities(data.take(at["test"]))
            return {D: joined}
        if version == A:
            data, test = self.uncleaned, self.uncleaned.parts["test"]
            again = data.rows.iloc[test].duplicated(["request", "position"])
            test = test[~again.to_numpy()]
        change: dict[str, Callable[[Inputs], Inputs]]
        change = {B: self.unscaled, C: self.ids_only, NO_IDS: self.no_ids}
        x = change.get(version, lambda x: x)(data.x)
        model = self.train(data, x, data.parts, seed)
        asked = {name: array[test] for name, array in x.items()}
        found = {version: model.probabilities(asked)}
        if version == WHOLE:
            found[F] = model.probabilities(self.served(asked, means=False))
            found[MEANS] = model.probabilities(self.served(asked, means=True))
        return found

    def probabilities(self, version: str, seed: int) -> np.ndarray:
        """Return P of each test row and task, from the disk or anew."""
        if version == E:
            p = self.probabilities(WHOLE, seed)
            return np.column_stack([p[:, 0], p[:, 1:] / p[:, :-1]])
        if version == REPAIRED:
            p = self.probabilities(A, seed)
            odds = p[:, 0] / (1 - p[:, 0]) / 2
            return p * (odds / (1 + odds) / p[:, 0])[:, None]

        def path(name: str) -> Path:
            return SCORES / f"damages-{name.replace(' ', '-')}-{seed}.npy"

        if not path(version).exists():
            SCORES.mkdir(exist_ok=True)
            trained = WHOLE if version in (F, MEANS) else version
            for name, p in self.fitted(trained, seed).items():
                np.save(path(name), p)
        return np.load(path(version))

    def judged(self, version: str, p: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """Return lines, and the measures on all users and on draws of them."""
        frame = pd.concat([self.rows[["user", "scenario"]]] * 2, ignore_index=True)
        for task in JUDGED:
            frame[f"y_{task}"] = np.repeat([1, 0], len(p))
            frame[f"p_{task}"] = np.tile(p[:, self.spec.tasks.index(task)], 2)
        found: dict[Any, Any] = {}
        for task in JUDGED:
            chance = self.true[task].to_numpy()
            frame["weight"] = np.concatenate([chance, 1 - chance])
            made, users = cells(frame, [task], MEASURES)
            found |= made
            if version in (WHOLE, C) and task == "click":
                sliced = frame.assign(scenario=np.tile(self.slices, 2))
                found |= cells(sliced, [task], MEASURES)[0]
        lines = []
        for cell, task in found:
            at = (self.rows["scenario"] == cell) | (self.slices == cell)
            predicted = p[at, self.spec.tasks.index(task)].sum()
            ratio = float(predicted / self.true[task][at].sum())
            lines.append({"cell": cell, "task": task, "ratio": ratio})
        statistics = [METRICS[m](each) for each in found.values() for m in MEASURES]
        blocks = [np.ones((1, users)), *resample_users(users, RESAMPLES, 0)]
        measured = values(statistics, blocks).reshape(len(lines), len(MEASURES), -1)
        for line, value in zip(lines, measured[:, :, 0], strict=True):
            line |= dict(zip(MEASURES, map(float, value), strict=True))
        return lines, measured[:, :, 1:]


def main() -> None:
    """Run what is not in the result yet."""
    result = Result("damages.csv", COLUMNS, digits=6)
    done = {(line["version"], line["seed"]) for line in result.lines()}
    if done >= {(v, s) for v in VERSIONS[1:] for s in [*map(str, SEEDS), "users"]}:
        return
    study = Study()
    whole: dict[tuple[str, str], np.ndarray] = {}
    for version in VERSIONS:
        drawn: dict[tuple[str, str], np.ndarray] = {}
        for seed in SEEDS:
            lines, draws = study.judged(version, study.probabilities(version, seed))
            for line, draw in zip(lines, draws, strict=True):
                key = line["cell"], line["task"]
                drawn[key] = drawn.get(key, np.zeros(())) + draw / len(SEEDS)
            name = {"version": version, "seed": str(seed)}
            if (version, str(seed)) not in done:
                result.keep(*({**name, **line} for line in lines))
            print(version, seed, flush=True)
        if version == WHOLE:
            whole = drawn
        elif (version, "users") not in done:
            lines = []
            for (cell, task), draw in drawn.items():
                spread = (draw - whole[cell, task]).std(axis=1, ddof=1)
                line = {"version": version, "seed": "users", "cell": cell, "task": task}
                measured = zip(MEASURES, map(float, spread), strict=True)
                lines.append({**line, **dict(measured)})
            result.keep(*lines)


if __name__ == "__main__":
    main()
