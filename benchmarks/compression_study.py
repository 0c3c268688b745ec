"""Smaller models at equal bytes: what a byte buys, and where the time goes.

    OMP_NUM_THREADS=1 python benchmarks/compression_study.py

A click model of the simulated app, with a row of 16 numbers for each of 11,000 users
and 1,000 items and a small network behind, is made smaller in seven ways: rounded after
training or while training, pruned, with shorter rows, fewer rows (hashed, quotient and
remainder, the most frequent alone), or distilled into a model without the network.
Regressions and boosted trees on counts are the rivals.

Training sees the first twelve days, the thirteenth chooses the pass, and on ``TUNING``
alone the strength of the penalty. What counts is the expected AUC on the fourteenth,
the mean of three scenarios, against the probabilities that the labels are drawn with.

Each world has other users and items. A line of a result is written as soon as it is
known, and skipped when the study is started again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from results import Result
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from urlm_helpers.evaluation import auc
from urlm_helpers.world import SCENARIOS, World, expected_auc

COLUMNS = ["seed", "method", "part", "width", "bits", "network", "table_bytes"]
COLUMNS += ["dense_bytes", "l2", "soft", "passes", "valid_loss", "auc", "auc_labels"]
COLUMNS += ["cpu_seconds"]
PARTS = ("read", "rows", "vectors", "network", "best", "whole")
SERVED = ["tables", "form", "measure", "milliseconds"]
OFF = ["position_bias", "drift", "new_users", "new_items", "friend_effect"]
KNOBS = dict.fromkeys(OFF, 0.0) | {"user_overlap": 1.0, "item_overlap": 1.0}
USERS, ITEMS, ROWS, LATENTS = 11_000, 1_000, 700_000, 8
WIDTH, HIDDEN, BATCH, PASSES = 16, (32, 16), 2048, 3
STEP, TABLE_STEP, L2S, SOFTS = 3e-4, 0.04, (0.0125, 0.025, 0.05), (0.5, 1.0)
TUNING, SEEDS = 99, (101, 102, 103)


class Log:
    """The rows of one world, by day, and the truth."""

    def __init__(self, seed: int) -> None:
        knobs = KNOBS | {"users": USERS, "items": ITEMS, "latents": LATENTS}
        world = World(seed=seed, **knobs)  # type: ignore[arg-type]
        log = next(world.stream(ROWS, ROWS))
        rows = log.interactions
        self.scenario = pd.Index(SCENARIOS).get_indexer(pd.Index(rows["scenario"]))
        self.user, self.item = rows["user"].to_numpy(), rows["item"].to_numpy()
        context: Any = [np.eye(3)[self.scenario], rows["query_match"]]
        self.context = np.column_stack(context).astype("float32")
        self.y, self.p = rows["click"].to_numpy("float32"), log.truth["click"]
        self.category = world.goods.category[self.item]
        day = rows["time"].dt.day.to_numpy()
        self.train, self.valid = np.flatnonzero(day <= 12), np.flatnonzero(day == 13)
        self.test = np.flatnonzero(day == 14)

    def judged(self, z: np.ndarray) -> dict[str, float]:
        """Return the AUC of scores of the test rows, against the truth and labels."""
        each = [self.test[self.scenario[self.test] == s] for s in range(3)]
        own = [z[self.scenario[self.test] == s] for s in range(3)]
        pairs = list(zip(own, each, strict=True))
        expected = [expected_auc(s, self.p.to_numpy()[rows]) for s, rows in pairs]
        labels = [auc(self.y[rows], s) for s, rows in pairs]
        return {"auc": np.mean(expected), "auc_labels": np.mean(labels)}  # type: ignore[dict-item]


def rounded(table: np.ndarray, bits: int) -> np.ndarray:
    """Round each row to 2^bits even steps from its least to its largest number."""
    low = table.min(axis=1, keepdims=True).astype("float16").astype("float32")
    top = table.max(axis=1, keepdims=True)
    step = np.maximum((top - low) / (2**bits - 1), 1e-7)
    step = np.maximum(step.astype("float16").astype("float32"), 6e-8)
    code = np.clip(np.rint((table - low) / step), 0, 2**bits - 1)
    return np.asarray(low + step * code, "float32")


def table_bytes(rows: int, width: int, bits: int) -> int:
    """Bytes of a table: codes, and two half floats a row where it is rounded."""
    return rows * (4 * width if bits == 32 else -(-width * bits // 8) + 4)


@dataclass
class Net:
    """Dot product, biases and a small network over two tables.

    The last number of a row is its bias. ``maps`` holds for each table one array or
    two of the row of each id; the vectors of two rows are multiplied.
    """

    width: int
    maps: list[list[np.ndarray]]
    network: bool = True
    bits: int = 32
    seed: int = 0
    tables: list[np.ndarray] = field(init=False)
    dense: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.tables = []
        for maps in self.maps:
            rows = max(int(m.max()) for m in maps) + 1
            table = 0.1 * rng.standard_normal((rows, self.width))
            if len(maps) == 2:
                table[int(maps[0].max()) + 1 :] = 1
            self.tables.append(table.astype("float32"))
        sizes = (3 * self.width + 4, *HIDDEN)
        drawn = [
            rng.standard_normal(s) * (2 / s[0]) ** 0.5
            for s in zip(sizes, sizes[1:], strict=False)
        ]
        parts = [drawn[0], np.zeros(HIDDEN[0]), drawn[1], np.zeros(HIDDEN[1])]
        parts += [np.zeros((HIDDEN[1], 1)), np.zeros(1), np.array([-1.0] * 3 + [0])]
        self.dense = [part.astype("float32") for part in parts]

    def vectors(self, side: int, ids: np.ndarray) -> list[np.ndarray]:
        """Return the rows of some ids, rounded where the model trains for it."""
        found = [self.tables[side][m[ids]] for m in self.maps[side]]
        return [rounded(v, self.bits) for v in found] if self.bits < 32 else found

    def forward(
        self, user: np.ndarray, item: np.ndarray, context: np.ndarray
    ) -> tuple[Any, ...]:
        """Return rows, vectors, logits, and what else the backward pass needs."""
        found = [self.vectors(side, ids) for side, ids in enumerate((user, item))]
        p, q = (v[0] if len(v) == 1 else v[0] * v[1] for v in found)
        return found, p, q, *self.behind(p, q, context)

    def behind(
        self, p: np.ndarray, q: np.ndarray, context: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return the logits of vectors, and the layers on the way."""
        d = self.dense
        z = (p * q)[:, :-1].sum(axis=1) + p[:, -1] + q[:, -1] + context @ d[6]
        if not self.network:
            return (z,)
        x = np.concatenate([p * q, p, q, context], axis=1)
        a = np.maximum(x @ d[0] + d[1], 0)
        b = np.maximum(a @ d[2] + d[3], 0)
        return z + (b @ d[4] + d[5])[:, 0], x, a, b

    def scores(self, log: Log, rows: np.ndarray) -> np.ndarray:
        """Return the logits of some rows of a log."""
        parts = np.array_split(rows, 8)
        some = [
            self.forward(log.user[r], log.item[r], log.context[r])[3] for r in parts
        ]
        return np.concatenate(some)

    def bytes(self) -> dict[str, int]:
        """Return the bytes of the tables and of the rest."""
        shapes = [(*t.shape, self.bits) for t in self.tables]
        dense = self.dense if self.network else self.dense[6:]
        return {
            "table_bytes": sum(table_bytes(*shape) for shape in shapes),
            "dense_bytes": 4 * sum(w.size for w in dense),
        }


class Adam:
    """Adam for one array; of a table it moves the rows of the batch alone."""

    def __init__(self, weights: np.ndarray) -> None:
        self.w, self.t = weights, 0
        self.m, self.v = np.zeros_like(weights), np.zeros_like(weights)

    def step(self, gradient: np.ndarray, rate: float, rows: Any = slice(None)) -> None:
        """Move the weights, or some rows of them."""
        self.t += 1
        rate *= (1 - 0.99**self.t) ** 0.5 / (1 - 0.9**self.t)
        m = self.m[rows] = 0.9 * self.m[rows] + 0.1 * gradient
        v = self.v[rows] = 0.99 * self.v[rows] + 0.01 * gradient**2
        self.w[rows] -= rate * m / (np.sqrt(v) + 1e-8)


def summed(rows: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the gradients of rows that a batch has several times."""
    unique, place = np.unique(rows, return_inverse=True)
    n = len(rows)
    spread = sparse.csr_matrix((np.ones(n, "float32"), (place, np.arange(n))))
    return unique, spread @ gradient


def gradients(net: Net, found: tuple[Any, ...], g: np.ndarray) -> tuple[Any, Any]:
    """Return the gradients of the dense weights (means) and of both vectors (sums)."""
    _, p, q, _, *rest = found
    n = len(g)
    gp, gq = g * q, g * p
    gp[:, -1:], gq[:, -1:] = g, g
    dense: list[Any] = [None] * 6
    if net.network:
        x, a, b = rest
        d = net.dense
        gb = (g @ d[4].T) * (b > 0)
        ga = (gb @ d[2].T) * (a > 0)
        gx = ga @ d[0].T
        w = net.width
        gp += gx[:, :w] * q + gx[:, w : 2 * w]
        gq += gx[:, :w] * p + gx[:, 2 * w : 3 * w]
        dense = [x.T @ ga, ga.sum(0), a.T @ gb, gb.sum(0), b.T @ g, g.sum(0)]
        dense = [each / n for each in dense]
    return dense, (gp, gq)


def loss(net: Net, log: Log) -> float:
    """Return the log-loss of the validation rows."""
    z = net.scores(log, log.valid)
    return float(np.mean(np.logaddexp(0, z) - log.y[log.valid] * z))


def fit(
    net: Net,
    log: Log,
    l2: float,
    target: np.ndarray | None = None,
    passes: int = PASSES,
    masks: list[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Train, keep the best pass; return it, its loss and the processor's seconds."""
    start, rng = time.process_time(), np.random.default_rng(net.seed)
    target = log.y if target is None else target
    dense, tables = [Adam(w) for w in net.dense], [Adam(t) for t in net.tables]
    rate = TABLE_STEP if masks is None else TABLE_STEP / 4
    steps, t, best = passes * -(-len(log.train) // BATCH), 0, (9.0, 0)
    for epoch in range(1, passes + 1):
        order = rng.permutation(log.train)
        for at in range(0, len(order), BATCH):
            rows, falling = order[at : at + BATCH], 1 - t / steps
            t += 1
            ids, context = (log.user[rows], log.item[rows]), log.context[rows]
            found = net.forward(*ids, context)
            g = (expit(found[3]) - target[rows]).astype("float32")[:, None]
            flat, sides = gradients(net, found, g)
            flat.append((context.T @ g)[:, 0] / len(rows))
            for k, (way, each) in enumerate(zip(dense, flat, strict=True)):
                if each is not None:
                    way.step(each, (0.01 if k == 6 else STEP) * falling)
            for s, gradient in enumerate(sides):
                vectors = found[0][s]
                for k, maps in enumerate(net.maps[s]):
                    own = gradient if len(vectors) == 1 else gradient * vectors[1 - k]
                    around = 1.0 if k else 0.0  # quotients shrink to 1
                    own = own + l2 * (vectors[k] - around)
                    touched, total = summed(maps[ids[s]], own)
                    tables[s].step(total, rate * falling, touched)
                    if masks is not None:
                        net.tables[s][touched] *= masks[s][touched]
        now = loss(net, log)
        if now < best[0]:
            best = (now, epoch)
            kept = [w.copy() for w in (*net.dense, *net.tables)]
    for w, copy in zip((*net.dense, *net.tables), kept, strict=True):
        w[:] = copy
    took = time.process_time() - start
    return {"valid_loss": best[0], "passes": best[1], "cpu_seconds": took}


def maps_of(method: str, part: float, log: Log) -> list[list[np.ndarray]]:
    """Return which row of a table an id has; fewer rows are fewer rows of users."""
    every = np.arange(USERS)
    keep = int((USERS + ITEMS) * part) - ITEMS
    users = [every]
    if method == "hash":
        users = [every % keep]
    elif method == "quotient and remainder":
        m = next(m for m in range(keep, 0, -1) if m + -(-USERS // m) <= keep)
        users = [every % m, m + every // m]
    elif method == "frequent":
        count = np.bincount(log.user[log.train], minlength=USERS)
        users = [np.zeros(USERS, int)]
        often = np.argsort(-count, kind="stable")[: keep - 1]
        users[0][often] = 1 + np.arange(keep - 1)
    return [users, [np.arange(ITEMS)]]


def pruned(net: Net, part: float) -> tuple[Net, list[np.ndarray]]:
    """Keep the largest numbers of the tables: a bit for each, four bytes if kept."""
    size = np.concatenate([np.abs(t).ravel() for t in net.tables])
    kept = int(size.size * (part - 1 / 32))
    least = np.partition(size, -kept)[-kept]
    masks = [np.abs(t) >= least for t in net.tables]
    small = Net(net.width, net.maps, seed=net.seed)
    small.dense = [w.copy() for w in net.dense]
    small.tables = [t * mask for t, mask in zip(net.tables, masks, strict=True)]
    return small, masks


# method, part of the bytes of the float32 tables, width, bits, network
TRAINED = [("full", 1.0, 16, 32, True)]
TRAINED += [("short", w / 16, w, 32, True) for w in (8, 4, 2)]
TRAINED += [("hash", part, 16, 32, True) for part in (0.25, 0.125)]
TRAINED += [("frequent", part, 16, 32, True) for part in (0.25, 0.125)]
TRAINED += [("quotient and remainder", p, 16, 32, True) for p in (0.25, 0.125)]
TRAINED += [("aware", 2 / 32 + 1 / 16, 16, 2, True)]
TRAINED += [("dot", w / 16, w, 32, False) for w in (16, 4)]
DISTILLED = [("distilled", 4 / 16, 4, 32, False)]
TUNED = [TRAINED[k] for k in (0, 2, 4, 10, 12)] + DISTILLED
FEWER = ("frequent", "quotient and remainder")  # take the setting of hash


class Study:
    """The models of one world, each trained when it is first asked for."""

    def __init__(self, seed: int, result: Result) -> None:
        self.seed, self.result = seed, result
        self.log: Log | None = None
        self.nets: dict[tuple[str, int], Net] = {}

    def line(self, method: str, part: float, net: Net, **more: Any) -> None:
        """Judge a model and keep what came out."""
        assert self.log is not None
        line = {"seed": self.seed, "method": method, "part": part, "width": net.width}
        line |= {"bits": net.bits, "network": int(net.network), **net.bytes()}
        line |= more | self.log.judged(net.scores(self.log, self.log.test))
        self.result.keep(line)
        print(line, flush=True)

    def train(
        self, kind: tuple[Any, ...], l2: float, soft: float = 0.0
    ) -> tuple[Net, dict[str, Any]]:
        """Train a model of one kind."""
        method, part, width, bits, network = kind
        assert self.log is not None
        net = Net(width, maps_of(method, part, self.log), network, bits, self.seed)
        target = None
        if soft:
            taught = expit(self.full.scores(self.log, self.log.train))
            target = self.log.y.copy()
            target[self.log.train] *= 1 - soft
            target[self.log.train] += (soft * taught).astype("float32")
        found = fit(net, self.log, l2, target)
        return net, found | {"l2": l2, "soft": soft}

    @property
    def full(self) -> Net:
        """The model that all others are made of, or held against."""
        assert self.log is not None
        if ("full", WIDTH) not in self.nets:
            self.nets["full", WIDTH], _ = self.train(TRAINED[0], self.chosen("full")[0])
        return self.nets["full", WIDTH]

    def chosen(self, method: str) -> tuple[float, float]:
        """Return the penalty and the softness with the least loss on ``TUNING``."""
        method = "hash" if method in FEWER else method
        lines: Any = pd.DataFrame(self.result.lines())
        lines = lines[(lines["seed"] == str(TUNING)) & (lines["method"] == method)]
        best = lines.loc[lines["valid_loss"].astype(float).idxmin()]
        return float(best["l2"]), float(best["soft"])

    def missing(self, **wanted: Any) -> bool:
        """Say whether no line of this world has these values; make its log if so."""
        wanted["seed"] = self.seed
        for line in self.result.lines():
            if all(
                line[k] == v if isinstance(v, str) else float(line[k] or "nan") == v
                for k, v in wanted.items()
            ):
                return False
        self.log = self.log or Log(self.seed)
        return True

    def tune(self) -> None:
        """Try each penalty for a kind of each method, on the tuning world."""
        for kind in TUNED:
            distilled = kind[0] == "distilled"
            for way in SOFTS if distilled else L2S:
                key = {"soft": way} if distilled else {"l2": way}
                if self.missing(method=kind[0], part=kind[1], **key):
                    l2 = self.chosen("dot")[0] if distilled else way
                    net, found = self.train(kind, l2, way if distilled else 0.0)
                    self.line(kind[0], kind[1], net, **found)

    def run(self) -> None:
        """Train and squeeze what is not in the result yet."""
        for kind in TRAINED + DISTILLED:
            method, part, width, bits, _ = kind
            if self.missing(method=method, part=part, width=width, bits=bits):
                net, found = self.train(kind, *self.chosen(method))
                self.nets[method, width] = net
                self.line(method, part, net, **found)
        for width in (16, 8, 4):
            for bits in (8, 4, 3, 2, 1):
                part = table_bytes(1, width, bits) / 4 / WIDTH
                if self.missing(method="rounded", width=width, bits=bits):
                    net = self.again(width)
                    begun = time.process_time()
                    small = Net(width, net.maps, bits=bits, seed=self.seed)
                    small.dense = net.dense
                    small.tables = [rounded(t, bits) for t in net.tables]
                    took = time.process_time() - begun
                    self.line("rounded", part, small, cpu_seconds=took)
        for part in (0.5, 0.25, 0.125):
            for method in ("pruned", "pruned, trained on"):
                if self.missing(method=method, part=part):
                    net, masks = pruned(self.full, part)
                    found = {}
                    if method != "pruned":
                        l2 = self.chosen("full")[0]
                        found = fit(net, self.log, l2, None, 1, masks)  # type: ignore[arg-type]
                    size = sum(t.size for t in net.tables)
                    kept = sum(int(mask.sum()) for mask in masks)
                    found["table_bytes"] = 4 * kept + size // 8
                    self.line(method, part, net, **found)
        if self.missing(method="trees"):
            for line in rivals(self.log):  # type: ignore[arg-type]
                self.result.keep({"seed": self.seed, **line})
                print(line, flush=True)

    def again(self, width: int) -> Net:
        """Return the trained model of a width, full or short."""
        if width == WIDTH:
            return self.full
        if ("short", width) not in self.nets:
            kind = next(k for k in TRAINED if k[0] == "short" and k[2] == width)
            self.nets["short", width], _ = self.train(kind, *self.chosen("short"))
        return self.nets["short", width]


def counted(log: Log, key: np.ndarray, prior: float) -> list[np.ndarray]:
    """Return the log-odds of the clicks so far and the log of the rows so far."""
    y = pd.Series(log.y).where(np.arange(len(log.y)) < len(log.train), 0.0)
    group = y.groupby(key)
    shown = pd.Series(np.arange(len(y)) < len(log.train), dtype=float)
    before = shown.groupby(key).cumsum() - shown  # strictly earlier, and of training
    clicks = group.cumsum() - y
    rate = (clicks + prior * log.y[log.train].mean()) / (before + prior)
    return [np.log(rate / (1 - rate)), np.log1p(before)]


def rivals(log: Log) -> list[dict[str, Any]]:
    """Return regression and boosted trees on the clicks of user, item and category."""
    import lightgbm

    begun = time.process_time()
    cell = log.user * 8 + log.category
    counts: list[Any] = []
    for key, prior in ((log.user, 10.0), (log.item, 10.0), (cell, 5.0)):
        counts += counted(log, key, prior)
    plain = np.column_stack([*counts, log.context]).astype("float32")
    base = plain[:, [0, 2, 4]] + 1.5
    crossed = np.column_stack(
        [plain, *[base[:, a] * base[:, b] for a, b in ((0, 1), (0, 2), (1, 2))]]
        + [base[:, k] * plain[:, 1 + 2 * k] for k in range(3)]
        + [base * log.context[:, s : s + 1] for s in range(4)]
    )
    some = log.train[len(log.train) // 3 :: 2]  # counts have begun by then
    numbers = 2 * 2 * (USERS * 6 + ITEMS)  # shown and clicked, two bytes each
    lines = []
    took = time.process_time() - begun
    for method in ("regression", "trees"):
        begun = time.process_time()
        if method == "regression":
            model = LogisticRegression(max_iter=300)
            model.fit(crossed[some[::2]], log.y[some[::2]])
            z, size = model.decision_function(crossed[log.test]), 4 * crossed.shape[1]
        else:
            options = {"n_jobs": 1, "verbosity": -1, "learning_rate": 0.1}
            trees = lightgbm.LGBMClassifier(n_estimators=200, **options)  # type: ignore[arg-type]
            trees.fit(
                plain[some],
                log.y[some],
                eval_X=plain[log.valid],
                eval_y=log.y[log.valid],
                callbacks=[lightgbm.early_stopping(20, verbose=False)],
            )
            z = np.asarray(trees.predict(plain[log.test], raw_score=True))
            size = len(trees.booster_.model_to_string())
        line = {"method": method, "table_bytes": numbers, "dense_bytes": size}
        line |= {"cpu_seconds": took + time.process_time() - begun} | log.judged(z)
        lines.append(line)
    return lines


def served(users: int, items: int, requests: int) -> list[dict[str, Any]]:
    """Time requests for the best ten of 500 items, in parts, for tables of each form.

    A request comes and leaves as JSON; ids are texts. The forms take turns, one request
    each, and each comes first in its turn. Their numbers are drawn: the time doesn't
    hang on them. Time is that of the processor: what a request takes where nobody else
    runs.
    """
    rng = np.random.default_rng(0)
    row_of = {f"B{n:07d}": n for n in range(items)}
    context = np.array([1, 0, 0, 0], "float32")
    every = [[np.arange(users)], [np.arange(items)]]
    forms: dict[str, tuple[Net, list[Any]]] = {}
    for form, width in (("full", 16), ("8 bits", 16), ("4 bits", 16), ("short", 4)):
        net = Net(width, every)
        tables: list[Any] = net.tables
        if form.endswith("bits"):
            tables = [packed(table, int(form[0])) for table in tables]
        forms[form] = net, tables
    dot, small = Net(16, every, network=False), Net(4, every, network=False)
    forms["dot"], forms["dot, short"] = (dot, dot.tables), (small, small.tables)
    parts: dict[tuple[str, str], list[float]] = {}
    for turn in range(requests + 20):
        ids = [f"B{n:07d}" for n in rng.integers(0, items, 500)]
        body = json.dumps({"user": int(rng.integers(users)), "items": ids})
        names = [*forms]
        for form in names[turn % len(names) :] + names[: turn % len(names)]:
            net, tables = forms[form]
            at = [time.thread_time()]
            asked = json.loads(body)
            at.append(time.thread_time())
            rows = np.array([row_of[i] for i in asked["items"]])
            at.append(time.thread_time())
            user = np.array([asked["user"]])
            p, q = (look(t, r) for t, r in zip(tables, (user, rows), strict=True))
            at.append(time.thread_time())
            z = net.behind(np.repeat(p, len(q), axis=0), q, np.tile(context, (500, 1)))[
                0
            ]
            at.append(time.thread_time())
            best = np.argsort(-z)[:10]
            answer = [{"item": asked["items"][k], "score": float(z[k])} for k in best]
            json.dumps(answer)
            at.append(time.thread_time())
            if turn >= 20:  # the first ones warm up
                took = [*np.diff(at), at[-1] - at[0]]
                for part, each in zip(PARTS, took, strict=True):
                    parts.setdefault((form, part), []).append(1000 * each)
    lines = []
    for (form, part), each in parts.items():
        for share in (50, 95):
            line = {
                "tables": users + items,
                "form": form,
                "measure": f"{part} p{share}",
            }
            lines.append(line | {"milliseconds": float(np.percentile(each, share))})
    return lines


def packed(table: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
    """Return the codes, two in a byte if they have four bits, and what undoes them."""
    low = table.min(axis=1, keepdims=True).astype("float16")
    step = ((table.max(axis=1, keepdims=True) - low) / (2**bits - 1)).astype("float16")
    code = np.clip(np.rint((table - low) / step), 0, 2**bits - 1).astype("uint8")
    if bits == 4:
        code = code[:, ::2] | (code[:, 1::2] << 4)
    return code, low, step


def look(table: Any, rows: np.ndarray) -> np.ndarray:
    """Return rows of a table as float32."""
    if isinstance(table, np.ndarray):
        return np.asarray(table[rows])
    code, low, step = (part[rows] for part in table)
    if code.shape[1] < WIDTH:
        code = np.stack([code & 15, code >> 4], axis=2).reshape(len(rows), -1)
    return np.asarray(low.astype("float32") + step.astype("float32") * code)


def main() -> None:
    """Run what is not in the results yet."""
    result = Result("compression.csv", COLUMNS, digits=6)
    Study(TUNING, result).tune()
    for seed in SEEDS:
        Study(seed, result).run()
    times = Result("compression-serving.csv", SERVED, digits=4)
    for users in (USERS, 2_000_000):
        if not any(line["tables"] == str(users + ITEMS) for line in times.lines()):
            times.keep(*served(users, ITEMS, 1_000))


if __name__ == "__main__":
    main()
