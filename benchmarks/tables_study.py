"""Large tables: Adam against its row-wise form, and smaller tables of equal bytes.

    python benchmarks/tables_study.py

The log of `benchmarks/training_speed.py`, 500,000 rows of it, with 100,000 users and
25,000 items instead of 10,000 and 5,000. A model with a row for each value, trained by
Adam and by the row-wise form, is held against four ways to a tenth of the table:
hashing, quotient and remainder, the most frequent values alone, and shorter vectors.
Each gets the same two tries of the table's scale, judged by the loss on validation
rows. What counts is the expected AUC on fresh rows, against the probabilities that the
labels are drawn with.

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from results import Result
from training_speed import BATCH, DIM, SIZES, SMALL, inputs, probabilities

from urlm_helpers.features import CompactEmbedding, FieldEmbedding
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import InputSpec
from urlm_helpers.sharing import MMoE
from urlm_helpers.training import loop as training
from urlm_helpers.world import expected_auc

COLUMNS = ["seed", "table", "rows", "dim", "mebibytes", "scale"]
COLUMNS += ["auc_click", "auc_buy"]
LARGE = (100_000, 25_000, *SMALL)
ROWS, VALID, TEST, PASSES = 500_000, 50_000, 200_000, 2
SEEDS, SCALES = (0, 1, 2, 3), (4.0, 20.0)
BUDGET = sum(LARGE[:2]) // 10
TABLES = ("Adam", "row-wise", "hash", "quotient_remainder", "frequent", "short")


def frequent(fields: np.ndarray, train: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Keep the values that training has most often; all others become value 0."""
    sizes, columns = list(LARGE), [*fields.T]
    counts = [np.bincount(train[:, f], minlength=LARGE[f]) for f in (0, 1)]
    least = np.sort(np.concatenate(counts))[-(BUDGET - 2)]
    for f in (0, 1):
        kept = np.flatnonzero(counts[f] > least)
        number = np.zeros(LARGE[f], "int32")
        number[kept] = 1 + np.arange(len(kept))
        sizes[f], columns[f] = len(kept) + 1, number[fields[:, f]]
    return sizes, np.stack(columns, axis=1)


def trained(
    how: str,
    scale: float,
    sizes: list[int],
    fields: np.ndarray,
    y: np.ndarray,
    seed: int,
) -> tuple[UnifiedRecommender, float]:
    """Train with one kind of table; return the model and its validation loss."""
    dim = 2 if how == "short" else DIM
    keras.utils.set_random_seed(seed)
    table: FieldEmbedding = FieldEmbedding(sizes, dim, scale=scale)
    if how in ("hash", "quotient_remainder"):
        table = CompactEmbedding(sizes, dim, BUDGET, how, above=1_000, scale=scale)
    names = ["user", "item", *(f"field {f}" for f in range(2, len(SIZES)))]
    spec = InputSpec(
        dict(zip(names, sizes, strict=True)), (), (), 0, ("all",), ("click", "buy"), {}
    )
    sharing = MMoE(2, 1, units=(128, 64), experts=4, towers=(32,))
    model = UnifiedRecommender(
        spec, sharing=sharing, dim=dim, bottom=0, embedding=table
    )
    curve = training.fit_batches(
        model,
        training.Batches(inputs(fields), y, np.arange(ROWS), BATCH, seed),
        inputs(fields[ROWS:]),
        y[ROWS:],
        epochs=PASSES,
        patience=PASSES,
        learning_rate=1e-3,
        decay=False,
        row_wise=how == "row-wise",
    )
    return model, float(curve["valid_loss"].min())


def run(how: str, seed: int) -> dict[str, Any]:
    """Train with both scales; return the size and what the better one reaches."""
    fields, p, rng = probabilities(ROWS + VALID, 10 + 2 * seed, LARGE)
    y = (rng.random(p.shape) < p).astype("int8")
    test, truth, _ = probabilities(TEST, 11 + 2 * seed, LARGE)
    sizes = list(LARGE)
    if how == "frequent":
        sizes, test = frequent(test, fields[:ROWS])
        _, fields = frequent(fields, fields[:ROWS])
    best: dict[str, Any] = {}
    for scale in SCALES:
        model, loss = trained(how, scale, sizes, fields, y, seed)
        if not best or loss < best["loss"]:
            logits = model.logits(inputs(test))
            rows, dim = model.embedding.table.embeddings.shape
            best = {"loss": loss, "scale": scale, "rows": rows, "dim": dim}
            best["mebibytes"] = rows * dim * 4 / 2**20
            for i, task in TASKS:
                best[f"auc_{task}"] = expected_auc(logits[:, i], truth[:, i])
    return best


TASKS = ((0, "click"), (1, "buy"))


def main() -> None:
    """Run what is not in the result yet."""
    result = Result("tables.csv", COLUMNS, digits=6)
    done = {(line["table"], int(line["seed"])) for line in result.lines()}
    for seed in SEEDS:
        for how in TABLES:
            if (how, seed) in done:
                continue
            line = {"seed": seed, "table": how, **run(how, seed)}
            result.keep(line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
