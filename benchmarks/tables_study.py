"""Large tables: Adam against its row-wise form, and smaller tables of equal bytes.

    python benchmarks/tables_study.py

The log of `benchmarks/training_speed.py` with 200,000 users and 50,000 items instead of
10,000 and 5,000. A model with a row for each value, trained by Adam and by the row-wise
form, is held against four ways to a tenth of the table: hashing, quotient and
remainder, the most frequent values alone, and shorter vectors. What counts is the
expected AUC on fresh rows, against the probabilities that the labels are drawn with.

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
from training_speed import BATCH, DIM, SCALE, SIZES, SMALL, inputs, probabilities

from urlm_helpers import training
from urlm_helpers.compact_tables import CompactEmbedding
from urlm_helpers.encode import InputSpec
from urlm_helpers.features import FieldEmbedding
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.reference import expected_auc
from urlm_helpers.sharing import MMoE

RESULT = (
    Path(__file__).resolve().parent.parent / "urlm_helpers" / "results" / "tables.csv"
)
COLUMNS = ["seed", "table", "rows", "dim", "mebibytes", "auc_click", "auc_buy"]
LARGE = (200_000, 50_000, *SMALL)
ROWS, TEST, PASSES, SEEDS = 1_000_000, 200_000, 2, (0, 1, 2, 3, 4)
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


def run(how: str, seed: int) -> dict[str, Any]:
    """Train with one kind of table; return its size and what it reaches."""
    fields, p, rng = probabilities(ROWS, 10 + 2 * seed, LARGE)
    y = (rng.random(p.shape) < p).astype("int8")
    test, truth, _ = probabilities(TEST, 11 + 2 * seed, LARGE)
    sizes, dim = list(LARGE), 2 if how == "short" else DIM
    if how == "frequent":
        sizes, test = frequent(test, fields)
        _, fields = frequent(fields, fields)
    keras.utils.set_random_seed(seed)
    table: FieldEmbedding = FieldEmbedding(sizes, dim, scale=SCALE)
    if how in ("hash", "quotient_remainder"):
        table = CompactEmbedding(sizes, dim, BUDGET, how, above=1_000, scale=SCALE)
    names = ["user", "item", *(f"field {f}" for f in range(2, len(SIZES)))]
    spec = InputSpec(
        dict(zip(names, sizes, strict=True)), (), (), 0, ("all",), ("click", "buy"), {}
    )
    sharing = MMoE(2, 1, units=(128, 64), experts=4, towers=(32,))
    model = UnifiedRecommender(
        spec, sharing=sharing, dim=dim, bottom=0, embedding=table
    )
    training.fit_batches(
        model,
        training.Batches(inputs(fields), y, np.arange(ROWS), BATCH, seed),
        inputs(fields[:BATCH]),
        y[:BATCH],
        epochs=PASSES,
        patience=PASSES,
        learning_rate=1e-3,
        decay=False,
        row_wise=how == "row-wise",
    )
    logits = model.logits(inputs(test))
    rows, dim = model.embedding.table.embeddings.shape
    found = {f"auc_{t}": expected_auc(logits[:, i], truth[:, i]) for i, t in TASKS}
    return {"rows": rows, "dim": dim, "mebibytes": rows * dim * 4 / 2**20, **found}


TASKS = ((0, "click"), (1, "buy"))


def main() -> None:
    """Run what is not in the result yet."""
    done = set()
    if RESULT.exists():
        with RESULT.open() as file:
            done = {(line["table"], int(line["seed"])) for line in csv.DictReader(file)}
    else:
        RESULT.write_text(",".join(COLUMNS) + "\n")
    for seed in SEEDS:
        for how in TABLES:
            if (how, seed) in done:
                continue
            line = {"seed": seed, "table": how, **run(how, seed)}
            with RESULT.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(
                    f"{line[c]:.6g}" if isinstance(line[c], float) else line[c]
                    for c in COLUMNS
                )
            print(line, flush=True)


if __name__ == "__main__":
    main()
