"""When does one model pay? Gain and harm of sharing, over agreement and rows.

    python benchmarks/map_study.py
    python benchmarks/map_study.py --tasks click --contenders "trees alone"
    python benchmarks/map_study.py --table map-heads.csv  # a head for each scenario

The simulated app without what would blur the picture (position, drift, newcomers,
query, friends). Search is the small scenario: it gets 250 to 64,000 training rows and a
fifth of that for validation, beside 42,000 rows of shop and 15,000 of social. What
varies besides: how far the scenarios' tastes are turned, the world, whether products of
features tell all that can be told or thresholds matter as much, and the task.

A model sees the features of user and item and no ids. Regressions and trees also get
the products of each with each, which networks have to find. Networks have the same
layers, and a step size tuned on two worlds that no result uses, with a grid that grows
until its best is not at an end; the network alone has batch and passes tuned as well.

All worlds of a point train at once, as arrays with a leading axis. A line is written as
soon as it is known, and skipped when the study is started again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from results import Result

from urlm_helpers.model import ShrunkRegression
from urlm_helpers.world import (
    SCENARIOS,
    World,
    best_on_observables,
    expected_auc,
    logits,
    popularity,
)
from urlm_helpers.world.truth import segment_logits

COLUMNS = ["thresholds", "task", "rows", "shift", "world", "contender", "auc"]
COLUMNS += ["popularity", "best", "agreement", "step_size"]
THRESHOLDS, TASKS = (0.0, 1.0), ("click", "buy")
ROWS = (250, 1_000, 4_000, 16_000, 64_000)
SHIFTS = (0.0, 0.3, 0.6, 0.9, 1.2)
WORLDS, TUNING, TUNED_AT = tuple(range(20, 28)), (98, 99), 0.6
OTHERS, SEARCH = (42_000, 15_000), 2
DRAWN, TEST = 240_000, 30_000
OFF = ["position_bias", "drift", "new_users", "new_items"]
OFF += ["query_effect", "friend_effect"]
LAYERS, BATCH, PASSES = (64, 32), 512, 6
STEP_SIZES = (0.004, 0.008, 0.016, 0.032)
DECAY = 0.1

Point = tuple[float, str, int]
"""Thresholds, task and rows of search."""
Arrays = dict[str, np.ndarray]


def app(thresholds: float, shift: float, seed: int) -> World:
    """Return a world without what would blur the picture."""
    knobs = dict.fromkeys(OFF, 0.0) | {"random_share": 1.0, "seed": seed}
    return World(scenario_shift=shift, threshold_share=thresholds, **knobs)


@cache
def drawn(thresholds: float, shift: float, seed: int) -> dict[str, Any]:
    """Return the rows of a world, as many of each scenario, and what is known of it."""
    world = app(thresholds, shift, seed)
    rows, _ = world.sample(DRAWN, seed=2, balanced=True, random=True)
    test, truth = world.sample(TEST, seed=1, balanced=True, random=True)
    here = (test["scenario"] == SCENARIOS[SEARCH]).to_numpy()
    kinds = np.eye(len(world.categories), dtype="float32")[world.goods.category]
    items = np.column_stack([world.goods.features, world.goods.rating, kinds])
    return {
        "rows": rows,
        "where": pd.Index(SCENARIOS).get_indexer(pd.Index(rows["scenario"])),
        "test": test[here],
        "truth": truth[here],
        "best": best_on_observables(world, test)[here],
        "users": world.people.features.astype("float32"),
        "items": items.astype("float32"),
        "agreement": {
            task: agreement(world, t) for t, task in ((0, "click"), (2, "buy"))
        },
    }


def agreement(world: World, task: int, pairs: int = 20_000) -> float:
    """Correlation of the logits of the same pairs in shop and in search.

    Of a task given its parent; with what thresholds add.
    """
    rng = np.random.default_rng(0)
    u, v = rng.integers(world.users, size=pairs), rng.integers(world.items, size=pairs)
    who = world.people.taste[u], world.friends.taste[u]
    what = world.goods.taste[v], world.goods.appeal[v]
    both = []
    for s in (0, SEARCH):
        place = np.full(pairs, s)
        z = logits(world, *who, *what, place, np.zeros(pairs))
        both.append((z + segment_logits(world, u, v, place))[:, task])
    return float(np.corrcoef(*both)[0, 1])


class Case:
    """A point in one world: rows to learn from, to choose by, and to be judged on."""

    def __init__(self, point: Point, shift: float, seed: int) -> None:
        thresholds, self.task, n = point
        self.world = found = drawn(thresholds, shift, seed)
        sizes = (*OTHERS, n)
        train, valid = [], []
        for s, size in enumerate(sizes):
            own = np.flatnonzero(found["where"] == s)
            train.append(own[:size])
            valid.append(own[size : size + max(size // 5, 50)])
        self.train = self._arrays(found["rows"], found["where"], train)
        self.valid = self._arrays(found["rows"], found["where"], valid)
        self.own_train = self._arrays(found["rows"], found["where"], train[SEARCH:])
        self.own_valid = self._arrays(found["rows"], found["where"], valid[SEARCH:])
        test = found["test"]
        everywhere = np.full(len(test), SEARCH)
        self.test = self._arrays(test, everywhere, [np.arange(len(test))])
        self.truth = found["truth"][self.task].to_numpy()
        self.lines = {
            "popularity": self.auc(
                popularity(found["rows"].iloc[train[SEARCH]], test, self.task)
            ),
            "best": self.auc(found["best"][self.task]),
            "agreement": found["agreement"][self.task],
        }

    def _arrays(self, rows: Any, where: Any, at: list[np.ndarray]) -> Arrays:
        """Return the numbers of some rows."""
        at = np.concatenate(at)
        part = rows.iloc[at]
        return {
            "user": part["user"].to_numpy("int32"),
            "item": part["item"].to_numpy("int32"),
            "scenario": where[at].astype("int32"),
            "y": part[self.task].to_numpy("float32"),
        }

    def products(self, rows: Arrays) -> np.ndarray:
        """Return features of user and item, and the products of each with each."""
        u = self.world["users"][rows["user"]]
        v = self.world["items"][rows["item"]]
        pairs = u[:, :, None] * v[:, None, :]
        return np.hstack([u, v, pairs.reshape(len(u), -1)])

    def auc(self, score: Any) -> float:
        """Return the expected AUC of a score of search's test rows."""
        return expected_auc(np.asarray(score), self.truth)


@lru_cache(maxsize=2)
def regressions(*cases: Case) -> dict[str, list[Any]]:
    """Fit the product regression in three ways; return what it says of all rows."""
    said: dict[str, list[Any]] = {"alone": [], "pooled": [], "shrunk": []}
    for case in cases:
        x, own = case.products(case.train), case.products(case.own_train)
        parts = {part: case.products(getattr(case, part)) for part in ("valid", "test")}
        blank = np.zeros(len(case.own_train["y"]), int)
        model = ShrunkRegression().fit(own, case.own_train["y"], blank)
        nowhere = np.zeros(len(parts["test"]), int)
        said["alone"].append(model.logits(parts["test"], nowhere))
        shrunk = ShrunkRegression().fit(x, case.train["y"], case.train["scenario"])
        said["shrunk"].append(
            {
                "train": shrunk.logits(x, case.train["scenario"]),
                "valid": shrunk.logits(parts["valid"], case.valid["scenario"]),
                "test": shrunk.logits(parts["test"], case.test["scenario"]),
            }
        )
        said["pooled"].append(parts["test"] @ shrunk.shared)
    return said


def start(
    runs: int, width: int, rng: np.random.Generator, zero: bool
) -> dict[str, Any]:
    """Return the parameters of a network for each run; with ``zero`` it says 0."""
    sizes, p = (width + len(SCENARIOS), *LAYERS), {}
    for layer, (a, b) in enumerate(zip(sizes, LAYERS, strict=False)):
        limit = np.sqrt(6 / (a + b))
        p[f"W{layer}"] = rng.uniform(-limit, limit, (runs, a, b))
        p[f"b{layer}"] = np.zeros((runs, 1, b))
    last = rng.normal(0, LAYERS[-1] ** -0.5, (runs, LAYERS[-1], 1))
    p["W"] = np.zeros_like(last) if zero else last
    p["W_own"] = np.zeros((runs, LAYERS[-1], len(SCENARIOS)))
    p["b"] = np.zeros((runs, 1, len(SCENARIOS)))
    return {name: tf.constant(value, tf.float32) for name, value in p.items()}


def network(p: dict[str, Any], rows: dict[str, Any], tables: tuple[Any, Any]) -> Any:
    """Return logits ``(runs, rows)``: two layers, a head of all and one of each."""
    who = tf.one_hot(rows["scenario"], len(SCENARIOS))
    sides = [
        tf.gather(table, rows[key], batch_dims=1)
        for table, key in zip(tables, ("user", "item"), strict=True)
    ]
    h = tf.concat([*sides, who], -1)
    for layer in range(len(LAYERS)):
        h = tf.nn.relu(h @ p[f"W{layer}"] + p[f"b{layer}"])
    own = tf.reduce_sum((h @ p["W_own"] + p["b"]) * who, -1)
    return (h @ p["W"])[..., 0] + own + rows["offset"]


@tf.function(jit_compile=True, autograph=False)
def step(
    p: Any, slope: Any, square: Any, rows: Any, tables: Any, t: Any, rate: Any, own: Any
) -> Any:
    """Take one step of AdamW in all runs; ``own`` is 0 for one head for all."""
    with tf.GradientTape() as tape:
        tape.watch(p)
        z = network(p, rows, tables)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(rows["y"], z)
        total = tf.reduce_sum(tf.reduce_mean(loss, axis=1))
    gradients = tape.gradient(total, p)
    new: tuple[dict, dict, dict] = ({}, {}, {})
    for name, value in p.items():
        g = tf.convert_to_tensor(gradients[name])
        m, v = 0.9 * slope[name] + 0.1 * g, 0.999 * square[name] + 0.001 * g**2
        move = m / (1 - 0.9**t) / (tf.sqrt(v / (1 - 0.999**t)) + 1e-7)
        move += DECAY * value if name[0] == "W" else 0
        each = tf.reshape(rate, (-1, 1, 1)) * (own if name == "W_own" else 1.0)
        for part, now in zip(new, (value - each * move, m, v), strict=True):
            part[name] = now
    return new


score = tf.function(network, jit_compile=True, autograph=False)


class Stacked:
    """The cases of a point, put on top of each other."""

    def __init__(self, cases: list[Case], own: bool, offsets: list[Any] | None) -> None:
        self.tables = tuple(
            tf.constant(np.stack([case.world[side] for case in cases]))
            for side in ("users", "items")
        )
        self.parts = {}
        for part in ("train", "valid", "test"):
            name = f"own_{part}" if own and part != "test" else part
            arrays = [getattr(case, name) for case in cases]
            rows = {key: np.stack([a[key] for a in arrays]) for key in arrays[0]}
            said = np.zeros_like(rows["y"])
            if offsets is not None:
                said = np.stack([each[part] for each in offsets])
            self.parts[part] = {**rows, "offset": said.astype("float32")}

    def __len__(self) -> int:
        return len(self.parts["train"]["y"])


def trained(
    data: Stacked, rate: float, batch: int, passes: int, heads: bool, zero: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Train all runs; return the least validation loss, and the scores of each part.

    With ``zero`` the network starts at 0, and may stay there.
    """
    rng, train = np.random.default_rng(0), data.parts["train"]
    width = sum(table.shape[2] for table in data.tables)
    p = start(len(data), width, rng, zero)
    state = [p, *({k: tf.zeros_like(v) for k, v in p.items()} for _ in "mv")]
    n, t, own = train["y"].shape[1], 0, tf.constant(float(heads))
    batch = min(batch, n)
    steps = n // batch
    ask = {part: _tensors(rows) for part, rows in data.parts.items()}
    y = data.parts["valid"]["y"]
    least, said = np.full(len(data), np.inf), {}
    for past in range(0 if zero else 1, passes + 1):
        for at in (
            rng.permutation(n)[: steps * batch].reshape(steps, batch) if past else ()
        ):
            now = rate * 0.5 * (1 + np.cos(np.pi * t / (steps * passes)))
            t += 1
            rows = _tensors({k: v[:, at] for k, v in train.items()})
            each = tf.fill((len(data),), tf.cast(now, tf.float32))
            state = step(*state, rows, data.tables, tf.constant(float(t)), each, own)
        now_said = {x: score(state[0], ask[x], data.tables).numpy() for x in ask}
        z = now_said["valid"]
        loss = (np.logaddexp(0, z) - y * z).mean(axis=1)
        better = loss < least
        for part, new in now_said.items():
            said[part] = np.where(better[:, None], new, said.get(part, new))
        least = np.where(better, loss, least)
    return least, said


def _tensors(rows: Arrays) -> dict[str, Any]:
    return {key: tf.constant(value) for key, value in rows.items()}


NETWORKS: dict[str, dict[str, bool]] = {
    "network alone": {"own": True, "heads": False, "zero": False},
    "network pooled": {"own": False, "heads": False, "zero": False},
    "network with heads": {"own": False, "heads": True, "zero": False},
    "regression + network": {"own": False, "heads": True, "zero": True},
    "regression + network + trees": {"own": False, "heads": True, "zero": True},
}


@cache
def tuned(name: str, point: Point) -> tuple[float, int, int]:
    """Return step size, batch and passes with the least loss on the tuning worlds."""
    return choose(name, [Case(point, TUNED_AT, seed) for seed in TUNING])


def choose(name: str, cases: list[Case]) -> tuple[float, int, int]:
    """Return step size, batch and passes with the least validation loss."""
    offsets = regressions(*cases)["shrunk"] if NETWORKS[name]["zero"] else None
    how = dict(NETWORKS[name])
    data = Stacked(cases, how.pop("own"), offsets)
    ways = [(BATCH, PASSES)]
    if name == "network alone":
        few = len(cases[0].own_train["y"]) <= 4_000
        ways = list(
            product((31, 125) if few else (128, BATCH), (8, 24) if few else (6, 12))
        )
    tries: dict[tuple[float, int, int], float] = {}
    for batch, passes in ways:
        grid = list(STEP_SIZES)
        while grid:
            for rate in grid:
                loss, _ = trained(data, rate, batch, passes, **how)
                tries[rate, batch, passes] = float(loss.mean())
            rates = sorted(r for r, *way in tries if way == [batch, passes])
            best = min(rates, key=lambda r: tries[r, batch, passes])
            ends = {rates[0]: best / 2, rates[-1]: best * 2}
            grid = [ends[best]] if best in ends and len(rates) < 10 else []
    return min(tries, key=lambda way: tries[way])


def trees(cases: list[Case], pooled: bool) -> list[np.ndarray]:
    """Boost trees on features and products, as long as the validation rows gain."""
    said = []
    for case in cases:
        first, later = (
            (case.train, case.valid) if pooled else (case.own_train, case.own_valid)
        )
        said.append(boosted(case, first, later)[1])
    return said


def boosted(
    case: Case, first: Arrays, later: Arrays, base: dict[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what trees say of the validation rows and of the test, on top of a base.

    As many trees as the validation rows gain by, with 4 or 15 leaves.
    """
    import lightgbm

    base = base or {"train": None, "valid": None, "test": 0.0}
    tables = [
        np.column_stack([case.products(rows), rows["scenario"]])
        for rows in (first, later, case.test)
    ]
    best = (np.inf, np.zeros(0), np.zeros(0))
    for leaves in (4, 15):
        how = {"objective": "binary", "verbose": -1, "seed": 0, "num_threads": 1}
        how |= {"num_leaves": leaves, "learning_rate": 0.1, "max_bin": 63}
        how |= {"feature_fraction": 0.5, "lambda_l2": 5.0, "deterministic": True}
        how |= {"force_row_wise": True}
        data = lightgbm.Dataset(
            tables[0], first["y"], init_score=base["train"], params=how
        )
        watched = data.create_valid(tables[1], later["y"], init_score=base["valid"])
        stop = [lightgbm.early_stopping(20, verbose=False)]
        model = lightgbm.train(how, data, 400, [watched], callbacks=stop)
        loss = model.best_score["valid_0"]["binary_logloss"]
        if loss < best[0]:
            valid, test = (model.predict(x, raw_score=True) for x in tables[1:])
            best = loss, valid, test + base["test"]
    return best[1:]


def crowned(case: Case, z: dict[str, np.ndarray]) -> np.ndarray:
    """Put trees of search's own rows on top of a model, if they surely gain there.

    By more than a standard error on the validation rows; else the model stays alone.
    """
    own = {
        part: z[part][getattr(case, part)["scenario"] == SEARCH]
        for part in ("train", "valid")
    }
    more, test = boosted(
        case, case.own_train, case.own_valid, {**own, "test": z["test"]}
    )
    y = case.own_valid["y"]
    gain = [np.logaddexp(0, x) - y * x for x in (own["valid"], own["valid"] + more)]
    each = gain[0] - gain[1]
    sure = each.mean() > each.std() / np.sqrt(len(each))
    return test if sure else z["test"]


REGRESSIONS = ("regression alone", "regression pooled", "regression shrunk")
TREES = ("trees alone", "trees pooled")
CONTENDERS = (*REGRESSIONS, *NETWORKS, *TREES)
OF_A_TABLE = {"map-heads.csv": ("network with heads",)}  # where tastes differ most
OF_A_TABLE["map.csv"] = tuple(x for x in CONTENDERS if x != "network with heads")


def scores(
    names: Iterable[str], cases: list[Case], chosen: Callable[[str], Any]
) -> Iterator[tuple[str, float, list[Any]]]:
    """Yield contender, step size and what it says of each case's test rows."""
    names = list(names)
    for name in names:
        if name in REGRESSIONS:
            each = regressions(*cases)[name.split()[1]]
            yield name, np.nan, [z["test"] if isinstance(z, dict) else z for z in each]
        elif name in TREES:
            yield name, np.nan, trees(cases, name == "trees pooled")
        else:
            how = dict(NETWORKS[name])
            offsets = regressions(*cases)["shrunk"] if how["zero"] else None
            data = Stacked(cases, how.pop("own"), offsets)
            rate, batch, passes = chosen(name.removesuffix(" + trees"))
            _, said = trained(data, rate, batch, passes, **how)
            if name.endswith("trees"):
                each = [{k: v[i] for k, v in said.items()} for i in range(len(cases))]
                yield name, rate, list(map(crowned, cases, each))
            else:
                yield name, rate, list(said["test"])


def main() -> None:
    """Run what is missing of the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument(
        "--thresholds", nargs="+", type=float, choices=THRESHOLDS, default=THRESHOLDS
    )
    parser.add_argument("--rows", nargs="+", type=int, choices=ROWS, default=ROWS)
    parser.add_argument("--shifts", nargs="+", type=float, choices=SHIFTS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--table", choices=OF_A_TABLE, default="map.csv")
    asked = parser.parse_args()
    asked.contenders = asked.contenders or OF_A_TABLE[asked.table]
    if asked.table == "map-heads.csv":  # where one head did most harm
        asked.tasks, asked.rows, asked.shifts = TASKS[:1], (4_000,), SHIFTS[-1:]
    result = Result(asked.table, COLUMNS, digits=6)
    done = {
        (
            float(x["thresholds"]),
            x["task"],
            int(x["rows"]),
            float(x["shift"]),
            x["contender"],
        )
        for x in result.lines()
    }
    rates = {  # what has been tuned already
        (float(x["thresholds"]), x["task"], int(x["rows"]), x["contender"]): (
            float(x["step_size"]),
            BATCH,
            PASSES,
        )
        for x in result.lines()
        if x["contender"] != "network alone"
    }
    shifts = asked.shifts or SHIFTS
    todo = list(product(asked.tasks, asked.rows, asked.thresholds, shifts))
    began, seen = time.perf_counter(), 0
    for number, (task, rows, thresholds, shift) in enumerate(todo):
        point = (thresholds, task, rows)
        names = [c for c in asked.contenders if (*point, shift, c) not in done]
        if not names:
            continue
        cases = [Case(point, shift, seed) for seed in WORLDS]

        def chosen(name: str, point: Point = point) -> tuple[float, int, int]:
            return rates.get((*point, name)) or tuned(name, point)

        for name, rate, said in scores(names, cases, chosen):
            values = [case.auc(z) for case, z in zip(cases, said, strict=True)]
            common = dict(zip(COLUMNS, (thresholds, task, rows, shift), strict=False))
            result.keep(
                *(
                    {**common, "world": seed, "contender": name, "auc": value}
                    | case.lines
                    | {"step_size": rate}
                    for seed, case, value in zip(WORLDS, cases, values, strict=True)
                )
            )
        drawn.cache_clear()
        seen += 1
        left = (time.perf_counter() - began) / seen * (len(todo) - number - 1)
        print(*point, shift, f"at most {left / 60:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
