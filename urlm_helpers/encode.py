"""From a dataset to the dict of arrays that a model takes; the same for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.lookback import LookBack
from urlm_helpers.preprocess import (
    UNSEEN,
    Buckets,
    Scaler,
    Vocabulary,
    integrate,
    split_by_time,
)
from urlm_helpers.schema import Dataset

SECONDS_PER_DAY = 86_400.0
NEVER_DAYS = 1000.0
"""Days since the last event where there was none."""


@dataclass(frozen=True)
class InputSpec:
    """What a model's inputs are: names, sizes and the funnel; no data.

    Parameters
    ----------
    fields : mapping of str to int
        Categorical fields in order, with their vocabulary sizes.
    numeric : tuple of str
        Numeric columns in order.
    history_fields : tuple of str
        Fields that describe an event of the history; they share the item's vectors.
    history_length : int
        Events in a history.
    scenarios, tasks, funnel, negative_rate
        As in :class:`~urlm_helpers.schema.Schema`.
    user_side, item_side : tuple of str
        Fields and numeric columns that describe the user, and the item, alone.
    """

    fields: Mapping[str, int]
    numeric: tuple[str, ...]
    history_fields: tuple[str, ...]
    history_length: int
    scenarios: tuple[str, ...]
    tasks: tuple[str, ...]
    funnel: Mapping[str, str]
    negative_rate: float = 1.0
    user_side: tuple[str, ...] = ("user",)
    item_side: tuple[str, ...] = ("item",)

    @property
    def parents(self) -> list[int]:
        """Column of each task's parent in the funnel, -1 for none."""
        return [
            self.tasks.index(self.funnel[task]) if task in self.funnel else -1
            for task in self.tasks
        ]

    def example(self) -> dict[str, np.ndarray]:
        """Return one row of valid inputs, all unseen and empty."""
        return {
            "fields": np.zeros((1, len(self.fields)), "int32"),
            "numeric": np.zeros((1, len(self.numeric)), "float32"),
            "history": np.zeros(
                (1, self.history_length, len(self.history_fields)), "int32"
            ),
            "history_age": np.zeros((1, self.history_length), "float32"),
            "scenario": np.zeros(1, "int32"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain Python values."""
        plain = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self).items()
        }
        return plain


def _columns(raw: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Stack named columns into ``(rows, columns)``; there may be none."""
    return np.stack(list(raw.values()), axis=1) if raw else np.zeros((rows, 0))


class Encoder:
    """Turns rows into arrays, with everything it knows learned before one moment.

    Parameters
    ----------
    dataset : Dataset
        Where users, items and events come from.
    fit_until : str or Timestamp
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
        Counted are training rows, for the fields of a history earlier events.
    windows : sequence of int
        Days of the recent counts.
    buckets : int
        Each numeric column also becomes a categorical field of some so many buckets,
        which lets the model bend a straight line; 0 for none.

    Raises
    ------
    ValueError
        If the dataset has no times, or no row lies before ``fit_until``.
    """

    def __init__(
        self,
        dataset: Dataset,
        fit_until: str | pd.Timestamp,
        *,
        look_back: Sequence[Sequence[str]] = (),
        history_fields: Sequence[str] = ("item",),
        history_length: int = 32,
        min_count: int = 10,
        windows: Sequence[int] = (7, 28),
        buckets: int = 12,
    ) -> None:
        schema = dataset.schema
        if not schema.timed:
            raise ValueError(
                f"{dataset.name} has no times: no past can be told from a future"
            )
        self.dataset, self.schema = dataset, schema
        self.look_back = [tuple(by) for by in look_back]
        self.history_fields = tuple(history_fields)
        self.history_length, self.windows = history_length, tuple(windows)
        self.events = self._describe_events()
        self._number_keys()

        until = pd.Timestamp(fit_until)
        rows = self._integrate(dataset.interactions)
        past = (rows["time"] < until).to_numpy()
        if not past.any():
            raise ValueError(
                f"no row lies before {until}; the first is at {rows['time'].min()}"
            )
        past_events = self.events[self.events["time"] < until]
        names = ("user", "item", *schema.user_categorical, *schema.item_categorical)
        names += ("scenario", *schema.context_categorical)
        self.vocabularies = {
            name: Vocabulary.fit(
                past_events[name] if name in self.history_fields else rows[name][past],
                min_count,
            )
            for name in names
        }
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
        wanted = {c for by in self.look_back for c in by} | set(self.history_fields)
        events = self.dataset.events
        lacking = sorted(wanted - set(events.columns))
        from_items = [c for c in lacking if c in self.dataset.items.columns]
        unknown = sorted(set(lacking) - set(from_items))
        if unknown:
            raise ValueError(
                f"no column {unknown} in the events or the items of "
                f"{self.dataset.name}: nothing to look back at"
            )
        if from_items:
            features = self.dataset.items[["item", *from_items]]
            events = events.merge(features, on="item", how="left", validate="m:1")
        return events

    def _number_keys(self) -> None:
        """Number the text columns to look back by: integers are grouped faster."""
        wanted = sorted({column for by in self.look_back for column in by})
        self._keys = {
            column: Vocabulary.fit(self.events[column])
            for column in wanted
            if not pd.api.types.is_numeric_dtype(self.events[column])
        }
        self._key_events = self.events[["time", *wanted]].assign(
            **{c: keys.encode(self.events[c]) for c, keys in self._keys.items()}
        )

    def _integrate(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Join the rows with the features of their users and items."""
        return integrate(replace(self.dataset, interactions=rows))

    def _numeric(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the raw numeric columns of integrated rows, one array per name."""
        schema = self.schema
        names = schema.user_numeric + schema.item_numeric + schema.context_numeric
        raw = {name: rows[name].to_numpy("float64") for name in names}
        wanted = sorted({column for by in self.look_back for column in by})
        rows = rows[["time", *wanted]].assign(
            **{c: k.encode(rows[c]) for c, k in self._keys.items()}
        )
        for by in self.look_back:
            back, label = LookBack(self._key_events, rows, by), " × ".join(by)
            raw[f"{label}: count"] = np.log1p(back.count())
            for window in self.windows:
                recent = back.count(window)
                raw[f"{label}: last {window} days"] = np.log1p(recent)
            days = back.days_since_last(never=NEVER_DAYS)
            raw[f"{label}: days since"] = np.log1p(days)
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
        own = [
            getattr(self.schema, f"{who}_{kind}") for kind in ("categorical", "numeric")
        ]
        names = {who, *own[0], *own[1]}
        for by in self.look_back:
            if set(by) <= names:
                counts = [
                    n for n in self.numeric_names if n.startswith(f"{' × '.join(by)}: ")
                ]
                names |= set(counts)
        every = (*self.vocabularies, *self.numeric_names)
        return tuple(name for name in every if name in names)

    def transform(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Encode rows of the shape of ``dataset.interactions``; labels are not read.

        Parameters
        ----------
        rows : DataFrame
            ``user``, ``item``, ``scenario``, ``time`` and the context columns.

        Returns
        -------
        dict of str to ndarray
            ``fields`` ``(n, fields)`` int32, ``numeric`` ``(n, columns)`` float32,
            ``history`` ``(n, length, history fields)`` int32, oldest first and padded
            with 0 on the left, ``history_age`` ``(n, length)`` float32, the days
            between each event and the row, ``scenario`` ``(n,)`` int32.
        """
        rows = self._integrate(rows)
        return self._encode(rows, self._numeric(rows))

    def _encode(
        self, rows: pd.DataFrame, raw: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Encode integrated rows whose raw numeric columns are known."""
        fields = [v.encode(rows[name]) for name, v in self.vocabularies.items()]
        fields += [b.encode(raw[name]) for name, b in self.buckets.items()]
        return {
            "fields": np.stack(fields, axis=1),
            "numeric": self.scaler.transform(_columns(raw, len(rows))),
            **self._histories(rows),
            "scenario": pd.Index(self.schema.scenarios)
            .get_indexer(pd.Index(rows["scenario"]))
            .astype("int32"),
        }

    def _histories(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        at = LookBack(self.events, rows, ["user"]).last(self.history_length)
        history = np.zeros((*at.shape, len(self.history_fields)), "int32")
        for f, name in enumerate(self.history_fields):
            codes = self.vocabularies[name].encode(self.events[name])
            codes = np.append(codes, UNSEEN)  # position -1: padding
            history[..., f] = codes[at]
        then, now = (
            frame["time"].to_numpy("datetime64[s]").astype("int64")
            for frame in (self.events, rows)
        )
        age = (now[:, None] - np.append(then, 0)[at]) / SECONDS_PER_DAY
        age = np.where(at >= 0, age, 0.0).astype("float32")
        return {"history": history, "history_age": age}


@dataclass(frozen=True)
class Prepared:
    """Rows as arrays, cut in time, with the encoder that made them.

    Parameters
    ----------
    x : dict of str to ndarray
        As of :meth:`Encoder.transform`.
    y : ndarray, shape (n, tasks)
        Labels, int8.
    rows : DataFrame
        The interactions, row by row.
    parts : dict of str to ndarray
        As of :func:`split_by_time`.
    encoder : Encoder
        For new rows.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    rows: pd.DataFrame
    parts: dict[str, np.ndarray]
    encoder: Encoder

    @property
    def weight(self) -> np.ndarray:
        """How many impressions each row stands for, ``(n,)``.

        A row with an event stands for itself, one without for ``1 / negative_rate``.
        """
        happened = self.y.any(axis=1)
        return np.where(happened, 1.0, 1.0 / self.encoder.schema.negative_rate)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of some rows, as a model takes them."""
        return {name: array[rows] for name, array in self.x.items()}

    def predictions(self, rows: np.ndarray, p: np.ndarray) -> pd.DataFrame:
        """Put probabilities beside labels, as every evaluation takes them.

        Parameters
        ----------
        rows : ndarray of int
            Row numbers, such as ``parts["test"]``.
        p : ndarray, shape (rows, tasks) or (rows,)
            Probabilities, or scores, of the first tasks; of the first one alone.

        Returns
        -------
        DataFrame
            ``user``, ``scenario``, ``weight``, and ``y_<task>`` and ``p_<task>`` of
            each task.

        Raises
        ------
        ValueError
            If ``p`` has another number of rows, or more columns than there are tasks.
        """
        p = p.reshape(len(p), -1)
        tasks = self.encoder.schema.tasks
        if len(p) != len(rows) or p.shape[1] > len(tasks):
            raise ValueError(
                f"{len(rows)} rows and up to {len(tasks)} tasks need as many "
                f"predictions, got {p.shape}"
            )
        table = self.rows[["user", "scenario"]].iloc[rows].reset_index(drop=True)
        table["weight"] = self.weight[rows]
        for t in range(p.shape[1]):
            table[f"y_{tasks[t]}"] = self.y[rows, t]
            table[f"p_{tasks[t]}"] = p[:, t]
        return table

    @property
    def megabytes(self) -> float:
        """Memory of the arrays, in MB (10**6 bytes)."""
        return sum(a.nbytes for a in [*self.x.values(), self.y]) / 1e6


def prepare(
    dataset: Dataset,
    valid_from: str | pd.Timestamp,
    test_from: str | pd.Timestamp,
    **options: Any,
) -> Prepared:
    """Encode a dataset and cut it in time: the whole of section 3.2.1 in one call.

    Parameters
    ----------
    dataset : Dataset
        The three tables.
    valid_from, test_from : str or Timestamp
        First moments of the validation and the test period.
    **options
        Of :class:`Encoder`.

    Returns
    -------
    Prepared
    """
    encoder = Encoder(dataset, valid_from, **options)
    parts = split_by_time(dataset.interactions["time"], valid_from, test_from)
    labels = dataset.interactions[list(dataset.schema.tasks)].to_numpy("int8")
    return Prepared(encoder.encoded, labels, dataset.interactions, parts, encoder)
