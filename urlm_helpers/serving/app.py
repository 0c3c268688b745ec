"""HTTP around a service: FastAPI's routes, uvicorn's server, and what both leave open.

One thread and one event loop: a request is computed in one go, the next one after it,
so nothing has to be locked and whoever comes first is answered first. Between two
requests the loop looks at the network, so one too many is refused at once. What waits
for the disk (a commit, another model) runs beside it in a thread.
"""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from urlm_helpers.serving.requests import Refused, explain, parse

log = logging.getLogger(__name__)

CLOSE = {"Connection": "close"}
MOST_HEAD = 64_000  # bytes of the head of a request, but for those read last

OPEN = ("GET", "HEAD")
"""Methods that are answered even when too many requests wait."""

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Upper ends, in seconds, of what ``/metrics`` counts."""


def make_server(service: Any) -> tuple[uvicorn.Server, socket.socket]:
    """Return a server, not yet started, and the socket that it shall listen on."""
    config = uvicorn.Config(
        Guard(service),
        http=type("Timed", (Patient,), {"seconds": service.seconds}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=service.max_connections,
        timeout_keep_alive=max(1, int(service.seconds)),
        timeout_graceful_shutdown=5,
    )
    listening = socket.create_server((service.host, service.port), backlog=256)
    # what it accepts inherits this; else the end of a small answer waits 40 ms
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return uvicorn.Server(config), listening


class Patient(HttpToolsProtocol):
    """Uvicorn's protocol, that waits for the head of a request, but not forever."""

    seconds = 10.0
    _late: asyncio.TimerHandle | None = None
    _head = 0  # bytes of one that is not complete

    def data_received(self, data: bytes) -> None:
        """Refuse a head that does not end; httptools would keep all of it."""
        super().data_received(data)
        self._head = self._head + len(data) if self._late is not None else 0
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"a head may have {MOST_HEAD} bytes")

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._start()

    def on_message_begin(self) -> None:
        """Start it again: the first byte of the next head is there."""
        super().on_message_begin()
        self._start()

    def on_headers_complete(self) -> None:
        """Stop it; `Guard` takes over."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.seconds, self._close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self.transport.close()


class Guard:
    """An ASGI application around another: sizes, times and numbers of requests.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Any) -> None:
        self.service, self.waiting = service, 0
        self.turn, self.writing = asyncio.Lock(), asyncio.Lock()
        self.registry = prometheus.CollectorRegistry()
        self.count = prometheus.Counter(
            "requests", "Answered", ["path", "status"], registry=self.registry
        )
        self.took = prometheus.Histogram(
            "request_seconds",
            "From the head of a request to its answer",
            ["path"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "requests_waiting": ("In work or waiting", lambda: self.waiting),
            "events": ("In the store", lambda: service.live.events),
            "event_last_seconds": ("Of the last", lambda: service.live.last),
        }
        for name, (text, value) in gauges.items():
            gauge = prometheus.Gauge(name, text, registry=self.registry)
            gauge.set_function(value)
        self.model = prometheus.Info("model", "Serves", registry=self.registry)
        self.paths: set[str] = set()
        self._made: tuple[Any, Any] = (None, None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read a request, have it answered, and send what came of it."""
        arrived, method, path = time.perf_counter(), scope["method"], scope["path"]
        app = self._app()
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        try:
            body = await self._body(scope, receive)
            if body is None:
                return  # the client went away
            asks = method not in OPEN
            if asks and self.waiting >= self.service.max_waiting:
                text = f"{self.waiting} requests are in work: come again later"
                raise Refused(text, 429)

            async def whole() -> Any:
                return {"type": "http.request", "body": body, "more_body": False}

            scope["state"]["arrived"] = arrived
            if method == "HEAD":  # uvicorn sends no body
                scope = scope | {"method": "GET"}
            self.waiting += asks
            try:
                await app(scope, whole, keep)
            finally:
                self.waiting -= asks
        except Refused as refused:
            messages = _messages(refused)
        except Exception:
            log.exception("%s %s failed", method, path)
            text = "internal error: see the log of the service"
            messages = _messages(Refused(text, 500))
        known = path if path in self.paths else "another"
        self.count.labels(known, messages[0]["status"]).inc()
        self.took.labels(known).observe(time.perf_counter() - arrived)
        async with asyncio.timeout(self.service.seconds):
            for message in messages:
                await send(message)

    def _app(self) -> Any:
        """Return the routes of the model that serves, made anew for another one."""
        live = self.service.live
        if self._made[0] is not live:
            self._made = (live, make_app(self))
            self.paths = set(self._made[1].openapi()["paths"])
            self.model.info(live.versions)
        return self._made[1]

    async def _body(self, scope: Any, receive: Any) -> bytes | None:
        """Read a body; one that is too large to its end, else nobody hears it is."""
        most, parts, size = self.service.max_bytes, [], 0
        headers = dict(scope["headers"])
        try:
            async with asyncio.timeout(self.service.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            if size <= most:
                raise Refused("the body did not come in time", 408) from None
        if size > most:
            raise Refused(f"a body may have {most:,} bytes, got {size:,} or more", 413)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            raise Refused("a POST needs the header Content-Type: application/json", 415)
        return b"".join(parts)


def _messages(refused: Refused) -> list[dict[str, Any]]:
    """Write a refusal as ASGI does."""
    headers = {429: {"Retry-After": "1"}, 408: CLOSE, 413: CLOSE}.get(refused.status)
    answer = _json({"error": str(refused)}, refused.status, headers)
    start = {"type": "http.response.start", "status": refused.status}
    body = {"type": "http.response.body", "body": answer.body}
    return [start | {"headers": answer.raw_headers}, body]


def _json(answer: Any, status: int = 200, headers: Any = None) -> Response:
    """Write an answer; what is no JSON (NaN) is a failure."""
    text = json.dumps(answer, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


class StrictRoute(APIRoute):
    """A route that reads the body with `parse`."""

    def get_route_handler(self) -> Any:
        """Return FastAPI's handler, for another request."""
        handle = super().get_route_handler()

        class Strict(Request):
            async def json(self) -> Any:
                try:
                    return parse(await self.body())
                except Refused as refused:
                    raise HTTPException(refused.status, str(refused)) from None

        async def strictly(request: Request) -> Response:
            return await handle(Strict(request.scope, request.receive))

        return strictly


def make_app(guard: Guard) -> FastAPI:
    """Return the routes of the model that the service of `guard` has now."""
    service = guard.service
    app = FastAPI(title="URLM", description="Events in, lists out.")
    app.router.route_class = StrictRoute

    async def turn(name: str, body: Any, arrived: float | None) -> dict[str, Any]:
        async with guard.turn:
            await asyncio.sleep(0)  # let the loop look at the network
            return service.answer(name, body, arrived)

    def takes(name: str) -> Callable[[Any], Any]:
        """Route a path to a function whose body is of that model."""

        def decorate(endpoint: Any) -> Any:
            endpoint.__annotations__["body"] = service.live.requests[name]
            return app.post(f"/{name}")(endpoint)

        return decorate

    @takes("score")
    async def score(request: Request, body: Any) -> Response:
        """Score items for a user."""
        return _json(await turn("score", body, request.state.arrived))

    @takes("recommend")
    async def recommend(request: Request, body: Any) -> Response:
        """Make a list for a user."""
        return _json(await turn("recommend", body, request.state.arrived))

    @takes("batch")
    async def batch(body: Any) -> Response:
        """Make several lists, one by one: other requests come between them."""
        answers = [await turn("recommend", one, None) for one in body.requests]
        return _json({"answers": answers})

    @takes("events")
    async def events(body: Any) -> Response:
        """Write what users did; the answer comes when the disk has it."""
        async with guard.writing:
            return _json(await asyncio.to_thread(service.record, body))

    @app.post("/reload")
    async def reload() -> Response:
        """Read the model's folder again; requests go on meanwhile."""
        async with guard.writing:
            return _json(await asyncio.to_thread(service.reload))

    @app.get("/health")
    async def health() -> Response:
        """Say what the service knows and how much it takes."""
        return _json(service.health())

    @app.get("/metrics")
    async def metrics() -> Response:
        """Say it to Prometheus."""
        text = prometheus.generate_latest(guard.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _json({"error": str(error)}, error.status)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        return _json({"error": explain(error.errors())}, 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        text = str(error.detail)
        if error.status_code == 404:
            paths = sorted(guard.paths)
            text = f"no {request.url.path} here: there are {', '.join(paths)}"
        if error.status_code == 405:
            text = f"{request.url.path} does not take {request.method}"
        return _json({"error": text}, error.status_code, error.headers)

    return app
