"""Export, the HTTP service and its load: right answers, and clear refusals."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, Schema, SchemaError, from_frames
from urlm_helpers.preprocessing import Encoder, Prepared, prepare, vocabulary_version
from urlm_helpers.recommendation import recommend
from urlm_helpers.serving import Latency, Service, measure_latency
from urlm_helpers.serving.service import load_bundle

SCHEMA = Schema(
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    item_numeric=("price",),
    item_name="name",
    context_categorical=("device",),
    context_numeric=("hour",),
)


def dataset(rows: int = 600, schema: Schema = SCHEMA) -> Dataset:
    rng = np.random.default_rng(0)
    click = rng.random(rows) < 0.4
    log = pd.DataFrame(
        {
            "user": rng.integers(1, 40, rows),
            "item": [f"i{n}" for n in rng.integers(0, 25, rows)],
            "scenario": rng.choice(schema.scenarios, rows),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), "h"),
            "click": click.astype(int),
            "buy": (click & (rng.random(rows) < 0.3)).astype(int),
            "device": rng.choice(["phone", "desk"], rows),
            "hour": rng.random(rows),
        }
    )
    items = pd.DataFrame({"item": [f"i{n}" for n in range(25)]})
    items["price"] = np.where(items["item"] == "i3", np.nan, np.arange(25.0))
    items["name"] = items["item"].str.upper()
    return from_frames(log, items=items, schema=schema)


class Linear:
    """A model whose scores can be told in advance: the price, scaled."""

    def __init__(self) -> None:
        self.wait = 0.0
        self.error: Exception | None = None
        self.at_once = self.most = 0

    def probabilities(self, x: Any) -> np.ndarray:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        time.sleep(self.wait)
        self.at_once -= 1
        if self.error:
            raise self.error
        p = 1 / (1 + np.exp(-x["numeric"][:, 0].astype(float)))
        return np.stack([p, p / 2], axis=1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(dataset(), "2026-01-15", "2026-01-20", history_length=4, min_count=1)


@pytest.fixture(scope="module")
def running(prepared: Prepared) -> Iterator[Service]:
    options: dict[str, Any] = {
        "max_items": 5,
        "max_k": 10,
        "max_bytes": 2_000,
        "max_waiting": 2,
    }
    with Service(Linear(), prepared.encoder, **options) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    running.live.model = Linear()
    return running


def asked(**fields: Any) -> dict[str, Any]:
    context = {"device": "phone", "hour": 0.5}
    base = {"user": 7, "scenario": "shop", "time": "2026-01-20", "context": context}
    return base | fields


SCORE, LIST = asked(items=["i1", "i2"]), asked(k=3)


def ask(service: Service, path: str, body: Any = None, method: str = "POST") -> Any:
    """Send one request; the body may be bytes, or anything to send as JSON."""
    where = service.url.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=10)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, raw, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "application/json"
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if text else None


def raw(service: Service, text: bytes) -> bytes:
    """Send bytes as they are; return all until the service closes."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# --- right answers --------------------------------------------------------------------


def test_health_names_what_a_client_needs(service: Service) -> None:
    status, answer = ask(service, "/health", method="GET")
    assert (status, answer["status"]) == (200, "ok")
    assert answer["scenarios"] == ["shop", "feed"]
    assert answer["tasks"] == ["click", "buy"]
    assert answer["context"] == ["device", "hour"]
    assert (answer["items"], answer["max_items"], answer["max_k"]) == (25, 5, 10)


def test_scores_are_those_of_the_model(service: Service, prepared: Prepared) -> None:
    status, answer = ask(service, "/score", asked(items=["i9", "i2", "i9"]))
    rows = pd.DataFrame({"item": ["i9", "i2", "i9"], "user": 7, "scenario": "shop"})
    rows = rows.assign(time=pd.Timestamp("2026-01-20"), device="phone", hour=0.5)
    expected = Linear().probabilities(prepared.encoder.transform(rows))
    assert status == 200
    assert [line["item"] for line in answer["scores"]] == ["i9", "i2", "i9"]
    for column, task in enumerate(SCHEMA.tasks):
        got = [line[task] for line in answer["scores"]]
        np.testing.assert_allclose(got, expected[:, column])
    assert answer["unknown"] == {"user": False, "items": []}
    assert answer["versions"] == service.live.versions


def test_the_list_is_that_of_recommend(service: Service, prepared: Prepared) -> None:
    _, answer = ask(service, "/recommend", LIST)
    rows = pd.DataFrame({"item": prepared.encoder.dataset.items["item"], "user": 7})
    rows = rows.assign(scenario="shop", time=pd.Timestamp("2026-01-20"))
    rows = rows.assign(device="phone", hour=0.5)
    expected = recommend(Linear(), prepared.encoder, rows, k=3)
    assert [line["item"] for line in answer["list"]] == expected["item"].tolist()
    assert [line["rank"] for line in answer["list"]] == [1, 2, 3]
    assert answer["list"][0]["name"] == answer["list"][0]["item"].upper()
    np.testing.assert_allclose(answer["list"][0]["buy"], expected["p_buy"].iloc[0])


class Opposed(Linear):
    """The dearer, the more clicks and the fewer purchases."""

    def probabilities(self, x: Any) -> np.ndarray:
        p = super().probabilities(x)[:, 0]
        return np.stack([p, (1 - p) ** 2], axis=1)


def test_a_request_may_ask_for_a_task_or_a_mix(prepared: Prepared) -> None:
    encoder = prepared.encoder
    mixes: Any = {"flat": {"buy": 1, "click": 0.5}}
    mixes["own"] = {"shop": {"buy": 2}, "feed": {"click": 1}}
    service = Service(Opposed(), encoder, mixes=mixes)
    assert service.health()["mixes"] == ["flat", "own"]

    def listed(**request: Any) -> list[str]:
        return [
            line["item"] for line in service.recommend(asked(k=9, **request))["list"]
        ]

    click, buy = listed(task="click"), listed(task="buy")
    assert listed() == click != buy
    assert listed(task={"click": 3}) == click and listed(task={"buy": 0.1}) == buy
    assert listed(task="own") == buy
    assert listed(task="own", scenario="feed") == listed(task="click", scenario="feed")
    assert listed(task="flat") == listed(task=mixes["flat"]) not in (click, buy)
    with pytest.raises(SchemaError, match="weights for exactly .*'shop', 'feed'"):
        Service(Opposed(), encoder, mixes={"half": {"shop": {"buy": 1}}})


def test_unknown_ids_are_scored_and_reported(service: Service) -> None:
    request = asked(user=10**6, items=["i1", "new"])
    status, answer = ask(service, "/score", request)
    assert status == 200
    assert answer["unknown"] == {"user": True, "items": ["new"]}
    assert answer["scores"][1]["click"] == pytest.approx(0.5)  # a mean price
    status, answer = ask(service, "/recommend", asked(user=10**6, k=2))
    assert (status, answer["unknown"]["user"], len(answer["list"])) == (200, True, 2)


def test_a_context_that_is_unknown_is_reported(service: Service) -> None:
    for path, request in (("/score", SCORE), ("/recommend", LIST)):
        odd = request | {"context": {"device": "watch", "hour": 0.5}}
        status, answer = ask(service, path, odd)
        assert status == 200
        assert answer["unknown"]["context"] == {"device": "watch"}
        assert "context" not in ask(service, path, request)[1]["unknown"]


def test_a_context_may_differ_between_the_items(service: Service) -> None:
    devices, hours = ["phone", "watch", "phone"], [0.5, 1.5, 2.5]
    items = ["i1", "i2", "i3"]
    several = {"device": devices, "hour": hours}
    answer = service.score(asked(items=items, context=several))
    each = [
        service.score(asked(items=[item], context={"device": device, "hour": hour}))
        for item, device, hour in zip(items, devices, hours, strict=True)
    ]
    assert answer["scores"] == [one["scores"][0] for one in each]
    assert len({line["click"] for line in answer["scores"]}) == 3
    assert answer["unknown"]["context"] == {"device": ["watch"]}


def test_now_is_flagged_where_the_log_is_old(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = service.live.last
    for path, request in (("/score", SCORE), ("/recommend", LIST)):
        now = {k: v for k, v in request.items() if k != "time"}
        for days, flagged in ((29, False), (30, True)):
            recent = int(time.time()) - days * 86_400 - 10
            monkeypatch.setattr(service.live, "last", recent)
            answer = ask(service, path, now)[1]
            assert ("warning" in answer) == flagged
            assert (
                not flagged or f"now, {days} days after the last" in answer["warning"]
            )
        late = request | {"time": "2026-05-20"}
        assert "warning" not in ask(service, path, late)[1]  # it was asked for
        monkeypatch.undo()
    events = service.live.encoder.events["time"]
    assert service.live.last == last == events.max().timestamp()


def test_a_log_that_counts_steps_is_asked_in_steps() -> None:
    schema = replace(SCHEMA, time_unit="D")
    data = dataset()
    steps = (data.interactions["time"] - data.interactions["time"].min()).dt.days
    log = data.interactions.assign(time=steps)
    data = from_frames(log, items=data.items, schema=schema)
    service = Service(Linear(), Encoder(data, 15, min_count=1))
    assert service.score(asked(items=["i1"], time=20))["time"] == "1970-01-21T00:00:00"


def test_a_scenario_lists_what_its_catalog_has() -> None:
    data = dataset()
    items = data.items.assign(in_shop=np.arange(25) % 2)
    schema = replace(SCHEMA, catalog={"shop": "in_shop"})
    data = from_frames(data.interactions, items=items, schema=schema)
    service = Service(Linear(), Encoder(data, "2026-01-15", min_count=1))
    listed = {
        scenario: {
            line["item"]
            for line in service.recommend(asked(user=999, k=50, scenario=scenario))[
                "list"
            ]
        }
        for scenario in SCHEMA.scenarios
    }
    assert listed["shop"] == set(items.loc[items["in_shop"] == 1, "item"])
    assert len(listed["feed"]) == 25


def test_time_may_have_a_zone_and_defaults_to_now(service: Service) -> None:
    zone = asked(items=["i1"], time="2026-01-20T01:00:00+02:00")
    assert ask(service, "/score", zone)[1]["time"] == "2026-01-19T23:00:00"
    now = {k: v for k, v in SCORE.items() if k != "time"}
    got = pd.Timestamp(ask(service, "/score", now)[1]["time"])
    assert abs(got - pd.Timestamp.now("UTC").tz_localize(None)) < pd.Timedelta("1min")


def test_only_the_past_of_the_asked_moment_counts(prepared: Prepared) -> None:
    seen = []

    class Spy(Linear):
        def probabilities(self, x: Any) -> np.ndarray:
            seen.append((x["history"] > 0).sum())
            return super().probabilities(x)

    service = Service(Spy(), prepared.encoder)
    service.score(asked(items=["i1"], time="2026-01-01"))
    service.score(asked(items=["i1"], time="2026-01-25"))
    assert seen[-2] == 0 and seen[-1] > 0


def test_a_connection_serves_many_requests(service: Service) -> None:
    where = service.url.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=10)
    statuses = []
    for path, body in [("/score", SCORE), ("/no", SCORE), ("/recommend", LIST)]:
        kind = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), kind)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [200, 404, 200]


# --- clear refusals -------------------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "another path": ("/scores", SCORE, 404, "/recommend, /reload, /score"),
    "no JSON": ("/score", b"user=7", 400, "must be JSON in UTF-8"),
    "no UTF-8": ("/score", b'"\xff"', 400, "must be JSON in UTF-8"),
    "NaN": ("/score", b'{"user": NaN}', 400, "NaN is no JSON"),
    "half a character": ("/score", b'{"user": "\\ud800"}', 400, "must be JSON"),
    "deeply nested": ("/score", b"[" * 1900, 400, "must be JSON"),
    "no object": ("/score", [1], 400, "valid dictionary"),
    "an empty body": ("/score", b"", 400, "the body: Field required"),
    "too large": ("/score", asked(items=["i" * 2500]), 413, "may have 2,000 bytes"),
    "a missing field": ("/score", {"user": 7}, 400, "scenario: Field required; items"),
    "a field too many": ("/score", SCORE | {"itmes": 1}, 400, "itmes: Extra inputs"),
    "a text as user": ("/score", SCORE | {"user": "7"}, 400, "valid integer, got '7'"),
    "true as user": ("/score", SCORE | {"user": True}, 400, "valid integer, got True"),
    "a huge user": ("/score", SCORE | {"user": 10**30}, 400, "less than 9223372036"),
    "a scenario": ("/score", SCORE | {"scenario": "Shop"}, 400, "'shop' or 'feed'"),
    "a scenario list": ("/score", SCORE | {"scenario": []}, 400, "'shop' or 'feed'"),
    "a day first": ("/score", SCORE | {"time": "31.01.2026"}, 400, "ISO 8601"),
    "seconds": ("/score", SCORE | {"time": 1767225600}, 400, "time: Input"),
    "year 1": ("/score", SCORE | {"time": "0001-01-01"}, 400, "from 1700"),
    "year 2201 in UTC": (
        "/score",
        SCORE | {"time": "2200-12-31T23:59:59-01:00"},
        400,
        "from 1700 to 2200",
    ),
    "year 0 in UTC": (
        "/score",
        SCORE | {"time": "0001-01-01T00:00:00+01:00"},
        400,
        "from 1700 to 2200",
    ),
    "items as text": ("/score", asked(items="i1"), 400, "valid list"),
    "no items": ("/score", asked(items=[]), 400, "at least 1 item"),
    "many items": ("/score", asked(items=["i1"] * 6), 400, "at most 5 items"),
    "an item number": (
        "/score",
        asked(items=["i1", 2]),
        400,
        "items.1: Input should be a valid string, got 2",
    ),
    "no context": (
        "/score",
        SCORE | {"context": {}},
        400,
        "context.device: Field required; context.hour",
    ),
    "a context kind": (
        "/score",
        SCORE | {"context": {"device": 1, "hour": 1}},
        400,
        "context.device: Input should be a valid string, got 1",
    ),
    "a context text": (
        "/score",
        SCORE | {"context": {"device": "phone", "hour": "1"}},
        400,
        "context.hour: Input should be a valid number, got '1'",
    ),
    "a context beyond floats": (
        "/score",
        SCORE | {"context": {"device": "phone", "hour": 10**400}},
        400,
        "context.hour: Input",
    ),
    "a context beyond doubles": (
        "/score",
        json.dumps(SCORE).replace("0.5", "1e999").encode(),
        400,
        "context.hour: Input should be a finite number, got inf",
    ),
    "a context beyond single precision": (
        "/score",
        SCORE | {"context": {"device": "phone", "hour": -1e38}},
        400,
        "context.hour: Input should be greater than or equal to -2",
    ),
    "a key twice": (
        "/score",
        json.dumps(SCORE).replace("{", '{"user": 8, ', 1).encode(),
        400,
        "['user'] given more than once",
    ),
    "a key twice inside": (
        "/score",
        json.dumps(SCORE).replace('{"device"', '{"hour": 1, "device"').encode(),
        400,
        "['hour'] given more than once",
    ),
    "a float as user": ("/score", SCORE | {"user": 7.0}, 400, "valid integer, got 7.0"),
    "no user": ("/score", SCORE | {"user": None}, 400, "valid integer, got None"),
    "a list as item": (
        "/score",
        asked(items=[["i1"]]),
        400,
        "valid string, got ['i1']",
    ),
    "items in a list": ("/recommend", asked(k=3, items=["i1"]), 400, "Extra inputs"),
    "a large list": ("/recommend", asked(k=3) | {"user": "7" * 3000}, 413, "may have"),
    "k zero": ("/recommend", asked(k=0), 400, "greater than or equal to 1, got 0"),
    "k large": ("/recommend", asked(k=11), 400, "less than or equal to 10, got 11"),
    "k text": ("/recommend", asked(k="3"), 400, "got '3'"),
    "k true": ("/recommend", asked(k=True), 400, "got True"),
    "an unknown task": ("/recommend", asked(k=3, task="like"), 400, "'click' or 'buy'"),
    "a list as task": ("/recommend", asked(k=3, task=["buy"]), 400, "got ['buy']"),
    "a negative weight": (
        "/recommend",
        asked(k=3, task={"click": -1}),
        400,
        "task.click: Input should be greater than or equal to 0, got -1",
    ),
    "weights of 0": ("/recommend", asked(k=3, task={"buy": 0}), 400, "above 0, got"),
    "a weight of another task": (
        "/recommend",
        asked(k=3, task={"like": 1}),
        400,
        "'click' or 'buy', got 'like'",
    ),
    "two contexts for three items": (
        "/score",
        asked(items=["i1", "i2", "i3"], context={"device": ["phone"] * 2, "hour": 1}),
        400,
        "device must be a value, or a list with one for each item",
    ),
    "contexts of another type": (
        "/score",
        asked(items=["i1", "i2"], context={"device": "phone", "hour": [1, "2"]}),
        400,
        "context.hour.1: Input should be a valid number, got '2'",
    ),
    "contexts for a list": (
        "/recommend",
        asked(k=3, context={"device": ["phone"] * 3, "hour": 1}),
        400,
        "device: Input should be a valid string",
    ),
    "k missing": ("/recommend", asked(), 400, "k: Field required"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_requests_are_told_what_is_right(service: Service, case: str) -> None:
    path, body, status, text = REFUSED[case]
    got, answer = ask(service, path, body)
    assert got == status and text in answer["error"], answer
    assert set(answer) == {"error"} and "Traceback" not in answer["error"]


def test_just_as_much_as_is_allowed_is_accepted(service: Service) -> None:
    assert ask(service, "/score", asked(items=["i1"] * 5))[0] == 200
    assert len(ask(service, "/recommend", asked(k=10))[1]["list"]) == 10
    body = json.dumps(SCORE).encode()
    assert ask(service, "/score", body.ljust(2_000))[0] == 200
    assert ask(service, "/score", body.ljust(2_001))[0] == 413


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_refused(service: Service, method: str) -> None:
    status, answer = ask(service, "/score", method=method)
    assert status == 405 and f"/score does not take {method}" in answer["error"]
    assert ask(service, "/health", b"{}")[0] == 405


def test_head_is_get_without_a_body(service: Service) -> None:
    answer = raw(service, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n")
    length = len(json.dumps(ask(service, "/health", method="GET")[1]))
    assert f"content-length: {length}".encode() in answer


def test_who_sends_a_large_body_slowly_still_gets_the_answer(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 30000\r\n\r\n")
        for _ in range(3):  # to a closed connection the second piece fails
            time.sleep(0.1)
            connection.sendall(b"x" * 10_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_failure_inside_hides_its_trace(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.live.model.error = RuntimeError("secret path")  # type: ignore[attr-defined]
    with caplog.at_level(logging.CRITICAL):
        status, answer = ask(service, "/score", SCORE)
    assert status == 500 and "internal error" in answer["error"]
    assert "secret" not in answer["error"]
    service.live.model = Linear()
    assert ask(service, "/score", SCORE)[0] == 200  # and goes on


def test_a_score_that_is_no_number_is_a_failure(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Linear):
        def probabilities(self, x: Any) -> np.ndarray:
            return np.full((len(x["scenario"]), 2), np.nan)

    service.live.model = Broken()
    with caplog.at_level(logging.CRITICAL):
        assert ask(service, "/score", SCORE)[0] == 500


def test_no_more_than_so_many_wait_and_one_is_scored_at_a_time(
    service: Service,
) -> None:
    where = service.url.removeprefix("http://")
    each = [http.client.HTTPConnection(where, timeout=10) for _ in range(8)]
    for connection in each:
        connection.request("GET", "/health")
        connection.getresponse().read()
    service.live.model.wait = 0.5  # type: ignore[attr-defined]
    kind = {"Content-Type": "application/json"}
    for connection in each:  # seven arrive while the first one is scored
        connection.request("POST", "/score", json.dumps(SCORE), kind)
    statuses = []
    for connection in each:
        response = connection.getresponse()
        statuses.append(response.status)
        assert (response.getheader("Retry-After") == "1") == (response.status == 429)
        connection.close()
    assert set(statuses) == {200, 429} and statuses[0] == 200
    assert 2 <= statuses.count(200) <= 4  # what came while the first was scored: two
    assert service.live.model.most == 1  # type: ignore[attr-defined]


def test_it_listens_on_this_machine_alone_and_stops(prepared: Prepared) -> None:
    service = Service(Linear(), prepared.encoder)
    with pytest.raises(RuntimeError, match="with statement"):
        _ = service.url
    with service:
        assert service.url.startswith("http://127.0.0.1:")
        where = service.url.removeprefix("http://")
        kept = http.client.HTTPConnection(where, timeout=10)
        kept.request("GET", "/health")
        assert kept.getresponse().read()
    with pytest.raises((http.client.HTTPException, OSError)):
        kept.request("GET", "/health")  # an open connection is not served on
        kept.getresponse()
    kept.close()
    host, port = where.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=2)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = service.url
    with service:  # and can be started again
        assert ask(service, "/health", method="GET")[0] == 200


# --- the load -------------------------------------------------------------------------


def test_the_load_is_bounded_and_counts_errors(service: Service) -> None:
    url = service.url + "/score"
    good = measure_latency(url, [SCORE], clients=2, requests=20)
    assert (len(good.milliseconds), good.errors, good.first_error) == (20, 0, "")
    assert 0 < good[50] <= good[95] <= good[99] and good.per_second > 0
    mixed = measure_latency(url, [SCORE, SCORE | {"user": "7"}], clients=1, requests=9)
    assert (len(mixed.milliseconds), mixed.errors) == (5, 4)
    assert mixed.first_error.startswith('400: {"error": "user: Input should be')


def test_latency_is_the_time_that_the_service_takes(service: Service) -> None:
    service.live.model.wait = 0.05  # type: ignore[attr-defined]
    took = measure_latency(service.url + "/score", [SCORE], clients=1, requests=4)
    assert 50 <= took[50] < 500 and took.per_second < 20


def test_a_service_that_is_gone_is_an_error_not_a_time(prepared: Prepared) -> None:
    with Service(Linear(), prepared.encoder) as service:
        url = service.url + "/score"
    gone = measure_latency(url, [SCORE], clients=2, requests=4)
    assert gone.errors == 4 and np.isnan(gone[50]) and "Refused" in gone.first_error


@pytest.mark.parametrize("wrong", [{"payloads": []}, {"clients": 0}, {"requests": 0}])
def test_a_load_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"payloads": [SCORE]} | wrong
    with pytest.raises(ValueError, match="at least one payload, client and request"):
        measure_latency("http://127.0.0.1:1/score", **options)


def test_percentiles_of_a_known_sample() -> None:
    latency = Latency(np.arange(1.0, 102.0), errors=0, seconds=2.0)
    assert (latency[50], latency[95], latency[99]) == (51, 96, 100)


# --- the export -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, Path]:
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.serving import export

    model = UnifiedRecommender(prepared.encoder.spec, dim=8, match=16, bottom=64)
    model.reset(seed=1)
    rng = np.random.default_rng(1)  # larger weights, so that scores are spread
    model.set_weights([w + rng.normal(0, 0.2, w.shape) for w in model.get_weights()])
    folder = tmp_path_factory.mktemp("export")
    copies = export(model, folder, prepared.x, encoder=prepared.encoder)
    return model, copies, folder


def test_exported_files_give_the_scores_of_the_model(
    exported: Any, prepared: Prepared
) -> None:
    from urlm_helpers.serving import LiteScores, SavedScores

    model, copies, folder = exported
    assert list(copies.files) == ["saved_model", "float32", "int8"]
    assert copies.difference["saved_model"] < 1e-6
    assert copies.difference["float32"] < 1e-6
    assert 0 < copies.difference["int8"] < 0.05
    expected = model.probabilities(prepared.x)
    assert np.ptp(expected[:, 0]) > 0.2
    saved = SavedScores(copies.files["saved_model"])
    lite = LiteScores(copies.files["float32"])
    for rows in (np.arange(1), np.arange(37), np.arange(len(expected))):
        for copy in (saved, lite):  # any number of rows, along the funnel
            p = copy.probabilities(prepared.take(rows))
            np.testing.assert_allclose(p, expected[rows], atol=1e-6)
            assert (p[:, 1] <= p[:, 0]).all()
    described = json.loads((folder / "spec.json").read_text())
    assert described["tasks"] == ["click", "buy"]
    assert described["vocabulary"] == vocabulary_version(prepared.encoder)
    assert load_bundle(folder)[1].spec == prepared.encoder.spec
    sizes = copies.bytes
    assert sizes["int8"] < sizes["float32"] and sizes["saved_model"] > 1_000


def extremes(prepared: Prepared, numbers: float) -> dict[str, np.ndarray]:
    """Return every corner of what an encoder may give, in every scenario."""
    spec, rng = prepared.encoder.spec, np.random.default_rng(0)
    last = np.array(list(spec.fields.values())) - 1
    corners = [
        (fields, sign * numbers, length, age)
        for fields in (0 * last, last, rng.integers(0, last + 1))
        for sign in (-1, 0, 1)
        for length in (0, 1, spec.history_length)
        for age in (0.0, 1e-9, 1e5)
    ] * len(spec.scenarios)
    rows = len(corners)
    x = {name: np.repeat(like, rows, axis=0) for name, like in spec.example().items()}
    for row, (fields, number, length, age) in enumerate(corners):
        x["fields"][row], x["numeric"][row] = fields, number
        at = slice(spec.history_length - length, None)
        x["history"][row, at], x["history_age"][row, at] = last[1], age
    x["scenario"][:] = np.arange(rows) // (rows // len(spec.scenarios))
    return x


def test_exports_keep_to_the_tolerance_in_every_corner(
    exported: Any, prepared: Prepared
) -> None:
    from urlm_helpers.serving import LiteScores, SavedScores, requests

    model, copies, _ = exported
    for numbers in (1.0, 10.0, requests.FAR):
        x = extremes(prepared, numbers)
        expected = model.probabilities(x)
        assert np.isfinite(expected).all() and len(np.unique(expected[:, 0])) > 10
        for copy in (
            SavedScores(copies.files["saved_model"]),
            LiteScores(copies.files["float32"]),
        ):
            found = copy.probabilities(x)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


FILES = ("saved_model", "float32", "int8")


@pytest.mark.parametrize("wrong", FILES)
@pytest.mark.parametrize("off", [0.9e-4, 1.1e-4, np.nan])
def test_each_file_is_held_to_the_tolerance(
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    off: float,
) -> None:
    from urlm_helpers.serving import exports as module

    class Model:
        spec = prepared.encoder.spec

        def probabilities(self, x: Any) -> np.ndarray:
            return np.full((len(x["scenario"]), 2), 0.25)

    class Copy(Model):
        def __init__(self, path: Path) -> None:
            self.off = off if path.name.partition(".")[0] == wrong else 0.0

        def probabilities(self, x: Any) -> np.ndarray:
            p = super().probabilities(x)
            p[-1, 1] -= self.off  # one score of one row
            return p

    monkeypatch.setattr(module, "_save", lambda *_, **__: None)
    monkeypatch.setattr(module, "_convert", lambda *_: b"")
    monkeypatch.setattr(module, "SavedScores", Copy)
    monkeypatch.setattr(module, "LiteScores", Copy)
    args: Any = (Model(), tmp_path, prepared.take(np.arange(5)))
    exact = wrong in ("saved_model", "float32")
    if np.isnan(off) or (exact and off > 1e-4):
        with pytest.raises(
            module.ExportError, match=rf"{wrong}(\.tflite)? gives other"
        ):
            module.export(*args, tolerance=1e-4)
    else:
        difference = module.export(*args, tolerance=1e-4).difference
        assert {n: d for n, d in difference.items() if d} == {wrong: pytest.approx(off)}


def test_a_large_request_is_scored_in_parts(
    exported: Any, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urlm_helpers.serving import exports as module

    model, copies, _ = exported
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 250)
    p = module.LiteScores(copies.files["float32"]).probabilities(prepared.x)
    np.testing.assert_allclose(p, model.probabilities(prepared.x), atol=1e-6)


def test_a_saved_model_names_its_inputs(exported: Any) -> None:
    from urlm_helpers.serving import SavedScores

    saved = SavedScores(exported[1].files["saved_model"])
    _, inputs = saved._serve.structured_input_signature
    assert set(inputs) == set(exported[0].spec.example())
    assert all(spec.shape[0] is None for spec in inputs.values())


def test_the_service_gives_the_scores_of_the_file(
    exported: Any, prepared: Prepared
) -> None:
    from urlm_helpers.serving import LiteScores

    model, copies, _ = exported
    lite = LiteScores(copies.files["float32"])
    with Service(lite, prepared.encoder) as service:
        _, answer = ask(service, "/score", SCORE)
        load = measure_latency(service.url + "/score", [SCORE], clients=4, requests=40)
    expected = Service(model, prepared.encoder).score(SCORE)["scores"]
    for got, wanted in zip(answer["scores"], expected, strict=True):
        assert got["buy"] == pytest.approx(wanted["buy"], abs=1e-6)
    assert load.errors == 0, load.first_error


def test_an_export_that_differs_is_an_error(
    exported: Any, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urlm_helpers.serving import exports as module

    model = exported[0]
    monkeypatch.setattr(
        model, "probabilities", lambda x: np.full((len(x["scenario"]), 2), 0.5)
    )
    with pytest.raises(module.ExportError, match="saved_model gives other scores"):
        module.export(model, tmp_path, prepared.take(np.arange(20)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: {}, "must have the inputs"),
        (lambda x: {k: v[:0] for k, v in x.items()}, "no rows"),
        (lambda x: x | {"numeric": x["numeric"][:, :1]}, r"x\['numeric'\] must have"),
        (lambda x: x | {"fields": x["fields"][:3]}, r"x\['fields'\] must have"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    exported: Any, prepared: Prepared, tmp_path: Path, change: Any, text: str
) -> None:
    from urlm_helpers.serving import ExportError, export

    with pytest.raises(ExportError, match=text):
        export(exported[0], tmp_path / "never", change(prepared.x))
    assert not (tmp_path / "never").exists()


def test_export_is_silent(
    exported: Any, prepared: Prepared, capfd: pytest.CaptureFixture[str]
) -> None:
    from urlm_helpers.serving import LiteScores

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lite = LiteScores(exported[1].files["int8"])
        lite.probabilities(prepared.take(np.arange(3)))
    assert capfd.readouterr() == ("", "")


def test_a_logger_that_is_first_used_in_an_export_still_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from urlm_helpers.serving.exports import _quiet

    logger = logging.getLogger("urlm.first")
    with _quiet():
        logger.addHandler(handler := logging.StreamHandler())  # takes sys.stderr
        logger.warning("what TensorFlow remarks")
    logger.warning("what matters")
    logger.removeHandler(handler)
    assert capsys.readouterr().err == "what matters\n"


def test_an_encoder_that_was_loaded_serves(prepared: Prepared, tmp_path: Path) -> None:
    from urlm_helpers.preprocessing import load_encoder, save_encoder

    again = load_encoder(save_encoder(prepared.encoder, tmp_path / "encoder.npz"))
    ask = {"user": 7, "scenario": "shop", "time": "2026-01-22T12:00"}
    ask["context"] = {"device": "phone", "hour": 0.5}
    for request, name in (({"items": ["i3", "i4"]}, "score"), ({"k": 5}, "recommend")):
        one, other = (Service(Linear(), e) for e in (prepared.encoder, again))
        a, b = (getattr(each, name)(ask | request) for each in (one, other))
        assert a | {"took_ms": 0} == b | {"took_ms": 0}
    ask["context"] = {"device": 1, "hour": 0.5}
    with pytest.raises(ValueError, match="device.*1"):
        Service(Linear(), again).score(ask | {"items": ["i3"]})
