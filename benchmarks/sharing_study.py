"""Every way of sharing, on the world and on Complete Journey, under one budget.

    python benchmarks/sharing_study.py world
    python benchmarks/sharing_study.py complete-journey
    python benchmarks/sharing_study.py world --step-size 0.004 --schemes MMoE

Each scheme gets the same embeddings, history encoder, match, heads, batches and passes;
its layers are widened or narrowed until its parameters are those of the others (the
sharing's own; a scheme with many towers can miss by more than 5 %, and says so). Each
gets the same two tries of the step size, judged on the validation rows of a run that no
result uses. Then come the runs that count, with seeds that are the same for all
schemes. ``single`` is one network per scenario and task, with about as many steps as
the unified model takes (its batches are powers of two).

With ``--step-size`` nothing is tried: how much of a difference is the step size? Its
lines go to a file of their own.

A cell of the result is written as soon as it is known, and skipped when the study is
started again: nothing is lost when it is cut off.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from results import Result

from urlm_helpers.data import from_frames, load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.evaluation import auc
from urlm_helpers.features import TargetAttention
from urlm_helpers.model import (
    DoublyRobustLoss,
    EntireSpaceLoss,
    GradNorm,
    InversePropensityLoss,
    PCGrad,
    UncertaintyWeights,
    UnifiedRecommender,
    logged_share,
)
from urlm_helpers.preprocessing import InputSpec, Prepared, prepare
from urlm_helpers.sharing import (
    AITM,
    PLE,
    STAR,
    URLM,
    CrossStitch,
    FullyShared,
    HiNet,
    HMoE,
    MMoE,
    OMoE,
    PEPNet,
    Separate,
    SharedBottom,
    TaskTowers,
)
from urlm_helpers.training import fit
from urlm_helpers.world import World, best_on_observables, expected_auc, popularity

SCORES = Path(__file__).resolve().parent / "scores"  # large, not in the repository
TRIES = (2e-3, 4e-3)
COLUMNS = ["scheme", "seed", "scenario", "task", "auc", "gap_closed"]
COLUMNS += ["parameters", "step_size", "passes", "seconds"]


@dataclass(frozen=True)
class Scheme:
    """A way to share, with the loss and the balance that belong to it."""

    sharing: Callable[..., keras.layers.Layer]
    loss: type[Any] | None = None
    balance: Callable[[], keras.layers.Layer] | None = None


SCHEMES = {
    "fully shared": Scheme(FullyShared),
    "shared bottom": Scheme(SharedBottom),
    "separate": Scheme(Separate),
    "OMoE": Scheme(OMoE),
    "MMoE": Scheme(MMoE),
    "cross-stitch": Scheme(CrossStitch),
    "PLE": Scheme(PLE),
    "HMoE": Scheme(HMoE),
    "HiNet": Scheme(HiNet),
    "STAR": Scheme(STAR),
    "PEPNet": Scheme(PEPNet),
    "AITM": Scheme(AITM, EntireSpaceLoss),
    "ESMM": Scheme(TaskTowers, EntireSpaceLoss),
    "ESCM2-IPS": Scheme(TaskTowers, InversePropensityLoss),
    "ESCM2-DR": Scheme(TaskTowers, DoublyRobustLoss),
    "MMoE + uncertainty": Scheme(MMoE, None, UncertaintyWeights),
    "MMoE + GradNorm": Scheme(MMoE, None, partial(GradNorm, "expert_0/dense_1")),
    "MMoE + PCGrad": Scheme(MMoE, None, PCGrad),
    "URLM": Scheme(URLM),
}


@dataclass(frozen=True)
class Job:
    """Data of one seed: inputs, and how scores are judged."""

    prepared: Prepared
    spec: InputSpec
    judge: Callable[[UnifiedRecommender], np.ndarray]
    value: Callable[[np.ndarray, int, int], tuple[float, float]]


@dataclass(frozen=True)
class Setting:
    """What is the same for all schemes on one data set."""

    job: Callable[[int], Job]
    seeds: tuple[int, ...]
    tuning_seed: int
    budget: int
    fit: dict[str, Any]
    model: dict[str, Any]
    weights: tuple[float, ...]
    alone: tuple[int, ...]
    scores: Path


@cache
def world(seed: int) -> Job:
    """Return the world of a seed: two days of truth after ten of training.

    All worlds get tables of one size, those of all users and items: a model is then
    compiled once.
    """
    made = World(seed=seed)
    raw = made.dataset(200_000)
    schema = replace(raw.schema, context_categorical=("query", "position"))
    data = from_frames(raw.interactions, raw.users, raw.items, schema=schema, name="w")
    done = prepare(
        data,
        "2026-01-11",
        "2026-01-13",
        look_back=[["user"], ["item"]],
        history_fields=["item", "category"],
        history_length=20,
        buckets=0,
        counted_on="events",
    )
    rows = done.rows.iloc[done.parts["test"]].reset_index(drop=True)
    at_top = done.encoder.transform(rows.assign(position=1))
    train = done.rows.iloc[done.parts["train"]]
    truth = raw.extra["truth"].iloc[done.parts["test"]].reset_index(drop=True)
    known = best_on_observables(made, rows)
    spec = done.encoder.spec
    sizes = {**spec.fields, "user": made.users + 1, "item": made.items + 1}
    spec = replace(spec, fields=sizes)
    lines = {}
    for s, scenario in enumerate(spec.scenarios):
        own = (rows["scenario"] == scenario).to_numpy()
        for t, task in enumerate(spec.tasks):
            true = truth[f"{task}_before"].to_numpy()[own]
            ends = popularity(train, rows, task), known[f"{task}_before"].to_numpy()
            low, high = (expected_auc(score[own], true) for score in ends)
            lines[s, t] = own, true, low, high

    def value(p: np.ndarray, scenario: int, task: int) -> tuple[float, float]:
        own, true, low, high = lines[scenario, task]
        got = expected_auc(p[own, task], true)
        return got, (got - low) / (high - low)

    return Job(done, spec, lambda model: model.probabilities(at_top), value)


@cache
def shopping(seed: int = 0) -> Job:
    """Return Complete Journey; the seed is only that of the network."""
    if seed:
        return shopping()
    done = prepare(load("complete-journey"), **complete_journey.READING)
    test = done.parts["test"]
    x, y, scenario = done.take(test), done.y[test], done.x["scenario"][test]

    def value(p: np.ndarray, s: int, t: int) -> tuple[float, float]:
        own = scenario == s
        weight = done.weight[test][own]
        return auc(y[own, t], p[own, t], weight), float("nan")

    return Job(done, done.encoder.spec, lambda m: m.probabilities(x), value)


SETTINGS = {
    "world": Setting(
        job=world,
        seeds=(1, 2, 3, 4, 5),
        tuning_seed=6,
        budget=60_000,
        fit={"epochs": 8, "patience": 1, "batch_size": 1024, "weight_decay": 0.3},
        model={"dim": 8, "bottom": 0, "match": 64},
        weights=(1.0, 1.0, 1.0),
        alone=(64, 32),
        scores=SCORES / "world",
    ),
    "complete-journey": Setting(
        job=shopping,
        seeds=(1, 2, 3),
        tuning_seed=0,
        budget=100_000,
        fit={"epochs": 1, "batch_size": 2048, "weight_decay": 0.0},
        model={"dim": 8, "bottom": 0, "match": 32},
        weights=(1.0, 1.0, 5.0),
        alone=(64, 32),
        scores=SCORES / "complete-journey",
    ),
}


def build(
    scheme: Scheme, spec: InputSpec, units: tuple[int, ...], setting: Setting
) -> UnifiedRecommender:
    """Return the model of a scheme with layers of some width."""
    own = {"parents": spec.parents} if scheme.sharing is AITM else {}
    sharing = scheme.sharing(len(spec.tasks), len(spec.scenarios), units, **own)
    return UnifiedRecommender(
        spec,
        TargetAttention(),
        sharing,
        balance=None if scheme.balance is None else scheme.balance(),
        imputed=scheme.loss is DoublyRobustLoss,
        **setting.model,
    )


def matched(scheme: Scheme, spec: InputSpec, setting: Setting) -> UnifiedRecommender:
    """Return the model whose sharing has the budget's number of parameters."""
    low, high = 2, 512
    while high - low > 1:
        width = (low + high) // 2
        sharing = build(scheme, spec, (2 * width, width), setting).sharing
        low, high = (
            (width, high) if sharing.count_params() <= setting.budget else (low, width)
        )
    model = build(scheme, spec, (2 * low, low), setting)
    size = model.sharing.count_params()
    if abs(size - setting.budget) > 0.05 * setting.budget:
        print(f"   {size:,} parameters where {setting.budget:,} were asked for")
    return model


def train(
    model: UnifiedRecommender,
    scheme: Scheme,
    job: Job,
    setting: Setting,
    **options: Any,
) -> pd.DataFrame:
    """Fit a model, with the loss of its scheme."""
    spec, done = model.spec, job.prepared
    loss = None
    if scheme.loss:
        own = {}
        if issubclass(scheme.loss, InversePropensityLoss):
            root = done.y[done.parts["train"], spec.parents.index(-1)]
            own["child"] = logged_share(root, spec.negative_rate)
        loss = scheme.loss(spec.parents, spec.negative_rate, setting.weights, **own)
    weights = None if loss else setting.weights
    options = {**setting.fit, **options, "loss": loss, "weights": weights}
    return fit(model, done.x, done.y, done.parts, **options)


def step_size(
    model: UnifiedRecommender, scheme: Scheme, job: Job, setting: Setting
) -> float:
    """Return the better of the tries on the validation rows, by the funnel's loss."""
    losses = {}
    for rate in TRIES:
        model.reset(setting.tuning_seed)
        curve = train(model, scheme, job, setting, learning_rate=rate)
        losses[rate] = curve["valid_loss"].min()
    return min(losses, key=losses.get)


def unified(
    name: str,
    setting: Setting,
    done: set[tuple[str, int]],
    given: float | None = None,
) -> Iterator[dict]:
    """Yield the cells of a scheme, seed by seed; a given step size is not tuned."""
    todo = [seed for seed in setting.seeds if (name, seed) not in done]
    if not todo:
        return
    scheme, job = SCHEMES[name], setting.job(setting.tuning_seed)
    model = matched(scheme, job.spec, setting)
    rate = given or step_size(model, scheme, job, setting)
    for seed in todo:
        job = setting.job(seed)
        start = time.perf_counter()
        model.reset(seed)
        curve = train(model, scheme, job, setting, learning_rate=rate, seed=seed)
        p = job.judge(model)
        keep(name if given is None else f"{name}@{given}", seed, p, setting)
        common = {
            "scheme": name,
            "seed": seed,
            "parameters": model.sharing.count_params(),
            "step_size": rate,
            "passes": int(curve["epoch"].max()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        yield from cells(p, job, common)


def keep(name: str, seed: int, p: np.ndarray, setting: Setting) -> None:
    """Save the scores of the test rows, for intervals over users."""
    setting.scores.mkdir(parents=True, exist_ok=True)
    np.save(setting.scores / f"{name}-{seed}.npy", p.astype("float32"))


def cells(p: np.ndarray, job: Job, common: dict[str, Any]) -> Iterator[dict]:
    """Yield one line for each scenario and task."""
    spec = job.spec
    for s, scenario in enumerate(spec.scenarios):
        for t, task in enumerate(spec.tasks):
            value, closed = job.value(p, s, t)
            line = {"scenario": scenario, "task": task, "auc": value}
            yield {**common, **line, "gap_closed": closed}


def single(
    setting: Setting, done: set[tuple[str, int]], given: float | None = None
) -> Iterator[dict]:
    """Yield the cells of one network per scenario and task."""
    rates: dict[tuple[int, int], float] = {}
    todo = [seed for seed in setting.seeds if ("single", seed) not in done]
    for seed in (setting.tuning_seed, *todo) if todo else ():
        job = setting.job(seed)
        start = time.perf_counter()
        tables, parameters = [], 0
        spec, y = job.spec, job.prepared.y
        scenario = job.prepared.x["scenario"]
        one = {"scenarios": ("one",), "tasks": ("one",), "funnel": {}}
        for s in range(len(spec.scenarios)):
            columns: list[np.ndarray] = []
            for t, parent in enumerate(spec.parents):
                rate = spec.negative_rate if parent < 0 else 1.0
                small = replace(spec, **one, negative_rate=rate)
                seen = (scenario == s) & ((parent < 0) | (y[:, parent] == 1))
                share = seen[job.prepared.parts["train"]].mean()
                size = setting.fit["batch_size"] * share
                size = max(8, 1 << round(np.log2(size)))  # about as many steps
                own = replace(
                    job.prepared,
                    x={**job.prepared.x, "scenario": np.zeros(len(y), "int32")},
                    y=y[:, [t]],
                    parts={k: r[seen[r]] for k, r in job.prepared.parts.items()},
                )
                lonely = replace(setting, weights=(1.0,))
                model = build(Scheme(SharedBottom), small, setting.alone, lonely)
                scheme, part = Scheme(SharedBottom), replace(job, prepared=own)
                wide = {**setting.fit, "batch_size": size}
                narrow = replace(lonely, fit=wide)
                if seed == setting.tuning_seed:
                    rates[s, t] = given or step_size(model, scheme, part, narrow)
                    columns.append(np.zeros(0))
                    continue
                model.reset(seed)
                fitted = {"learning_rate": rates[s, t], "seed": seed}
                train(model, scheme, part, narrow, **fitted)
                p = alone(model, job)
                columns.append(p if parent < 0 else p * columns[parent])
                parameters += model.sharing.count_params()
            tables.append(columns)
        if seed == setting.tuning_seed:
            continue
        p = np.zeros((len(tables[0][0]), len(spec.tasks)))
        test = scenario[job.prepared.parts["test"]]
        for s, columns in enumerate(tables):
            p[test == s] = np.stack(columns, axis=1)[test == s]
        keep("single" if given is None else f"single@{given}", seed, p, setting)
        common = {"scheme": "single", "seed": seed, "parameters": parameters}
        seconds = round(time.perf_counter() - start, 1)
        rate = np.nan if given is None else given
        common |= {"step_size": rate, "passes": np.nan, "seconds": seconds}
        yield from cells(p, job, common)


def alone(model: UnifiedRecommender, job: Job) -> np.ndarray:
    """Score all test rows with a network that knows no scenarios."""

    class Blind:
        """Hands every row to the one scenario that the network has."""

        @staticmethod
        def probabilities(x: dict[str, np.ndarray]) -> np.ndarray:
            zeros = np.zeros(len(x["scenario"]), "int32")
            return model.probabilities({**x, "scenario": zeros})

    return job.judge(Blind())[:, 0]


def main() -> None:
    """Run what is missing of a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--schemes", nargs="*", default=[*SCHEMES, "single"])
    parser.add_argument("--step-size", type=float)
    arguments = parser.parse_args()
    setting = SETTINGS[arguments.data]
    suffix = "-step-size" if arguments.step_size else ""
    result = Result(f"sharing-{arguments.data}{suffix}.csv", COLUMNS)
    lines = len(setting.job(setting.tuning_seed).prepared.encoder.spec.tasks) * 3
    for name in arguments.schemes:
        before = Counter((line["scheme"], int(line["seed"])) for line in result.lines())
        done = {run for run, cells_of in before.items() if cells_of >= lines}
        one = single(setting, done, arguments.step_size) if name == "single" else None
        for line in one or unified(name, setting, done, arguments.step_size):
            result.keep(line)
        print(
            pd.read_csv(result.path)
            .query("scheme == @name")
            .groupby(["scenario", "task"], sort=False)["auc"]
            .mean()
            .round(4)
            .to_dict(),
            name,
            flush=True,
        )


if __name__ == "__main__":
    main()
