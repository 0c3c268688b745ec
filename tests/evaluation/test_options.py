"""What every table with intervals takes: a level that widens, a seed that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.evaluation import (
    compare,
    evaluate,
    evaluate_slices,
    pcoc_deciles,
    policy_value,
    ranking_table,
    user_mean,
)

RNG = np.random.default_rng(0)
USERS = np.repeat(np.arange(80), 6)
P = RNG.uniform(0.1, 0.9, size=len(USERS))
Y = (RNG.random(len(USERS)) < P).astype(int)
FRAME = pd.DataFrame({"user": USERS, "scenario": "feed", "y_like": Y, "p_like": P})
ALIKE = pd.DataFrame({"user": np.arange(40) // 2, "scenario": "feed"})
ALIKE = ALIKE.assign(y_like=[1, 0] * 20)
SEVERAL = [ALIKE.assign(p_like=p) for p in (0.2, 0.3, 0.5)]
EVERY_TABLE: dict[str, Callable[..., Any]] = {
    "evaluate": lambda **o: evaluate(FRAME, ["like"], metrics=["auc"], **o),
    "evaluate_slices": lambda **o: evaluate_slices(FRAME, ["like"], {}, **o),
    "pcoc_deciles": lambda **o: pcoc_deciles(FRAME, ["like"], bins=2, **o),
    "compare": lambda **o: compare(FRAME, FRAME.assign(p_like=0.5), ["like"], **o),
    "compare, the spread over runs": lambda **o: compare(
        SEVERAL, ALIKE.assign(p_like=0.4), ["like"], "pcoc", **o
    ),
    "ranking_table": lambda **o: ranking_table(USERS, USERS, P, Y, 2, **o),
    "user_mean": lambda **o: pd.DataFrame(
        [user_mean(Y, USERS, **o)], columns=["value", "low", "high"]
    ),
    "policy_value": lambda **o: policy_value(Y, P, P / 2, USERS, **o),
}


@pytest.mark.parametrize("name", list(EVERY_TABLE))
def test_level_and_seed_reach_the_interval(name: str) -> None:
    def ends(**options: Any) -> pd.DataFrame:
        return EVERY_TABLE[name](resamples=99, **options)[["low", "high"]]

    wide, narrow, other = ends(), ends(level=0.5), ends(seed=1)
    varied = wide["low"] < wide["high"]
    assert varied.any()
    assert (wide["low"] < narrow["low"])[varied].all()
    assert (narrow["high"] < wide["high"])[varied].all()
    assert not np.isclose(other, wide)[varied].all()  # more than the rounding
    pd.testing.assert_frame_equal(ends(seed=0, level=0.95), wide)
