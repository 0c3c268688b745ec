"""Ways to share, and what can be had without: cell by cell, on equal terms.

    python benchmarks/sharing_study.py world
    python benchmarks/sharing_study.py complete-journey --contenders URLM MMoE
    python benchmarks/sharing_study.py world --match none bypass --contenders URLM
    python benchmarks/sharing_study.py world --untuned --contenders "per cell" MMoE

The protocol is that of `protocol.py`. ``world`` is the app as it is, ``thresholds`` the
same app where jumps matter as much as products. On Complete Journey the log is one,
and settings are chosen on its validation weeks.

A contender that is a network gets the same embeddings, encoder and heads; a scheme's
layers are widened until its sharing has ``budget`` parameters. Networks *per cell*,
*per scenario* and *per task* are trained apart, with layers of 64 and 32 units each.
The products of user and item are a factor: ``none``, among the ``features``, or there
and in a ``bypass`` to the heads as well. Regressions and trees see the features, the
products of each feature of the user with each of the item, and how often the item and
its kind are in the history; trees see the ids as well. On the log trees see numbers and
all ids as they are, and a *linear* model sees each field as columns of 0 and 1.

A line is written as soon as it is known, tries of the tuning too, and skipped when the
study is started again. With ``--untuned`` nothing is searched: every network gets
Keras's default step size and the rest of where the search starts. The lines go to
``contenders-<data>-untuned.csv``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from protocol import RESULTS_ON, TUNING, Way, boosted, climb
from results import Result
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import OneHotEncoder

from urlm_helpers.data import from_frames, load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.evaluation import auc, log_loss
from urlm_helpers.features import TargetAttention
from urlm_helpers.model import (
    DoublyRobustLoss,
    EntireSpaceLoss,
    GradNorm,
    InversePropensityLoss,
    PCGrad,
    ProductBranch,
    ShrunkRegression,
    UncertaintyWeights,
    UnifiedRecommender,
    along_funnel,
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

DEFAULT_STEP = 1e-3  # of Keras's Adam
SCORES = Path(__file__).resolve().parent / "scores"  # large, not in the repository
COLUMNS = ["contender", "match", "seed", "scenario", "task", "auc", "gap_closed"]
COLUMNS += ["log_loss", "parameters", "step_size", "passes", "batch", "decay"]
COLUMNS += ["seconds"]
TRIED = ["contender", "match", "group", "step_size", "passes", "batch", "decay"]
TRIED += ["seed", "loss"]
MATCH = {"none": 0, "features": 1, "bypass": 1}
APART = (64, 32)
OF_TABLES = ((4, 0.1, 0.5), (15, 0.1, 0.5), (31, 0.05, 0.5))  # leaves, step, columns
OF_LOGS = ((31, 0.08, 0.3), (63, 0.08, 0.3), (63, 0.05, 0.5))


@dataclass(frozen=True)
class Scheme:
    """A way to share, with what belongs to it."""

    sharing: Callable[..., keras.layers.Layer]
    loss: type[Any] | None = None
    balance: Callable[[], keras.layers.Layer] | None = None
    own: dict[str, Any] = field(default_factory=dict)
    products: bool = False
    apart: str = ""  # "scenario", "task", or both: one network for each


BY_NORM = partial(GradNorm, "expert_0/dense_1")
TOWERS = {"towers": (16,)}
SCHEMES = {
    "fully shared": Scheme(FullyShared),
    "shared bottom": Scheme(SharedBottom),
    "MMoE": Scheme(MMoE, own=TOWERS),
    "PLE": Scheme(PLE, own=TOWERS),
    "STAR": Scheme(STAR),
    "PEPNet": Scheme(PEPNet),
    "AITM": Scheme(AITM),
    "URLM": Scheme(URLM),
    "gated bottom": Scheme(URLM, own={"experts": 1}),  # URLM's gate, one bottom
    "per scenario": Scheme(SharedBottom, apart="scenario"),
    "per task": Scheme(SharedBottom, apart="task"),
    "per cell": Scheme(SharedBottom, apart="scenario task"),
    "regression + shared bottom": Scheme(SharedBottom, products=True),
    "regression + URLM": Scheme(URLM, products=True),
    "separate": Scheme(Separate),
    "cross-stitch": Scheme(CrossStitch),
    "OMoE": Scheme(OMoE),
    "HMoE": Scheme(HMoE),
    "HiNet": Scheme(HiNet),
    "ESMM": Scheme(TaskTowers, EntireSpaceLoss),
    "ESCM2-IPS": Scheme(TaskTowers, InversePropensityLoss),
    "ESCM2-DR": Scheme(TaskTowers, DoublyRobustLoss),
    "MMoE + uncertainty": Scheme(MMoE, None, UncertaintyWeights, TOWERS),
    "MMoE + GradNorm": Scheme(MMoE, None, BY_NORM, TOWERS),
    "MMoE + PCGrad": Scheme(MMoE, None, PCGrad, TOWERS),
}
REGRESSIONS = ("regression alone", "regression pooled", "regression shrunk")
TREES = ("trees alone", "trees pooled")
COUNTS = ("popularity", "recent popularity")
LINEAR = "linear"
GROWN = (1, 2, 3)  # seeds of the trees on a log
CONTENDERS = (*COUNTS, LINEAR, *REGRESSIONS, *TREES, *SCHEMES)


@dataclass(frozen=True)
class Job:
    """Data of one seed: inputs, what is asked, and how scores are judged."""

    prepared: Prepared
    spec: InputSpec
    asked: dict[str, np.ndarray]
    value: Callable[[np.ndarray, int, int], dict[str, float]]
    log: bool = False

    @property
    def where(self) -> np.ndarray:
        """Return the scenario of each asked row."""
        return self.asked["scenario"]


@dataclass(frozen=True)
class Setting:
    """What is the same for all contenders on one data set."""

    job: Callable[[int], Job]
    seeds: tuple[int, ...]
    tuning: tuple[int, ...]
    budget: int
    start: Way
    match: int
    weights: tuple[float, ...]


@cache
def world(seed: int, thresholds: float = 0.0) -> Job:
    """Return the world of a seed: two days of truth after ten of training.

    All worlds get tables of one size, those of all users and items: a model is then
    compiled once.
    """
    made = World(seed=seed, threshold_share=thresholds)
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

    def value(p: np.ndarray, scenario: int, task: int) -> dict[str, float]:
        own, true, low, high = lines[scenario, task]
        got = expected_auc(p[own, task], true)
        return {"auc": got, "gap_closed": (got - low) / (high - low)}

    return Job(done, spec, at_top, value)


@cache
def shopping(seed: int = 0) -> Job:
    """Return Complete Journey; the seed is only that of the network."""
    if seed:
        return shopping()
    done = prepare(load("complete-journey"), **complete_journey.READING)
    test = done.parts["test"]
    x, y, scenario = done.take(test), done.y[test], done.x["scenario"][test]

    def value(p: np.ndarray, s: int, t: int) -> dict[str, float]:
        own = scenario == s
        weight = done.weight[test][own]
        found = {"auc": auc(y[own, t], p[own, t], weight)}
        return found | {"log_loss": log_loss(y[own, t], p[own, t], weight)}

    return Job(done, done.encoder.spec, x, value, log=True)


OF_WORLDS: dict[str, Any] = {
    "seeds": RESULTS_ON,
    "tuning": TUNING,
    "budget": 60_000,
    "start": {"step_size": 0.0, "passes": 2, "batch": 512, "decay": 0.3},
    "match": 64,
    "weights": (1.0, 1.0, 1.0),
}
SETTINGS = {
    "world": Setting(job=world, **OF_WORLDS),
    "thresholds": Setting(job=partial(world, thresholds=1.0), **OF_WORLDS),
    "complete-journey": Setting(
        job=shopping,
        seeds=(1, 2, 3, 4, 5, 6),
        tuning=(0,),
        budget=100_000,
        start={"step_size": 0.0, "passes": 1, "batch": 2048, "decay": 0.01},
        match=32,
        weights=(1.0, 1.0, 5.0),
    ),
}


# Networks: one for all cells, or one for each group of cells


def build(
    scheme: Scheme,
    spec: InputSpec,
    units: tuple[int, ...],
    setting: Setting,
    match: str,
) -> UnifiedRecommender:
    """Return the model of a scheme with layers of some width."""
    own = {"parents": spec.parents} if scheme.sharing is AITM else scheme.own
    sharing = scheme.sharing(len(spec.tasks), len(spec.scenarios), units, **own)
    return UnifiedRecommender(
        spec,
        TargetAttention(),
        sharing,
        dim=8,
        bottom=0,
        match=setting.match * MATCH[match],
        bypass=match == "bypass",
        products=scheme.products,
        balance=None if scheme.balance is None else scheme.balance(),
        imputed=scheme.loss is DoublyRobustLoss,
    )


def matched(
    scheme: Scheme, spec: InputSpec, setting: Setting, match: str
) -> UnifiedRecommender:
    """Return the model whose sharing has the budget's number of parameters."""
    bare = replace(scheme, products=False)
    low, high = 2, 512
    while high - low > 1:
        width = (low + high) // 2
        size = build(bare, spec, (2 * width, width), setting, match).sharing
        if size.count_params() <= setting.budget:
            low = width
        else:
            high = width
    model = build(scheme, spec, (2 * low, low), setting, match)
    size = model.sharing.count_params()
    if abs(size - setting.budget) > 0.05 * setting.budget:
        print(f"   {size:,} parameters where {setting.budget:,} were asked for")
    return model


class Network:
    """A network for some scenarios and tasks, and the rows that it learns from."""

    def __init__(
        self,
        name: str,
        spec: InputSpec,
        setting: Setting,
        match: str,
        scenarios: tuple[int, ...],
        tasks: tuple[int, ...],
    ) -> None:
        self.scheme, self.setting = SCHEMES[name], setting
        self.scenarios, self.tasks, self.full = scenarios, tasks, spec
        self.name = f"{'+'.join(map(str, scenarios))}/{'+'.join(map(str, tasks))}"
        self.regressions: dict[int, Any] = {}
        whole = len(tasks) == len(spec.tasks)
        self.parent = -1 if whole else spec.parents[tasks[0]]
        self.spec = spec = replace(
            spec,
            scenarios=tuple(spec.scenarios[s] for s in scenarios),
            tasks=tuple(spec.tasks[t] for t in tasks),
            funnel=spec.funnel if whole else {},
            negative_rate=spec.negative_rate if self.parent < 0 else 1.0,
        )
        if self.scheme.apart:
            self.model = build(self.scheme, spec, APART, setting, match)
        else:
            self.model = matched(self.scheme, spec, setting, match)

    def seen(self, job: Job) -> np.ndarray:
        """Return which rows the network learns from."""
        done = job.prepared
        seen = np.isin(done.x["scenario"], self.scenarios)
        return seen & (self.parent < 0 or done.y[:, self.parent] == 1)

    def inputs(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return inputs with scenarios counted as the network counts them."""
        place = np.zeros(len(self.full.scenarios), "int32")
        place[list(self.scenarios)] = range(len(self.scenarios))
        return {**x, "scenario": place[x["scenario"]]}

    def start(self, job: Job) -> Way:
        """Return where the tuning starts: about as many steps as with all rows."""
        train = job.prepared.parts["train"]
        share = self.seen(job)[train].mean()
        batch = self.setting.start["batch"] * share
        return {**self.setting.start, "batch": max(16, 1 << round(np.log2(batch)))}

    def fit(self, job: Job, way: Way, seed: int) -> float:
        """Train, and return the least validation loss."""
        done, spec, scheme = job.prepared, self.spec, self.scheme
        seen, y = self.seen(job), done.y[:, list(self.tasks)]
        parts = {part: rows[seen[rows]] for part, rows in done.parts.items()}
        weights = [self.setting.weights[t] for t in self.tasks]
        weights = weights if len(weights) > 1 else [1.0]
        options: dict[str, Any] = {"weights": weights}
        if scheme.loss:
            own = {}
            if issubclass(scheme.loss, InversePropensityLoss):
                root = y[parts["train"], spec.parents.index(-1)]
                own["child"] = logged_share(root, spec.negative_rate)
            loss = scheme.loss(spec.parents, spec.negative_rate, weights, **own)
            options = {"loss": loss}
        self.model.reset(seed)
        if seed in self.regressions:  # the rows are the same
            self.model.branch.set_weights(self.regressions[seed])
        curve = fit(
            self.model,
            self.inputs(done.x),
            y,
            parts,
            batch_size=int(way["batch"]),
            epochs=int(way["passes"]),
            learning_rate=way["step_size"],
            weight_decay=way["decay"],
            seed=seed,
            **options,
        )
        if scheme.products:
            self.regressions[seed] = self.model.branch.get_weights()
        return float(curve["valid_loss"].min())

    def fill(self, job: Job, z: np.ndarray) -> None:
        """Put the logits of the asked rows, given the parent, where they belong."""
        own = np.flatnonzero(np.isin(job.where, self.scenarios))
        asked = {key: array[own] for key, array in self.inputs(job.asked).items()}
        z[np.ix_(own, self.tasks)] = self.model.logits(asked)


def groups(scheme: Scheme, spec: InputSpec) -> list[tuple[tuple[int, ...], ...]]:
    """Return scenarios and tasks of each network of a contender."""
    places, tasks = (tuple(range(len(n))) for n in (spec.scenarios, spec.tasks))
    return [
        (s, t)
        for s in ([(s,) for s in places] if "scenario" in scheme.apart else [places])
        for t in ([(t,) for t in tasks] if "task" in scheme.apart else [tasks])
    ]


def networks(
    name: str,
    match: str,
    setting: Setting,
    tries: Result | None,
    seeds: list[int],
) -> Iterator[tuple[int, np.ndarray, dict[str, Any]]]:
    """Yield what a contender of networks says, seed by seed.

    Without tries to look up and to keep, it is not tuned.
    """
    first = setting.job(setting.tuning[0])
    found: list[tuple[Network, Way]] = []
    for group in groups(SCHEMES[name], first.spec):
        net = Network(name, first.spec, setting, match, *group)
        if tries is None:
            found.append((net, {**setting.start, "step_size": DEFAULT_STEP}))
            continue
        known = {
            tuple(float(line[c]) for c in TRIED[3:-1]): (float(line["loss"]))
            for line in tries.lines()
            if (line["contender"], line["match"], line["group"])
            == (name, match, net.name)
        }

        def loss(
            way: Way,
            every: bool,
            net: Network = net,
            known: dict = known,
            tries: Result = tries,
        ) -> float:
            each = []
            for seed in setting.tuning if every else setting.tuning[:1]:
                key = tuple(map(float, (*way.values(), seed)))
                if key not in known:
                    try:
                        known[key] = net.fit(setting.job(seed), way, seed)
                    except FloatingPointError:
                        known[key] = float("inf")
                    line = dict(zip(TRIED, (name, match, net.name), strict=False))
                    tries.keep({**line, **way, "seed": seed, "loss": known[key]})
                each.append(known[key])
            return float(np.mean(each))

        found.append((net, climb(loss, net.start(first))))
        print(f"   {name}, {net.name}: {found[-1][1]}", flush=True)
    for seed in seeds:
        began, job = time.perf_counter(), setting.job(seed)
        z = np.zeros((len(job.where), len(job.spec.tasks)))
        for net, way in found:
            net.fit(job, way, seed)
            net.fill(job, z)
        line = found[0][1] if len(found) == 1 else {}
        line |= {"parameters": sum(n.model.sharing.count_params() for n, _ in found)}
        line |= {"seconds": round(time.perf_counter() - began, 1)}
        yield seed, z, line


# Regressions and trees


def table(job: Job, rows: np.ndarray | None = None) -> np.ndarray:
    """Return what a regression sees of some rows, or of those that are asked."""
    x = job.asked if rows is None else job.prepared.x
    rows = np.arange(len(job.where)) if rows is None else rows
    branch = ProductBranch(job.spec)
    parts = [np.concatenate([*branch.tables(x, rows)])]
    names = list(job.spec.fields)
    for column, name in enumerate(job.spec.history_fields):
        past, now = x["history"][rows, :, column], x["fields"][rows, names.index(name)]
        same = (past == now[:, None]) & (past > 0)
        length = np.maximum((past > 0).sum(axis=1), 1)
        parts.append((same.sum(axis=1) / length)[:, None].astype("float32"))
    return np.hstack(parts)


def regressions(job: Job) -> dict[str, np.ndarray]:
    """Fit the product regression alone, pooled and shrunk; return its logits."""
    done, spec = job.prepared, job.spec
    train = done.parts["train"]
    scenario, x, asked = done.x["scenario"][train], table(job, train), table(job)
    said = {name: np.zeros((len(asked), len(spec.tasks))) for name in REGRESSIONS}
    for t, parent in enumerate(spec.parents):
        seen = np.ones(len(train), bool) if parent < 0 else done.y[train, parent] == 1
        y = done.y[train, t]
        model = ShrunkRegression().fit(
            x[seen], y[seen], scenario[seen], scenarios=len(spec.scenarios)
        )
        said["regression shrunk"][:, t] = model.logits(asked, job.where)
        both = asked @ model.shared + model.levels[job.where]
        said["regression pooled"][:, t] = both
        for s in range(len(spec.scenarios)):
            own, here = seen & (scenario == s), job.where == s
            blank = np.zeros(own.sum(), int)
            alone = ShrunkRegression().fit(x[own], y[own], blank)
            said["regression alone"][here, t] = alone.logits(
                asked[here], np.zeros(here.sum(), int)
            )
    return said


def leaves(job: Job, rows: np.ndarray | None = None) -> tuple[np.ndarray, list[int]]:
    """Return what trees see of some rows, or of those that are asked; which are ids.

    In a world the regressions' table and the ids of user and item; on a log, where
    numbers have buckets of their own, numbers and all ids as they are.
    """
    x = job.asked if rows is None else job.prepared.x
    at = np.arange(len(job.where)) if rows is None else rows
    names = list(job.spec.fields)
    ids = [n for n in names if "(bucket)" not in n] if job.log else ["user", "item"]
    seen = x["numeric"][at] if job.log else table(job, rows)
    kinds = x["fields"][at][:, [names.index(name) for name in ids]]
    both = np.column_stack([seen, x["scenario"][at], kinds]).astype("float32")
    return both, list(range(both.shape[1] - len(ids), both.shape[1]))


def trees(job: Job, pooled: bool, seed: int = 0) -> np.ndarray:
    """Boost trees, as long as the validation rows gain; return their logits.

    The seed draws the columns that each tree sees.
    """
    done, spec = job.prepared, job.spec
    parts = {part: leaves(job, done.parts[part])[0] for part in ("train", "valid")}
    parts["asked"], kinds = leaves(job)
    z = np.zeros((len(job.where), len(spec.tasks)))
    places = range(len(spec.scenarios))
    for t, parent in enumerate(spec.parents):
        for s in [tuple(places)] if pooled else [(s,) for s in places]:
            data = {}
            for part in ("train", "valid"):
                rows = done.parts[part]
                seen = np.isin(done.x["scenario"][rows], s)
                seen &= parent < 0 or done.y[rows, parent] == 1
                data[part] = parts[part][seen], done.y[rows[seen], t]
            here, best = np.isin(job.where, s), np.inf
            for setting in OF_LOGS if job.log else OF_TABLES:
                model, loss = boosted(*data.values(), kinds, setting, seed)
                if loss < best:
                    best = loss
                    z[here, t] = model.predict(parts["asked"][here], raw_score=True)
    return z


def linear(job: Job) -> np.ndarray:
    """Fit one logistic regression a task to columns of 0 and 1; return its logits."""
    done, spec = job.prepared, job.spec
    sizes = [np.arange(size) for size in spec.fields.values()]
    columns = OneHotEncoder(categories=sizes).fit(job.asked["fields"][:1])
    asked = columns.transform(job.asked["fields"])
    z = np.zeros((len(job.where), len(spec.tasks)))
    for t, parent in enumerate(spec.parents):
        data = {}
        for part in ("train", "valid"):
            rows = done.parts[part]
            rows = rows if parent < 0 else rows[done.y[rows, parent] == 1]
            data[part] = columns.transform(done.x["fields"][rows]), done.y[rows, t]
        best = np.inf
        for alpha, rate, passes in product((1e-6, 1e-5, 1e-4), (0.01, 0.03), (3, 10)):
            model = SGDClassifier(
                loss="log_loss",
                learning_rate="constant",
                eta0=rate,
                average=True,
                alpha=alpha,
                max_iter=passes,
                tol=None,
                random_state=0,
            ).fit(*data["train"])
            x, y = data["valid"]
            loss = log_loss(y, model.predict_proba(x)[:, 1])
            if loss < best:
                best, z[:, t] = loss, model.decision_function(asked)
    return z


def counted(name: str, job: Job) -> np.ndarray:
    """Return the item's rate in its scenario, of all days or the best of the last."""
    done, spec = job.prepared, job.spec
    train, valid = (done.rows.iloc[done.parts[part]] for part in ("train", "valid"))
    frames = (
        valid,
        pd.DataFrame(
            {
                "scenario": np.array(spec.scenarios)[job.where],
                "item": done.rows["item"].to_numpy()[done.parts["test"]],
            }
        ),
    )
    age = (train["time"].max() - train["time"]).dt.total_seconds() / 86_400
    z = np.zeros((len(job.where), len(spec.tasks)))
    for t, task in enumerate(spec.tasks):
        best = np.inf
        for days in (np.inf,) if name == "popularity" else (1, 2, 4, 8, np.inf):
            past = train[age <= days]
            ends = (popularity(past, frame, task) for frame in frames)
            p, asked = (np.clip(end, 1e-6, 1 - 1e-6) for end in ends)
            y = done.y[done.parts["valid"], t]
            loss = log_loss(y, np.nan_to_num(p, nan=y.mean()))
            if loss < best:
                best, z[:, t] = loss, np.log(asked / (1 - asked))
    return z


def simple(
    names: Iterable[str], setting: Setting, seed: int
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield contender, logits, and whether they are given the parent."""
    job = setting.job(seed)
    said: dict[str, np.ndarray] = {}
    for name in names:
        if name in COUNTS:
            yield name, counted(name, job), False
        elif name == LINEAR:
            yield name, linear(job), True
        elif name in TREES:
            yield (
                name,
                trees(job, name == "trees pooled", seed - 1 if job.log else 0),
                True,
            )
        else:
            said = said or regressions(job)
            yield name, said[name], True


# The study


def cells(p: np.ndarray, job: Job, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one line for each scenario and task."""
    for s, scenario in enumerate(job.spec.scenarios):
        for t, task in enumerate(job.spec.tasks):
            line = {"scenario": scenario, "task": task, **job.value(p, s, t)}
            yield {**common, **line}


class Study:
    """The results of one data set, and what is missing of them."""

    def __init__(self, data: str, untuned: bool = False) -> None:
        self.data, self.setting = data, SETTINGS[data]
        how = "-untuned" if untuned else ""
        self.result = Result(f"contenders-{data}{how}.csv", COLUMNS, digits=6)
        self.tries = None if untuned else Result(f"tries-{data}.csv", TRIED, digits=6)

    def missing(self, name: str, match: str) -> list[int]:
        """Return the seeds that a contender lacks."""
        done = {
            int(line["seed"])
            for line in self.result.lines()
            if (line["contender"], line["match"]) == (name, match)
        }
        seeds = self.setting.seeds
        if self.setting.job is shopping and name not in SCHEMES:  # without lots: once
            seeds = GROWN if name in TREES else seeds[:1]
        return [seed for seed in seeds if seed not in done]

    def keep(self, p: np.ndarray, seed: int, line: dict[str, Any]) -> None:
        """Write the cells of a contender; on a log, keep its scores too."""
        job = self.setting.job(seed)
        name, match = line["contender"], line["match"]
        if self.data == "complete-journey":
            folder = SCORES / self.data
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}-{match}-{seed}.npy", p.astype("float32"))
        self.result.keep(*cells(p, job, {**line, "seed": seed}))

    def simple(self, names: list[str]) -> None:
        """Run regressions, trees and counts; they see products in any case."""
        rate = np.log(self.setting.job(self.setting.tuning[0]).spec.negative_rate)
        for seed in self.setting.seeds:
            todo = [n for n in names if seed in self.missing(n, "features")]
            began = time.perf_counter()
            for name, z, given in simple(todo, self.setting, seed):
                spec = self.setting.job(seed).spec
                z[:, [t for t, parent in enumerate(spec.parents) if parent < 0]] += rate
                p = along_funnel(z, spec.parents) if given else 1 / (1 + np.exp(-z))
                seconds = round(time.perf_counter() - began, 1)
                line = {"contender": name, "match": "features", "seconds": seconds}
                self.keep(p, seed, line)
                print(f"   {name}, {seed}: {seconds} s", flush=True)

    def networks(self, name: str, match: str) -> None:
        """Run a contender of networks."""
        todo = self.missing(name, match)
        if not todo:
            return
        for seed, z, line in networks(name, match, self.setting, self.tries, todo):
            spec = self.setting.job(seed).spec
            p = along_funnel(z, spec.parents)
            self.keep(p, seed, {"contender": name, "match": match, **line})
        keras.backend.clear_session()


def main() -> None:
    """Run what is missing of a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--match", nargs="*", choices=MATCH, default=["features"])
    parser.add_argument(
        "--contenders", nargs="*", choices=CONTENDERS, default=CONTENDERS
    )
    parser.add_argument("--untuned", action="store_true")
    asked = parser.parse_args()
    study, began = Study(asked.data, asked.untuned), time.perf_counter()
    study.simple([name for name in asked.contenders if name not in SCHEMES])
    todo = [(n, m) for m in asked.match for n in asked.contenders if n in SCHEMES]
    for number, (name, match) in enumerate(todo, 1):
        study.networks(name, match)
        each = (time.perf_counter() - began) / number / 60
        left = f"at most {each * (len(todo) - number):.0f} min left"
        print(f"{name}, products {match}: {left}", flush=True)


if __name__ == "__main__":
    main()
