"""LightGCN on Last.fm until it has converged: the long run of page 6.2.

    python benchmarks/graph_study.py 0

For each split: 80 % of a user's artists train, 10 % say when to stop, 10 % test; all
17,632 artists are ranked. Page 6.2 makes the first `LIVE` passes anew; this goes on
until the validation pairs have not gained for `PATIENCE` looks.
A line is written at each look: the validation pairs' NDCG@10, and the test pairs'
NDCG@10 and Recall@10 as published (validation pairs left out of the lists too).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from results import Result
from scipy import sparse

from urlm_helpers.data import load

COLUMNS = ["split", "epoch", "valid_ndcg", "ndcg", "recall", "seconds"]
LAYERS, DIM, BATCH, STEP, TOP = 3, 64, 4_096, 0.005, 10
LIVE, LOOK, PATIENCE = 2, 10, 5


def split(user: np.ndarray, seed: int) -> np.ndarray:
    """Return 0 (train), 1 (validation) or 2 (test) for each pair, user by user."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(user)), user))
    count = np.bincount(user)
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    tenth = np.maximum(count // 10, count > 2)[user[order]]
    part = np.empty(len(user), int)
    part[order] = (place < 2 * tenth).astype(int) + (place < tenth)
    return part


def top_ten(
    score: np.ndarray, hide: sparse.csr_array, truth: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Return NDCG@10 and Recall@10 of each user who has a truth."""
    score = np.where(hide.toarray() > 0, -np.inf, score)
    best = np.argpartition(-score, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(score, best, 1), axis=1)
    hit = np.take_along_axis(truth.toarray(), np.take_along_axis(best, order, 1), 1)
    n = np.asarray(truth.sum(axis=1)).ravel()
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[
        np.minimum(n, TOP).astype(int)
    ]
    return (hit @ discount / ideal)[n > 0], (hit.sum(axis=1) / np.maximum(n, 1))[n > 0]


def links(x: sparse.csr_array) -> sparse.csr_array:
    """Return users and artists by users and artists: 1 / √(|N(u)| |N(i)|) if linked."""
    edges = sparse.block_array([[None, x], [x.T, None]]).tocsr()
    root = 1 / np.sqrt(np.maximum(edges.sum(axis=1), 1))
    return (edges * root[:, None] * root).tocsr().astype(np.float32)


def spread(edges: sparse.csr_array, e: np.ndarray) -> np.ndarray:
    """Return the mean of the vectors and of `LAYERS` steps along the links."""
    total = e
    for _ in range(LAYERS):
        e = edges @ e
        total = total + e
    return total / (LAYERS + 1)


def light_gcn(x: sparse.csr_array, seed: int = 0) -> Iterator[np.ndarray]:
    """Train by BPR and Adam; yield all scores (users, items) after each epoch."""
    rng = np.random.default_rng(seed)
    users, items = x.shape
    user, item = x.nonzero()
    n = users + items
    known = np.sort(user * items + item)
    edges = links(x)
    e: np.ndarray = (0.02 * rng.standard_normal((n, DIM))).astype(np.float32)
    m: np.ndarray = np.zeros_like(e)
    v: np.ndarray = np.zeros_like(e)
    step = 0
    while True:
        order = rng.permutation(len(user))
        for start in range(0, len(user), BATCH):
            rows = order[start : start + BATCH]
            u, i = user[rows], item[rows]
            j = rng.integers(0, items, len(u))
            at = np.minimum(np.searchsorted(known, u * items + j), len(known) - 1)
            fresh = known[at] != u * items + j  # a drawn artist that is known: no pair
            u, i, j = u[fresh], users + i[fresh], users + j[fresh]
            f = spread(edges, e)
            gap = (f[u] * (f[i] - f[j])).sum(axis=1)
            pull = (-1 / (1 + np.exp(gap)) / len(u))[:, None].astype(np.float32)
            rows = np.concatenate([u, i, j])
            g = np.concatenate([pull * (f[i] - f[j]), pull * f[u], -pull * f[u]])
            ones = np.ones(len(rows), np.float32)
            sums = sparse.csr_array(
                (ones, (rows, np.arange(len(rows)))), (n, len(rows))
            )
            g, step = spread(edges, sums @ g), step + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            scale = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            e = e - STEP * scale * m / (np.sqrt(v) + 1e-8)
        f = spread(edges, e)
        yield f[:users] @ f[users:].T


def main() -> None:
    """Run the splits that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("splits", type=int, nargs="+")
    pairs = load("lastfm-2k").interactions
    user, item = (np.unique(pairs[c], return_inverse=True)[1] for c in ("user", "item"))
    shape = user.max() + 1, item.max() + 1
    result = Result("light-gcn.csv", COLUMNS, digits=4)
    for seed in parser.parse_args().splits:
        part = split(user, seed)
        train, valid, test = (
            sparse.csr_array(
                (
                    np.ones((part == p).sum(), np.float32),
                    (user[part == p], item[part == p]),
                ),
                shape,
            )
            for p in range(3)
        )
        best, waited, start = 0.0, 0, time.process_time()
        for epoch, score in enumerate(light_gcn(train), 1):
            if epoch % LOOK and epoch != LIVE:
                continue
            gained = top_ten(score, train, valid)[0].mean()
            ndcg, recall = (m.mean() for m in top_ten(score, train + valid, test))
            line = [seed, epoch, gained, ndcg, recall, time.process_time() - start]
            result.keep(dict(zip(COLUMNS, map(float, line), strict=True)))
            waited = 0 if gained > best else waited + 1
            best = max(best, gained)
            if waited == PATIENCE:
                break


if __name__ == "__main__":
    main()
