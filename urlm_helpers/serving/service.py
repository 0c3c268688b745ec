"""A service around a model: events in, lists out; without HTTP, and with it.

`urlm_helpers.serving.live` has what one version of a model answers,
`urlm_helpers.serving.app` what is around it when it is asked over HTTP.
"""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from urlm_helpers.preprocessing.encode import SECONDS_PER_DAY, Encoder
from urlm_helpers.preprocessing.files import load_encoder, vocabulary_version
from urlm_helpers.recommendation.fusion import Mix
from urlm_helpers.recommendation.lists import Scores
from urlm_helpers.serving.exports import LiteScores
from urlm_helpers.serving.live import Live
from urlm_helpers.serving.requests import Refused, iso, now, read
from urlm_helpers.serving.store import StoreError, open_store

log = logging.getLogger(__name__)


class Service:
    """A model that takes events and gives scores and lists.

    Parameters
    ----------
    model : object with ``probabilities(x)``
        Such as a :class:`~urlm_helpers.model.UnifiedRecommender` or a
        :class:`~urlm_helpers.serving.LiteScores`. It is asked by one thread at a time.
    encoder : Encoder
        The one that encoded the model's training rows.
    store : path or URL, optional
        The file of the events, made if it is not there and filled with the encoder's;
        from then on it alone is the past, whatever an encoder brings. Several
        services, in one process or more, may have the same one. ``redis://host:6379/0``
        takes a Redis, for services on several machines. By default a temporary file.
    mixes : mapping of str to mix, optional
        What a request for a list may be ordered by, by name, beside the tasks: weights
        of tasks, also by scenario, see
        :func:`~urlm_helpers.recommendation.mix_weights`.
    candidates : int
        Most items of a catalog that the model ranks for a list.
    budget_ms : float
        Milliseconds for a list, from the moment when the request is there. A list that
        had to wait has fewer candidates.
    host, port : str, int
        Where to listen; port 0 takes a free one, see `url`.
    max_items, max_k, max_bytes : int
        Most items to score, longest list, largest body of a request.
    max_waiting, max_connections : int
        Requests in work at once (one more gets a 429), and connections.
    seconds : float
        For a request to arrive, and for its answer to be taken.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from urlm_helpers.data import Schema, from_frames
    >>> data = from_frames(
    ...     pd.DataFrame({"user": [7, 7], "item": ["a", "b"], "scenario": "shop",
    ...                   "time": "2026-01-01", "click": [1, 0]}),
    ...     schema=Schema(("shop",), ("click",), consumed_again=True))
    >>> class Counts:
    ...     def probabilities(self, x):
    ...         return 1 / (2 + np.exp(-x["numeric"][:, :1]))
    >>> encoder = Encoder(data, "2026-01-02", look_back=[("item",)], min_count=1)
    >>> service = Service(Counts(), encoder)
    >>> at = {"user": 7, "scenario": "shop", "time": "2026-01-03"}
    >>> [line["item"] for line in service.recommend(at | {"k": 2})["list"]]
    ['a', 'b']
    >>> event = at | {"item": "b", "time": "2026-01-02"}
    >>> service.record({"events": [event, event]})["accepted"]
    2
    >>> [line["item"] for line in service.recommend(at | {"k": 2})["list"]]
    ['b', 'a']
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
        store: str | Path | None = None,
        mixes: Mapping[str, Mix] | None = None,
        candidates: int = 200,
        budget_ms: float = 50.0,
        host: str = "127.0.0.1",
        port: int = 0,
        max_items: int = 1000,
        max_k: int = 100,
        max_bytes: int = 64_000,
        max_waiting: int = 64,
        max_connections: int = 256,
        seconds: float = 10.0,
    ) -> None:
        self.folder: Path | None = None  # of the model that serves, for `reload`
        self._temporary = None
        if store is None:
            self._temporary = tempfile.TemporaryDirectory()
            store = Path(self._temporary.name) / "events.db"
        self.store = open_store(store, encoder.schema)
        self.store.fill(encoder.events)
        self._options: dict[str, Any] = {
            "mixes": mixes or {},
            "max_items": max_items,
            "max_k": max_k,
            "candidates": candidates,
        }
        self.budget_ms, self.host, self.port = budget_ms, host, port
        self.max_bytes, self.max_waiting = max_bytes, max_waiting
        self.max_connections, self.seconds = max_connections, seconds
        self.live = Live(model, encoder, self.store, **self._options)
        self._server: Any = None

    # --- what it answers --------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Say what the service knows and how much it takes."""
        live, schema = self.live, self.live.schema
        self._catch_up(live)
        return {
            "status": "ok",
            "scenarios": list(schema.scenarios),
            "tasks": list(schema.tasks),
            "mixes": [name for name in live.mixes if name not in schema.tasks],
            "context": list(schema.features("context")),
            "users": len(live.online.users),
            "items": len(live.online.items),
            "events": live.events,
            "last": iso(live.last),
            "candidates": live.candidates,
            "max_items": self._options["max_items"],
            "max_k": self._options["max_k"],
            "versions": live.versions,
        }

    def score(self, request: Any) -> dict[str, Any]:
        """Score some items for a user; raises `Refused`."""
        return self.answer("score", request)

    def recommend(self, request: Any) -> dict[str, Any]:
        """Make a list for a user; raises `Refused`."""
        return self.answer("recommend", request)

    def answer(
        self, name: str, request: Any, arrived: float | None = None
    ) -> dict[str, Any]:
        """Answer a request that came at some moment, by default now."""
        live = self.live
        asked = read(live.requests[name], request)
        self._catch_up(live)
        if name == "score":
            return live.score(asked)
        arrived = time.perf_counter() if arrived is None else arrived
        budget = asked.budget_ms or self.budget_ms
        answer = live.recommend(asked, arrived + budget / 1000)
        return answer | {"took_ms": round(1000 * (time.perf_counter() - arrived), 3)}

    def _catch_up(self, live: Live) -> None:
        """Read what came since; without it no answer is the right one."""
        try:
            live.catch_up(self.store)
        except StoreError as error:
            raise Refused(str(error), 503) from None

    def record(self, request: Any) -> dict[str, Any]:
        """Write events; when this returns, the disk has them. Raises `Refused`."""
        live, rows = self.live, []
        schema, latest = live.schema, now() + SECONDS_PER_DAY
        for n, event in enumerate(read(live.requests["events"], request).events):
            when = now() if event.time is None else event.time
            if when > latest:
                raise Refused(f"events.{n}: time lies in the future, {iso(when)}")
            labels = {task: event.labels.get(task, 0) for task in schema.tasks}
            for child, parent in schema.funnel.items():
                if labels[child] > labels[parent]:
                    raise Refused(f"events.{n}: {child!r} is 1 where {parent!r} is 0")
            context = event.context.__dict__.values()
            row = (event.id, event.user, event.item, event.scenario, when)
            rows.append((*row, *context, *labels.values()))
        try:
            accepted = self.store.append(rows)
        except StoreError as error:
            raise Refused(str(error), 507) from None
        return {"accepted": accepted, "duplicates": len(rows) - accepted}

    def reload(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Serve another model, read from a folder; raises `Refused` and goes on.

        Parameters
        ----------
        folder : path, optional
            With ``float32.tflite``, ``spec.json`` and ``encoder.npz``, as `export` and
            `save_encoder` write them; by default that of the last time.
        """
        folder = folder or self.folder
        try:
            if folder is None:
                raise ValueError("this service was not started from a folder: name one")
            model, encoder = load_bundle(folder)
            if (
                encoder.schema.tasks != self.store.tasks
                or encoder.schema.features("context") != self.store.columns[4:]
            ):
                raise ValueError(
                    f"{folder} has other tasks or context columns than the store: "
                    "start a service with a new one"
                )
            live = Live(model, encoder, self.store, **self._options)
        except ValueError as error:
            raise Refused(f"the old model goes on: {error}", 409) from None
        self.live, self.folder = live, Path(folder)
        log.info("serves %s from %s", live.versions, folder)
        return live.versions

    # --- starting and stopping --------------------------------------------------------

    def run(self) -> None:
        """Serve in this thread until a signal; SIGHUP means `reload`."""
        from urlm_helpers.serving.app import make_server

        def again(*_: object) -> None:
            threading.Thread(target=self._reload_or_log).start()

        if hasattr(signal, "SIGHUP"):  # Windows has none
            signal.signal(signal.SIGHUP, again)
        server, listening = make_server(self)
        log.info("listens on %s", listening.getsockname())
        server.run([listening])

    def _reload_or_log(self) -> None:
        try:
            self.reload()
        except Refused as refused:
            log.error("%s", refused)

    def __enter__(self) -> Service:
        from urlm_helpers.serving.app import make_server

        self._server, self._socket = make_server(self)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._server = None
        self._socket.close()

    @property
    def url(self) -> str:
        """Where the running service listens, such as ``http://127.0.0.1:40123``."""
        if self._server is None:
            raise RuntimeError("the service does not run: use it in a with statement")
        return f"http://{self.host}:{self._socket.getsockname()[1]}"


def load_bundle(folder: str | Path) -> tuple[LiteScores, Encoder]:
    """Read a model and its encoder: ``float32.tflite``, ``spec.json``, ``encoder.npz``.

    Raises
    ------
    ValueError
        If a file is missing or broken, or the two do not belong together.
    """
    folder = Path(folder)
    try:
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        encoder = load_encoder(folder / "encoder.npz")
        own = json.loads(json.dumps(encoder.spec.to_dict()))
        if differ := [name for name in own if spec.get(name) != own[name]]:
            raise ValueError(
                f"{folder}: the model was made for other tables than its encoder's, "
                f"they differ in {differ}: export both after the same training"
            )
        wanted, found = spec.get("vocabulary"), vocabulary_version(encoder)
        if wanted not in (None, found):
            raise ValueError(
                f"{folder}: the model expects the vocabulary {wanted}, its encoder has "
                f"{found}: the codes of the one are not those of the other"
            )
        return LiteScores(folder / "float32.tflite"), encoder
    except OSError as error:
        raise ValueError(f"{folder} lacks a file: {error}") from None


def from_bundle(folder: str | Path, **options: Any) -> Service:
    """Make a service of the files in a folder, see :meth:`Service.reload`."""
    model, encoder = load_bundle(folder)
    service = Service(model, encoder, **options)
    service.folder = Path(folder)
    return service
