"""From a reader's own data frames to the one data shape."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from urlm_helpers.data.checks import (
    Kind,
    alike,
    check_cells,
    check_columns,
    check_flags,
    check_ids,
    check_keys,
    check_known,
    check_labels,
    check_log,
    check_numbers,
    check_scenarios,
    check_types,
)
from urlm_helpers.data.schema import DataCard, Dataset, Schema, SchemaError
from urlm_helpers.data.times import parse_time


def from_frames(
    interactions: pd.DataFrame,
    users: pd.DataFrame | None = None,
    items: pd.DataFrame | None = None,
    *,
    schema: Schema,
    events: pd.DataFrame | None = None,
    name: str = "my-data",
    card: DataCard | None = None,
    extra: Mapping[str, pd.DataFrame] | None = None,
) -> Dataset:
    """Make a `Dataset` of your own data frames, or say what is wrong with them.

    Parameters
    ----------
    interactions : DataFrame
        Columns `user`, `item`, `scenario`, `time` (unless ``schema.timed`` is False),
        the schema's tasks and context columns; further columns are kept. `time` may
        hold datetimes, ISO 8601 strings or epoch seconds (or whole numbers of another
        unit, see ``schema.time_unit``); a time zone is converted to UTC, a time
        without one is taken as it stands.
    users, items : DataFrame, optional
        One row per id. Omitted: built from the ids, in order of first appearance.
    schema : Schema
    events : DataFrame, optional
        What users did, for histories and counts; items are counted here too (see
        ``counted_on`` of `urlm_helpers.preprocessing.Encoder`). Default: the
        interactions whose first task is 1.
    name : str
    card : DataCard, optional
        Counts of the three tables are filled in when the card has none.
    extra : mapping of str to DataFrame, optional

    Returns
    -------
    Dataset
        Copies: the caller's frames are never modified. Rows keep their order and are
        numbered from 0.

    Raises
    ------
    SchemaError
        A missing or repeated column, one that the log and a table both have, an empty
        table, a missing, unknown or duplicate id, ids or categories of several types
        or several in one cell, a label that is not 0/1, a child task without its
        parent, an unknown scenario, a numeric feature that is not a number or is
        infinite (a missing one is allowed), a time that can't be parsed.

    Examples
    --------
    >>> log = pd.DataFrame(
    ...     {"user": [1, 1, 2], "item": ["a", "b", "a"], "scenario": "home",
    ...      "time": ["2026-01-01", "2026-01-02", "2026-01-02"],
    ...      "click": [1, 0, 1], "buy": [0, 0, 1]})
    >>> schema = Schema(("home",), ("click", "buy"), funnel={"buy": "click"})
    >>> from_frames(log, schema=schema)
    Dataset('my-data': 3 interactions, 2 users, 2 items, scenarios ('home',), \
tasks ('click', 'buy'))
    >>> from_frames(log.assign(click=0), schema=schema)
    Traceback (most recent call last):
        ...
    urlm_helpers.data.schema.SchemaError: interactions: 'buy' is 1 where 'click' is 0 \
in 1 row, e.g. at index 2 (user=2, item='a'); 'buy' needs 'click', so set 'click' to \
1 there or leave 'buy' out of the funnel
    """
    time = ("time",) if schema.timed else ()
    check_log("interactions", interactions, schema, schema.tasks)
    if not schema.timed and "time" in interactions.columns:
        raise SchemaError(
            "interactions has a column 'time', but the schema says timed=False: drop "
            "the column or set timed=True"
        )
    logs = {"interactions": interactions}
    if events is not None:
        check_columns("events", events, ("user", "item", *time))
        check_ids("events", events, ("user", "item"))
        check_cells("events", events, time)
        logs["events"] = events

    name_column = () if schema.item_name is None else (schema.item_name,)
    features = {side: schema.features(side) for side in ("user", "item")}
    features["item"] += name_column + tuple(schema.catalog.values())
    tables: dict[str, pd.DataFrame] = {}
    ids: dict[str, dict[str, pd.Series]] = {log_name: {} for log_name in logs}
    for key, table in (("user", users), ("item", items)):
        given = interactions if table is None else table
        if table is not None:
            check_columns(f"{key}s", table, (key, *features[key]))
            check_cells(f"{key}s", table, features[key])
            check_types(f"{key}s", table, getattr(schema, f"{key}_categorical"))
            check_keys(key, table)
        known = Kind.of(given[key])
        for log_name, log in logs.items():
            ids[log_name][key] = alike(log_name, log, key, known)
        if table is None:
            every = pd.concat([found[key] for found in ids.values()])
            table = every.drop_duplicates().reset_index(drop=True).to_frame()
            check_columns(f"{key}s", table, features[key], " (built from the ids)")
        for log_name, log in logs.items():
            check_known(log_name, log, table, key)
        tables[key] = table.reset_index(drop=True).copy()

    check_scenarios("interactions", interactions, schema)
    check_labels(interactions, schema)
    check_numbers("interactions", interactions, schema.context_numeric)
    check_flags("items", tables["item"], schema.catalog.values(), "catalog column")
    check_numbers("users", tables["user"], schema.user_numeric)
    check_numbers("items", tables["item"], schema.item_numeric)

    def plain(log_name: str) -> pd.DataFrame:
        log = logs[log_name].assign(**ids[log_name])
        if schema.timed:
            log["time"] = parse_time(log_name, log, schema.time_unit)
        return log.reset_index(drop=True)

    log = plain("interactions").astype(dict.fromkeys(schema.tasks, "int8"))
    if events is None:
        did = log[schema.tasks[0]] == 1
        done = log.loc[did, ["user", "item", *time, "scenario"]].reset_index(drop=True)
    else:
        done = plain("events")
    card = card or DataCard(name, "given as data frames", "not stated")
    if not card.counts:
        sizes = {"interactions": log, "users": tables["user"], "items": tables["item"]}
        card = replace(card, counts={what: len(frame) for what, frame in sizes.items()})
    return Dataset(
        name, log, tables["user"], tables["item"], schema, done, card, dict(extra or {})
    )
