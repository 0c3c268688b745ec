"""Amazon's shops in pairs: rows, twins, and how far the tastes in two shops agree.

    python benchmarks/shops.py   # checks the estimate where the truth is known

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
their cosine. The check simulates pairs of known cosine with a pair's users, items, rows
and popularity. From a tenth of a shop's rows the estimate is noise, so thinned cases
get that of their pair: tastes do not change when rows are lost.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from results import Result
from scipy import sparse

from urlm_helpers.data.download import cache_folder

SHARES = (1.0, 0.1, 0.3)
CHECKED = (("sport", "phone"), ("electronic", "phone"))
COSINES = (0, 0.25, 0.5, 0.75, 1)
LATENTS, STRENGTH = 16, 3.0


class Case(NamedTuple):
    """A target, who helps it, and how much of the target's rows are there."""

    target: str
    other: str
    share: float


@cache
def shop(name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Return user and item of the training and the held-out rows of a shop."""
    shops = "amazon-cross-domain"
    folder = cache_folder(shops) / shops / f"{name}_{other}"
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


def without_twins(name: str, other: str) -> np.ndarray:
    """Return the training rows of a shop that are not of the other one too."""
    rows = shop(name, other)[0]
    return rows[~np.isin(rows[:, 1], twins(name, other))]


def thinned(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return a share of the rows, drawn at random."""
    keep = round(share * len(rows))
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:keep])]


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


def main() -> None:
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


if __name__ == "__main__":
    main()
