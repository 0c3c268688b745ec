"""From a dataset to the dict of arrays that a model takes; the same for new rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from urlm_helpers.data.checks import (
    Kind,
    alike,
    check_log,
    check_numbers,
    check_scenarios,
    check_timed,
    check_types,
)
from urlm_helpers.data.schema import Dataset
from urlm_helpers.data.times import moment, parse_time
from urlm_helpers.preprocessing.columns import (
    UNSEEN,
    Buckets,
    Scaler,
    Vocabulary,
    unseen,
)
from urlm_helpers.preprocessing.lookback import LookBack, seconds
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.preprocessing.tables import integrate

SECONDS_PER_DAY = 86_400.0
NEVER_DAYS = 1000.0
"""Days since the last event where there was none."""


def name_of(by: Sequence[str]) -> str:
    """Name a group of columns to look back by: "user × item"."""
    return " × ".join(by)


def _columns(raw: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Stack named columns into ``(rows, columns)``; there may be none."""
    return np.stack(list(raw.values()), axis=1) if raw else np.zeros((rows, 0))


def _check_options(
    look_back: Sequence[Sequence[str]],
    history_fields: Sequence[str],
    categorical: Sequence[str],
    counted_on: str,
) -> None:
    """Check that groups of columns are groups, and that a history can be encoded."""
    if isinstance(look_back, str) or any(isinstance(by, str) for by in look_back):
        raise ValueError(
            "look_back must be a list of groups of columns, such as [['user'], "
            f"['user', 'item']], got {look_back!r}"
        )
    unknown = [c for c in history_fields if c not in categorical]
    if isinstance(history_fields, str) or unknown:
        raise ValueError(
            f"history_fields must be a list of some of {list(categorical)}, got "
            f"{history_fields!r}: an event is described by categories"
        )
    if counted_on not in ("events", "rows"):
        raise ValueError(f"counted_on must be 'events' or 'rows', got {counted_on!r}")


class Encoder:
    """Turns rows into arrays, with everything it knows learned before one moment.

    Parameters
    ----------
    dataset : Dataset
        Where users, items and events come from.
    fit_until : str, Timestamp or int
        Vocabularies and scales are fitted on the rows and events before this moment.
        Histories and counts need no such cut: each row sees only what lies strictly
        before its own time.
    look_back : sequence of (sequence of str)
        Column groups to count over, such as ``("user", "item")``: each gives the
        count of earlier events with the same values, that of the last days for each
        of ``windows``, and the days since the last, all on a log scale.
    history_fields : sequence of str
        Item columns that describe an event of the history, ``"item"`` among them.
    history_length : int
        Events in a history.
    min_count : int
        Users, items and other values that occur less often share the unseen index.
        Counted are training rows, for the fields of a history what `counted_on` says.
    counted_on : str
        Where the values of the history's fields, items among them, are counted: among
        the training "rows", as all others, or for a row's own item only among the
        "events" before ``fit_until`` (by default rows with a 1 in the first task): then
        an item that was shown often and never chosen is unseen. `unseen` says what
        either costs.
    windows : sequence of int
        Days of the recent counts.
    buckets : int
        Each numeric column also becomes a categorical field of some so many buckets,
        which lets the model bend a straight line; 0 for none.

    Attributes
    ----------
    unseen : DataFrame
        What the training rows show and the vocabularies do not know, see
        :func:`~urlm_helpers.preprocessing.columns.unseen`, which may warn of it.

    Raises
    ------
    ValueError
        If the dataset has no times, ``fit_until`` can't be read or no row lies before
        it, or a column to look back by or to describe a history with isn't there.
    """

    def __init__(
        self,
        dataset: Dataset,
        fit_until: str | pd.Timestamp | int,
        *,
        look_back: Sequence[Sequence[str]] = (),
        history_fields: Sequence[str] = ("item",),
        history_length: int = 32,
        min_count: int = 10,
        counted_on: str = "rows",
        windows: Sequence[int] = (7, 28),
        buckets: int = 12,
    ) -> None:
        schema = dataset.schema
        check_timed(dataset.name, schema)
        self.dataset, self.schema = dataset, schema
        categorical = {c: dataset.interactions[c] for c in schema.context_categorical}
        ids = {"user": dataset.users["user"], "item": dataset.items["item"]}
        self.kinds = {c: Kind.of(seen) for c, seen in {**ids, **categorical}.items()}
        names = ("user", "item", *schema.user_categorical, *schema.item_categorical)
        names += ("scenario", *schema.context_categorical)
        _check_options(look_back, history_fields, names, counted_on)
        self.look_back = [tuple(by) for by in look_back]
        self.keys = sorted({column for by in look_back for column in by})
        self.history_fields = tuple(history_fields)
        self.history_length, self.windows = history_length, tuple(windows)
        self.events = self._describe_events()
        # text columns to look back by, numbered: integers are grouped faster
        self._numbers = {
            key: Vocabulary.fit(self.events[key])
            for key in self.keys
            if not pd.api.types.is_numeric_dtype(self.events[key])
        }
        self._key_events = self._numbered(self.events)

        until = moment("fit_until", fit_until, schema.time_unit)
        rows = self._integrate(dataset.interactions)
        if missing := [c for c in self.keys if c not in rows.columns]:
            raise ValueError(
                f"look_back: no column {missing} in the rows to look back from: name "
                "it in the schema, as a feature of users, items or the context"
            )
        past = (rows["time"] < until).to_numpy()
        if not past.any():
            raise ValueError(
                f"no row lies before {until}; the first is at {rows['time'].min()}"
            )
        past_events = self.events[self.events["time"] < until]
        self.vocabularies = {
            name: Vocabulary.fit(rows[name][past], min_count) for name in names
        }
        for name in self.history_fields:
            chosen = Vocabulary.fit(past_events[name], min_count)
            shown = self.vocabularies[name] if counted_on == "rows" else chosen
            self.vocabularies[name] = chosen | shown
        shown_in = rows.loc[
            past, list(dict.fromkeys(("user", "item", *history_fields)))
        ]
        self.unseen = unseen(shown_in, self.vocabularies, min_count)
        raw = self._numeric(rows)
        self.numeric_names = tuple(raw)
        self.scaler = Scaler.fit(_columns(raw, len(rows))[past])
        self.buckets = {
            name: Buckets.fit(values[past], buckets)
            for name, values in (raw.items() if buckets else ())
        }
        self.encoded = self._encode(rows, raw)

    def _describe_events(self) -> pd.DataFrame:
        """Give each event the item columns that histories and counts need."""
        events, items = self.dataset.events, self.dataset.items
        check_types("events", events, [c for c in self.keys if c in events.columns])
        wanted = {*self.keys, *self.history_fields}
        lacking = sorted(wanted - set(events.columns))
        if unknown := [c for c in lacking if c not in items.columns]:
            raise ValueError(
                f"no column {unknown} in the events or the items of "
                f"{self.dataset.name}: nothing to look back at"
            )
        if lacking:
            features = items[["item", *lacking]]
            events = events.merge(features, on="item", how="left", validate="m:1")
        return events

    def _numbered(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return time and keys of events or rows, the text columns numbered."""
        numbers = {}
        for column, known in self._numbers.items():
            code = known.encode(table[column])
            new = (code == UNSEEN) & table[column].notna().to_numpy()
            numbers[column] = np.where(new, -1, code)  # no event has it; 0 is a gap
        return table[["time", *self.keys]].assign(**numbers)

    def _integrate(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Join the rows with the features of their users and items."""
        return integrate(replace(self.dataset, interactions=rows))

    def _numeric(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the raw numeric columns of integrated rows, one array per name."""
        schema = self.schema
        names = schema.user_numeric + schema.item_numeric + schema.context_numeric
        raw = {name: rows[name].to_numpy("float64") for name in names}
        keys = self._numbered(rows)
        for by in self.look_back:
            back, label = LookBack(self._key_events, keys, by), name_of(by)
            counts = {"count": back.count()}
            counts |= {f"last {days} days": back.count(days) for days in self.windows}
            counts["days since"] = back.days_since_last(never=NEVER_DAYS)
            raw |= {f"{label}: {what}": np.log1p(n) for what, n in counts.items()}
        return raw

    @property
    def spec(self) -> InputSpec:
        """What a model needs to know of these inputs."""
        return InputSpec(
            fields={
                **{name: v.size for name, v in self.vocabularies.items()},
                **{f"{name} (bucket)": b.size for name, b in self.buckets.items()},
            },
            numeric=self.numeric_names,
            history_fields=self.history_fields,
            history_length=self.history_length,
            scenarios=self.schema.scenarios,
            tasks=self.schema.tasks,
            funnel=dict(self.schema.funnel),
            negative_rate=self.schema.negative_rate,
            user_side=self._side("user"),
            item_side=self._side("item"),
        )

    def _side(self, who: str) -> tuple[str, ...]:
        """Return the names of the columns that describe the user or the item alone."""
        own = {who, *self.schema.features(who)}
        counts = tuple(f"{name_of(by)}: " for by in self.look_back if own >= {*by})
        every = (*self.vocabularies, *self.numeric_names)
        return tuple(name for name in every if name in own or name.startswith(counts))

    def transform(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Encode rows of the shape of ``dataset.interactions``; labels are not read.

        Parameters
        ----------
        rows : DataFrame
            ``user``, ``item``, ``scenario``, ``time`` and the context columns.

        Raises
        ------
        SchemaError
            As of :meth:`accept`.

        Returns
        -------
        dict of str to ndarray
            ``fields`` ``(n, fields)`` int32, ``numeric`` ``(n, columns)`` float32,
            ``history`` ``(n, length, history fields)`` int32, oldest first and padded
            with 0 on the left, ``history_age`` ``(n, length)`` float32, the days
            between each event and the row, ``scenario`` ``(n,)`` int32.
        """
        rows = self._integrate(self.accept(rows))
        return self._encode(rows, self._numeric(rows))

    def accept(self, rows: pd.DataFrame, name: str = "rows") -> pd.DataFrame:
        """Check rows to be scored as `urlm_helpers.data.from_frames` checks a log.

        Returns
        -------
        DataFrame
            The rows, ids in the type that was fitted, times as datetime64[ns] (UTC).

        Raises
        ------
        SchemaError
            No rows, a missing column, one that comes from the tables of users and
            items, a missing id, ids or categories of another type than was fitted, an
            unknown scenario, a number that is none or infinite, a time that can't be
            read. What is only new is *unseen*, and a feature may be missing.
        """
        schema = self.schema
        check_log(name, rows, schema)
        same = {c: alike(name, rows, c, kind) for c, kind in self.kinds.items()}
        check_scenarios(name, rows, schema)
        check_numbers(name, rows, schema.context_numeric)
        return rows.assign(**same, time=parse_time(name, rows, schema.time_unit))

    def _encode(
        self, rows: pd.DataFrame, raw: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Encode integrated rows whose raw numeric columns are known."""
        fields = [v.encode(rows[name]) for name, v in self.vocabularies.items()]
        fields += [b.encode(raw[name]) for name, b in self.buckets.items()]
        scenario = pd.Index(self.schema.scenarios).get_indexer(
            pd.Index(rows["scenario"])
        )
        return {
            "fields": np.stack(fields, axis=1),
            "numeric": self.scaler.transform(_columns(raw, len(rows))),
            **self._histories(rows),
            "scenario": scenario.astype("int32"),
        }

    def _histories(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        at = LookBack(self.events, rows, ["user"]).last(self.history_length)
        history = np.zeros((*at.shape, len(self.history_fields)), "int32")
        for f, name in enumerate(self.history_fields):
            codes = self.vocabularies[name].encode(self.events[name])
            codes = np.append(codes, UNSEEN)  # position -1: padding
            history[..., f] = codes[at]
        then, now = seconds(self.events), seconds(rows)
        age = (now[:, None] - np.append(then, 0)[at]) / SECONDS_PER_DAY
        age = np.where(at >= 0, age, 0.0).astype("float32")
        return {"history": history, "history_age": age}
