"""Write ``book/_theme/live-map.js``: what the knobs of page 1.3 show, from its study.

``python tools/live_map.py``, after a new run of ``benchmarks/map_study.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "urlm_helpers" / "results" / "map.csv"
SCRIPT = ROOT / "book" / "_theme" / "live-map.js"
KINDS = {0: "products tell all", 1: "half thresholds"}
METHODS = (
    "regression alone",
    "network alone",
    "trees alone",
    "regression pooled",
    "network pooled",
    "regression shrunk",
    "regression + network",
    "regression + network + trees",
)


def found(study: pd.DataFrame) -> dict[str, Any]:
    """Return percent of the gap closed, with 95 % t-intervals over apps.

    Parameters
    ----------
    study : DataFrame
        Columns ``thresholds``, ``task``, ``rows``, ``shift``, ``world``,
        ``contender``, ``auc``, ``popularity``, ``best``, ``agreement``.

    Returns
    -------
    dict
        ``closed[kind][rows][shift][method]``, each mean, low and high; ``agreement``
        ``[kind][rows][shift]``; and the names of what they are numbered by.
    """
    study = study[study["task"] == "click"]
    gap = study["best"] - study["popularity"]
    study = study.assign(closed=100 * (study["auc"] - study["popularity"]) / gap)
    keys = ["thresholds", "rows", "shift", "contender"]
    apps = study.groupby([*keys, "world"])["closed"].mean().groupby(keys)
    half = apps.std() / np.sqrt(apps.size()) * stats.t.ppf(0.975, apps.size() - 1)
    middle, margins = apps.mean().to_dict(), half.to_dict()
    agree = study.groupby(keys[:3])["agreement"].mean()
    rows, shifts = (sorted(study[c].unique().tolist()) for c in ("rows", "shift"))

    def point(*at: object) -> list[float]:
        mean, margin = middle[at], margins[at]
        return [round(float(x), 1) for x in (mean, mean - margin, mean + margin)]

    return {
        "shifts": shifts,
        "rows": rows,
        "kinds": list(KINDS.values()),
        "methods": list(METHODS),
        "agreement": [
            [[round(float(agree[k, n, s]), 3) for s in shifts] for n in rows]
            for k in KINDS
        ],
        "closed": [
            [[[point(k, n, s, m) for m in METHODS] for s in shifts] for n in rows]
            for k in KINDS
        ],
    }


def script(study: pd.DataFrame) -> str:
    """Return ``live-map.js``, which sets ``window.liveMap``."""
    return f"window.liveMap = {json.dumps(found(study))};\n"


if __name__ == "__main__":
    SCRIPT.write_text(script(pd.read_csv(STUDY)), encoding="utf-8")
