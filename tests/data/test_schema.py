"""`from_frames` takes good input as it is and names what is wrong with bad input."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import DataCard, Dataset, Schema, SchemaError, from_frames

SCHEMA = Schema(
    scenarios=("home", "search"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    user_categorical=("city",),
    item_numeric=("price",),
    context_numeric=("position",),
    item_name="title",
)


def frames() -> dict[str, Any]:
    return {
        "interactions": pd.DataFrame(
            {
                "user": [7, 7, 8, 9],
                "item": ["a", "b", "a", "c"],
                "scenario": ["home", "search", "home", "home"],
                "time": ["2026-01-01 10:00", "2026-01-02", "2026-01-02", "2026-01-03"],
                "click": [1, 0, 1, 0],
                "buy": [0, 0, 1, 0],
                "position": [1, 2, 3, 4],
                "note": ["kept", "as", "it", "is"],
            },
            index=[10, 11, 12, 13],
        ),
        "users": pd.DataFrame({"user": [9, 8, 7], "city": ["Oslo", "Oslo", None]}),
        "items": pd.DataFrame(
            {"item": ["a", "b", "c"], "price": [1.0, 2.0, np.nan], "title": list("ABC")}
        ),
    }


def changed(table: str, column: str, row: int, value: Any) -> dict[str, Any]:
    """Return the good frames with one cell changed."""
    tables = frames()
    values = tables[table][column].astype(object).tolist()
    values[row] = value
    tables[table][column] = pd.Series(values, index=tables[table].index)
    return tables


def refused(tables: dict[str, Any], *words: str, schema: Schema = SCHEMA) -> None:
    with pytest.raises(SchemaError) as error:
        from_frames(**tables, schema=schema)
    assert isinstance(error.value, ValueError)
    for word in words:
        assert word in str(error.value)


def test_good_input() -> None:
    data = from_frames(**frames(), schema=SCHEMA, name="toy")
    assert isinstance(data, Dataset)
    log = data.interactions
    assert log.index.tolist() == [0, 1, 2, 3]
    assert log["note"].tolist() == ["kept", "as", "it", "is"]
    assert log["time"].dtype == "datetime64[ns]"
    assert log["time"][0] == pd.Timestamp("2026-01-01 10:00")
    assert log["click"].dtype == log["buy"].dtype == np.dtype("int8")
    assert data.users["user"].tolist() == [9, 8, 7]
    assert data.events[["user", "item"]].values.tolist() == [[7, "a"], [8, "a"]]
    assert data.events.index.tolist() == [0, 1]
    assert data.events["time"].dtype == "datetime64[ns]"
    assert data.card.counts == {"interactions": 4, "users": 3, "items": 3}
    assert dict(data.extra) == {}
    assert "4 interactions, 3 users, 3 items" in repr(data)


def test_callers_frames_are_not_touched() -> None:
    tables, untouched = frames(), frames()
    data = from_frames(**tables, events=tables["interactions"], schema=SCHEMA)
    data.interactions["user"] = 0
    data.interactions.loc[0, "item"] = "z"
    data.users.loc[0, "city"] = "Rome"
    data.events.loc[0, "item"] = "z"
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(frame, untouched[name])


def test_users_and_items_are_built_from_the_ids() -> None:
    schema = Schema(("home", "search"), ("click",))
    events = pd.DataFrame({"user": [5], "item": ["z"], "time": ["2025-12-31"]})
    data = from_frames(frames()["interactions"], schema=schema, events=events)
    assert data.users["user"].tolist() == [7, 8, 9, 5]
    assert data.items["item"].tolist() == ["a", "b", "c", "z"]
    assert data.events["time"].dtype == "datetime64[ns]"
    tables = {"interactions": frames()["interactions"]}
    refused(tables, "users", "built from the ids", "city")


def test_events_are_checked_too() -> None:
    good = pd.DataFrame({"user": [7], "item": ["a"], "time": ["2026-01-01"], "n": [2]})
    data = from_frames(**frames(), events=good, schema=SCHEMA)
    assert data.events["n"].tolist() == [2]
    for column, value, word in (
        ("user", 99, "99"),
        ("item", "zz", "'zz'"),
        ("time", "soon", "'soon'"),
    ):
        refused(frames() | {"events": good.assign(**{column: value})}, "events", word)
    refused(frames() | {"events": good.drop(columns="time")}, "events", "time")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("interactions", c) for c in ("user", "item", "scenario", "time")),
        ("interactions", "buy"),
        ("interactions", "position"),
        ("users", "user"),
        ("users", "city"),
        ("items", "item"),
        ("items", "price"),
        ("items", "title"),
    ],
)
def test_missing_column(table: str, column: str) -> None:
    tables = frames()
    tables[table] = tables[table].drop(columns=column)
    refused(tables, table, f"no column ['{column}']")


def test_repeated_column_no_rows_no_frame() -> None:
    tables = frames()
    log = tables["interactions"]
    refused(tables | {"interactions": pd.concat([log, log["buy"]], axis=1)}, "'buy'")
    refused(tables | {"interactions": log.iloc[:0]}, "no rows")
    refused(tables | {"users": {"user": [1]}}, "users", "DataFrame")


@pytest.mark.parametrize("label", [2, -1, 0.5, np.nan, None, "1", "yes"])
def test_label_that_is_not_0_or_1(label: Any) -> None:
    tables = changed("interactions", "click", 3, label)
    shown = "" if label is None else repr(label)  # pandas 3 turns None into nan
    refused(tables, "'click'", shown, "1 row", "index 13", "user=9", "item='c'")


@pytest.mark.parametrize("dtype", [bool, float, "Int64", "int8", object, "boolean"])
def test_labels_of_any_kind_become_int8(dtype: Any) -> None:
    tables = frames()
    tables["interactions"]["click"] = tables["interactions"]["click"].astype(dtype)
    data = from_frames(**tables, schema=SCHEMA)
    assert data.interactions["click"].tolist() == [1, 0, 1, 0]
    assert data.interactions["click"].dtype == np.dtype("int8")


def test_missing_label_of_a_nullable_column() -> None:
    tables = frames()
    labels = pd.array([1, None, 1, 0], dtype="Int64")
    refused(
        tables | {"interactions": tables["interactions"].assign(click=labels)}, "NA"
    )


def test_unknown_user_or_item() -> None:
    tables = changed("interactions", "user", 1, 99)
    refused(tables, "interactions", "unknown 'user'", "1 row", "index 11", "user=99")
    refused(changed("interactions", "item", 3, "zz"), "unknown 'item'", "item='zz'")
    tables = frames()
    tables["users"]["user"] = tables["users"]["user"].astype(str)
    refused(
        tables, "'user' is whole numbers, 7 in 4 rows", "known are text such as '9'"
    )


def test_missing_id() -> None:
    refused(changed("interactions", "user", 0, None), "interactions", "no 'user'")
    refused(changed("users", "user", 0, None), "users", "no id")


def test_duplicate_id() -> None:
    refused(changed("users", "user", 2, 9), "users", "not unique", "user=9")
    refused(changed("items", "item", 1, "a"), "items", "not unique", "item='a'")


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "31/12/2025",
        "2026-02-30",
        "",
        None,
        True,
        1_767_225_600_000,
        "3500-01-01",
    ],
)
def test_time_that_cannot_be_read(value: Any) -> None:
    tables = changed("interactions", "time", 2, value)
    if value is not None:
        refused(tables, "'time'", repr(value), "index 12", "ISO 8601")
    else:
        refused(tables, "'time'", "index 12", "ISO 8601")


@pytest.mark.parametrize("value", [1_767_225_600_000, 0.5, np.nan, np.inf])
def test_number_that_is_no_time(value: float) -> None:
    tables = frames()
    tables["interactions"]["time"] = [0, 1, 2, value]
    refused(tables, "'time'", "index 13", "seconds since 1970")


@pytest.mark.parametrize(
    "times",
    [
        [1767225600] * 4,
        [1767225600.0] * 4,
        [pd.Timestamp("2026-01-01")] * 4,
        [pd.Timestamp("2026-01-01 02:00", tz="Europe/Kyiv")] * 4,
        [pd.Timestamp("2026-01-01").to_pydatetime()] * 4,
        [pd.Timestamp("2026-01-01").date()] * 4,
        ["2026-01-01T00:00:00Z", "2026-01-01", "2026-01-01T02:00+02:00", "20260101"],
        np.array(["2026-01-01"] * 4, dtype="datetime64[s]"),
    ],
)
def test_times_of_any_kind_become_utc_nanoseconds(times: Any) -> None:
    log = frames()["interactions"]
    log["time"] = pd.Series(times, index=log.index)
    data = from_frames(**frames() | {"interactions": log}, schema=SCHEMA)
    assert data.interactions["time"].dtype == "datetime64[ns]"
    assert (data.interactions["time"] == pd.Timestamp("2026-01-01")).all()
    as_objects = log.assign(time=log["time"].astype(object))
    data = from_frames(**frames() | {"interactions": as_objects}, schema=SCHEMA)
    assert (data.interactions["time"] == pd.Timestamp("2026-01-01")).all()


def test_buy_without_its_click() -> None:
    refused(
        changed("interactions", "buy", 1, 1),
        "'buy' is 1 where 'click' is 0",
        "1 row",
        "index 11 (user=7, item='b')",
    )


def test_unknown_scenario() -> None:
    refused(changed("interactions", "scenario", 0, "hom"), "'hom'", "index 10", "home")
    refused(changed("interactions", "scenario", 0, None), "unknown scenario")


def test_numeric_feature_that_is_text() -> None:
    tables = frames()
    tables["items"]["price"] = ["1,00", "2", "3"]
    refused(tables, "items", "'price'", "'1,00'", "pd.to_numeric")


def test_untimed() -> None:
    schema = Schema(("home", "search"), ("click",), timed=False)
    log = frames()["interactions"]
    refused({"interactions": log}, "timed=False", schema=schema)
    data = from_frames(log.drop(columns="time"), schema=schema)
    assert "time" not in data.interactions.columns
    assert list(data.events.columns) == ["user", "item", "scenario"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenarios": ()}, "scenarios is empty"),
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": "click"}, "tuple of names"),
        ({"tasks": ("click", "click")}, "more than once"),
        ({"scenarios": ("home", "home")}, "more than once"),
        ({"user_numeric": ("age",), "item_numeric": ("age",)}, "['age'] stand more"),
        ({"item_numeric": ("click",)}, "['click'] stand more"),
        ({"user_categorical": ("user",)}, "['user'] can be neither"),
        ({"funnel": {"buy": "see"}}, "'see' is not a task"),
        ({"funnel": {"pay": "click"}}, "'pay' is not a task"),
        ({"funnel": {"click": "buy"}}, "'buy' must come before 'click'"),
        ({"funnel": {"buy": "buy"}}, "must come before"),
        ({"negative_rate": 0.0}, "(0, 1]"),
        ({"negative_rate": 1.5}, "(0, 1]"),
        ({"negative_rate": float("nan")}, "(0, 1]"),
    ],
)
def test_unsound_schema(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"scenarios": ("home",), "tasks": ("click", "buy")}
    Schema(**good)
    with pytest.raises(SchemaError) as error:
        Schema(**good | change)
    assert words in str(error.value)


def test_schema_takes_lists_and_keeps_its_own_funnel() -> None:
    funnel = {"buy": "click"}
    schema = Schema(["home"], ["click", "buy"], funnel=funnel)  # type: ignore[arg-type]
    funnel["click"] = "buy"
    assert schema.scenarios == ("home",)
    assert schema.funnel == {"buy": "click"}


def test_data_card_prints() -> None:
    card = DataCard(
        "Toy", "made up", "none", "us, 2026", ("it is small",), {"rows": 1_234}
    )
    for text in (str(card), card._repr_markdown_()):
        for word in ("Toy", "made up", "none", "us, 2026", "small", "1,234 rows"):
            assert word in text
    assert "\n- **License:** none" in card._repr_markdown_()
    assert "Citation" not in str(DataCard("Toy", "made up", "none"))


def test_a_large_log_takes_seconds() -> None:
    rows = 1_500_000
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, rows)
    log = pd.DataFrame(
        {
            "user": rng.integers(0, 2_000, rows),
            "item": rng.integers(0, 50_000, rows),
            "scenario": np.array(["home", "search"])[rng.integers(0, 2, rows)],
            "time": rng.integers(1_700_000_000, 1_767_000_000, rows),
            "click": click,
            "buy": click * rng.integers(0, 2, rows),
        }
    )
    schema = Schema(("home", "search"), ("click", "buy"), {"buy": "click"})
    start = time.perf_counter()
    from_frames(log, schema=schema)
    assert time.perf_counter() - start < 10  # about 1 s on two idle cores
