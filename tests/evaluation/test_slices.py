"""Cold users and items: against a loop over the past, and the table per slice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers.evaluation import cold_start, evaluate, evaluate_slices


def log(seed: int, n: int = 60, ids: int = 9) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = pd.to_timedelta(rng.integers(8, size=n), unit="D")
    frame = pd.DataFrame({"user": rng.integers(ids, size=n)})
    frame["item"] = rng.choice(list("abcdefgh"), size=n)
    frame["time"] = pd.Timestamp("2024-01-01") + days
    frame["scenario"] = rng.choice(["feed", "search"], size=n)
    frame["p_click"] = rng.random(n).round(1)
    frame["y_click"] = (rng.random(n) < frame["p_click"]).astype(int)
    return frame


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_cold_is_fewer_strictly_earlier_events(seed: int, enough: int) -> None:
    events, rows = log(seed, n=20), log(seed + 1, n=25)
    rows.index = rows.index + 100
    found = cold_start(rows, events, enough)
    assert found.index.equals(rows.index)
    for row, line in zip(
        rows.to_dict("records"), found.to_dict("records"), strict=True
    ):
        past = events[events["time"] < row["time"]]
        user, item = ((past[by] == row[by]).sum() < enough for by in ("user", "item"))
        assert line == {
            "warm": not user and not item,
            "cold user": user,
            "cold item": item,
        }


def test_the_table_has_each_slice_and_all_rows() -> None:
    frame = log(3, n=400, ids=40)
    events = frame[(frame["time"] < "2024-01-03") & (frame["item"] != "a")]
    test = frame[frame["time"] >= "2024-01-03"]
    slices = cold_start(test, events, 2)
    options = {"metrics": ["auc", "pcoc"], "resamples": 50, "seed": 3, "level": 0.8}
    table = evaluate_slices(test, ["click"], slices, **options)
    assert table.columns[0] == "slice"
    assert list(dict.fromkeys(table["slice"])) == ["all", *slices]
    masks: dict[object, np.ndarray] = {"all": np.ones(len(test), dtype=bool)}
    masks |= {name: slices[name].to_numpy() for name in slices}
    for name, part in table.groupby("slice"):
        own = test[masks[name]]
        expected = evaluate(own, ["click"], **options)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(
            part.drop(columns="slice").reset_index(drop=True), expected
        )


def test_a_slice_without_rows_has_no_lines() -> None:
    frame = log(4)
    none = {"cold user": np.zeros(len(frame), dtype=bool)}
    table = evaluate_slices(frame, ["click"], none, resamples=9)
    assert set(table["slice"]) == {"all"}
    with pytest.raises(ValueError, match="no rows"):
        evaluate_slices(frame.iloc[:0], ["click"], {})


def test_bad_slices_are_named() -> None:
    frame = log(5)
    for name, rows in (
        ("new", np.ones(3, dtype=bool)),
        ("new", np.ones(len(frame))),
        ("all", np.ones(len(frame), dtype=bool)),
    ):
        with pytest.raises(ValueError, match=f"not called 'all', got '{name}' of"):
            evaluate_slices(frame, ["click"], {name: rows})
    with pytest.raises(ValueError, match="enough must be at least 1, got 0"):
        cold_start(frame, frame, 0)
    with pytest.raises(KeyError, match="item in events"):
        cold_start(frame, frame.drop(columns="item"))
