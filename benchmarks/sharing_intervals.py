"""Which differences of the study on Complete Journey are more than luck?

    python benchmarks/sharing_study.py complete-journey
    python benchmarks/sharing_intervals.py

Holds contenders against each other on the same test rows: as an order of all rows
(AUC), as an order of what one household was shown (GAUC) and as probabilities
(log-loss). A ``+`` is the mean of two models' log-odds. The intervals are over
households and over runs, see :func:`urlm_helpers.evaluation.compare`; a page corrects
the p-values of those that it shows. Differences that are there already are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from results import RESULTS
from sharing_study import CONTENDERS, SCORES, shopping
from tqdm import tqdm

from urlm_helpers.evaluation import compare

PATH = RESULTS / "contenders-complete-journey-compared.csv"
MATCH, RESAMPLES = "features", 2_000
ONE, TREES, LINEAR = "shared bottom", "trees pooled", "linear"
ASKED = (LINEAR, TREES, "trees alone", "per cell", "per scenario", "per task", "URLM")
MIXES = f"{TREES} + {ONE}", f"{TREES} + {LINEAR}"
KEEP = ["metric", "contender", "against", "scenario", "task", "a", "b", "difference"]
KEEP += ["low", "high", "p_value"]


def pairs(there: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield metric, contender and rival, of those that have been run."""
    metrics = ("auc", "gauc", "log_loss")
    asked = [(m, name, ONE) for m in metrics for name in ASKED]
    asked += [("auc", "trees alone", TREES), ("auc", "per cell", "per task")]
    asked += [("auc", mix, TREES) for mix in MIXES] + [("auc", *MIXES)]
    for metric, a, b in asked:
        if {*a.split(" + "), *b.split(" + ")} <= there:
            yield metric, a, b


def mean(*scores: np.ndarray) -> np.ndarray:
    """Return the mean of probabilities on the scale of log-odds."""
    p = [np.clip(s.astype(float), 1e-9, 1 - 1e-9) for s in scores]
    return 1 / (1 + np.exp(-np.mean([np.log(s / (1 - s)) for s in p], axis=0)))


def main() -> None:
    """Compare all contenders for which the study has kept its scores."""
    job = shopping()
    test, tasks = job.prepared.parts["test"], job.spec.tasks
    folder, runs = SCORES / "complete-journey", {}
    for name in CONTENDERS:
        files = sorted(folder.glob(f"{name}-{MATCH}-*.npy"))
        runs[name] = [np.load(file) for file in files]
    there = {name for name in runs if runs[name]}
    for mix in MIXES:
        one, other = mix.split(" + ")
        if {one, other} <= there:
            runs[mix] = [mean(runs[one][0], run) for run in runs[other]]
    table = pd.read_csv(PATH) if PATH.exists() else pd.DataFrame(columns=KEEP)
    done = set(zip(*(table[name] for name in KEEP[:3]), strict=True))
    for pair in tqdm([pair for pair in pairs(there) if pair not in done]):
        metric, a, b = pair
        frames = [[job.prepared.predictions(test, p) for p in runs[n]] for n in (a, b)]
        found = compare(*frames, tasks, metric, resamples=RESAMPLES)
        found = found.assign(contender=a, against=b)[KEEP]
        table = pd.concat([table, found]) if len(table) else found
        table.to_csv(PATH, index=False, float_format="%.6f")


if __name__ == "__main__":
    main()
