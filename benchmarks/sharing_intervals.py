r"""Which differences of the study on Complete Journey are more than luck?

    python benchmarks/sharing_study.py complete-journey
    python benchmarks/sharing_study.py complete-journey --step-size 0.008 \
        --schemes URLM MMoE "shared bottom" "fully shared" single
    python benchmarks/sharing_intervals.py

Holds each scheme's three runs against those of one network per scenario and task
(``single``) and against URLM's, on the same test rows. The intervals are over
households and over runs, see :func:`urlm_helpers.evaluation.compare`; the p-values are
corrected over the nine cells of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from results import RESULTS
from sharing_study import SCHEMES, SETTINGS, shopping
from tqdm import tqdm

from urlm_helpers.evaluation import compare

LARGER = 0.008
AT_LARGER = ["URLM", "MMoE", "shared bottom", "fully shared", "single"]
KEEP = ["scheme", "against", "step_size", "scenario", "task", "a", "b"]
KEEP += ["difference", "low", "high", "p_value", "p_holm"]


def main() -> None:
    """Compare all schemes for which the study has kept its scores."""
    setting, job = SETTINGS["complete-journey"], shopping()
    test, tasks = job.prepared.parts["test"], job.spec.tasks

    def runs(name: str, suffix: str) -> Iterator[pd.DataFrame]:
        for seed in setting.seeds:
            p = np.load(setting.scores / f"{name}{suffix}-{seed}.npy")
            yield job.prepared.predictions(test, p)

    tables = []
    for size, suffix, names in (
        ("tuned", "", [*SCHEMES, "single"]),
        (str(LARGER), f"@{LARGER}", AT_LARGER),
    ):
        for against in ("single", "URLM"):
            other = list(runs(against, suffix))
            for name in tqdm([n for n in names if n != against]):
                table = compare(list(runs(name, suffix)), other, tasks, resamples=500)
                labels = {"scheme": name, "against": against, "step_size": size}
                tables.append(table.assign(**labels))
    path = RESULTS / "sharing-complete-journey-compared.csv"
    pd.concat(tables)[KEEP].to_csv(path, index=False, float_format="%.6f")


if __name__ == "__main__":
    main()
