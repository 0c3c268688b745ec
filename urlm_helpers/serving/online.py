"""The encoder's features, row by row the same, without its tables of the whole log.

An `Encoder` sorts all events to encode some rows. `Online` has what does not change
laid out by user and item, and the events in timelines that grow one event at a time. A
test replays a log and compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.preprocessing.encode import NEVER_DAYS, SECONDS_PER_DAY, Encoder
from urlm_helpers.serving.timeline import OFFSET, Timeline

GAP, STRANGE = 0, 1
"""Codes of a value that is missing, and of one that no event has."""

HALF_LIFE = 14 * SECONDS_PER_DAY
"""Seconds after which an event counts half for what is popular."""

Event = Mapping[str, Any]
"""``user``, ``item``, ``time`` (seconds since 1970), ``scenario`` and the context."""


class Online:
    """What an encoder knows, and events that are added one by one.

    Parameters
    ----------
    encoder : Encoder
        Its own events are not read.
    events : mapping of str to sequence
        The past: columns of the same length, as of `Event`.

    Attributes
    ----------
    items : dict
        From the id of an item to its number: first those of the encoder's table.
    popular : ndarray, shape (scenarios, items of the table)
        Events, the older the lighter, by a scale that grows with time.

    Raises
    ------
    ValueError
        If the encoder looks back by more columns than fit in 64 bits.
    """

    def __init__(self, encoder: Encoder, events: Mapping[str, Sequence[Any]]) -> None:
        self.encoder, schema = encoder, encoder.schema
        users, items = encoder.dataset.users, encoder.dataset.items
        self.users = {user: n for n, user in enumerate(users["user"].tolist())}
        self.items = {item: n for n, item in enumerate(items["item"].tolist())}
        self.ids = list(self.items)
        self._tables = {"user": users, "item": items}
        self._side = {"user": "user", "item": "item"}
        for who in ("user", "item"):
            self._side |= dict.fromkeys(schema.features(who), who)
        self.words: dict[str, dict[Any, int]] = {}  # of scenario and context
        self._code: dict[str, np.ndarray] = {}  # vocabulary's code, by user or item
        self._key: dict[str, np.ndarray] = {}  # code to look back by, likewise
        for name, vocabulary in encoder.vocabularies.items():
            if side := self._side.get(name):
                code = vocabulary.encode(self._tables[side][name])
                self._code[name] = np.append(code, 0)  # of a new user or item
            else:
                known = vocabulary.values.tolist()
                self.words[name] = {value: n + 1 for n, value in enumerate(known)}
        self._known: dict[str, dict[Any, int]] = {
            name: {None: GAP} for name in encoder.keys if name not in self._side
        }
        for name in encoder.keys:
            if (side := self._side.get(name)) and name != side:
                code, _ = pd.factorize(self._tables[side][name])
                code = np.where(code < 0, GAP, code + STRANGE + 1)
                self._key[name] = np.append(code, GAP)
        self._number = {
            name: np.append(self._tables[side][name].to_numpy("float64"), np.nan)
            for name, side in self._side.items()
            if name in schema.user_numeric + schema.item_numeric
        }
        self._fill(events)

    def _fill(self, events: Mapping[str, Sequence[Any]]) -> None:
        """Sort the events that are there at the start."""
        times = np.asarray(events["time"], "int64")
        user = self._numbered(self.users, events["user"])
        item = self._numbered(self.items, events["item"])
        self.ids.extend(list(self.items)[len(self.ids) :])
        rows = {"user": user, "item": item}
        self._lines = {}
        for by in self.encoder.look_back:
            if max(len(self.users), len(self.items)) > 2 ** (62 // len(by) - 1):
                raise ValueError(f"too many users or items to look back by {by}")
            parts = []
            for name in by:
                if side := self._side.get(name):
                    parts.append(self._key_of(name, rows[side]))
                else:
                    known = self._known[name]
                    codes = [_learn(known, v) for v in events[name]]
                    parts.append(np.array(codes, "int64"))
            self._lines[by] = Timeline(self._joined(parts), times)
        payload = [item]
        for name in self.encoder.history_fields:
            if side := self._side.get(name):
                payload.append(_take(self._code[name], rows[side]))
            else:
                words = self.words[name]
                payload.append(np.array([words.get(v, 0) for v in events[name]], int))
        self._histories = Timeline(user, times, np.stack(payload, axis=1))
        scenarios = {s: n for n, s in enumerate(self.encoder.schema.scenarios)}
        self._zero = int(times.max()) if len(times) else None
        size = len(self.encoder.dataset.items)
        self.popular = np.zeros((len(scenarios), size))
        weight = np.exp2((times - (self._zero or 0)) / HALF_LIFE)
        where = np.array([scenarios.get(s, -1) for s in events["scenario"]], int)
        for number in scenarios.values():  # one without a scenario counts in each
            own = ((where == number) | (where < 0)) & (item < size)
            self.popular[number] = np.bincount(item[own], weight[own], size)

    @staticmethod
    def _numbered(numbers: dict[Any, int], ids: Sequence[Any]) -> np.ndarray:
        return np.array([numbers.setdefault(v, len(numbers)) for v in ids], "int64")

    @staticmethod
    def _joined(parts: Sequence[Any]) -> Any:
        """Put the codes of several columns into one number."""
        bits, joined = 62 // len(parts), 0
        for part in parts:
            joined = (joined << bits) + part
        return joined

    def _key_of(self, name: str, number: Any) -> Any:
        """Return what to look back by, for users or items by number (-1: strange)."""
        if name in self._key:
            return _take(self._key[name], number)
        return number + STRANGE + 1

    def add(self, event: Event) -> None:
        """Put in one more event: the next row that is encoded sees it."""
        user = self.users.setdefault(event["user"], len(self.users))
        item = self.items.setdefault(event["item"], len(self.items))
        if item == len(self.ids):
            self.ids.append(event["item"])
        rows, time = {"user": user, "item": item}, event["time"]
        for by, line in self._lines.items():
            parts = [
                int(self._key_of(name, rows[side]))
                if (side := self._side.get(name))
                else _learn(self._known[name], event[name])
                for name in by
            ]
            line.add(self._joined(parts), time)
        payload = [item]
        for name in self.encoder.history_fields:
            if side := self._side.get(name):
                payload.append(int(_take(self._code[name], rows[side])))
            else:
                payload.append(self.words[name].get(event[name], 0))
        self._histories.add(user, time, payload)
        if item < self.popular.shape[1]:
            if self._zero is None:
                self._zero = time
            scenarios, scenario = self.encoder.schema.scenarios, event["scenario"]
            at = scenarios.index(scenario) if scenario in scenarios else slice(None)
            self.popular[at, item] += np.exp2((time - self._zero) / HALF_LIFE)

    def consumed(self, user: Any, time: int, length: int) -> np.ndarray:
        """Return the numbers of the items of a user's last events, oldest first."""
        _, payload = self._histories.last(self.users.get(user, -1), time, length)
        return np.asarray(payload[:, 0])

    def encode(
        self, user: Any, items: np.ndarray, scenario: str, time: int, context: Event
    ) -> dict[str, np.ndarray]:
        """Encode rows of one user at one moment, as ``Encoder.transform`` does.

        Parameters
        ----------
        user : id
        items : ndarray of int, shape (n,)
            Numbers, -1 for an unknown item.
        scenario : str
        time : int
            Seconds since 1970.
        context : mapping
            A value of each context column, or an array with one for each item.
        """
        encoder, n = self.encoder, len(items)
        rows = {"user": np.array([self.users.get(user, -1)]), "item": items}
        given = {"scenario": scenario, **context}
        raw = self._raw(rows, given, time)
        columns = [
            _take(self._code[name], rows[side])
            if (side := self._side.get(name))
            else _each(given[name], self.words[name], 0)
            for name in encoder.vocabularies
        ]
        columns += [cut.encode(raw[name]) for name, cut in encoder.buckets.items()]
        fields = np.empty((n, len(columns)), "int32")
        numbers = np.empty((n, len(raw)))
        for j, column in enumerate(columns):
            fields[:, j] = column
        for j, name in enumerate(encoder.numeric_names):
            numbers[:, j] = raw[name]
        length = encoder.history_length
        times, payload = self._histories.last(int(rows["user"][0]), time, length)
        history = np.zeros((n, length, len(encoder.history_fields)), "int32")
        age = np.zeros((n, length), "float32")
        if len(times):
            history[:, -len(times) :] = payload[:, 1:]
            age[:, -len(times) :] = (time - times) / SECONDS_PER_DAY
        where = encoder.schema.scenarios.index(scenario)
        return {
            "fields": fields,
            "numeric": encoder.scaler.transform(numbers),
            "history": history,
            "history_age": age,
            "scenario": np.full(n, where, "int32"),
        }

    def _raw(
        self, rows: Mapping[str, np.ndarray], given: Event, time: int
    ) -> dict[str, np.ndarray]:
        """Return the numeric columns, of the length of `items` or 1."""
        raw = {
            name: np.atleast_1d(np.asarray(given[name], "float64"))
            if (side := self._side.get(name)) is None
            else _take(self._number[name], rows[side])
            for name in self._numeric_columns()
        }
        windows = self.encoder.windows
        moments = [time, *(max(time - int(d * 86_400), -OFFSET) for d in windows)]
        for by, line in self._lines.items():
            parts = [
                self._key_of(name, rows[side])
                if (side := self._side.get(name))
                else _each(given[name], self._known[name], STRANGE)
                for name in by
            ]
            counts, last = line.before(np.atleast_1d(self._joined(parts)), moments)
            label = " × ".join(by)
            raw[f"{label}: count"] = np.log1p(counts[:, 0])
            for w, days in enumerate(windows, start=1):
                recent = np.log1p(counts[:, 0] - counts[:, w])
                raw[f"{label}: last {days} days"] = recent
            ago = (time - last) / SECONDS_PER_DAY
            ago = np.where(counts[:, 0] > 0, ago, NEVER_DAYS)
            raw[f"{label}: days since"] = np.log1p(ago)
        return raw

    def _numeric_columns(self) -> tuple[str, ...]:
        schema = self.encoder.schema
        return schema.user_numeric + schema.item_numeric + schema.context_numeric


def _take(table: np.ndarray, number: Any) -> Any:
    """Look up users or items by number; one that the table lacks has its last row."""
    last = len(table) - 1
    return table[np.where((number < 0) | (number > last), last, number)]


def _learn(codes: dict[Any, int], value: Any) -> int:
    """Return the code of a value, a new one if need be; not a number is a gap."""
    if value != value:
        value = None
    return codes.setdefault(value, len(codes) + STRANGE)


def _each(value: Any, codes: Mapping[Any, int], strange: int) -> np.ndarray:
    """Look up a value, or one for each item."""
    several = value if isinstance(value, list) else [value]
    return np.array([codes.get(v, strange) for v in several], "int64")
