"""Generating an item or scoring all: semantic ids beside SASRec on Amazon Beauty.

    python benchmarks/generation_study.py simple codes sasrec ids+rows judge

The data are those of the BERT4Rec paper: 40,226 users, 54,542 items, a line is a user
and an item, in the order of time (``URLM_DATA/amazon-beauty/beauty.txt``). The last
item of a user tests, the one before it says when to stop, the rest trains; all items
are ranked, and what a user has had is taken out. This is the protocol of
arXiv:2309.07602, whose SASRec with cross-entropy reaches HR@10 .0533, NDCG@10 .0327.

*codes* makes semantic ids of the training baskets alone, as the data have no texts:
vectors of items by what stands beside them, residual k-means, a last digit for those
that share all others. *sasrec* is the model of the paper, with two differences: in
the softmax `NEGATIVES` items that were drawn stand for all others, each weighted by
one over how often it is to be expected (against all items an epoch takes several
times as long); and its rows start from the vectors of the ids, unless ``--start
random`` is asked for. *ids+rows* is a decoder over the ids, with a row for each item
beside them at its input, which starts from the same vectors, so that it has as many
parameters and knows as much at the start. *ids* knows an item by its id alone;
*random* is *ids* with the ids dealt out at random. *simple* is item-to-item, and
popularity comes with it.

Each part leaves its files in ``--folder``; training goes on from its last epoch, with
fresh moments. *judge* takes the run of each model whose best epoch is best on
validation, and writes the results. Those of page 9.4b, all with seed 0::

    sasrec --dropout 0.1      7 epochs, the 5th the best
    sasrec --dropout 0.4      9 epochs, the 8th the best
    ids+rows                  7 epochs, each validated on 1,000 users, the 6th the best
    ids+rows --step 3e-3      7 epochs, the last the best: it was still getting better

In the first of them the query, key and value of SASRec started from the normal
distribution of its other layers, and batches were cut to six lengths; in the first
and third oneDNN was off. All were ended by hand.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

LENGTH, DIM, BATCH, TOP, PATIENCE = 50, 64, 128, 10, 3
BUCKETS = (4, 8, 20, 50)
NEGATIVES, VALID = 2_048, 2_500
LEVELS, SIZE, START = 3, 256, 0.5
WIDTH, WIDTHS, FEW = 30, (10, 30), 300
FADES, DAMPS = (0.2, 0.35, 0.5, 0.7), (-0.25, -0.125, 0.0, 0.125)


class Log:
    """What each user had, in the order of time; items are 1, 2, …, and 0 is none."""

    def __init__(self, user: np.ndarray, item: np.ndarray) -> None:
        self.item, self.items = item, int(item.max())
        self.start = np.flatnonzero(np.diff(user, prepend=-1))
        self.end = np.append(self.start[1:], len(user))
        self.users = len(self.start)

    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Return users and items without the last two of each user."""
        keep = np.ones(len(self.item), bool)
        keep[self.end - 1] = keep[self.end - 2] = False
        user = np.repeat(np.arange(self.users), self.end - self.start)
        return user[keep], self.item[keep]

    def histories(self, users: np.ndarray, hold: int, length: int) -> np.ndarray:
        """Return the last items of users before their last ``hold``, 0 on the left."""
        at = (self.end[users] - hold)[:, None] - length + np.arange(length)
        return np.where(at < self.start[users, None], 0, self.item[np.maximum(at, 0)])

    def truth(self, users: np.ndarray, hold: int) -> np.ndarray:
        """Return the item that follows."""
        return self.item[self.end[users] - hold]

    def had(self, users: np.ndarray, hold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return row and item of all that users had before their last ``hold``."""
        n = self.end[users] - hold - self.start[users]
        row = np.repeat(np.arange(len(users)), n)
        inner = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        return row, self.item[self.start[users][row] + inner]


def beauty() -> Log:
    """Return the log."""
    root = Path(os.environ["URLM_DATA"])
    user, item = np.loadtxt(root / "amazon-beauty" / "beauty.txt", dtype=int).T
    return Log(user, item)


def places(top: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return at which place of its list a truth stands, 0 the first, -1 nowhere."""
    hit = top == truth[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)


def gains(place: np.ndarray, k: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Return hit and NDCG of each user at ``k``: one truth each."""
    hit = (place >= 0) & (place < k)
    return hit * 1.0, np.where(hit, 1 / np.log2(np.maximum(place, 0) + 2.0), 0.0)


def batches(
    log: Log, rng: np.random.Generator, hold: int = 2
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of an epoch: items, and those that follow (0: no one)."""
    order = rng.permutation(log.users)
    size = np.minimum(log.end - log.start - hold - 1, LENGTH)
    made = []
    for start in range(0, log.users, 16 * BATCH):  # users of like length stand together
        pool = order[start : start + 16 * BATCH]
        pool = pool[np.argsort(size[pool], kind="stable")]
        made += [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
    for i in rng.permutation(len(made)):
        users = made[i]
        length = next(b for b in BUCKETS if b >= size[users].max())
        whole = log.histories(users, hold, length + 1)
        full = np.zeros((BATCH, length + 1), int)
        full[: len(users)] = whole
        past, then = full[:, :-1], full[:, 1:]
        yield past, np.where(past > 0, then, 0)


# SASRec
def sasrec(items: int, dropout: float = 0.1) -> Any:
    """Return the model of arXiv:2309.07602: two blocks of one head, 64 units."""
    import keras
    from keras import layers, ops

    start = keras.initializers.RandomNormal(stddev=0.02)

    class SASRec(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            new = dict(embeddings_initializer=start)
            self.rows = layers.Embedding(items + 1, DIM, **new)
            self.place = layers.Embedding(LENGTH, DIM, **new)
            self.drop = [layers.Dropout(dropout) for _ in range(7)]
            self.norms = [layers.LayerNormalization(epsilon=1e-8) for _ in range(5)]
            reach = (6 / 256) ** 0.5
            wide = keras.initializers.RandomUniform(-reach, reach)
            self.q, self.k, self.v = (
                [layers.Dense(DIM, kernel_initializer=wide) for _ in range(2)]
                for _ in range(3)
            )
            self.o, self.up, self.down = (
                [layers.Dense(DIM, kernel_initializer=start) for _ in range(2)]
                for _ in range(3)
            )

        def call(self, past: Any, training: bool = False) -> Any:
            real = ops.cast(past > 0, "float32")
            place = ops.cast(ops.maximum(ops.cumsum(real, 1) - 1, 0), "int32")
            x = self.rows(past) * DIM**0.5 + self.place(place)
            x = self.drop[0](x, training=training) * real[..., None]
            length = past.shape[1]
            hidden = (1 - np.tri(length)[None] * real[:, None]) * -1e9
            for b in range(2):
                q_in = self.norms[2 * b](x)
                q, k, v = self.q[b](q_in), self.k[b](x), self.v[b](x)
                logit = ops.matmul(q, ops.swapaxes(k, 1, 2)) / DIM**0.5 + hidden
                w = self.drop[1 + b](ops.softmax(logit), training=training)
                x = self.norms[2 * b + 1](q_in + self.o[b](ops.matmul(w, v)))
                h = self.drop[3 + b](self.up[b](x), training=training)
                h = self.drop[5 + b](self.down[b](ops.relu(h)), training=training)
                x = (x + h) * real[..., None]
            return self.norms[4](x)

    model = SASRec()
    model(np.zeros((1, 4), int))
    return model


class Adam:
    """Adam with a constant step that touches the rows with a gradient alone."""

    def __init__(self, weights: list[Any], step: float) -> None:
        import tensorflow as tf

        self.tf, self.step, self.weights = tf, step, [w.value for w in weights]
        self.m, self.v = (
            [tf.Variable(tf.zeros(w.shape)) for w in weights] for _ in range(2)
        )
        self.t = tf.Variable(0.0)

    def apply(self, grads: list[Any]) -> None:
        """Take a step."""
        tf = self.tf
        self.t.assign_add(1.0)
        rate = self.step * tf.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        for w, m, v, g in zip(self.weights, self.m, self.v, grads, strict=True):
            if isinstance(g, tf.IndexedSlices):
                at, which = tf.unique(tf.reshape(g.indices, [-1]))
                g = tf.math.unsorted_segment_sum(g.values, which, tf.size(at))
                new_m = 0.9 * tf.gather(m, at) + 0.1 * g
                new_v = 0.999 * tf.gather(v, at) + 0.001 * g * g
                m.scatter_update(tf.IndexedSlices(new_m, at))
                v.scatter_update(tf.IndexedSlices(new_v, at))
                move = rate * new_m / (tf.sqrt(new_v) + 1e-7)
                w.scatter_sub(tf.IndexedSlices(move, at))
            else:
                m.assign(0.9 * m + 0.1 * g)
                v.assign(0.999 * v + 0.001 * g * g)
                w.assign_sub(rate * m / (tf.sqrt(v) + 1e-7))


def against(
    h: Any, table: Any, target: Any, drawn: Any, offset: Any, part: int = 512
) -> tuple[Any, ...]:
    """Return a cross-entropy and its gradients: by states, targets' rows, and others'.

    The others are all items, or those ``drawn``, each worth ``exp(-offset)``. A
    ``part`` of the states goes at a time, so that no table of all scores is ever held.
    """
    import tensorflow as tf

    rows = table if drawn is None else tf.gather(table, drawn)
    below = tf.zeros_like(rows[:, 0]) if drawn is None else offset
    row = tf.gather(table, target)
    own = tf.reduce_sum(h * row, 1, keepdims=True)
    # a score is taken as what it is above the target's, so that none overflows
    tall = tf.concat([h, -own, -tf.ones_like(own)], 1)
    wide = tf.concat([rows, tf.ones_like(rows[:, :1]), below[:, None]], 1)
    rows = wide[:, : DIM + 1]
    alone = 0.0 if drawn is None else 1.0  # is the target among the others?
    n = tf.shape(h)[0]
    push = tf.zeros_like(rows[:, :DIM])
    shape = (None, DIM + 1)
    sums = tf.TensorArray(tf.float32, 0, True, infer_shape=False, element_shape=shape)
    for i in tf.range(0, n, part):
        weight = tf.exp(tf.matmul(tall[i : i + part], wide, transpose_b=True))
        if drawn is not None:
            other = tf.not_equal(drawn[None], target[i : i + part, None])
            weight *= tf.cast(other, tf.float32)
        some = tf.matmul(weight, rows)  # the last column: the sum of the weights
        sums = sums.write(i // part, some)
        scaled = h[i : i + part] / (some[:, DIM:] + alone)
        push += tf.matmul(weight, scaled, transpose_a=True)
    pull, total = tf.split(sums.concat(), [DIM, 1], 1)
    total, count = total + alone, tf.cast(n, tf.float32)
    short = (1 - alone / total) / count
    loss = tf.reduce_mean(tf.math.log(total))
    return loss, pull / total / count - row * short, -h * short, push / count


def sasrec_step(model: Any, adam: Adam) -> Callable[..., Any]:
    """Return a step of training, against the items that are drawn, or against all."""
    import tensorflow as tf

    weights = [w.value for w in model.trainable_variables]
    table = model.rows.embeddings.value
    at = next(i for i, w in enumerate(weights) if w is table)

    @tf.function(reduce_retracing=False)
    def step(past: Any, then: Any, drawn: Any = None, offset: Any = None) -> Any:
        with tf.GradientTape() as tape:
            h = tf.boolean_mask(model(past, training=True), then > 0)
        target = tf.boolean_mask(then, then > 0)
        loss, by_h, by_target, by_other = against(h, table, target, drawn, offset)
        grads = tape.gradient(h, weights, output_gradients=by_h)
        read = grads[at]
        if drawn is None:
            values = tf.concat([by_target, read.values], 0)
            where = tf.concat([target, read.indices], 0)
            grads[at] = tf.tensor_scatter_nd_add(by_other, where[:, None], values)
        else:
            values = tf.concat([by_target, read.values, by_other], 0)
            where = tf.concat([target, read.indices, drawn], 0)
            grads[at] = tf.IndexedSlices(values, where)
        adam.apply(grads)
        return loss

    return step


def sasrec_lists(
    model: Any, log: Log, users: np.ndarray, hold: int, k: int = 50
) -> np.ndarray:
    """Return the best ``k`` of all items."""
    import tensorflow as tf

    table = model.rows.embeddings.value

    @tf.function(reduce_retracing=True)
    def rank(h: Any, at: Any) -> Any:
        logits = tf.matmul(h, table, transpose_b=True)
        logits = tf.tensor_scatter_nd_update(logits, at, tf.fill([len(at)], -np.inf))
        return tf.math.top_k(logits, k).indices

    best = []
    for part in np.array_split(users, max(1, len(users) // 500)):
        h = model(log.histories(part, hold, LENGTH))[:, -1]
        row, item = log.had(part, hold)
        row = np.concatenate([row, np.arange(len(part))])
        at = np.stack([row, np.concatenate([item, 0 * part])], 1)
        best.append(np.asarray(rank(h, at)))
    return np.concatenate(best)


def valid_users(log: Log) -> np.ndarray:
    """Return the users whose last item but one says when to stop."""
    return np.random.default_rng(7).permutation(log.users)[:VALID]


def fit(
    name: str,
    folder: Path,
    model: Any,
    epoch: Callable[[int], tuple[float, str]],
    judge: Callable[[], float],
    most: int,
) -> None:
    """Train until validation has not gained for `PATIENCE` epochs; keep the best."""
    log = folder / f"{name}.csv"
    last, best = folder / f"{name}-last.weights.h5", folder / f"{name}.weights.h5"
    past = (
        [line.split(",") for line in log.read_text().splitlines()]
        if log.exists()
        else []
    )
    if past:
        model.load_weights(last)
    seen = [float(line[3]) for line in past]
    for e in range(len(seen), most):
        start = time.process_time()
        loss, how = epoch(e)
        seen.append(judge())
        spent = time.process_time() - start
        model.save_weights(last)
        if seen[-1] == max(seen):
            model.save_weights(best)
        with log.open("a") as file:
            file.write(f"{e},{how},{loss:.5f},{seen[-1]:.6f},{spent:.1f}\n")
        print(name, e, how, f"{loss:.4f} {seen[-1]:.5f} {spent:.0f}s", flush=True)
        if e - int(np.argmax(seen)) >= PATIENCE:
            break
    model.load_weights(best)


def run_name(which: str, start: str, dropout: float, rate: float, seed: int) -> str:
    """Return what the files of a run are called."""
    return f"{which} start={start} dropout={dropout:g} step={rate:g} seed={seed}"


def train_sasrec(
    log: Log,
    folder: Path,
    start: str,
    seed: int,
    most: int,
    dropout: float,
    rate: float,
) -> Any:
    """Train it, with `NEGATIVES` drawn for each batch in place of all items."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    model = sasrec(log.items, dropout)
    if start == "ids":  # the ids' vectors are the start of its rows
        saved, rows = np.load(folder / "codes.npz"), np.array(model.rows.embeddings)
        rows[saved["known"]] = START * saved["vector"]
        model.rows.embeddings.assign(rows)
    step = sasrec_step(model, Adam(model.trainable_variables, rate))
    valid = valid_users(log)
    often = np.bincount(log.train()[1], minlength=log.items + 1)
    chance = 0.5 * often / often.sum() + 0.5 / log.items
    chance[0] = 0
    chance = chance / chance.sum()

    def epoch(e: int) -> tuple[float, str]:
        rng, losses = np.random.default_rng([seed, e]), []
        for past, then in batches(log, rng):
            drawn = rng.choice(log.items + 1, NEGATIVES, p=chance)
            offset = np.log(NEGATIVES * chance[drawn]).astype("float32")
            losses.append(float(step(*map(tf.constant, (past, then, drawn, offset)))))
        return float(np.mean(losses)), "drawn"

    def judge() -> float:
        best = sasrec_lists(model, log, valid, 2, TOP)
        return float(gains(places(best, log.truth(valid, 2)))[1].mean())

    name = run_name("sasrec", start, dropout, rate, seed)
    fit(name, folder, model, epoch, judge, most)
    return model


# The simple rivals
def beside(user: np.ndarray, item: np.ndarray, items: int, reach: int = 10) -> Any:
    """Return how often two items stand near each other: 1 / steps between them."""
    total = sparse.csr_array((items + 1, items + 1))
    for far in range(1, reach + 1):
        same = user[far:] == user[:-far]
        pair = item[:-far][same], item[far:][same]
        total = total + sparse.coo_array(
            (np.full(same.sum(), 1 / far), pair), shape=total.shape
        )
    return (total + total.T).tocsr()


def item_to_item(
    log: Log, near: Any, users: np.ndarray, hold: int, fade: float, damp: float
) -> np.ndarray:
    """Return the best 50 by what stands beside a user's items, the newest for most."""
    mass = np.maximum(near.sum(axis=0), 1e-9)
    links = near.multiply(1 / np.sqrt(mass)[:, None]).multiply(mass**-damp).tocsr()
    past = log.histories(users, hold, LENGTH)
    row, at = np.nonzero(past)
    weight = fade ** (LENGTH - 1 - at)
    shape = len(users), log.items + 1
    score = (sparse.csr_array((weight, (row, past[row, at])), shape) @ links).tocsr()
    often = np.bincount(log.train()[1], minlength=log.items + 1)
    common = np.argsort(-often, kind="stable")[:400]
    row, item = log.had(users, hold)
    had = np.split(item, np.searchsorted(row, np.arange(1, len(users))))
    best = np.zeros((len(users), 50), int)
    for u in range(len(users)):
        part = slice(score.indptr[u], score.indptr[u + 1])
        by_score = score.indices[part][np.argsort(-score.data[part], kind="stable")]
        by_score = np.concatenate([by_score[: 50 + len(had[u])], common])
        fresh = by_score[~np.isin(by_score, [0, *had[u]])]
        fresh = fresh[np.sort(np.unique(fresh, return_index=True)[1])[:50]]
        best[u, : len(fresh)] = fresh
    return best


def simple(log: Log, folder: Path) -> None:
    """Try the two numbers of item-to-item on validation."""
    valid = valid_users(log)
    near, tried = beside(*log.train(), log.items), []
    for fade, damp in itertools.product(FADES, DAMPS):
        best = item_to_item(log, near, valid, 2, fade, damp)
        ndcg = gains(places(best, log.truth(valid, 2)))[1].mean()
        tried.append((fade, damp, ndcg))
        print(fade, damp, f"{ndcg:.5f}", flush=True)
    np.savetxt(folder / "simple.csv", tried)


# Semantic ids
def residual_codes(
    vectors: np.ndarray, levels: int, size: int, rounds: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray], list[float]]:
    """Quantize what each level before has left over, by k-means.

    Returns the digits (rows, levels), the centers of each level, and the mean squared
    norm of what is left after none, one, two, … levels.
    """
    rng = np.random.default_rng(seed)
    rest, digits, centers = vectors.copy(), [], []
    left = [float((rest**2).sum(axis=1).mean())]
    for _ in range(levels):
        center = rest[rng.choice(len(rest), size, replace=False)]
        for _ in range(rounds):
            near = nearest(rest, center)
            count = np.bincount(near, minlength=size)
            total = sparse.csr_array(
                (np.ones(len(rest), rest.dtype), (near, np.arange(len(rest)))),
                shape=(size, len(rest)),
            )
            mean = (total @ rest) / np.maximum(count, 1)[:, None]
            far = rng.choice(len(rest), size, replace=False)  # for a center without any
            center = np.where(count[:, None] > 0, mean, rest[far])
        near = nearest(rest, center)
        rest = rest - center[near]
        digits.append(near)
        centers.append(center)
        left.append(float((rest**2).sum(axis=1).mean()))
    return np.stack(digits, 1), centers, left


def nearest(rows: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the center nearest to each row."""
    half = (center**2).sum(axis=1) / 2
    parts = np.array_split(rows, max(1, len(rows) // 4_096))
    return np.concatenate([(half - part @ center.T).argmin(axis=1) for part in parts])


def tell_apart(digits: np.ndarray) -> np.ndarray:
    """Add a last digit: 0, 1, 2, … among the rows that share all others."""
    _, group = np.unique(digits, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    sizes = np.bincount(group.ravel())
    last = np.empty(len(digits), int)
    last[order] = np.arange(len(digits)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.column_stack([digits, last])


def trie(codes: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Return a table for each level: prefix and digit to the next prefix, -1 for none.

    After the last level the prefix is the row of ``codes``.
    """
    tables, prefix = [], np.zeros(len(codes), int)
    for level, size in enumerate(sizes):
        key = prefix * size + codes[:, level]
        unique, after = np.unique(key, return_inverse=True)
        if level == len(sizes) - 1:
            if len(unique) < len(codes):
                raise ValueError("two rows have one id")
            after = np.arange(len(codes))
        table = np.full((prefix.max() + 1, size), -1, np.int32)
        table[prefix, codes[:, level]] = after
        tables.append(table)
        prefix = after
    return tables


def beam_search(
    chances: Callable[[np.ndarray], np.ndarray],
    tables: list[np.ndarray],
    rows: int,
    width: int,
    constrained: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest ids and the log of their chances, best first.

    ``chances`` maps the digits so far, (rows, beams, level), to the logs of the chance
    of each next digit, (rows, beams, size). Where a beam is no id (without the trie,
    or where there are fewer ids than beams), the id is -1.
    """
    digits = np.zeros((rows, 1, 0), int)
    logp, prefix = np.zeros((rows, 1), np.float32), np.zeros((rows, 1), int)
    for table in tables:
        after = np.where(prefix[..., None] >= 0, table[prefix], -1)
        total = logp[..., None] + chances(digits)
        if constrained:
            total = np.where(after >= 0, total, -np.inf)
        size = total.shape[2]
        total = total.reshape(rows, -1)
        keep = min(width, total.shape[1])
        at = np.argpartition(-total, keep - 1, axis=1)[:, :keep]
        logp = np.take_along_axis(total, at, 1)
        prefix = np.take_along_axis(after.reshape(rows, -1), at, 1)
        before = np.take_along_axis(digits, (at // size)[..., None], 1)
        digits = np.concatenate([before, (at % size)[..., None]], 2)
    order = np.argsort(-logp, axis=1, kind="stable")
    logp = np.take_along_axis(logp, order, 1)
    found = np.take_along_axis(prefix, order, 1)
    return np.where(np.isfinite(logp), found, -1), logp


def item_vectors(log: Log, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the items of the training baskets, and a vector of length 1 of each.

    By the singular vectors of what stands beside what, as the positive part of the
    log of how much oftener than by chance.
    """
    from sklearn.utils.extmath import randomized_svd

    near = beside(*log.train(), log.items).tocoo()
    mass = near.sum(axis=0)
    soft = mass**0.75
    expected = mass[near.row] * soft[near.col] / soft.sum()
    gain = np.maximum(np.log(near.data / expected), 0)
    table = sparse.csr_array((gain, (near.row, near.col)), shape=near.shape)
    left, strength, _ = randomized_svd(table, dim, n_iter=4, random_state=0)
    vector = (left * np.sqrt(strength)).astype(np.float32)
    known = np.unique(log.train()[1])
    vector = vector[known]
    return known, vector / np.maximum(np.linalg.norm(vector, axis=1), 1e-9)[:, None]


def make_codes(log: Log, folder: Path) -> None:
    """Make the ids of all items that were seen in training; the others have none."""
    known, vector = item_vectors(log, DIM)
    often = np.bincount(log.train()[1], minlength=log.items + 1)[known]
    order = np.argsort(-often, kind="stable")  # the commonest of a group is its 0
    known, vector = known[order], vector[order]
    digits, _, left = residual_codes(vector, LEVELS, SIZE, 15, 0)
    codes = tell_apart(digits)
    shuffled = np.random.default_rng(1).permutation(codes)
    saved = dict(known=known, vector=vector, codes=codes, left=left, random=shuffled)
    np.savez(folder / "codes.npz", **saved)


# The generator
def generator(codes: np.ndarray, sizes: list[int], rows: bool, dropout: float) -> Any:
    """Return a decoder over ids: HSTU over a person's items, then over the digits.

    ``codes`` (items + 1, levels) holds the digits of each item, -1 for one without an
    id. An item's token is the sum of its digits' vectors, and with ``rows`` of a
    vector of its own. A digit is said from the state of the newest item plus the
    vectors of the digits before it, through one gated layer of each level.
    """
    import keras
    from keras import layers, ops

    from urlm_helpers.features import HSTU

    start = np.cumsum([0, *sizes[:-1]])
    place = np.where(codes < 0, sum(sizes), codes + start).astype("int32")
    draw = dict(embeddings_initializer=keras.initializers.RandomNormal(stddev=0.05))

    class Generator(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.digit = layers.Embedding(sum(sizes) + 1, DIM, **draw)
            self.row = layers.Embedding(len(codes), DIM, **draw) if rows else None
            self.reader = HSTU(2)
            self.reader.build((None, LENGTH, DIM))
            self.norm = [layers.LayerNormalization() for _ in range(3)]
            self.drop = [layers.Dropout(dropout) for _ in range(2)]
            self.gate = [layers.Dense(2 * DIM, activation="silu") for _ in sizes]
            self.value = [layers.Dense(2 * DIM) for _ in sizes]
            self.out = [layers.Dense(DIM) for _ in sizes]
            self.say = [layers.Dense(size) for size in sizes]

        def read(self, past: Any, training: bool = False) -> Any:
            """Return the state after each item, (batch, length, dim)."""
            x = ops.sum(self.digit(ops.take(place, past, axis=0)), 2)
            if self.row is not None:
                x = x + self.row(past)
            real = ops.cast(past > 0, "float32")
            x = self.drop[0](self.norm[0](x), training=training)
            x = self.reader.states(x, real, None, ops.zeros_like(real))
            return self.drop[1](self.norm[1](x), training=training)

        def spell(self, state: Any, digits: Any) -> list[Any]:
            """Return the logits of each digit, given the state and those before it."""
            given, logits = state, []
            for j in range(digits.shape[1] + 1):
                if j:
                    given = given + self.digit(digits[:, j - 1] + int(start[j - 1]))
                x = self.norm[2](given)
                x = given + self.out[j](self.gate[j](x) * self.value[j](x))
                logits.append(self.say[j](x))
            return logits

        def call(self, past: Any) -> Any:
            state = self.read(past)[:, -1]
            zero = ops.zeros((len(past), len(sizes) - 1), "int32")
            return self.spell(state, zero)

    model = Generator()
    model(np.ones((1, 4), "int32"))
    return model


def spelled(log: Log, folder: Path, which: str) -> tuple[np.ndarray, list[int], Any]:
    """Return the digits of all items (-1: no id), the levels' sizes, and the trie."""
    saved = np.load(folder / "codes.npz")
    codes = saved["random" if which == "random" else "codes"]
    whole = np.full((log.items + 1, codes.shape[1]), -1)
    whole[saved["known"]] = codes
    sizes = [*[SIZE] * LEVELS, int(codes[:, -1].max()) + 1]
    tables = trie(codes, sizes)
    tables[-1] = np.where(tables[-1] >= 0, saved["known"][tables[-1]], -1)
    return whole, sizes, tables


@functools.cache
def traced(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what says the chances of the next digits, and what reads the past."""
    import tensorflow as tf

    @tf.function(reduce_retracing=False)
    def say(state: Any, digits: Any) -> Any:
        beams, level = digits.shape[1:]
        flat = tf.reshape(digits, (-1, level))
        logits = model.spell(tf.repeat(state, beams, axis=0), flat)[-1]
        return tf.nn.log_softmax(tf.reshape(logits, (len(state), beams, -1)))

    @tf.function(reduce_retracing=True)
    def read(past: Any) -> Any:
        return model.read(past)[:, -1]

    return say, read


def generate(
    model: Any,
    log: Log,
    users: np.ndarray,
    hold: int,
    tables: list[np.ndarray],
    width: int,
    constrained: bool = True,
) -> np.ndarray:
    """Return the items of the beams, best first; -1 for what is no item."""
    import tensorflow as tf

    say, read = traced(model)
    found = []
    for part in np.array_split(users, max(1, len(users) // 250)):
        size = np.resize(part, max(250, len(part)))
        state = read(tf.constant(log.histories(size, hold, LENGTH)))
        best, _ = beam_search(
            lambda d, s=state: say(s, tf.constant(d.astype("int32"))).numpy(),
            tables,
            len(size),
            width,
            constrained,
        )
        found.append(best[: len(part)])
    return np.concatenate(found)


def without_had(best: np.ndarray, log: Log, users: np.ndarray, hold: int) -> np.ndarray:
    """Return lists from which is taken what a user has had, -1 at their ends."""
    row, item = log.had(users, hold)
    had = np.unique(row * (log.items + 1) + item)
    key = np.arange(len(users))[:, None] * (log.items + 1) + best
    gone = np.isin(key, had) | (best < 0)
    order = np.argsort(gone, axis=1, kind="stable")
    return np.take_along_axis(np.where(gone, -1, best), order, 1)


def train_generator(
    log: Log,
    folder: Path,
    which: str,
    seed: int,
    most: int,
    dropout: float,
    rate: float,
) -> Any:
    """Train one: the loss of an item is the sum of its digits' cross-entropies."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    codes, sizes, tables = spelled(log, folder, which)
    model = generator(codes, sizes, which == "ids+rows", dropout)
    if model.row is not None:  # as SASRec's rows
        saved, rows = np.load(folder / "codes.npz"), np.array(model.row.embeddings)
        rows[saved["known"]] = START * saved["vector"]
        model.row.embeddings.assign(rows)
    adam = Adam(model.trainable_variables, rate)
    digits_of = tf.constant(np.maximum(codes, 0).astype("int32"))

    @tf.function(reduce_retracing=False)
    def step(past: Any, then: Any) -> Any:
        with tf.GradientTape() as tape:
            state = tf.boolean_mask(model.read(past, training=True), then > 0)
            digits = tf.gather(digits_of, tf.boolean_mask(then, then > 0))
            loss = 0.0
            for j, logits in enumerate(model.spell(state, digits[:, :-1])):
                loss += tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(digits[:, j], logits)
                )
        adam.apply(tape.gradient(loss, [w.value for w in model.trainable_variables]))
        return loss

    def epoch(e: int) -> tuple[float, str]:
        rng = np.random.default_rng([seed, e])
        losses = [float(step(*map(tf.constant, pair))) for pair in batches(log, rng)]
        return float(np.mean(losses)), f"step {rate}"

    valid = valid_users(log)

    def judge() -> float:
        best = without_had(generate(model, log, valid, 2, tables, 20), log, valid, 2)
        return float(gains(places(best, log.truth(valid, 2)))[1].mean())

    name = run_name(which, "ids", dropout, rate, seed)
    fit(name, folder, model, epoch, judge, most)
    return model


# The judge
METHOD = ["method", "seed", "users", "parameters", "epochs", "seconds"]
METHOD += [f"{m}{end}" for m in ("hr", "ndcg") for end in ("", "_low", "_high")]
METHOD += ["over", "difference", "diff_low", "diff_high"]
SLICE = ["method", "low_count", "high_count", "users", "hr", "low", "high"]
RUN = ["method", "start", "dropout", "step", "seed"]
CURVE = [*RUN, "epoch", "loss", "valid_ndcg", "seconds"]
NEAR = ["fade", "damp", "valid_ndcg"]
BEAM = ["width", "trie", "users", "hr", "invalid"]
CODE = ["level", "left", "distinct", "alone", "items", "largest"]
COUNTS = [(0, 0), (1, 4), (5, 9), (10, 19), (20, 10**6)]


def curves(folder: Path, which: str) -> dict[str, list[dict[str, Any]]]:
    """Return the epochs of each run of a model, by the name of its files."""
    known = {}
    for path in sorted(folder.glob(f"{which} *.csv")):
        _, *settings = path.stem.split(" ")
        run = dict(s.split("=") for s in settings) | {"method": which}
        known[path.stem] = [
            run | dict(zip(CURVE[len(RUN) :], [e, loss, v, spent], strict=True))
            for e, _, loss, v, spent in map(
                lambda line: line.split(","), path.read_text().splitlines()
            )
        ]
    return known


def best_run(folder: Path, which: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the run that has the best epoch by validation, and its epochs."""

    def peak(epochs: list[dict[str, Any]]) -> float:
        return max(float(line["valid_ndcg"]) for line in epochs)

    return max(curves(folder, which).items(), key=lambda run: peak(run[1]))


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return a mean over users and its interval of 95 %."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def describe(codes: np.ndarray, left: np.ndarray) -> list[dict[str, Any]]:
    """Return what each level leaves over, and how many items it tells apart."""
    lines = []
    for level in range(codes.shape[1] + 1):
        _, count = np.unique(codes[:, :level], axis=0, return_counts=True)
        line = {"level": level, "distinct": len(count), "items": len(codes)}
        line |= {"alone": float((count == 1).sum() / len(codes))}
        line |= {"left": float(left[level])} if level < len(left) else {}
        lines.append(line | {"largest": int(count.max())})
    return lines


def test_users(log: Log, users: int) -> np.ndarray:
    """Return the users whose last item tests."""
    return np.sort(np.random.default_rng(8).permutation(log.users)[:users])


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return lists that were made before, or make them."""
    if not path.exists():
        np.save(path, make())
        print(path.name, flush=True)
    return np.load(path)


def trained(log: Log, folder: Path, which: str) -> tuple[Any, list[np.ndarray]]:
    """Return a model as it was on the best epoch of its best run, and its trie."""
    name, _ = best_run(folder, which)
    if which == "sasrec":
        model, tables = sasrec(log.items), []
    else:
        codes, sizes, tables = spelled(log, folder, which)
        model = generator(codes, sizes, which == "ids+rows", 0.2)
    model.load_weights(folder / f"{name}.weights.h5")
    return model, tables


def found(log: Log, folder: Path, users: np.ndarray) -> dict[str, tuple[Any, int]]:
    """Return the lists of each method that is there, and its parameters."""
    near, known = beside(*log.train(), log.items), {}
    tried = np.loadtxt(folder / "simple.csv")
    fade, damp, _ = tried[tried[:, 2].argmax()]
    for name, table in (("popularity", 0 * near), ("item-to-item", near)):
        top = kept(
            folder / f"{name}-{len(users)}.npy",
            lambda t=table: item_to_item(log, t, users, 1, fade, damp),
        )
        known[name] = top, 0
    for which in ("sasrec", "ids+rows", "ids", "random"):
        if not curves(folder, which):
            continue
        model, tables = trained(log, folder, which)
        path = folder / f"{which}-{len(users)}.npy"
        if which == "sasrec":
            top = kept(path, lambda m=model: sasrec_lists(m, log, users, 1))
        else:
            top = kept(
                path, lambda m=model, t=tables: generate(m, log, users, 1, t, WIDTH)
            )
            top = without_had(top, log, users, 1)
        known[which] = top, model.count_params()
    return known


def judge(log: Log, folder: Path, users: int) -> None:
    """Write the results."""
    from results import RESULTS, Result

    asked = test_users(log, users)
    truth = log.truth(asked, 1)
    often = np.bincount(log.train()[1], minlength=log.items + 1)[truth]
    known = found(log, folder, asked)
    for path in RESULTS.glob("generation*.csv"):
        path.unlink()
    rival = gains(places(known["sasrec"][0], truth))[0]
    methods, slices = Result("generation.csv", METHOD, 6), []
    for which, (top, size) in known.items():
        name = "SASRec" if which == "sasrec" else which
        hit, ndcg = gains(places(top, truth))
        line = dict(method=name, seed=0, users=len(asked), parameters=size)
        for key, values in (("hr", hit), ("ndcg", ndcg)):
            ends = mean_interval(values)
            line |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
        if which != "sasrec":
            ends = mean_interval(hit - rival)
            keys = "difference", "diff_low", "diff_high"
            line |= {"over": "SASRec"} | dict(zip(keys, ends, strict=True))
        if size:
            _, run = best_run(folder, which)
            peak = np.argmax([float(epoch["valid_ndcg"]) for epoch in run])
            line |= {"epochs": 1 + int(peak)}
            line |= {"seconds": round(sum(float(e["seconds"]) for e in run))}
            for epochs in curves(folder, which).values():
                Result("generation-curves.csv", CURVE).keep(
                    *(epoch | {"method": name} for epoch in epochs)
                )
        methods.keep(line)
        for low, high in COUNTS:
            some = hit[(often >= low) & (often <= high)]
            ends = mean_interval(some)
            slices.append(
                dict(zip(SLICE, (name, low, high, len(some), *ends), strict=True))
            )
    Result("generation-slices.csv", SLICE, 6).keep(*slices)
    Result("generation-neighbors.csv", NEAR, 6).keep(
        *(dict(zip(NEAR, t, strict=True)) for t in np.loadtxt(folder / "simple.csv"))
    )
    saved = np.load(folder / "codes.npz")
    Result("generation-codes.csv", CODE, 6).keep(
        *describe(saved["codes"], saved["left"])
    )
    few = np.arange(len(asked))[:: max(1, len(asked) // FEW)]
    model, tables = trained(log, folder, "ids+rows")
    for width in WIDTHS:
        for with_trie in (True, False):
            top = generate(model, log, asked[few], 1, tables, width, with_trie)
            invalid = float((top < 0).mean())
            top = without_had(top, log, asked[few], 1)
            hr = float(gains(places(top, truth[few]))[0].mean())
            line = (width, int(with_trie), len(few), hr, invalid)
            Result("generation-beams.csv", BEAM, 6).keep(
                dict(zip(BEAM, line, strict=True))
            )


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["simple", "sasrec", "codes", "ids+rows", "ids", "random", "judge"]
    parser.add_argument("part", nargs="+", choices=parts)
    parser.add_argument("--folder", type=Path, default=Path("generation"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--step", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--start", choices=["random", "ids"], default="ids")
    parser.add_argument("--users", type=int, default=10_000, help="who test")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    log = beauty()
    for part in given.part:
        if part == "simple":
            simple(log, given.folder)
        elif part == "codes":
            make_codes(log, given.folder)
        elif part == "sasrec":
            train_sasrec(
                log,
                given.folder,
                given.start,
                given.seed,
                given.epochs,
                given.dropout,
                given.step,
            )
        elif part == "judge":
            judge(log, given.folder, given.users)
        else:
            train_generator(
                log,
                given.folder,
                part,
                given.seed,
                given.epochs,
                given.dropout,
                given.step,
            )


if __name__ == "__main__":
    main()
