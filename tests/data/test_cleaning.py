"""Cleaning reports, check by check, what it dropped and what is left."""

import numpy as np
import pandas as pd

from urlm_helpers.data import clean

TABLE = pd.DataFrame(
    {"user": [1, 1, np.nan, 2, 3, 1], "amount": [5, 5, 4, -1, 0, 6], "note": range(6)}
)


def test_each_check_drops_its_rows_and_counts_them() -> None:
    before = TABLE.copy()
    kept, report = clean(
        TABLE,
        name="log",
        required=["user"],
        valid={"amount": lambda amount: amount >= 0},
        key=["user", "amount"],
    )
    assert kept["note"].tolist() == [0, 4, 5]  # of two that are the same, the first
    assert kept.index.tolist() == [0, 1, 2]
    assert report.to_numpy().tolist() == [
        ["log", "missing user", 1, 5],
        ["log", "invalid amount", 1, 4],
        ["log", "duplicate user, amount", 1, 3],
    ]
    pd.testing.assert_frame_equal(TABLE, before)


def test_without_checks_all_is_left() -> None:
    kept, report = clean(TABLE)
    pd.testing.assert_frame_equal(kept, TABLE)
    assert report.empty
