"""Rows of a table that come rarely: step sizes, optimizers and smaller tables.

    python benchmarks/rare_rows_study.py

The log of `benchmarks/training_speed.py`, 250,000 rows of it, with 50,000 users and
12,500 items in random order: the median user has three rows. The network is the
simplest that has a table, in NumPy: the vectors of 16 fields and the product of the
user's and the item's, one layer of 64, a head for each of two tasks. Its dense weights
take Adam's step of 0.001; the table takes Adam's, lazy Adam's (only the rows of the
batch) or row-wise Adagrad's, with a step size of its own. All choose passes on
validation rows, and the table's step on those of the first log, which judges nothing;
the full table with lazy Adam is trained with each step on each log. What counts is the
expected AUC on fresh rows, against the probabilities that the labels are drawn with,
for all rows and by how many rows of the training the user has.

Two tables are also trained with labels that know no luck, the true probabilities: as
many rows and steps, and more to learn from each.

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from results import Result
from scipy.sparse import csr_matrix
from training_speed import BATCH, DIM, SMALL, probabilities

from urlm_helpers.world import expected_auc

PATH = "rare-rows.csv"
SIZES = (50_000, 12_500, *SMALL)
ROWS, VALID, TEST, PASSES, HIDDEN = 250_000, 25_000, 200_000, 8, 64
SEEDS, SURE_SEEDS = (0, 1, 2, 3), (1, 2, 3)
RATE, INITIAL = 1e-3, 0.05
SURE = (("lazy", "full"), ("lazy", "frequent"))  # also with labels without luck
EDGES = (0, 3, 9, 29, 10**9)
"""Users by their rows of training: up to 3, 4 to 9, 10 to 29, 30 or more."""
STEPS = {"lazy": (0.001, 0.004, 0.02, 0.08), "Adagrad": (0.02, 0.08, 0.3, 1.2)}
STEPS["Adam"] = STEPS["lazy"]
TRIED = dict.fromkeys(("quotient", "hash", "short"), STEPS["lazy"][1:])
TRIED["frequent"] = (0.00025, *STEPS["lazy"])
CASES = [("lazy", "full"), ("lazy", "frequent"), ("lazy", "quotient")]
CASES += [("Adagrad", "full"), ("lazy", "mixed"), ("lazy", "hash"), ("Adam", "full")]
CASES += [("lazy", "short")]
COLUMNS = ["seed", "optimizer", "table", "labels", "step", "passes", "valid_loss"]
COLUMNS += ["mebibytes"]
COLUMNS += [f"{task}_{part}" for task in ("click", "buy") for part in "01234"]


class Log:
    """Training, validation and test rows of one seed, with ids in random order."""

    def __init__(self, seed: int) -> None:
        order = np.random.default_rng(seed)
        self.names = [order.permutation(size) for size in SIZES[:2]]
        x, p, rng = probabilities(ROWS + VALID, 10 + 2 * seed, SIZES)
        self.x, self.sure = self._renamed(x), p.astype("float32")
        self.y = (rng.random(p.shape) < p).astype("float32")
        test, self.p, _ = probabilities(TEST, 11 + 2 * seed, SIZES)
        self.test = self._renamed(test)
        counts = np.bincount(self.x[:ROWS, 0], minlength=SIZES[0])
        self.seen = counts[self.test[:, 0]]

    def _renamed(self, x: np.ndarray) -> np.ndarray:
        return np.column_stack(
            [self.names[0][x[:, 0]], self.names[1][x[:, 1]], x[:, 2:]]
        )


def squeezed(x: np.ndarray, table: str, log: Log) -> tuple[np.ndarray, np.ndarray, int]:
    """Return each field's row, the second rows of user and item, and all rows."""
    small = np.cumsum([0, *SMALL])
    total, columns, seconds = int(small[-1]), [], []
    for f in (0, 1):
        size, value = SIZES[f], x[:, f]
        m = size // 10
        if table == "hash":
            value = value % m
        elif table == "quotient":
            m -= -(-size // m)  # rows for the quotients
            seconds.append(value // m)
            value = value % m
        elif table in ("frequent", "mixed"):
            own = m - 1 if table == "frequent" else m // 2
            counts = np.bincount(log.x[:ROWS, f], minlength=size)
            kept = np.argsort(-counts, kind="stable")[:own]
            number = np.arange(size) % (m - own)  # those that share rows
            number[kept] = m - own + np.arange(own)
            value = number[value]
        else:
            m = size
        columns.append(total + value)
        total += m
    for f, second in enumerate(seconds):
        seconds[f] = total + second
        total += int(SIZES[f] // (SIZES[f] // 10 - 10)) + 2
    rows = np.column_stack([*columns, x[:, 2:] + small[:-1]])
    second = np.column_stack(seconds) if seconds else np.zeros((len(x), 0), "int64")
    return rows, second, total


class Network:
    """A table, a layer and two heads, with Adam for all but the table."""

    def __init__(self, rows: int, first_of_ones: int, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.normal(0, INITIAL, (rows, dim)).astype("float32")
        self.table[first_of_ones:] += 1  # quotients multiply, so they start near 1
        wide = 17 * dim
        normal = rng.normal(0, np.sqrt(2 / wide), (wide, HIDDEN)).astype("float32")
        head = rng.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, 2)).astype("float32")
        self.weights = [normal, np.zeros(HIDDEN, "float32"), head]
        self.weights.append(np.full(2, -1, "float32"))
        self.moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self.m, self.v = np.zeros_like(self.table), np.zeros_like(self.table)
        self.rows_v = np.zeros((rows, 1), "float32")
        self.place = np.zeros(rows, "int64")
        self.t = 0

    def forward(self, rows: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each layer gives for some rows."""
        own = self.table[rows]
        vectors = own.copy() if second.shape[1] else own
        other = self.table[second]
        if second.shape[1]:
            vectors[:, :2] *= other
        both = vectors[:, 0] * vectors[:, 1]
        x = np.concatenate([vectors.reshape(len(rows), -1), both], axis=1)
        w, b, head, bias = self.weights
        hidden = np.maximum(x @ w + b, 0)
        return {
            "own": own,
            "other": other,
            "vectors": vectors,
            "x": x,
            "hidden": hidden,
            "logits": hidden @ head + bias,
        }

    def step(
        self,
        rows: np.ndarray,
        second: np.ndarray,
        y: np.ndarray,
        optimizer: str,
        rate: float,
    ) -> None:
        """Take one step on a batch."""
        a = self.forward(rows, second)
        w, _, head, _ = self.weights
        out = (1 / (1 + np.exp(-a["logits"])) - y) / len(y)
        back = (out @ head.T) * (a["hidden"] > 0)
        gradients = [a["x"].T @ back, back.sum(0), a["hidden"].T @ out, out.sum(0)]
        gx = back @ w.T
        dim = self.table.shape[1]
        g = gx[:, : 16 * dim].reshape(len(y), 16, dim).copy()
        g[:, 0] += gx[:, 16 * dim :] * a["vectors"][:, 1]
        g[:, 1] += gx[:, 16 * dim :] * a["vectors"][:, 0]
        which, of = rows.ravel(), g
        if second.shape[1]:
            twice = g[:, :2] * a["own"][:, :2]
            g[:, :2] *= a["other"]
            which = np.concatenate([which, second.ravel()])
            of = np.concatenate([g.reshape(-1, dim), twice.reshape(-1, dim)])
        asked = np.flatnonzero(np.bincount(which, minlength=len(self.table)))
        self.place[asked] = np.arange(len(asked))
        at = self.place[which]
        ones = np.ones(len(which), "float32")
        summed = csr_matrix((ones, (at, np.arange(len(which))))) @ of.reshape(-1, dim)
        self.t += 1
        for weight, (m, v), gradient in zip(
            self.weights, self.moments, gradients, strict=True
        ):
            adam(weight, m, v, gradient, RATE, self.t)
        self._move(asked, summed, optimizer, rate)

    def _move(
        self, asked: np.ndarray, g: np.ndarray, optimizer: str, rate: float
    ) -> None:
        if optimizer == "Adam":
            dense = np.zeros_like(self.table)
            dense[asked] = g
            adam(self.table, self.m, self.v, dense, rate, self.t)
        elif optimizer == "lazy":
            w, m, v = self.table[asked], self.m[asked], self.v[asked]
            adam(w, m, v, g, rate, self.t)
            self.table[asked], self.m[asked], self.v[asked] = w, m, v
        else:  # row-wise Adagrad: one number a row
            self.rows_v[asked] += (g * g).mean(1, keepdims=True)
            self.table[asked] -= rate * g / (np.sqrt(self.rows_v[asked]) + 1e-8)


def adam(
    w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, rate: float, t: int
) -> None:
    """Take Adam's step in place."""
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    w -= rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)


def batches(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield whole batches of row numbers in a new order."""
    order = rng.permutation(n)
    for start in range(0, n - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def in_parts(score: Callable[[slice], np.ndarray], n: int) -> np.ndarray:
    """Return the logits of all rows, some thousands at a time."""
    return np.concatenate([score(slice(s, s + 8192)) for s in range(0, n, 8192)])


def loss_of(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log-loss of both tasks."""
    return float((np.logaddexp(0, logits) - y * logits).mean())


def trained(
    log: Log, optimizer: str, table: str, rate: float, seed: int, y: np.ndarray
) -> dict[str, Any]:
    """Train until validation gets worse; return the best pass's loss and logits."""
    rows, second, total = squeezed(log.x, table, log)
    ones = int(second.min()) if second.size else total
    net = Network(total, ones, 2 if table == "short" else DIM, seed)
    rng, best = np.random.default_rng(seed), {"valid_loss": np.inf}
    held, kept = slice(ROWS, ROWS + VALID), []
    for done in range(1, PASSES + 1):
        for b in batches(ROWS, rng):
            net.step(rows[b], second[b], y[b], optimizer, rate)
        now = in_parts(
            lambda s: net.forward(rows[held][s], second[held][s])["logits"], VALID
        )
        loss = loss_of(now, y[held])
        if loss >= best["valid_loss"]:
            break
        best = {"valid_loss": loss, "passes": done}
        kept = [w.copy() for w in (net.table, *net.weights)]
    net.table, *net.weights = kept
    test, test_second, _ = squeezed(log.test, table, log)
    best["logits"] = in_parts(
        lambda s: net.forward(test[s], test_second[s])["logits"], TEST
    )
    best["mebibytes"] = net.table.nbytes / 2**20
    return best


def by_count(logits: np.ndarray, log: Log) -> dict[str, float]:
    """Return the expected AUC of each task: all rows, then by the user's rows."""
    found = {}
    for t, task in enumerate(("click", "buy")):
        found[f"{task}_0"] = expected_auc(logits[:, t], log.p[:, t])
        for part in range(1, 5):
            low = EDGES[part - 1] if part > 1 else -1
            mine = (log.seen > low) & (log.seen <= EDGES[part])
            found[f"{task}_{part}"] = expected_auc(logits[mine, t], log.p[mine, t])
    return found


def chosen(lines: list[dict[str, str]]) -> dict[tuple[str, str], float]:
    """Return the step of each case with the lowest validation loss of the first log."""
    first = [r for r in lines if r["seed"] == str(SEEDS[0]) and r["optimizer"]]
    first.sort(key=lambda r: float(r["valid_loss"]), reverse=True)
    return {(r["optimizer"], r["table"]): float(r["step"]) for r in first}


def main() -> None:
    """Run what is not in the result yet."""
    result = Result(PATH, COLUMNS, digits=6)
    names = ("seed", "optimizer", "table", "labels", "step")
    known = {tuple(r[name] for name in names) for r in result.lines()}
    for seed in SEEDS:
        log, best_steps = Log(seed), chosen(result.lines())
        truth = {"seed": seed, "table": "truth"}
        if (str(seed), "", "truth", "", "") not in known:
            result.keep({**truth, **by_count(log.p, log)})
        cases = [(*case, "drawn") for case in CASES]
        for optimizer, table, labels in cases + [(*case, "sure") for case in SURE]:
            steps = TRIED.get(table, STEPS[optimizer])
            if labels == "sure":
                steps = (best_steps[optimizer, table],) if seed in SURE_SEEDS else ()
            elif seed != SEEDS[0] and (optimizer, table) != CASES[0]:
                steps = (best_steps[optimizer, table],)
            for rate in steps:
                if (str(seed), optimizer, table, labels, f"{rate:g}") in known:
                    continue
                y = log.y if labels == "drawn" else log.sure
                best = trained(log, optimizer, table, rate, seed, y)
                line = {"seed": seed, "optimizer": optimizer, "table": table}
                line |= {"labels": labels, "step": rate}
                line |= {**by_count(best.pop("logits"), log), **best}
                result.keep(line)
                print(line, flush=True)


if __name__ == "__main__":
    main()
