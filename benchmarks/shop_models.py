"""Contenders that rank a shop's items: popularity, item-to-item, iALS, iALS shrunk.

"iALS shrunk" pulls the target's users' vectors towards those of both shops. EASE would
invert a matrix of 52,000 items, or of 15,761 users, for each value tried; item-to-item
is counts of common buyers instead, divided by powers of both items' counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from shops import Case, matrix, shop, thinned, without_twins

TESTED, VALIDATED, PASSES, TOP = 5_000, 1_500, 5, 20
Params = tuple[int, ...]
"""Where a contender stands on its grid."""
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
    mass: np.ndarray | None = None,
) -> np.ndarray:
    """Return the best vector of each row of a log, given those of its columns.

    Least squares to 1 where there is an entry, and with ``weight`` to 0 everywhere. A
    row of k entries is solved in k dimensions (Woodbury) along the axes of all columns.
    ``prior`` is a vector for each row to be pulled to, and how many times as strongly
    as to 0. With ``mass``, by which each row's decay grows, the entries are not 1 but
    what the log says: the roots of weights, by which ``fixed`` is multiplied too.
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
        for part in np.array_split(at, 1 + len(at) * k // 100_000):
            each = [[k + weight * len(fixed)]] if mass is None else mass[part, None]
            own = decay * np.asarray(each, "float32")
            scale = (1 / (spread + own * (1 + pull))).astype("float32")
            entries = log.indptr[part][:, None] + np.arange(k)
            f = turned[log.indices[entries]]
            said = f if mass is None else f * log.data[entries][:, :, None]
            right = said.sum(axis=1) + own * pull * to[part]
            if k <= fixed.shape[1]:
                x = right * scale
                small = (f * scale[:, None]) @ f.transpose(0, 2, 1) + np.eye(
                    k, dtype="float32"
                )
                rest = np.linalg.solve(small, f @ x[:, :, None])
                x = x - (f.transpose(0, 2, 1) @ rest)[:, :, 0] * scale
            else:
                full = f.transpose(0, 2, 1) @ f
                full = full + np.eye(fixed.shape[1], dtype="float32") / scale[:, None]
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

    def score(self, said: Score | Factors, users: np.ndarray) -> np.ndarray:
        """Return what is said of each item for some users."""
        if isinstance(said, Factors):
            return said.users[users] @ said.items.T
        return said(users)

    def kept(self, said: Score | Factors) -> Score:
        """Return the same, computed once for the users that are asked for."""
        parts = np.array_split(self.asked[:, 0], 1 + len(self.asked) // 256)
        table = np.concatenate([self.score(said, part) for part in parts])
        row = np.zeros(self.users, int)
        row[self.asked[:, 0]] = np.arange(len(table))
        return lambda users: table[row[users]]

    def ranks(self, said: Score | Factors, mix: float = 0.0) -> np.ndarray:
        """Return how many items stand before each purchase; a tie counts a half.

        Popularity is added, so that the most popular item gets ``mix`` times what a
        user's best item has on average, and else only parts ties.
        """
        some = self.score(said, self.asked[:256, 0]).max(axis=1).mean()
        added = (1e-9 + mix * some) * self.popular / self.popular.max()
        found = []
        for part in np.array_split(self.asked, 1 + len(self.asked) // 256):
            users, item = part.T
            score = (self.score(said, users) + added).astype("float32")
            mine = score[np.arange(len(part)), item][:, None]
            score[self.own[users].tocoo().coords] = -np.inf
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
