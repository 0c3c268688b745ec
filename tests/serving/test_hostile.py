"""About a hundred hostile requests: each gets a clear 4xx, and the service lives."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, from_frames
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.serving import Service

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    item_numeric=("price",),
    context_categorical=("device",),
    context_numeric=("hour",),
)
ITEMS = 30


def encoder() -> Encoder:
    rng, rows = np.random.default_rng(0), 400
    click = rng.random(rows) < 0.5
    log = pd.DataFrame(
        {
            "user": rng.integers(1, 20, rows),
            "item": [f"i{n}" for n in rng.integers(0, ITEMS, rows)],
            "scenario": rng.choice(SCHEMA.scenarios, rows),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), "h"),
            "click": click.astype(int),
            "buy": (click & (rng.random(rows) < 0.3)).astype(int),
            "device": rng.choice(["phone", "desk"], rows),
            "hour": rng.random(rows),
        }
    )
    items = pd.DataFrame({"item": [f"i{n}" for n in range(ITEMS)]})
    items["price"] = np.arange(float(ITEMS))
    data = from_frames(log, items=items, schema=SCHEMA)
    return Encoder(data, "2026-01-15", look_back=[["user"], ["user", "item"]])


class Cheap:
    """A model in NumPy whose scores are those of the price; it may be made to wait."""

    def __init__(self) -> None:
        self.asked, self.free = threading.Event(), threading.Event()
        self.free.set()

    def probabilities(self, x: Any) -> np.ndarray:
        self.asked.set()
        self.free.wait(5)
        p = 1 / (1 + np.exp(-x["numeric"][:, 0].astype(float)))
        return np.stack([p, p / 2], axis=1)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    service = Service(
        Cheap(),
        encoder(),
        max_items=50,
        max_k=10,
        max_bytes=4_000,
        max_waiting=4,
        max_connections=60,
        seconds=0.5,
    )
    with service:
        yield service


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """The service, which answers a good request after each test."""
    yield running
    running.live.model.free.set()  # type: ignore[attr-defined]
    assert ask(running, "/score", SCORE)[0] == 200
    assert ask(running, "/health", method="GET")[0] == 200


def asked(**fields: Any) -> dict[str, Any]:
    context = {"device": "phone", "hour": 0.5}
    base = {"user": 7, "scenario": "shop", "time": "2026-01-17", "context": context}
    return base | fields


SCORE, LIST = asked(items=["i1", "i2"]), asked(k=3)
EVENT = asked(item="i1", labels={"click": 1, "buy": 0})


def event(**fields: Any) -> dict[str, Any]:
    return {"events": [EVENT | fields]}


def place(service: Service) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def message(path: str, body: Any, method: str = "POST", *more: str) -> bytes:
    """Write a request; the body may be bytes, or anything to send as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
    head += more or ("Content-Type: application/json",)
    if method != "GET" and not any("ength" in line or "Tran" in line for line in more):
        head.append(f"Content-Length: {len(raw)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (raw if method != "GET" else b"")


def talk(service: Service, *pieces: bytes, every: float = 0.0) -> bytes:
    """Send bytes as they are; return all that comes until the service closes."""
    with socket.create_connection(place(service), timeout=5) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if every and select.select([connection], [], [], every)[0]:
                    break  # it answers before all is sent
        except ConnectionError:
            pass
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Return what a connection has to say, and close it."""
    received = b""
    with connection:
        try:
            while more := connection.recv(65536):
                received += more
        except ConnectionError:
            pass
    return received


def ask(
    service: Service, path: str, body: Any = None, method: str = "POST", *more: str
) -> tuple[int, Any]:
    answer = talk(service, message(path, body, method, *more))
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head.lower(), answer
    return status(answer), json.loads(text) if text else None


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


# --- wrong content --------------------------------------------------------------------


def number(text: str) -> bytes:
    """A request whose number of the context is written so."""
    return json.dumps(SCORE).replace("0.5", text).encode()


TIMES = [
    "31.01.2026",
    "2026-13-01",
    "2026-02-30",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00-12:00",
    "9999-12-31T23:59:59-12:00",
    "9999-12-31T23:59:59",
    "1677-09-21T00:12:43",
    "2262-04-12",
    "2201-01-01",
    "",
    "now",
    "２０２６-01-01",
    1767225600,
    True,
    [],
    {},
]
USERS = ["7", 7.0, 7.5, True, None, [], {}, 10**30, -(2**63) - 1]
CASES: dict[str, tuple[str, Any, int]] = {
    "no JSON": ("/score", b"user=7", 400),
    "nothing": ("/score", b"", 400),
    "white space": ("/score", b" \n ", 400),
    "half of it": ("/score", json.dumps(SCORE)[:40].encode(), 400),
    "two of them": ("/score", json.dumps(SCORE).encode() * 2, 400),
    "UTF-8 cut": ("/score", b'{"user": "\xe4\xb8"}', 400),
    "Latin-1": ("/score", b'{"user": "\xff"}', 400),
    "UTF-16": ("/score", json.dumps(SCORE).encode("utf-16"), 400),
    "half a character": ("/score", b'{"user": "\\ud800"}', 400),
    "a zero byte": ("/score", asked(items=["i1"], scenario="shop\0"), 400),
    "nested lists": ("/score", b"[" * 3900, 400),
    "nested objects": ("/score", b'{"a":' * 700, 400),
    "nested in a field": (
        "/score",
        json.dumps(SCORE).replace('["i1", "i2"]', "[" * 1500 + "]" * 1500).encode(),
        400,
    ),
    "a list": ("/score", [SCORE], 400),
    "a text": ("/score", "score", 400),
    "null": ("/score", None, 400),
    "a number": ("/score", 7, 400),
    "too large": ("/score", b" " * 4_001, 413),
    "NaN": ("/score", number("NaN"), 400),
    "Infinity": ("/score", number("-Infinity"), 400),
    "beyond doubles": ("/score", number("1e999"), 400),
    "beyond single precision": ("/score", number("1e38"), 400),
    "beyond it below": ("/score", number("-1e39"), 400),
    "long integer": ("/score", number("1" * 400), 400),
    "very long integer": ("/score", number("9" * 3_000), 400),
    "a number as text": ("/score", number('"0.5"'), 400),
    "a bool as number": ("/score", number("true"), 400),
    "no number": ("/score", number("null"), 400),
    "an object as number": ("/score", number("{}"), 400),
    "a leading zero": ("/score", number("00.5"), 400),
    "hexadecimal": ("/score", number("0x5"), 400),
    "a comment": ("/score", number("0.5 /* half */"), 400),
    "a comma too many": ("/score", number("0.5,"), 400),
    "a key twice": ("/score", b'{"user": 8, ' + json.dumps(SCORE).encode()[1:], 400),
    "a key twice inside": (
        "/score",
        json.dumps(SCORE).replace('"hour"', '"hour": 1, "hour"').encode(),
        400,
    ),
    "a missing field": ("/score", {"user": 7}, 400),
    "an empty object": ("/score", {}, 400),
    "a field too many": ("/score", SCORE | {"itmes": []}, 400),
    "a dunder": ("/score", SCORE | {"__class__": "x"}, 400),
    "a scenario in capitals": ("/score", SCORE | {"scenario": "Shop"}, 400),
    "a scenario list": ("/score", SCORE | {"scenario": ["shop"]}, 400),
    "a scenario null": ("/score", SCORE | {"scenario": None}, 400),
    "items as text": ("/score", SCORE | {"items": "i1"}, 400),
    "items as object": ("/score", SCORE | {"items": {"i1": 1}}, 400),
    "no items": ("/score", SCORE | {"items": []}, 400),
    "many items": ("/score", SCORE | {"items": ["i1"] * 51}, 400),
    "an item number": ("/score", SCORE | {"items": ["i1", 2]}, 400),
    "an item null": ("/score", SCORE | {"items": [None]}, 400),
    "an item list": ("/score", SCORE | {"items": [["i1"]]}, 400),
    "no context": ("/score", {k: v for k, v in SCORE.items() if k != "context"}, 400),
    "an empty context": ("/score", SCORE | {"context": {}}, 400),
    "half a context": ("/score", SCORE | {"context": {"device": "phone"}}, 400),
    "a context too many": (
        "/score",
        SCORE | {"context": {"device": "phone", "hour": 1, "os": "x"}},
        400,
    ),
    "a context number as category": (
        "/score",
        SCORE | {"context": {"device": 1, "hour": 1}},
        400,
    ),
    "k zero": ("/recommend", asked(k=0), 400),
    "k below": ("/recommend", asked(k=-1), 400),
    "k large": ("/recommend", asked(k=11), 400),
    "k huge": ("/recommend", asked(k=10**30), 400),
    "k text": ("/recommend", asked(k="3"), 400),
    "k a fraction": ("/recommend", asked(k=2.5), 400),
    "k true": ("/recommend", asked(k=True), 400),
    "k null": ("/recommend", asked(k=None), 400),
    "k missing": ("/recommend", asked(), 400),
    "items to recommend": ("/recommend", LIST | {"items": ["i1"]}, 400),
    "an unknown task": ("/recommend", LIST | {"task": "like"}, 400),
    "a list as task": ("/recommend", LIST | {"task": ["buy"]}, 400),
    "a negative weight": ("/recommend", LIST | {"task": {"click": -1}}, 400),
    "a weight of 0": ("/recommend", LIST | {"task": {"buy": 0}}, 400),
    "a weight of text": ("/recommend", LIST | {"task": {"buy": "1"}}, 400),
    "a weight of another task": ("/recommend", LIST | {"task": {"like": 1}}, 400),
    "no weights": ("/recommend", LIST | {"task": {}}, 400),
    "exclude a text": ("/recommend", LIST | {"exclude": "i1"}, 400),
    "exclude a number": ("/recommend", LIST | {"exclude": [1]}, 400),
    "only an unknown column": ("/recommend", LIST | {"only": {"colour": ["red"]}}, 400),
    "at most of an unknown column": (
        "/recommend",
        LIST | {"at_most": {"colour": 1}},
        400,
    ),
    "a budget below": ("/recommend", LIST | {"budget_ms": -1}, 400),
    "a budget of text": ("/recommend", LIST | {"budget_ms": "1"}, 400),
    "explain a number": ("/recommend", LIST | {"explain": 1}, 400),
    "no events": ("/events", {"events": []}, 400),
    "events as an object": ("/events", {"events": EVENT}, 400),
    "an event without an item": ("/events", {"events": [asked()]}, 400),
    "an event of another type": ("/events", event(user="7"), 400),
    "an event in no scenario": ("/events", event(scenario="home"), 400),
    "a label of 2": ("/events", event(labels={"click": 2}), 400),
    "a label of half": ("/events", event(labels={"click": 0.5}), 400),
    "a label true": ("/events", event(labels={"click": True}), 400),
    "a label of another task": ("/events", event(labels={"like": 1}), 400),
    "bought without a click": ("/events", event(labels={"click": 0, "buy": 1}), 400),
    "one event of two is wrong": (
        "/events",
        {"events": [EVENT, EVENT | {"time": "31.01.2026"}]},
        400,
    ),
    "no batch": ("/batch", {"requests": []}, 400),
    "a batch of text": ("/batch", {"requests": "all"}, 400),
    "a batch too large": ("/batch", {"requests": [{}] * 101}, 400),
    **{f"time {t!r}": ("/score", SCORE | {"time": t}, 400) for t in TIMES},
    **{f"time of an event {t!r}": ("/events", event(time=t), 400) for t in TIMES[:9]},
    **{f"user {u!r}": ("/score", SCORE | {"user": u}, 400) for u in USERS},
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_content_is_told_what_is_right(service: Service, case: str) -> None:
    path, body, wanted = CASES[case]
    known = service.health()["events"]
    got, answer = ask(service, path, body)
    assert got == wanted, answer
    assert set(answer) == {"error"} and len(answer["error"]) > 15
    assert "Traceback" not in answer["error"] and "File " not in answer["error"]
    assert service.health()["events"] == known


def test_the_same_requests_are_right_without_their_fault(service: Service) -> None:
    for path, body in (("/score", SCORE), ("/recommend", LIST), ("/events", event())):
        assert ask(service, path, body)[0] == 200
    assert ask(service, "/batch", {"requests": [LIST]})[0] == 200


def test_what_is_only_unknown_is_scored_and_reported(service: Service) -> None:
    odd = asked(user=10**6, items=["i1", "new", "new\u4e2d"])
    odd["context"] = {"device": "watch", "hour": 0.5}
    got, answer = ask(service, "/score", odd)
    assert got == 200
    assert answer["unknown"] == {
        "user": True,
        "items": ["new", "new\u4e2d"],
        "context": {"device": "watch"},
    }


@pytest.mark.parametrize(
    ("when", "read"),
    [
        ("2026-01-17T01:00:00+02:00", "2026-01-16T23:00:00"),
        ("2026-01-17T01:00:00Z", "2026-01-17T01:00:00"),
        ("2200-12-31T23:30:00", "2200-12-31T23:30:00"),
        ("1700-01-01T00:00:00", "1700-01-01T00:00:00"),
    ],
)
def test_zones_are_read_and_the_years_are_those_in_utc(
    service: Service, when: str, read: str
) -> None:
    assert ask(service, "/score", SCORE | {"time": when})[1]["time"] == read


@pytest.mark.parametrize(
    "when", ["2200-12-31T23:30:00-01:00", "1700-01-01T00:30:00+01:00"]
)
def test_a_year_is_checked_after_the_zone(service: Service, when: str) -> None:
    assert ask(service, "/score", SCORE | {"time": when})[0] == 400


# --- wrong paths, methods, types ------------------------------------------------------

WAYS: dict[str, tuple[str, str, int]] = {
    "another path": ("POST", "/scores", 404),
    "up": ("POST", "/score/../../etc/passwd", 404),
    "a percent": ("POST", "/%2e%2e/score", 404),
    "a slash more": ("POST", "/score/x", 404),
    "a long path": ("POST", "/" + "a" * 3_000, 404),
    "GET": ("GET", "/score", 405),
    "PUT": ("PUT", "/score", 405),
    "DELETE": ("DELETE", "/recommend", 405),
    "PATCH": ("PATCH", "/events", 405),
    "OPTIONS": ("OPTIONS", "/score", 405),
    "POST to a GET": ("POST", "/health", 405),
    "TRACE": ("TRACE", "/health", 405),
}


@pytest.mark.parametrize("case", WAYS)
def test_a_wrong_way_is_refused(service: Service, case: str) -> None:
    method, path, wanted = WAYS[case]
    got, answer = ask(service, path, SCORE, method)
    assert got == wanted and set(answer) == {"error"}


def test_head_is_get_without_a_body(service: Service) -> None:
    answer = talk(service, message("/health", b"", "HEAD"))
    assert status(answer) == 200 and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""]
)
def test_another_type_of_content_is_refused(service: Service, kind: str) -> None:
    got, answer = ask(service, "/score", SCORE, "POST", f"Content-Type: {kind}")
    assert got == 415 and "application/json" in answer["error"]


def test_a_type_may_say_its_characters(service: Service) -> None:
    kind = "Content-Type: application/json; charset=utf-8"
    assert ask(service, "/score", SCORE, "POST", kind)[0] == 200


# --- broken framing -------------------------------------------------------------------

GOOD = json.dumps(SCORE).encode()
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
FRAMES: dict[str, tuple[tuple[str, ...], bytes]] = {
    "a length and chunks": (
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        b"0\r\n\r\n" + HIDDEN,
    ),
    "chunks and a length": (
        ("Transfer-Encoding: chunked", f"Content-Length: {5 + len(HIDDEN)}"),
        b"0\r\n\r\n" + HIDDEN,
    ),
    "two lengths": (
        (f"Content-Length: {len(GOOD)}", f"Content-Length: {len(GOOD) + len(HIDDEN)}"),
        GOOD + HIDDEN,
    ),
    "the longer length first": (
        (f"Content-Length: {len(GOOD) + len(HIDDEN)}", f"Content-Length: {len(GOOD)}"),
        GOOD + HIDDEN,
    ),
    "lengths in a list": (
        (f"Content-Length: {len(GOOD)}, {len(GOOD) + len(HIDDEN)}",),
        GOOD + HIDDEN,
    ),
    "a length in words": (("Content-Length: many",), GOOD),
    "a length below": (("Content-Length: -1",), GOOD + HIDDEN),
    "a length with a sign": ((f"Content-Length: +{len(GOOD)}",), GOOD + HIDDEN),
    "a length beyond 64 bits": (("Content-Length: " + "9" * 30,), GOOD),
    "a length in hexadecimal": (("Content-Length: 0x10",), GOOD + HIDDEN),
    "chunks of another name": (("Transfer-Encoding: xchunked",), b"0\r\n\r\n" + HIDDEN),
    "chunks twice": (
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        b"0\r\n\r\n" + HIDDEN,
    ),
    "a chunk without a size": (
        ("Transfer-Encoding: chunked",),
        b"zz\r\n{}\r\n0\r\n\r\n",
    ),
    "a chunk longer than it says": (
        ("Transfer-Encoding: chunked",),
        b"2\r\n{}xx\r\n0\r\n\r\n" + HIDDEN,
    ),
    "a blank before the colon": ((f"Content-Length : {len(GOOD)}",), GOOD + HIDDEN),
    "a header on two lines": ((f"X: a\r\n b\r\nContent-Length: {2**70}",), GOOD),
    "a zero in a header": (("X: a\0b", f"Content-Length: {len(GOOD)}"), GOOD),
}


@pytest.mark.parametrize("case", FRAMES)
def test_broken_framing_is_refused_and_hides_no_request(
    service: Service, case: str
) -> None:
    lines, body = FRAMES[case]
    head = "\r\n".join(("POST /score HTTP/1.1", "Host: x", *JSON, *lines))
    answer = talk(service, head.encode() + b"\r\n\r\n" + body)
    assert 400 <= status(answer) < 500
    assert answer.count(b"HTTP/1.1 ") == 1  # what came after it was not answered
    assert b"# HELP" not in answer


JSON = ("Content-Type: application/json",)


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
        b"GET /health HTTP/9.9\r\n\r\n",
        b"G\xc3\x84T /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["words", "TLS", "HTTP 9.9", "umlaut", "HTTP 2"],
)
def test_what_is_no_request_is_refused(service: Service, text: bytes) -> None:
    answer = talk(service, text)
    assert 400 <= status(answer) < 500 or status(answer) == 505


def test_a_head_that_does_not_end_is_refused(service: Service) -> None:
    lines = b"X: " + b"y" * 65_536 + b"\r\n"
    begin = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    answer = talk(service, begin, *[lines] * 30, b"\r\n")
    assert not answer or status(answer) == 400  # it may be lost under what was sent


def test_two_requests_on_one_connection_are_two_answers(service: Service) -> None:
    """So that one answer above says that the second request was not seen."""
    first = message("/score", SCORE).replace(b"Connection: close\r\n", b"")
    answer = talk(service, first + message("/metrics", b"", "GET"))
    assert answer.count(b"HTTP/1.1 200") == 2 and b"# HELP" in answer


# --- large and slow -------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_thirty_megabytes_get_413(service: Service, chunked: bool) -> None:
    size = 30_000_000
    piece = b"x" * 65_536
    if chunked:
        head = message("/score", b"", "POST", *JSON, "Transfer-Encoding: chunked")
        piece = b"10000\r\n" + piece + b"\r\n"
    else:
        head = message("/score", b"", "POST", *JSON, f"Content-Length: {size}")
    answer = talk(service, head, *[piece] * (size // 65_536))
    assert status(answer) == 413 and b"4,000 bytes" in answer


def test_a_body_that_does_not_come_is_given_up(service: Service) -> None:
    begin = time.monotonic()
    lines = (*JSON, "Content-Length: 100")
    answer = talk(service, message("/score", b"{", "POST", *lines))
    assert status(answer) == 408
    assert 0.4 < time.monotonic() - begin < 5


def test_a_body_in_drops_is_given_up(service: Service) -> None:
    """Each byte comes soon after the last; all of them together take too long."""
    lines = (*JSON, "Content-Length: 100")
    answer = talk(
        service, message("/score", b"", "POST", *lines), *[b" "] * 30, every=0.05
    )
    assert status(answer) == 408


def test_a_head_in_drops_is_given_up(service: Service) -> None:
    head = [bytes([byte]) for byte in b"GET /health HTTP/1.1\r\nHost: slow"]
    begin = time.monotonic()
    answer = talk(service, *head, every=0.05)
    assert not answer or status(answer) == 408
    assert time.monotonic() - begin < 5


def test_forty_slow_connections_are_closed_and_others_are_served(
    service: Service,
) -> None:
    slow = [socket.create_connection(place(service), timeout=5) for _ in range(40)]
    for connection in slow:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Len")
    assert ask(service, "/score", SCORE)[0] == 200  # meanwhile
    for connection in slow:
        rest(connection)  # it fails after 5 s without an end


def test_connections_that_say_nothing_are_closed(service: Service) -> None:
    assert rest(socket.create_connection(place(service), timeout=5)) == b""


def test_more_connections_than_allowed_are_told_so(service: Service) -> None:
    idle = [socket.create_connection(place(service), timeout=5) for _ in range(70)]
    try:
        assert status(talk(service, message("/score", SCORE))) in (429, 503)
    finally:
        for connection in idle:
            connection.close()
    time.sleep(0.1)


# --- overload -------------------------------------------------------------------------


def test_overload_is_refused_before_it_collapses(service: Service) -> None:
    model: Any = service.live.model
    model.free.clear()
    model.asked.clear()
    crowd = [socket.create_connection(place(service), timeout=5)]
    crowd[0].sendall(message("/score", SCORE))
    assert model.asked.wait(5)
    for _ in range(20):  # while the first one is in work
        crowd.append(socket.create_connection(place(service), timeout=5))
        crowd[-1].sendall(message("/score", SCORE))
    model.free.set()
    answers = [rest(connection) for connection in crowd]
    statuses = [status(answer) for answer in answers]
    assert statuses[0] == 200 and {*statuses} == {200, 429}
    assert 4 <= statuses.count(200) <= 8  # four may wait, one is in work
    refused = answers[statuses.index(429)]
    assert b"retry-after: 1" in refused.lower() and b"come again later" in refused


def test_who_goes_away_leaves_nothing_behind(service: Service) -> None:
    for _ in range(8):  # twice as many as may be in work
        with socket.create_connection(place(service), timeout=5) as connection:
            connection.sendall(message("/score", SCORE))
    last = time.monotonic() + 5
    while ask(service, "/score", SCORE)[0] == 429 and time.monotonic() < last:
        time.sleep(0.01)  # they are still in work
    assert [ask(service, "/score", SCORE)[0] for _ in range(4)] == [200] * 4
