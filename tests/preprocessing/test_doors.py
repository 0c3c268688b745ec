"""Invariant 10: what one door refuses, every door refuses, by name.

A door takes a change to a good table; a case is such a change with the words that must
come back. A new door in `DOORS` gets all cases, a new case goes through all doors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, SchemaError, from_frames
from urlm_helpers.preprocessing import (
    Encoder,
    Prepared,
    prepare,
    split_by_time,
    world_inputs,
    write_shards,
)
from urlm_helpers.recommendation import candidates, recommend
from urlm_helpers.world import World

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click",),
    user_numeric=("age",),
    item_categorical=("category",),
    item_numeric=("price",),
    context_categorical=("query",),
    context_numeric=("hour",),
    item_name="name",
    consumed_again=True,
)
CUTS = ("2026-01-21", "2026-01-31")
OPTIONS: dict[str, Any] = {"look_back": [["user", "item"]], "min_count": 1}


def log() -> pd.DataFrame:
    rows = np.arange(40)
    return pd.DataFrame(
        {
            "user": rows % 4 + 1,
            "item": [f"{n:03d}" for n in rows % 5],
            "scenario": np.where(rows % 2, "shop", "feed"),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(rows, "D"),
            "click": rows % 3 % 2,
            "query": np.where(rows % 3, "kettle", "pan"),
            "hour": rows % 24.0,
        }
    )


def users() -> pd.DataFrame:
    return pd.DataFrame({"user": range(1, 5), "age": [20.0, 30.0, 40.0, np.nan]})


def items() -> pd.DataFrame:
    table = pd.DataFrame({"item": [f"{n:03d}" for n in range(6)]})
    kinds: dict[str, Any] = {"category": list("aabbcc"), "price": np.arange(6.0)}
    return table.assign(name=table["item"] + "!", **kinds)


def dataset(schema: Schema = SCHEMA, frame: pd.DataFrame | None = None) -> Dataset:
    return from_frames(
        log() if frame is None else frame, users(), items(), schema=schema
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(dataset(), *CUTS, **OPTIONS)


class Price:
    """A model whose scores are the price."""

    def probabilities(self, x: Any) -> np.ndarray:
        return np.asarray(x["numeric"][:, [1]], dtype=float)


# --- tables: from_frames, transform, recommend --------------------------------------

Change = Callable[[pd.DataFrame], Any]
Door = Callable[[Prepared, Change], Any]

DOORS: dict[str, Door] = {
    "from_frames": lambda _, change: dataset(frame=change(log())),
    "transform": lambda p, change: p.encoder.transform(change(log().head(9))),
    "recommend": lambda p, change: recommend(
        Price(), p.encoder, change(log().head(9)), k=3
    ),
}


def cell(column: str, value: Any) -> Change:
    """Put a value into row 2 of a column."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame[column].astype(object).tolist()
        values[2] = value
        return frame.assign(**{column: pd.Series(values, index=frame.index)})

    return change


def whole(column: str, make: Callable[[pd.Series], Any]) -> Change:
    """Replace a whole column."""
    return lambda frame: frame.assign(**{column: make(frame[column])})


TABLES: dict[str, tuple[Change, str]] = {
    "scenario with a blank": (
        cell("scenario", "Shop "),
        r"'Shop '.*\('shop', 'feed'\)",
    ),
    "no scenario": (cell("scenario", None), r"scenario.*\('shop', 'feed'\)"),
    "user as text": (whole("user", lambda c: c.astype(str)), "'user' is text, '1' in"),
    "user padded": (whole("user", lambda c: "00" + c.astype(str)), "'user' is text"),
    "half a user": (cell("user", 1.5), "'user' is numbers, 1.5 in 1 row.* such as 1"),
    "item as number": (whole("item", lambda c: c.astype(int)), "'item' is whole numb"),
    "no user": (cell("user", None), "no 'user' in 1 row"),
    "no item": (cell("item", None), "no 'item' in 1 row"),
    "users of two types": (cell("user", "1"), "'user' has values of several types"),
    "categories of two types": (
        cell("query", 3),
        "'query' has values of several types",
    ),
    "several users": (cell("user", [1, 2]), r"'user' is \[1, 2\] in 1 row.*one value"),
    "several scenarios": (cell("scenario", ["shop"]), "'scenario' is .*one value"),
    "several categories": (
        cell("query", ["a", "b"]),
        "'query' is .*one 0/1 column for",
    ),
    "a huge id": (cell("user", 2**63), "'user' is 9223372036854775808 in 1 row.*text"),
    "an inexact id": (
        whole("user", lambda c: c + 2.0**53),
        "'user' is .*rounded. Read the column as text",
    ),
    "infinite": (cell("hour", np.inf), "'hour' is infinite in 1 row"),
    "number as text": (cell("hour", "noon"), "'hour' has dtype object, with 'noon'"),
    "column missing": (lambda f: f.drop(columns="query"), r"no column \['query'\]"),
    "time missing": (lambda f: f.drop(columns="time"), r"no column \['time'\]"),
    "column of the items": (
        lambda f: f.assign(category="a"),
        r"\['category'\], which is a feature of the items.*\.drop\(columns=",
    ),
    "column twice": (
        lambda f: pd.concat([f, f[["hour"]]], axis=1),
        r"more than one column named \['hour'\]",
    ),
    "no rows": (lambda f: f.iloc[:0], "has no rows"),
    "no frame": (lambda f: f.to_dict("list"), "must be a pandas DataFrame"),
    "no time": (cell("time", pd.NaT), "can't read 'time' = NaT"),
    "time without an end": (
        whole("time", lambda c: [1.8e9, np.inf, *[1.8e9] * (len(c) - 2)]),
        "can't read 'time' = inf",
    ),
    "day first": (
        whole("time", lambda c: c.dt.strftime("%d.%m.%Y")),
        "can't read 'time' = '01.01.2026'.*ISO 8601",
    ),
    "a day as a number": (
        whole("time", lambda c: c.dt.strftime("%Y%m%d").astype(int)),
        "can't read 'time' = 20260101.*that year.*'2026-01-31'.*time_unit='D'",
    ),
    "seconds in 32 bits": (
        whole("time", lambda c: np.full(len(c), 1.8e9, "float32")),
        "float32 rounds seconds",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_good_table_passes_every_door(door: str, prepared: Prepared) -> None:
    DOORS[door](prepared, lambda frame: frame)


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("door", DOORS)
def test_a_bad_table_is_refused(door: str, case: str, prepared: Prepared) -> None:
    change, words = TABLES[case]
    with pytest.raises(SchemaError, match=words):
        DOORS[door](prepared, change)


# --- moments: prepare, Encoder, split_by_time, candidates ----------------------------

MOMENTS: dict[str, Callable[[Prepared, Any], Any]] = {
    "prepare": lambda p, t: prepare(p.encoder.dataset, t, CUTS[1], **OPTIONS),
    "prepare, test": lambda p, t: prepare(p.encoder.dataset, "2026-01-02", t),
    "Encoder": lambda p, t: Encoder(p.encoder.dataset, t),
    "split_by_time": lambda p, t: split_by_time(p.rows["time"], t, CUTS[1]),
    "candidates": lambda p, t: candidates(
        p.encoder, [1], "shop", t, query="pan", hour=1.0
    ),
}


@pytest.mark.parametrize(
    "time",
    [
        "03.01.2026",
        "01/02/2026",
        "soon",
        "2026-02-30",
        None,
        pd.NaT,
        True,
        20260121,
        5,
        np.inf,
        np.float32(1.8e9),
        ["2026-01-21"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("door", MOMENTS)
def test_a_moment_that_is_none_is_refused(
    door: str, time: Any, prepared: Prepared
) -> None:
    with pytest.raises(SchemaError, match="can't read"):
        MOMENTS[door](prepared, time)


@pytest.mark.parametrize(
    "time",
    [
        pd.Timestamp("2026-01-21"),
        pd.Timestamp("2026-01-21 02:00", tz="Europe/Kyiv"),
        "2026-01-21T02:00+02:00",
        "20260121",
        1_768_953_600,
        np.int64(1_768_953_600),
        pd.Timestamp("2026-01-21").date(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("door", MOMENTS)
def test_a_moment_is_read_alike_at_every_door(
    door: str, time: Any, prepared: Prepared
) -> None:
    found, right = (MOMENTS[door](prepared, t) for t in (time, "2026-01-21"))
    if door == "candidates":
        pd.testing.assert_frame_equal(found, right)
    elif door == "Encoder":
        np.testing.assert_array_equal(found.encoded["fields"], right.encoded["fields"])
    else:
        parts = found if door == "split_by_time" else found.parts
        assert sorted(len(rows) for rows in parts.values()) == (
            [1, 19, 20] if door == "prepare, test" else [10, 10, 20]
        )


# --- what is the same in another form -------------------------------------------------


@pytest.mark.parametrize("door", ["transform", "recommend"])
@pytest.mark.parametrize("dtype", ["float64", "int8", "uint64", "Int64", object])
def test_an_id_may_be_the_same_number_of_another_type(
    door: str, dtype: Any, prepared: Prepared
) -> None:
    change = whole("user", lambda column: column.astype(dtype))
    ours, right = (DOORS[door](prepared, c) for c in (change, lambda frame: frame))
    for name in right:
        np.testing.assert_array_equal(ours[name], right[name])
    if door == "transform":
        assert (ours["fields"][:, 0] > 0).all() and ours["history"].any()


def test_long_ids_of_another_type_are_not_rounded_into_each_other() -> None:
    frame = log().assign(user=lambda f: f["user"] + 2**60, click=1)
    people = users().assign(user=lambda f: f["user"] + 2**60)
    encoder = Encoder(
        from_frames(frame, people, items(), schema=SCHEMA), CUTS[0], **OPTIONS
    )
    x = encoder.transform(frame.astype({"user": "uint64"}))
    for name, right in encoder.encoded.items():
        np.testing.assert_array_equal(x[name], right)


def test_what_is_only_new_is_unseen(prepared: Prepared) -> None:
    rows = log().tail(3).assign(user=99, query="rake", hour=np.nan)
    x = prepared.encoder.transform(rows)
    fields = list(prepared.encoder.spec.fields)
    for name in ("user", "query"):
        assert (x["fields"][:, fields.index(name)] == 0).all()
    assert not x["history"].any() and x["scenario"].tolist() == [0, 1, 0]


# --- candidates and recommend ---------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenario": "Shop "}, r"'Shop '.*\('shop', 'feed'\)"),
        ({"scenario": None}, r"scenario.*\('shop', 'feed'\)"),
        ({"scenario": ["shop"]}, "'scenario' must be one value"),
        ({"users": ["1"]}, "'user' is text, '1' in 6 rows.*whole numbers such as 1"),
        ({"users": [1, None]}, "no 'user'"),
        ({"users": []}, "no rows"),
        ({"users": [99]}, "unknown 'user' in 6 rows"),
        ({"users": [1, 1]}, "user 1 is given twice"),
        ({"items": [1]}, "'item' is whole numbers, 1 in 1 row.*text such as '000'"),
        ({"items": ["1"]}, "unknown 'item' in 1 row"),
        ({"items": ["000", "001", "000"]}, "item '000' is given twice"),
        ({"query": 3}, "'query' is whole numbers, 3 in 6 rows.*text such as 'pan'"),
        ({"query": ["a", "b"]}, "'query' must be one value"),
        ({"hour": np.inf}, "'hour' is infinite"),
        ({"hour": "noon"}, "'hour' has dtype"),
        ({"day": 1}, r"exactly \['hour', 'query'\], got \['day', 'hour', 'query'\]"),
    ],
    ids=repr,
)
def test_bad_candidates_are_refused(
    change: dict[str, Any], words: str, prepared: Prepared
) -> None:
    good: dict[str, Any] = {"users": [1], "scenario": "shop", "time": "2026-01-21"}
    good |= {"query": "pan", "hour": 1.0}
    assert len(candidates(prepared.encoder, **good)) == 6
    with pytest.raises(ValueError, match=words):
        candidates(prepared.encoder, **good | change)


def test_a_list_holds_an_item_once_and_k_is_any_whole_number(
    prepared: Prepared,
) -> None:
    rows = log().head(9)
    best = recommend(Price(), prepared.encoder, rows, k=np.int64(1))  # type: ignore[arg-type]
    assert (best["rank"] == 1).all()
    for k in (0, 2.5, "5", None):
        with pytest.raises(ValueError, match="k must be a whole number"):
            recommend(Price(), prepared.encoder, rows, k=k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"listed twice are 1 row, e.g. at index 9"):
        recommend(Price(), prepared.encoder, pd.concat([rows, rows.head(1)]))


def test_the_id_may_be_the_name() -> None:
    encoder = Encoder(dataset(replace(SCHEMA, item_name="item")), CUTS[0], **OPTIONS)
    best = recommend(Price(), encoder, log().head(9), k=1)
    assert best["name"].tolist() == best["item"].tolist()


# --- the schema and the options -------------------------------------------------------


@pytest.mark.parametrize("name", ["users", "items", "encoder", "time"])
def test_a_context_column_has_no_name_of_an_argument(name: str) -> None:
    with pytest.raises(SchemaError, match=name):
        replace(SCHEMA, context_numeric=(name,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"look_back": ["user", "item"]}, r"\[\['user'\], .*got \['user', 'item'\]"),
        ({"look_back": "user"}, "got 'user'"),
        ({"look_back": [["brand"]]}, r"no column \['brand'\]"),
        ({"look_back": [["name"]]}, r"look_back: no column \['name'\].*the schema"),
        ({"history_fields": ["price"]}, r"\['user', 'item', 'category',.*\['price'\]"),
        ({"history_fields": "item"}, "history_fields must be a list"),
    ],
    ids=repr,
)
def test_options_say_which_columns_there_are(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(dataset(), CUTS[0], **options)


# --- an order instead of times --------------------------------------------------------

ORDER = replace(SCHEMA, time_unit="D")


def test_an_order_is_enough() -> None:
    frame = log().assign(time=np.arange(40) // 10)  # four terms
    ours = prepare(dataset(ORDER, frame), 2, 3, **OPTIONS)
    assert [len(ours.parts[p]) for p in ("train", "valid", "test")] == [20, 10, 10]
    count = ours.encoder.spec.numeric.index("user × item: count")
    assert (ours.x["numeric"][:10, count] == ours.x["numeric"][0, count]).all()
    asked = candidates(ours.encoder, [1], "shop", 4, ["004"], query="pan", hour=1.0)
    clicks = frame.query("user == 1 and item == '004' and click == 1")
    best = recommend(Price(), ours.encoder, asked)
    assert best["consumed"].tolist() == [len(clicks)] and len(clicks) > 0
    with pytest.raises(SchemaError, match="time_unit must be one of"):
        replace(SCHEMA, time_unit="week")


def test_without_times_the_way_out_is_named() -> None:
    frame = log().drop(columns="time")
    data = dataset(replace(SCHEMA, timed=False), frame)
    for door in (lambda: prepare(data, 2, 3), lambda: Encoder(data, 2)):
        with pytest.raises(SchemaError, match=r"no times.*time_unit='D'"):
            door()


# --- what is counted, and where -------------------------------------------------------


def test_an_item_that_was_shown_and_never_chosen_can_be_known() -> None:
    frame = log().assign(click=lambda f: (f["item"] == "000").astype(int))
    data = dataset(frame=frame)
    with pytest.warns(UserWarning, match="80% .*unseen 'item': 1 of 5 .*'rows'.* 0%"):
        few = prepare(data, *CUTS, min_count=3, counted_on="events").encoder
    assert few.vocabularies["item"].values.tolist() == ["000"]
    assert list(few.unseen.T["item"]) == [5, 1, 0.8, 0.0]
    every = prepare(data, *CUTS, min_count=3).encoder
    assert every.vocabularies["item"].values.tolist() == [f"{n:03d}" for n in range(5)]
    assert list(every.unseen.T["item"]) == [5, 5, 0.0, 0.0]
    assert list(every.unseen.T["user"]) == [4, 4, 0.0, 0.0]
    rare = Encoder(data, "2026-01-02", min_count=3).unseen  # one row: no warning
    assert list(rare.T["item"]) == [1, 0, 1.0, 1.0]
    with pytest.raises(ValueError, match="counted_on must be"):
        Encoder(data, CUTS[0], counted_on="impressions")


def test_a_purchase_outside_the_log_counts_too() -> None:
    events = pd.DataFrame({"user": 1, "item": ["005"] * 3, "time": "2025-12-31"})
    data = from_frames(log(), users(), items(), schema=SCHEMA, events=events)
    known = prepare(data, *CUTS, min_count=3).encoder.vocabularies
    assert known["item"].values.tolist() == [f"{n:03d}" for n in range(6)]


# --- which items a scenario can show --------------------------------------------------


def test_a_scenario_shows_its_catalog() -> None:
    schema = replace(SCHEMA, catalog={"shop": "in shop"})
    table = items().assign(**{"in shop": [1, 0, 1, 0, 0, 1]})
    encoder = Encoder(from_frames(log(), users(), table, schema=schema), CUTS[0])
    every = table["item"].tolist()
    for scenario, shown in {"shop": ["000", "002", "005"], "feed": every}.items():
        asked = candidates(encoder, [1], scenario, CUTS[0], query="pan", hour=1.0)
        assert asked["item"].tolist() == shown
    with pytest.raises(
        ValueError, match="item='001'.* can't be shown in 'shop': 'in s"
    ):
        candidates(encoder, [1], "shop", CUTS[0], ["000", "001"], query="pan", hour=1.0)
    for wrong, words in (
        (items(), r"no column \['in shop'\]"),
        (table.assign(**{"in shop": 0.5}), "catalog column 'in shop' is 0.5"),
    ):
        with pytest.raises(SchemaError, match=words):
            from_frames(log(), users(), wrong, schema=schema)
    with pytest.raises(SchemaError, match=r"\['street'\] are no scenarios"):
        replace(SCHEMA, catalog={"street": "in shop"})


# --- doors of other shapes ------------------------------------------------------------


def test_a_new_text_is_not_the_missing_one_in_a_look_back() -> None:
    """An item whose category nobody chose has no past; it got that of the gaps."""
    table = items().assign(category=pd.Series([None, *"bcdef"]))
    frame = log().assign(click=lambda f: (f["item"] == "000").astype(int))
    data = from_frames(frame, users(), table, schema=SCHEMA)
    encoder = Encoder(data, CUTS[0], look_back=[["category"]], min_count=1)
    raw = encoder._numeric(encoder._integrate(data.interactions))
    count = np.expm1(raw["category: count"]).round().astype(int)
    assert count.tolist() == [
        n // 5 if item == "000" else 0 for n, item in enumerate(frame["item"])
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenario": "Shop "}, "unknown 'scenario' 'Shop ' in 50 rows"),
        ({"user": -1}, "unknown 'user' -1 in 50 rows.*has 100"),
        ({"item": 300}, "unknown 'item' 300 in 50 rows.*has 300"),
        ({"query": "kettle"}, "unknown 'query' 'kettle'"),
    ],
    ids=repr,
)
def test_a_world_knows_all_that_is_in_its_log(
    change: dict[str, Any], words: str
) -> None:
    world = World(users=100, items=300)
    frame = world.sample(50, 1).interactions
    world_inputs(world, frame)
    with pytest.raises(SchemaError, match=words):
        world_inputs(world, frame.assign(**change))


def test_shards_hold_as_many_labels_as_rows(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="39 rows of labels need as many.*'numeric': 40"
    ):
        write_shards(tmp_path, prepared.x, prepared.y[:-1])
    assert not list(tmp_path.iterdir())
