"""A model, its tables and what they answer: retrieval, ranking, fusion, re-ranking."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import SchemaError
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.files import vocabulary_version
from urlm_helpers.recommendation.fusion import Mix, fuse, mix_weights
from urlm_helpers.recommendation.lists import Scores
from urlm_helpers.recommendation.rerank import at_most, best
from urlm_helpers.serving.online import Online
from urlm_helpers.serving.requests import Refused, iso, models, now, show
from urlm_helpers.serving.store import Store

LATE = 30
"""Days after the last known event from which on a request without `time` is odd."""

OWN = 4
"""One candidate of so many may be an item that the user consumed before."""

FRESH = 1.0
"""Seconds for which the order of what is popular is kept."""

LONG = 10_000
"""Most events of a user that are looked at for what was consumed."""


class Live:
    """One version of a model with its tables; it never changes but for new events.

    Parameters
    ----------
    model, encoder, mixes, max_items, max_k, candidates
        As of `Service`.
    store : Store
        The past.

    Raises
    ------
    ValueError
        If the model does not fit the encoder, or a mix the schema.
    """

    def __init__(
        self,
        model: Scores,
        encoder: Encoder,
        store: Store,
        *,
        mixes: Mapping[str, Mix],
        max_items: int,
        max_k: int,
        candidates: int,
    ) -> None:
        self.model, self.encoder, self.schema = model, encoder, encoder.schema
        schema, data = encoder.schema, encoder.dataset
        self.mixes: dict[str, Mix] = {**mixes, **{task: task for task in schema.tasks}}
        for mix in self.mixes.values():
            mix_weights(mix, schema.tasks, schema.scenarios)
        self._fits()
        self.candidates = candidates
        self.requests = models(encoder, tuple(self.mixes), max_items, max_k)
        self._columns, rows = store.columns, store.since(0)
        self.events = len(rows)
        self.number = rows[-1][0] if rows else 0  # of the last event read
        past = [row[1:-1] for row in rows if row[-1]]
        columns = zip(*past, strict=True) if past else [()] * len(self._columns)
        events = dict(zip(self._columns, columns, strict=True))
        self.online = Online(encoder, events)
        self.last = max(events["time"], default=0)
        items = data.items.set_index("item", drop=False)
        self._names = None
        if schema.item_name is not None:
            names = items[schema.item_name].astype(object)
            self._names = names.where(names.notna(), None).tolist()
        self._shown = {
            s: items["item"].isin(data.shown_in(s)).to_numpy() for s in schema.scenarios
        }
        self._groups: dict[str, tuple[np.ndarray, dict[Any, int]]] = {}
        for name in schema.item_categorical:
            code, values = pd.factorize(items[name])
            self._groups[name] = (code, {v: n for n, v in enumerate(values.tolist())})
        self._popular: dict[int, tuple[float, np.ndarray]] = {}
        self._cost = 1e-5  # seconds a row
        self.versions = {
            "model": getattr(model, "version", type(model).__name__),
            "vocabulary": vocabulary_version(encoder),
        }

    def _fits(self) -> None:
        """Score the first and the last of everything."""
        spec = self.encoder.spec
        x = {name: np.repeat(a, 2, axis=0) for name, a in spec.example().items()}
        x["fields"][1] = np.array([*spec.fields.values()]) - 1
        x["scenario"][1] = len(spec.scenarios) - 1
        sizes = [spec.fields[name] for name in spec.history_fields]
        x["history"][1] = np.array(sizes, int) - 1
        try:
            p = self.model.probabilities(x)
        except Exception as error:
            raise ValueError(
                f"the model refuses the encoder's rows: {error}"
            ) from error
        if p.shape != (2, len(spec.tasks)) or not np.isfinite(p).all():
            raise ValueError(
                f"the model must give 2 rows of {len(spec.tasks)} finite numbers, got "
                f"{p.tolist()}"
            )

    def catch_up(self, store: Store) -> None:
        """Read the events that came since."""
        for number, *values, happened in store.since(self.number):
            self.number, self.events = number, self.events + 1
            if happened:
                event = dict(zip(self._columns, values, strict=True))
                self.online.add(event)
                self.last = max(self.last, event["time"])

    # --- answers ----------------------------------------------------------------------

    def score(self, request: Any) -> dict[str, Any]:
        """Score some items for a user, given as a model of ``requests``."""
        context = request.context.__dict__
        for name, value in context.items():
            if isinstance(value, list) and len(value) != len(request.items):
                wanted = "a value, or a list with one for each item"
                raise Refused(f"{name} must be {wanted}, got {show(value)}")
        when = now() if request.time is None else request.time
        numbers = [self.online.items.get(item, -1) for item in request.items]
        weights = self._weights(request)
        x, p = self._rank(request, np.array(numbers), when, context)
        scores = self._lines(request.items, p)
        if request.explain:
            self._explain(scores, x, p, weights)
        known = len(self.encoder.dataset.items)
        strange = [
            item
            for item, n in zip(request.items, numbers, strict=True)
            if not 0 <= n < known
        ]
        return self._answer(request, when, strange, context) | {"scores": scores}

    def recommend(self, request: Any, deadline: float) -> dict[str, Any]:
        """Make a list for a user, with as many candidates as the time allows.

        Parameters
        ----------
        request : model of ``requests``
        deadline : float
            When the answer should be there, on the clock of `time.perf_counter`.
        """
        context = request.context.__dict__
        when = now() if request.time is None else request.time
        weights = self._weights(request)
        allowed = self._allowed(request, when)
        left = deadline - time.perf_counter()
        fit = int(max(left, 0.0) / self._cost)
        most = max(request.k, min(self.candidates, fit))
        numbers = self._retrieve(request, when, allowed, most)
        x, p = self._rank(request, numbers, when, context)
        score = fuse(p, weights)
        rules = []
        for name, limit in request.at_most.items():
            rules.append(at_most(limit, self._groups[name][0][numbers]))
        if rules and len(numbers):
            order = best(score, request.k, rules=rules)
        else:
            order = np.argsort(-score, kind="stable")[: request.k]
        ids = self.online.ids
        listed = self._lines([ids[n] for n in numbers[order].tolist()], p[order])
        for rank, line in enumerate(listed):
            named = (
                {}
                if self._names is None
                else {"name": self._names[numbers[order[rank]]]}
            )
            listed[rank] = {"rank": rank + 1, "item": line.pop("item"), **named, **line}
        if request.explain:
            self._explain(
                listed, {n: a[order] for n, a in x.items()}, p[order], weights
            )
        return self._answer(request, when, [], context) | {
            "list": listed,
            "candidates": len(numbers),
            "catalog": int(allowed.sum()),
        }

    def _weights(self, request: Any) -> np.ndarray:
        schema, task = self.schema, request.task
        mix = self.mixes[task] if isinstance(task, str) else task
        try:
            every = mix_weights(mix, schema.tasks, schema.scenarios)
        except SchemaError as error:
            raise Refused(str(error)) from None
        return every[schema.scenarios.index(request.scenario)]

    def _allowed(self, request: Any, when: int) -> np.ndarray:
        """Mark the items of the table that may be shown."""
        allowed = self._shown[request.scenario].copy()
        banned = [self.online.items.get(item, -1) for item in request.exclude]
        if not self.schema.consumed_again:
            banned += self.online.consumed(request.user, when, LONG).tolist()
        allowed[[n for n in banned if 0 <= n < len(allowed)]] = False
        for name, values in request.only.items():
            code, known = self._groups[name]
            allowed &= np.isin(code, [known.get(value, -2) for value in values])
        return allowed

    def _retrieve(
        self, request: Any, when: int, allowed: np.ndarray, most: int
    ) -> np.ndarray:
        """Choose candidates: what the user had before, then what is popular."""
        if allowed.sum() <= most:
            return np.flatnonzero(allowed)
        had = self.online.consumed(request.user, when, LONG)[::-1]
        had = had[had < len(allowed)]
        own = list(dict.fromkeys(had[allowed[had]].tolist()))[: most // OWN]
        scenario = self.schema.scenarios.index(request.scenario)
        made, order = self._popular.get(scenario, (-np.inf, np.zeros(0, int)))
        if made < time.monotonic() - FRESH:
            order = np.argsort(-self.online.popular[scenario], kind="stable")
            self._popular[scenario] = (time.monotonic(), order)
        popular = order[allowed[order]][:most]
        popular = popular[~np.isin(popular, own)][: most - len(own)]
        return np.sort(np.concatenate([np.array(own, int), popular]))

    def _rank(
        self, request: Any, numbers: np.ndarray, when: int, context: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Encode and score; measure what a row costs."""
        start = time.perf_counter()
        if not len(numbers):
            return {}, np.zeros((0, len(self.schema.tasks)))
        x = self.online.encode(request.user, numbers, request.scenario, when, context)
        p = self.model.probabilities(x)
        if not np.isfinite(p).all():
            raise FloatingPointError("the model gave a score that is no number")
        cost = (time.perf_counter() - start) / len(numbers)
        if len(numbers) >= self.candidates // 2:
            self._cost += 0.1 * (cost - self._cost)
        return x, p

    def _lines(self, items: list[Any], p: np.ndarray) -> list[dict[str, Any]]:
        tasks = self.schema.tasks
        return [
            {"item": item, **dict(zip(tasks, line, strict=True))}
            for item, line in zip(items, p.tolist(), strict=True)
        ]

    def _explain(
        self,
        lines: list[dict[str, Any]],
        x: Mapping[str, np.ndarray],
        p: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Say what each task adds to the score, and what it loses without an input.

        An input is taken away by making it unseen, a number the mean: so a loss says
        what the model makes of what it knows, not what causes what.
        """
        if not lines:
            return
        spec, rows = self.encoder.spec, len(lines)
        groups: dict[str, tuple[list[int], list[int]]] = {}
        for kind, names in enumerate((list(spec.fields), spec.numeric)):
            for column, name in enumerate(names):
                known = name.removesuffix(" (bucket)").partition(": ")[0]
                if known != "scenario":
                    groups.setdefault(known, ([], []))[kind].append(column)
        score, parts = fuse(p, weights), {}
        for name in [*groups, "history"]:
            less = {key: array.copy() for key, array in x.items()}
            if name == "history":
                less["history"][:] = less["history_age"][:] = 0
            else:
                fields, numbers = groups[name]
                less["fields"][:, fields] = less["numeric"][:, numbers] = 0
            parts[name] = (
                score - fuse(self.model.probabilities(less), weights)
            ).tolist()
        tasks = self.schema.tasks
        shares = weights * np.log(np.maximum(p, np.finfo(float).tiny))
        for row in range(rows):
            lines[row]["explain"] = {
                "score": float(score[row]),
                "tasks": dict(zip(tasks, shares[row].tolist(), strict=True)),
                "inputs": {name: values[row] for name, values in parts.items()},
            }

    def _answer(
        self, request: Any, when: int, items: list[Any], context: Mapping[str, Any]
    ) -> dict[str, Any]:
        unknown: dict[str, Any] = {"user": request.user not in self.online.users}
        unknown["items"] = items
        for column in self.schema.context_categorical:
            value = context[column]
            known = self.online.words[column]
            each = dict.fromkeys(value) if isinstance(value, list) else [value]
            if strange := [v for v in each if v not in known]:
                shown = strange if isinstance(value, list) else value
                unknown.setdefault("context", {})[column] = shown
        answer = {"user": request.user, "scenario": request.scenario}
        answer |= {"time": iso(when), "unknown": unknown, "versions": self.versions}
        days = (when - self.last) // 86_400
        if request.time is None and days >= LATE:
            answer["warning"] = (
                f"no time was given: scored as of now, {days:,} days after the last "
                f"event that the service knows, {iso(self.last)}"
            )
        return answer
