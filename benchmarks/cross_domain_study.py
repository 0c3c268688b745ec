"""When does one model pay? Predicted, then measured, on shops with the same users.

    python benchmarks/cross_domain_study.py check     # the estimator, on known truth
    python benchmarks/cross_domain_study.py predict   # from training data alone
    python benchmarks/cross_domain_study.py measure
    python benchmarks/cross_domain_study.py compare

Four pairs of Amazon shops from the authors' repository of DisenCDR (SIGIR 2022). The
data may not be passed on. Put the repository's folder ``dataset/`` into the cache
(``URLM_DATA``) as ``amazon-cross-domain``: github.com/cjx96/DisenCDR at 4e6d60b.

**Twins.** The two shops of a pair list some products twice, under two codes: with the
same buyers, to the last one. The held-out purchase then lies in the other shop's
training rows. Codes with the same two or more buyers count as twins, and the other
shop's rows of them are left out, everywhere but in the contenders "twins kept".

**The agreement** of the tastes of two shops is that of who resembles whom: for each two
users the inner product of their profiles in a shop, of the one half of its rows,
against that of the other half or of the other shop's half, as unbiased HSIC (Song et
al., 2012). Chances are exponentials of tastes, so of each HSIC over the means goes the
logarithm of one plus, as of log-normal numbers; that across shops over the geometric
mean of those within; and the root, because an inner product of tastes has the square of
their cosine. ``check`` simulates pairs of known cosine with a pair's users, items, rows
and popularity. From a tenth of a shop's rows the estimate is noise, so thinned cases
get that of their pair: tastes do not change when rows are lost.

**The rule**, fixed before any test number was known: the gain that ``map.csv`` shows at
a case's agreement and rows for each number to be learned, on straight lines through its
250 and 1,000 rows and beyond (``network pooled`` over the better of ``network alone``
and ``regression alone``; clicks, with thresholds). Numbers to be learned are the
columns of the regression there, and here one for each user and item. Sizes of an AUC do
not transfer: what is predicted is the sign, and the order of the relative gains in
recall. A pilot, with the twins in, was known for two cases: phones gained from
electronics, clothing lost from it.

**Rivals**: fewer own rows for each user; more rows of the other shop for each own row.
The published distance of domains, SDSP (Wen et al., 2025, arXiv 2505.20227), is one
between prototypes that its network learns while it is trained on shared features; these
logs have ids alone, and it is not computed here.

**What is measured**: recall and NDCG at 20 over all items of the target, for at most
5,000 users, a held-out purchase each; ties at mid-rank, after popularity. "One model"
is iALS or item-to-item over both shops, "separate" these over the target, or
popularity; of each kind the one that validation prefers, by NDCG at 100 of a purchase
each of at most 1,500 users, but of no more than a fifth of the target's rows. All are
tuned by climbing until no neighbor on the grid is better, on the first draw of a case;
the one end of a grid is the widest vector of iALS, 96: with 192 the first case had the
same sign, and the time did not allow it for all.
"iALS shrunk" pulls the target's users' vectors towards those of both shops. EASE would
invert a matrix of 52,000 items, or of 15,761 users, for each value tried: item-to-item
is counts of common buyers, divided by powers of both items' counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from results import RESULTS, Result
from scipy import sparse
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import spearmanr

from urlm_helpers.data.download import cache_folder
from urlm_helpers.evaluation import holm, percentile_interval, resample_users
from urlm_helpers.world import World

PAIRS = [("electronic", "phone"), ("electronic", "cloth")]
PAIRS += [("sport", "phone"), ("sport", "cloth")]
SHARES, DRAWS = (1.0, 0.1, 0.3), 3
MAP_ROWS = (250, 1_000)
CHECKED, COSINES = (
    (("sport", "phone"), ("electronic", "phone")),
    (0, 0.25, 0.5, 0.75, 1),
)
LATENTS, STRENGTH = 16, 3.0
PREDICTIONS = RESULTS / "cross-domain-predictions.csv"
TESTED, VALIDATED, PASSES = 5_000, 1_500, 5
WIDEST = 1  # of vectors, 48 x 2^this


TOP, RESAMPLES = 20, 2_000
COLUMNS = ["target", "other", "share", "draw", "contender", "users", "rows"]
COLUMNS += ["recall", "ndcg", "valid", "at", "seconds"]
SCORES = Path(__file__).resolve().parent / "scores" / "cross-domain"
Params = tuple[int, ...]
"""Where a contender stands on its grid."""


class Case(NamedTuple):
    """A target, who helps it, and how much of the target's rows are there."""

    target: str
    other: str
    share: float


@cache
def shop(name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Return user and item of the training and the held-out rows of a shop."""
    folder = cache_folder() / "amazon-cross-domain" / f"{name}_{other}"
    if not folder.is_dir():
        sys.exit(
            f"{folder} is not there. It is dataset/{name}_{other} of "
            "github.com/cjx96/DisenCDR at 4e6d60b, which may not be passed on: fetch "
            "it, and set URLM_DATA to the folder above amazon-cross-domain"
        )
    parts = [
        np.loadtxt(folder / f"{p}.txt", dtype=int) for p in ("train", "test_original")
    ]
    return parts[0][:, :2], parts[1][:, :2]


@cache
def twins(name: str, other: str) -> np.ndarray:
    """Return the items of a shop that the other one sells too, by their buyers."""
    a, b = (np.concatenate(shop(*x)) for x in ((name, other), (other, name)))
    x, y = (matrix(r, 1 + a[:, 0].max(), 1 + r[:, 1].max()) for r in (a, b))
    both = (x.T @ y).tocoo()
    here, there = x.sum(axis=0)[both.row], y.sum(axis=0)[both.col]
    return np.unique(both.row[(both.data > 1) & (both.data == here) & (here == there)])


def matrix(rows: np.ndarray, users: int, items: int) -> sparse.csr_array:
    """Return who bought what, as ``(users, items)``."""
    ones = np.ones(len(rows), "float32")
    return sparse.csr_array((ones, (rows[:, 0], rows[:, 1])), shape=(users, items))


# --- the agreement of two shops -------------------------------------------------------


def resemblance(rows: np.ndarray, users: int) -> sparse.csr_array:
    """Return how much each two users' profiles have in common, nobody with itself."""
    x = matrix(rows, users, 1 + rows[:, 1].max())
    each = 1 / np.maximum(x.sum(axis=1), 1)
    rare = 1 / np.maximum(x.sum(axis=0), 1) ** 0.5
    profile = sparse.diags_array(each) @ x @ sparse.diags_array(rare)
    k = (profile @ profile.T).tocsr()
    k.setdiag(0)
    return k


def hsic(k: sparse.csr_array, m: sparse.csr_array) -> float:
    """Return the unbiased HSIC of two kernels without their diagonals."""
    n, a, b = k.shape[0], k.sum(axis=0), m.sum(axis=0)
    centred = a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b)
    return float((k.multiply(m).sum() + centred) / (n * (n - 3)))


def agreement(one: np.ndarray, two: np.ndarray, users: int, splits: int = 5) -> float:
    """Estimate the cosine of the tastes in two shops, from rows of both.

    NaN where the halves of a shop have nothing in common.
    """
    rng, found, mean = np.random.default_rng(0), np.zeros(3), np.zeros(2)
    for _ in range(splits):
        kernels = []
        for rows in (one, two):
            mixed = rows[rng.permutation(len(rows))]
            mixed = mixed[np.argsort(mixed[:, 0], kind="stable")]
            kernels.append([resemblance(mixed[i::2], users) for i in (0, 1)])
        across = np.mean([hsic(k, m) for k, m in product(*kernels)])
        found += [hsic(*kernels[0]), hsic(*kernels[1]), across]
        mean += [sum(k.sum() for k in each) / (2 * users**2) for each in kernels]
    a, b = mean
    if found[:2].min() <= 0:
        return float("nan")
    scaled = splits * np.maximum(found, 0) / [a * a, b * b, a * b]
    own, others, across = np.log1p(scaled)
    return float(np.sqrt(across / np.sqrt(own * others)))


def simulated(pair: tuple[str, str], cosine: float, seed: int) -> list[np.ndarray]:
    """Draw rows of two shops with the users, items, rows and popularity of a pair."""
    rng, drawn = np.random.default_rng(seed), []
    logs = [shop(*pair)[0], shop(*pair[::-1])[0]]
    users = 1 + logs[0][:, 0].max()
    first, second = rng.normal(size=(2, users, LATENTS))
    second = cosine * first + (1 - cosine**2) ** 0.5 * second
    for rows, likes in zip(logs, (first, second), strict=True):
        many = np.bincount(rows[:, 0], minlength=users)
        popular = np.log(np.bincount(rows[:, 1]) + 0.5)
        what = rng.normal(size=(LATENTS, len(popular))) * STRENGTH / LATENTS**0.5
        bought = []
        for part in np.array_split(np.arange(users), 50):
            chance = np.exp((likes[part] @ what + popular).astype("float32"))
            for u, up in zip(part, np.cumsum(chance, axis=1, dtype="d"), strict=True):
                at = np.searchsorted(up, rng.random(3 * many[u]) * up[-1])
                new = np.sort(np.unique(at, return_index=True)[1])[: many[u]]
                bought.append(np.column_stack([np.full(len(new), u), at[new]]))
        drawn.append(np.concatenate(bought))
    return drawn


def check() -> None:
    """Estimate the agreement of simulated pairs, whose cosine is known."""
    columns = ["shops", "cosine", "seed", "share", "agreement"]
    result = Result("cross-domain-check.csv", columns, digits=4)
    done = {(x["shops"], float(x["cosine"]), int(x["seed"])) for x in result.lines()}
    for seed, pair, cosine in product(range(3), CHECKED, COSINES):
        if ("-".join(pair), cosine, seed) in done:
            continue
        logs = sorted(simulated(pair, cosine, seed), key=len)
        users = 1 + max(rows[:, 0].max() for rows in logs)
        lines = []
        for share in sorted(SHARES):
            value = agreement(thinned(logs[0], share, seed), logs[1], users)
            lines.append(("-".join(pair), cosine, seed, share, value))
        result.keep(*(dict(zip(columns, line, strict=True)) for line in lines))
        print(*lines[-1], flush=True)


def thinned(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return a share of the rows, drawn at random."""
    keep = round(share * len(rows))
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:keep])]


# --- what is predicted ----------------------------------------------------------------


def cases() -> list[Case]:
    """Return all cases: each shop of each pair, and the smaller ones thinned."""
    found = []
    for share, pair in product(SHARES, PAIRS):
        ways = (pair, pair[::-1])
        small, large = min(ways, key=lambda way: len(shop(*way)[0]))
        found.append(Case(small, large, share))
        if share == 1:
            found.append(Case(large, small, share))
    return found


def without_twins(name: str, other: str) -> np.ndarray:
    """Return the training rows of a shop that are not of the other one too."""
    rows = shop(name, other)[0]
    return rows[~np.isin(rows[:, 1], twins(name, other))]


def map_gain() -> RegularGridInterpolator:
    """Return the map's gain of one model, of agreement and log2 of rows per number.

    Straight lines between its points, and beyond them.
    """
    world = World()
    users = world.people.features.shape[1]
    items = world.goods.features.shape[1] + 1 + len(world.categories)
    told = pd.read_csv(RESULTS / "map.csv")
    told = told[(told["thresholds"] == 1) & (told["task"] == "click")]
    told = told[told["rows"].isin(MAP_ROWS)]
    auc = told.pivot_table("auc", ["rows", "shift", "world"], "contender")
    alone = auc[["network alone", "regression alone"]].max(axis=1)
    gain = (auc["network pooled"] - alone).rename("gain").reset_index()
    gain = gain.pivot_table("gain", "shift", "rows")
    agrees = told.groupby("shift")["agreement"].mean()
    numbers = users + items + users * items
    grid = (agrees.to_numpy()[::-1], np.log2(np.array(MAP_ROWS) / numbers))
    return RegularGridInterpolator(
        grid, gain.to_numpy()[::-1], bounds_error=False, fill_value=None
    )


def predict() -> None:
    """Write down what is expected of each case."""
    gain, lines = map_gain(), []
    for case in cases():
        target, other = case[:2]
        own = shop(target, other)[0]
        users, items = (1 + np.concatenate(shop(target, other)).max(axis=0)).tolist()
        logs = without_twins(target, other), without_twins(other, target)
        pair = sorted(logs, key=len)
        rows = round(case.share * len(own))
        agrees = agreement(*pair, users)
        expected = gain((agrees, np.log2(rows / (users + items)))).item()
        lines.append(
            {
                **case._asdict(),
                "agreement": agrees,
                "users": users,
                "items": items,
                "rows": rows,
                "rows_per_user": rows / users,
                "rows_per_number": rows / (users + items),
                "map_gain": expected,
                "predicted": "pays" if expected > 0 else "hurts",
                "other_rows_per_row": len(logs[1]) / rows,
                "twins": len(twins(target, other)),
                "test_rows_of_twins": np.isin(
                    shop(target, other)[1][:, 1], twins(target, other)
                ).mean(),
            }
        )
    table = pd.DataFrame(lines)
    table.to_csv(PREDICTIONS, index=False, float_format="%.4g")
    print(table.to_string())


# --- what is measured -----------------------------------------------------------------

Score = Callable[[np.ndarray], np.ndarray]
"""From users to a score of each item of the target, ``(users, items)``."""


class Factors(NamedTuple):
    """Vectors of users and items."""

    users: np.ndarray
    items: np.ndarray


def solved(
    log: sparse.csr_array,
    fixed: np.ndarray,
    weight: float,
    decay: float,
    prior: tuple[np.ndarray, float] | None = None,
) -> np.ndarray:
    """Return the best vector of each row of a log, given those of its columns.

    Least squares to 1 where there is an entry, and with ``weight`` to 0 everywhere. A
    row of k entries is solved in k dimensions (Woodbury) along the axes of all columns.
    ``prior`` is a vector for each row to be pulled to, and how many times as strongly
    as to 0.
    """
    pull = 0.0 if prior is None else prior[1]
    spread, axes = np.linalg.eigh(weight * (fixed.T @ fixed))
    turned = (fixed @ axes).astype("float32")
    to = np.zeros((log.shape[0], fixed.shape[1]), "float32")
    if prior is not None:
        to = (prior[0] @ axes).astype("float32")
    counts, found = np.diff(log.indptr), np.zeros_like(to)
    for k in np.unique(counts):
        at = np.flatnonzero(counts == k)
        own = decay * (k + weight * len(fixed))
        scale = (1 / (spread + own * (1 + pull))).astype("float32")
        for part in np.array_split(at, 1 + len(at) * k // 100_000):
            f = turned[log.indices[log.indptr[part][:, None] + np.arange(k)]]
            right = f.sum(axis=1) + own * pull * to[part]
            if k <= fixed.shape[1]:
                x = right * scale
                small = (f * scale) @ f.transpose(0, 2, 1) + np.eye(k, dtype="float32")
                rest = np.linalg.solve(small, f @ x[:, :, None])
                x = x - (f.transpose(0, 2, 1) @ rest)[:, :, 0] * scale
            else:
                full = f.transpose(0, 2, 1) @ f + np.diag(1 / scale)
                x = np.linalg.solve(full, right[:, :, None])[:, :, 0]
            found[part] = x
    return (found @ axes.T).astype("float32")


def ials(log: sparse.csr_array, width: int, weight: float, decay: float) -> Factors:
    """Fit implicit alternating least squares (Hu et al., 2008; Rendle et al., 2021)."""
    rng, turned = np.random.default_rng(0), log.T.tocsr()
    items = rng.normal(0, 0.1 / width**0.5, (log.shape[1], width)).astype("float32")
    for _ in range(PASSES):
        users = solved(log, items, weight, decay)
        items = solved(turned, users, weight, decay)
    return Factors(users, items)


class Job:
    """A case's rows: to learn from, and purchases to be ranked.

    With ``tuning`` the purchases are taken out of the training rows, else they are the
    held-out ones.
    """

    def __init__(self, case: Case, draw: int, tuning: bool, keep: bool = False) -> None:
        target, other = case[:2]
        rows, asked = shop(target, other)
        self.users, items = 1 + np.concatenate([rows, asked]).max(axis=0)
        rows = thinned(rows, case.share, draw) if case.share < 1 else rows
        rng = np.random.default_rng(draw)
        if tuning:
            mixed = rows[rng.permutation(len(rows))]
            first = np.unique(mixed[:, 0], return_index=True)[1]
            first = rng.permutation(first)[: min(VALIDATED, len(rows) // 5)]
            self.asked, rows = mixed[first], np.delete(mixed, first, axis=0)
        else:
            rng = np.random.default_rng(0)
            some = np.sort(rng.permutation(self.users)[:TESTED])
            self.asked = asked[np.argsort(asked[:, 0])][some]
        helping = shop(other, target)[0] if keep else without_twins(other, target)
        self.own = matrix(rows, self.users, items)
        there = matrix(helping, self.users, 1 + helping[:, 1].max())
        self.all = sparse.hstack([self.own, there]).tocsr()
        self.popular = self.own.sum(axis=0)
        self.known: dict[Any, Any] = {}

    def popularity(self) -> Score:
        """Return how often each item was bought, for whomever."""
        return lambda users: np.tile(self.popular, (len(users), 1))

    def ials(self, both: bool, width: int, weight: int, decay: int) -> Factors:
        """Return vectors of the target's rows or of both shops'."""
        key = (both, width, weight, decay)
        if key not in self.known:
            how = round(48 * 2.0**width), 0.03 * 3.0**weight, 0.003 * 3.0**decay
            self.known[key] = ials(self.all if both else self.own, *how)
        fit = self.known[key]
        return Factors(fit.users, fit.items[: self.own.shape[1]])

    def shrunk(self, alone: Params, both: Params, pull: int) -> Factors:
        """Return the target's vectors, its users' pulled to those of both shops."""
        start = self.ials(True, *both)
        how = 0.03 * 3.0 ** alone[1], 0.003 * 3.0 ** alone[2]
        items, prior = start.items, (start.users, 3.0**pull)
        for _ in range(3):
            users = solved(self.own, items, *how, prior)
            items = solved(self.own.T.tocsr(), users, *how)
        return Factors(users, items)

    def item_to_item(self, both: bool, own: int, others: int, rare: int) -> Score:
        """Return a score by common buyers with what a user bought."""
        log, n = self.all if both else self.own, self.own.shape[1]
        if both not in self.known:
            common = (log.T @ self.own).tocoo()
            apart = common.row != common.col
            self.known[both] = [x[apart] for x in (*common.coords, common.data)]
        row, col, count = self.known[both]
        bought = np.maximum(log.sum(axis=0), 1)
        value = count / (count + 3.0**rare) * count
        value = value * bought[row] ** (-own / 4) * bought[col] ** (-others / 4)
        how = sparse.csr_array((value.astype("float32"), (row, col)), (len(bought), n))
        return lambda users: (log[users] @ how).toarray()

    def ranks(self, said: Score | Factors) -> np.ndarray:
        """Return how many items stand before each purchase; a tie counts a half."""
        found, last = [], 1e-9 * self.popular / self.popular.max()
        for part in np.array_split(self.asked, 1 + len(self.asked) // 256):
            users, item = part.T
            if isinstance(said, Factors):
                score = said.users[users] @ said.items.T
            else:
                score = said(users)
            score = (score + last).astype("float32")
            mine = score[np.arange(len(part)), item][:, None]
            at = self.own[users].tocoo().coords
            score[at] = -np.inf
            before = np.count_nonzero(score > mine, axis=1)
            found.append(before + (np.count_nonzero(score == mine, axis=1) - 1) / 2)
        return np.concatenate(found)


def recall(ranks: np.ndarray) -> np.ndarray:
    """Return whether each purchase is among the first 20."""
    return (ranks < TOP).astype(float)


def ndcg(ranks: np.ndarray, top: int = TOP) -> np.ndarray:
    """Return the discounted gain of each purchase."""
    return np.where(ranks < top, 1 / np.log2(ranks + 2), 0.0)


def climb(quality: Callable[[Params], float], start: Params) -> tuple[Params, float]:
    """Return the point of a grid that no neighbor betters, and its quality."""
    quality = cache(quality)
    best, moved = start, True
    while moved:
        moved = False
        for axis, step in product(range(len(start)), (-1, 1)):
            while True:
                trial = tuple(x + step * (i == axis) for i, x in enumerate(best))
                if quality(trial) <= quality(best):
                    break
                best, moved = trial, True
    return best, quality(best)


KINDS = {"one": ("item-to-item both", "iALS both")}
KINDS["separate"] = ("popularity", "item-to-item alone", "iALS alone")
KEPT = ("item-to-item both, twins kept", "iALS both, twins kept")
COMPARISONS = [("one", "separate"), ("iALS both", "separate")]
COMPARISONS += [("iALS shrunk", "separate"), ("iALS both", "iALS alone")]
COMPARISONS += [("item-to-item both", "item-to-item alone")]
COMPARISONS += [("one, twins kept", "one"), ("one, twins kept", "separate")]
PREDICTORS = {"map_gain": 1, "rows_per_user": -1, "other_rows_per_row": 1}
CONTENDERS = (*KINDS["separate"], *KINDS["one"], "iALS shrunk")
WIDE = ("iALS alone", "iALS both")
STARTS: dict[str, Params] = {
    "popularity": (),
    "item-to-item": (2, 2, 0),
    "iALS": (1, 1, 0),
    "iALS shrunk": (0,),
}


def said(job: Job, name: str, at: Params, chosen: dict[str, Params]) -> Score | Factors:
    """Return what a contender with these parameters says."""
    if name == "popularity":
        return job.popularity()
    if name == "iALS shrunk":
        return job.shrunk(chosen["iALS alone"], chosen["iALS both"], *at)
    fit = job.ials if name.startswith("iALS") else job.item_to_item
    return fit("both" in name, *at)


def tuned(job: Job, name: str, chosen: dict[str, Params]) -> tuple[float, Params]:
    """Return the best NDCG at 100 of a contender on a job, and where."""

    def quality(at: Params) -> float:
        if name in WIDE and at[0] > WIDEST:
            return -np.inf
        return float(ndcg(job.ranks(said(job, name, at, chosen)), 100).mean())

    start = STARTS.get(name) or STARTS.get(name.rsplit(" ", 1)[0], ())
    at, value = climb(quality, start)
    return value, at


def scores(case: Case, draw: int, name: str) -> Path:
    """Return where the ranks of a contender are kept, outside the repository."""
    return SCORES / f"{'-'.join(map(str, case))}-{draw}-{name}.npy"


def _case(line: Mapping[str, str]) -> Case:
    return Case(line["target"], line["other"], float(line["share"]))


def measure() -> None:
    """Tune, fit and judge what is missing."""
    if not PREDICTIONS.exists():
        sys.exit("Predict before you measure: run this with predict first")
    result = Result("cross-domain.csv", COLUMNS, digits=6)
    lines = [
        line
        for line in result.lines()
        if scores(_case(line), line["draw"], line["contender"]).exists()
    ]
    done = {tuple(line[x] for x in COLUMNS[:5]) for line in lines}
    todo = [(draw, case) for draw in range(DRAWS) for case in cases()]
    todo = [(draw, case) for draw, case in todo if draw == 0 or case.share < 1]
    todo.sort(key=lambda x: (x[0], {*x[1][:2]} == {*PAIRS[1]}))  # the longest last
    for number, (draw, case) in enumerate(todo):
        began = time.perf_counter()
        names = CONTENDERS + (KEPT if case.share == 1 else ())
        jobs: dict[Any, Job] = {}
        chosen = {
            line["contender"]: tuple(map(int, line["at"].split()))
            for line in lines
            if line["draw"] == "0" and _case(line) == case
        }
        for name in names:
            key = (*map(str, case), str(draw), name)
            if key in done:
                continue
            spent, valid = time.process_time(), float("nan")
            plain = name.removesuffix(", twins kept")
            if plain not in chosen:
                if "tuning" not in jobs:
                    jobs["tuning"] = Job(case, draw, tuning=True)
                valid, chosen[plain] = tuned(jobs["tuning"], plain, chosen)
            keep = name in KEPT
            if keep not in jobs:
                jobs[keep] = Job(case, draw, tuning=False, keep=keep)
            job = jobs[keep]
            ranks = job.ranks(said(job, plain, chosen[plain], chosen))
            path = scores(case, draw, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, ranks.astype("float32"))
            line = dict(zip(COLUMNS, key, strict=False))
            line |= {"users": len(ranks), "rows": int(job.own.nnz), "valid": valid}
            line |= {"at": " ".join(map(str, chosen[plain]))}
            line |= {"recall": recall(ranks).mean(), "ndcg": ndcg(ranks).mean()}
            line |= {"seconds": time.process_time() - spent}
            result.keep(line)
            lines.append({k: str(v) for k, v in line.items()})
        print(*case, draw, f"{time.perf_counter() - began:.0f} s,", end=" ")
        print(len(todo) - number - 1, "cases and draws left", flush=True)


# --- what was measured against what was predicted -------------------------------------


def resampled(case: Case, told: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return means of each contender's recall and NDCG: as measured, and resampled.

    Under the keys "one" and "separate" those of the contenders that validation prefers.
    Over a case's draws; the users that are drawn are the same in all cases of a pair.
    """
    mine = told[(told[["target", "other", "share"]] == case).all(axis=1)]
    valid = mine[mine["draw"] == 0].set_index("contender")["valid"]
    names = [*CONTENDERS, *(KEPT if case.share == 1 else ())]
    whole = mine[mine["contender"] == names[-1]]["draw"]
    columns = {}
    for name in names:
        ranks = [np.load(scores(case, draw, name)) for draw in whole]
        for metric, gain in (("recall", recall), ("ndcg", ndcg)):
            columns[name, metric] = np.mean([gain(r) for r in ranks], axis=0)
    sums = np.stack(list(columns.values()), axis=1)
    seed = [i for i, pair in enumerate(PAIRS) if {case.target, case.other} == {*pair}]
    blocks = resample_users(len(sums), RESAMPLES, seed[0])
    drawn = np.concatenate(
        [sums.mean(axis=0)[None], *(b @ sums / len(sums) for b in blocks)]
    )
    found = dict(zip(columns, drawn.T, strict=True))
    for kind, of in KINDS.items():
        best = valid[list(of)].idxmax()
        found |= {(kind, m): found[best, m] for m in ("recall", "ndcg")}
        found[kind, "name"] = best
        if kind == "one" and case.share == 1:
            found |= {
                ("one, twins kept", m): found[f"{best}, twins kept", m]
                for m in ("recall", "ndcg")
            }
    return found


def compare() -> None:
    """Hold one model against separate ones, and the predictions against that."""
    told = pd.read_csv(RESULTS / "cross-domain.csv")
    predicted = pd.read_csv(PREDICTIONS)
    found = {case: resampled(case, told) for case in cases()}
    lines = []
    for (one, other), metric in product(COMPARISONS, ("recall", "ndcg")):
        part = []
        for case, means in found.items():
            if (one, metric) in means:
                a, b = means[one, metric], means[other, metric]
                low, high = percentile_interval(a[1:] - b[1:], 0.95)
                wrong = min((a[1:] <= b[1:]).sum(), (a[1:] >= b[1:]).sum())
                line = case._asdict() | {"metric": metric, "a": one, "b": other}
                line |= {"a_is": means.get((one, "name"), one)}
                line |= {"b_is": means.get((other, "name"), other)}
                line |= {"a_mean": a[0], "b_mean": b[0], "difference": a[0] - b[0]}
                line |= {"low": low, "high": high, "relative": a[0] / b[0] - 1}
                line |= {"p_value": min(2 * (1 + wrong) / (1 + RESAMPLES), 1)}
                part.append(line)
        adjusted = holm([line["p_value"] for line in part])
        lines += [x | {"p_holm": p} for x, p in zip(part, adjusted, strict=True)]
    table = pd.DataFrame(lines)
    table.to_csv(
        RESULTS / "cross-domain-compared.csv", index=False, float_format="%.5g"
    )
    verdict(found, table, predicted)


def verdict(
    found: dict[Case, Any], table: pd.DataFrame, predicted: pd.DataFrame
) -> None:
    """Write down how many signs held, and how well each order fits the measured one."""
    lines = []
    whole = (predicted["share"] == 1).to_numpy()
    for (one, other), part in product(COMPARISONS[:3], ("all", "whole", "thinned")):
        at = {"all": whole | True, "whole": whole, "thinned": ~whole}[part]
        mine = table[(table["a"] == one) & (table["b"] == other)]
        mine = mine[mine["metric"] == "recall"].loc[lambda x, at=at: at]
        up, sure = mine["difference"] > 0, mine["p_holm"] < 0.05
        said = (predicted["predicted"] == "pays")[at].to_numpy()
        gains = np.stack(
            [x[one, "recall"] / x[other, "recall"] - 1 for x in found.values()]
        )
        for name, sign in PREDICTORS.items():
            order = sign * predicted[name].to_numpy()[at]
            fits = np.array([spearmanr(order, g).statistic for g in gains[at].T])
            low, high = percentile_interval(fits[1:], 0.95)
            line = {"a": one, "b": other, "cases": part, "predictor": name}
            line |= {"correlation": fits[0], "low": low, "high": high, "of": at.sum()}
            if name == "map_gain":
                line |= {"held": (said == up).sum()}
                line |= {"held_surely": ((said == up) & sure).sum()}
                line |= {"failed_surely": ((said != up) & sure).sum()}
            lines.append(line)
    result = pd.DataFrame(lines)
    result.to_csv(
        RESULTS / "cross-domain-verdict.csv", index=False, float_format="%.4g"
    )
    print(result.to_string())


if __name__ == "__main__":
    steps = {"check": check, "predict": predict, "measure": measure, "compare": compare}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=steps)
    steps[parser.parse_args().step]()
