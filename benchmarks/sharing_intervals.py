r"""Which differences of the study on Complete Journey are more than luck?

    python benchmarks/sharing_study.py complete-journey
    python benchmarks/sharing_intervals.py

Holds each contender's runs against those of the rivals that a team would have without
one model, and against the simplest model for all, on the same test rows. The intervals
are over households and over runs, see :func:`urlm_helpers.evaluation.compare`; all
p-values of the table are one family, corrected by Holm.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from results import RESULTS
from sharing_study import CONTENDERS, SCORES, shopping
from tqdm import tqdm

from urlm_helpers.evaluation import compare, holm

RIVALS = ("per cell", "regression shrunk", "trees alone", "shared bottom")
MATCH = "features"
RESAMPLES = 300
KEEP = ["contender", "against", "scenario", "task", "a", "b", "difference"]
KEEP += ["low", "high", "p_value", "p_holm"]


def main() -> None:
    """Compare all contenders for which the study has kept its scores."""
    job = shopping()
    test, tasks = job.prepared.parts["test"], job.spec.tasks
    runs = {}
    for name in CONTENDERS:
        files = sorted((SCORES / "complete-journey").glob(f"{name}-{MATCH}-*.npy"))
        runs[name] = [job.prepared.predictions(test, np.load(file)) for file in files]
    there = [name for name in CONTENDERS if runs[name]]
    pairs = [(a, b) for b in RIVALS for a in there if a != b and b in there]
    tables = []
    for name, against in tqdm(pairs):
        table = compare(runs[name], runs[against], tasks, resamples=RESAMPLES)
        tables.append(table.assign(contender=name, against=against))
    table = pd.concat(tables)
    table["p_holm"] = holm(table["p_value"].to_numpy())
    path = RESULTS / "contenders-complete-journey-compared.csv"
    table[KEEP].to_csv(path, index=False, float_format="%.6f")


if __name__ == "__main__":
    main()
