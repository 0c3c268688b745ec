"""A small HTTP service around a model: what it accepts and what it answers.

`urlm_helpers.serving.http_server` has the server, `urlm_helpers.serving.latency` the
load to time it with.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import SchemaError
from urlm_helpers.data.times import moment
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.recommendation.fusion import Mix, mix_weights
from urlm_helpers.recommendation.lists import Scores, recommend
from urlm_helpers.serving.http_server import Refused, Routes, Server, check, show

YEARS = (1700, 2200)
"""First and last year of a request; pandas counts nanoseconds in 64 bits."""

FAR = 1e6
"""Standard deviations from the mean of the training beyond which a number is none."""

LATE = 30
"""Days after the last known event from which on a request without `time` is odd."""

TYPES = {"integer": "int", "string": "str", "floating": "float", "boolean": "bool"}
"""How JSON's values of the types of a column are called."""


class Service:
    """A model behind HTTP: ``POST /score``, ``POST /recommend``, ``GET /health``.

    Parameters
    ----------
    model : object with ``probabilities(x)``
        Such as a :class:`~urlm_helpers.model.UnifiedRecommender` or a
        :class:`~urlm_helpers.serving.LiteScores`. It is asked by one thread at a time.
    encoder : Encoder
        The one that encoded the model's training rows. Its events are the past that
        the service knows.
    mixes : mapping of str to mix, optional
        What a request for a list may be ordered by, by name, beside the tasks: weights
        of tasks, also by scenario, see
        :func:`~urlm_helpers.recommendation.mix_weights`.
    host, port : str, int
        Where to listen; port 0 takes a free one, see `url`.
    max_items, max_k, max_bytes : int
        Most items to score, longest list, largest body of a request.
    max_waiting : int
        Requests in work at once; one more is told to come again (503).

    Notes
    -----
    ``/score`` takes ``user``, ``scenario``, ``items`` (a list of ids), ``/recommend``
    ``user``, ``scenario``, ``k`` and, if not the first task shall order the list,
    ``task``: that of a task or a mix, or an object of weights. Both take ``time`` (ISO
    8601, UTC unless it says otherwise; by default now) and, where the schema has
    context columns, ``context`` with a value for each; ``/score`` also takes a list, a
    value per item. Ids that the tables do not have, and context values that the model
    does not know, are scored as unseen and listed under ``unknown``. A request without
    ``time`` to a service whose last event is ``LATE`` days old is answered with a
    ``warning``. Everything else that is wrong gets a 4xx with ``error``.

    Examples
    --------
    >>> from urlm_helpers.data import Schema, from_frames
    >>> data = from_frames(
    ...     pd.DataFrame({"user": [7, 7], "item": ["a", "b"], "scenario": "shop",
    ...                   "time": "2026-01-01", "click": [1, 0]}),
    ...     schema=Schema(("shop",), ("click",)))
    >>> class Half:
    ...     def probabilities(self, x):
    ...         return np.full((len(x["scenario"]), 1), 0.5)
    >>> service = Service(Half(), Encoder(data, "2026-01-02", min_count=1))
    >>> service.score({"user": 7, "scenario": "shop", "items": ["b", "z"]})["scores"]
    [{'item': 'b', 'click': 0.5}, {'item': 'z', 'click': 0.5}]
    >>> service.recommend({"user": 7, "scenario": "shop", "k": 0})
    Traceback (most recent call last):
        ...
    urlm_helpers.serving.http_server.Refused: k must be an integer from 1 to 100, got 0
    >>> import urllib.request
    >>> with service:
    ...     urllib.request.urlopen(service.url + "/health").status
    200
    """

    def __init__(
        self,
        model: Scores,
        encoder: Encoder,
        *,
        mixes: Mapping[str, Mix] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_items: int = 1000,
        max_k: int = 100,
        max_bytes: int = 64_000,
        max_waiting: int = 16,
    ) -> None:
        self.model, self.encoder = model, encoder
        tasks, scenarios = encoder.schema.tasks, encoder.schema.scenarios
        self.mixes: dict[str, Mix] = {**(mixes or {}), **{task: task for task in tasks}}
        for mix in self.mixes.values():
            mix_weights(mix, tasks, scenarios)
        self.host, self.port = host, port
        self.max_items, self.max_k = max_items, max_k
        self.max_bytes, self.max_waiting = max_bytes, max_waiting
        self._known = {
            "user": pd.Index(encoder.dataset.users["user"]),
            "item": pd.Index(encoder.dataset.items["item"]),
        }
        self._last = encoder.events["time"].max()
        self._model_lock = threading.Lock()
        self._server: Server | None = None

    # --- what it answers --------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Say what the service knows and how much it takes."""
        schema = self.encoder.schema
        return {
            "status": "ok",
            "scenarios": list(schema.scenarios),
            "tasks": list(schema.tasks),
            "mixes": [name for name in self.mixes if name not in schema.tasks],
            "context": list(schema.context_categorical + schema.context_numeric),
            "users": len(self._known["user"]),
            "items": len(self._known["item"]),
            "max_items": self.max_items,
            "max_k": self.max_k,
        }

    def score(self, request: Any) -> dict[str, Any]:
        """Score some items for a user; raises `Refused`."""
        row = self._common(request, "items")
        items = request["items"]
        got = len(items) if isinstance(items, list) else items
        fits = isinstance(items, list) and 1 <= len(items) <= self.max_items
        check(fits, "items", f"a list of 1 to {self.max_items} ids", got)
        for item in items:
            self._check_kind("item", item)
        rows = pd.DataFrame({"item": items}).assign(**row)
        with _refusing():
            p = self.probabilities(self.encoder.transform(rows))
        tasks = self.encoder.schema.tasks
        scores = [
            {"item": item, **dict(zip(tasks, line, strict=True))}
            for item, line in zip(items, p.tolist(), strict=True)
        ]
        unknown = [item for item in items if item not in self._known["item"]]
        return self._answer(request, row, unknown, scores=scores)

    def recommend(self, request: Any) -> dict[str, Any]:
        """Rank what a scenario can show by a task or a mix; raises `Refused`."""
        row = self._common(request, "k", "task")
        k = request["k"]
        fits = type(k) is int and 1 <= k <= self.max_k
        check(fits, "k", f"an integer from 1 to {self.max_k}", k)
        mix = request.get("task", self.encoder.schema.tasks[0])
        if not isinstance(mix, dict):
            check(
                mix in [*self.mixes], "task", f"one of {[*self.mixes]}, or weights", mix
            )
            mix = self.mixes[mix]
        catalog = self.encoder.dataset.shown_in(row["scenario"])
        rows = pd.DataFrame({"item": catalog}).assign(**row)
        with _refusing():
            table = recommend(self, self.encoder, rows, k=k, task=mix)
        shown = ["rank", "item", *(["name"] if "name" in table else [])]
        shown += [f"p_{task}" for task in self.encoder.schema.tasks]
        records = table[shown].rename(columns=lambda c: c.removeprefix("p_"))
        return self._answer(request, row, [], list=records.to_dict("records"))

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Ask the model, one thread at a time; ``(rows, tasks)``."""
        with self._model_lock:
            return self.model.probabilities(x)

    def _answer(
        self, request: Any, row: Mapping[str, Any], items: list[Any], **result: Any
    ) -> dict[str, Any]:
        new = row["user"] not in self._known["user"]
        unknown: dict[str, Any] = {"user": new, "items": items}
        vocabularies = self.encoder.vocabularies
        for column in self.encoder.schema.context_categorical:
            value, known = row[column], vocabularies[column].values
            each = dict.fromkeys(value) if isinstance(value, list) else [value]
            if strange := [v for v in each if v not in known]:
                shown = strange if isinstance(value, list) else value
                unknown.setdefault("context", {})[column] = shown
        asked = {"user": row["user"], "scenario": row["scenario"]}
        answer = {**asked, "time": row["time"].isoformat(), **result}
        answer["unknown"] = unknown
        days = (row["time"] - self._last).days
        if request.get("time") is None and days >= LATE:
            answer["warning"] = (
                f"no time was given: scored as of now, {days:,} days after the last "
                f"event that the service knows, {self._last.isoformat()}"
            )
        return answer

    # --- what it accepts --------------------------------------------------------------

    def _common(self, request: Any, own: str, *optional: str) -> dict[str, Any]:
        """Check the fields that both requests have; return them as columns."""
        schema = self.encoder.schema
        columns = schema.context_categorical + schema.context_numeric
        needed = ["user", "scenario", own, *(["context"] if columns else [])]
        wanted = f"a JSON object with {needed}"
        check(isinstance(request, dict), "the body", wanted, request)
        if missing := [name for name in needed if name not in request]:
            raise Refused(f"missing {missing}: a request needs {needed}")
        optional = ("time", *optional)
        if unknown := sorted(set(request) - {*needed, *optional}):
            known = f"{needed}, {str(optional)[1:-1].rstrip(',')}"
            raise Refused(f"unknown fields {unknown}: known are {known}")
        user, scenario = request["user"], request["scenario"]
        self._check_kind("user", user)
        scenarios = list(schema.scenarios)
        check(scenario in scenarios, "scenario", f"one of {scenarios}", scenario)
        context = request.get("context", {})
        fits = isinstance(context, dict) and set(context) == set(columns)
        check(fits, "context", f"an object with exactly {list(columns)}", context)
        items = request.get("items")  # which only /score takes
        for column in columns:
            each, wanted = context[column], "a value, or a list with one for each item"
            if isinstance(items, list) and isinstance(each, list):
                check(len(each) == len(items), column, wanted, each)
            else:
                each = [each]
            for value in each:
                if column in schema.context_categorical:
                    self._check_kind(column, value)
                else:
                    check(_is_double(value), column, "a number", value)
                    self._check_size(column, value)
        when = self._moment(request.get("time"))
        return {"user": user, "scenario": scenario, "time": when, **context}

    def _check_kind(self, name: str, value: Any) -> None:
        """Refuse an id or a category of another type than the tables have."""
        known = self.encoder.kinds[name].name
        kind = TYPES.get(known, known)
        fits = known == "empty" or type(value).__name__ == kind
        if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            wanted = f"of type {kind}, as in the tables"
            got = f"{show(value)} ({type(value).__name__})"
            raise Refused(f"{name} must be {wanted}, got {got}")

    def _check_size(self, name: str, value: float) -> None:
        """Refuse a number that is so far from all others that the model overflows."""
        scaler, column = self.encoder.scaler, self.encoder.numeric_names.index(name)
        mean, reach = float(scaler.mean[column]), FAR * float(scaler.std[column])
        wanted = f"a number from {mean - reach:.3g} to {mean + reach:.3g}"
        check(abs(value - mean) <= reach, name, wanted, value)

    def _moment(self, value: Any) -> pd.Timestamp:
        """Read the time of a request, by default now, as UTC without a zone."""
        if (unit := self.encoder.schema.time_unit) and type(value) is int:
            with _refusing():
                return moment("time", value, unit)
        try:
            now = datetime.now(UTC)
            when = now if value is None else datetime.fromisoformat(value)
            if not YEARS[0] <= when.year <= YEARS[1]:
                raise ValueError
        except (TypeError, ValueError):
            wanted = "ISO 8601 such as '2026-01-31T18:00:00', from {} to {}"
            wanted = wanted.format(*YEARS)
            raise Refused(f"time must be {wanted}, got {show(value)}") from None
        if when.tzinfo is not None:
            when = when.astimezone(UTC).replace(tzinfo=None)
        return pd.Timestamp(when)

    # --- starting and stopping --------------------------------------------------------

    def __enter__(self) -> Service:
        routes: Routes = {
            "/health": ("GET", self.health),
            "/score": ("POST", self.score),
            "/recommend": ("POST", self.recommend),
        }
        address = (self.host, self.port)
        self._server = Server(address, routes, self.max_bytes, self.max_waiting)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stopping = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    @property
    def url(self) -> str:
        """Where the running service listens, such as ``http://127.0.0.1:40123``."""
        if self._server is None:
            raise RuntimeError("the service does not run: use it in a with statement")
        return f"http://{self.host}:{self._server.server_port}"


def _is_double(value: Any) -> bool:
    """Tell whether a value of JSON, whose numbers have no limit, is a finite double."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse, in its words, what the encoder refuses."""
    try:
        yield
    except SchemaError as error:
        raise Refused(str(error)) from None
