"""Lists: retrieval, filters, re-ranking, the budget, explanations; what HTTP adds."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, from_frames
from urlm_helpers.preprocessing import Encoder
from urlm_helpers.serving import Refused, Service
from urlm_helpers.serving import live as module

ITEMS = 60
SCHEMA = Schema(
    ("shop", "feed"),
    ("click", "buy"),
    item_categorical=("kind",),
    item_numeric=("price",),
    consumed_again=True,
)


class Priced:
    """The dearer, the more clicks; how often it was had counts for purchases."""

    def probabilities(self, x: Any) -> np.ndarray:
        click = 1 / (1 + np.exp(-x["numeric"][:, 0].astype(float)))
        return np.stack([click, 1 / (2 + np.exp(-x["numeric"][:, 1]))], axis=1)


def shop(schema: Schema = SCHEMA) -> Encoder:
    """Item n costs n and has the kind n % 3; item 1 is popular, user 7 had 50 to 53."""
    item = np.r_[np.arange(ITEMS), [1] * 30, [2] * 20, [50, 51, 52, 53]]
    log = pd.DataFrame({"user": 1, "item": item, "scenario": "shop", "click": 1})
    log.loc[len(log) - 4 :, "user"] = 7
    log = log.assign(time=pd.Timestamp("2026-01-01"), buy=0)
    log["time"] += pd.to_timedelta(np.arange(len(log)), "h")
    items = pd.DataFrame({"item": np.arange(ITEMS), "price": np.arange(float(ITEMS))})
    items["kind"] = np.array(["a", "b", "c"])[np.arange(ITEMS) % 3]
    data = from_frames(log, items=items, schema=schema)
    return Encoder(data, "2026-02-01", look_back=[("user", "item")], min_count=1)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(Priced(), shop(), candidates=8, budget_ms=10_000) as service:
        yield service


AT = {"user": 7, "scenario": "shop", "time": "2026-02-01", "k": 3}


def listed(service: Service, **fields: Any) -> list[int]:
    return [line["item"] for line in service.recommend(AT | fields)["list"]]


def test_candidates_are_what_the_user_had_and_what_is_popular(service: Service) -> None:
    answer = service.recommend(AT | {"k": 8})
    found = [line["item"] for line in answer["list"]]
    assert (answer["candidates"], answer["catalog"]) == (8, ITEMS)
    assert {52, 53, 1, 2} <= {*found}  # a quarter had before, the last ones first
    assert found == sorted(found, reverse=True)  # and the model ranks them
    stranger = listed(service, user=8, k=8)
    assert {1, 2} <= {*stranger} and len({*stranger}) == 8
    assert listed(service, user=8, k=50) == sorted(
        listed(service, user=8, k=50), reverse=True
    )


def test_an_event_makes_an_item_a_candidate(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH", 0.0)
    assert 40 not in listed(service, user=9, scenario="feed", k=8)
    event = {"user": 10, "item": 40, "scenario": "feed", "time": "2026-01-31"}
    service.record({"events": [event] * 3})
    assert 40 in listed(service, user=9, scenario="feed", k=8)


def test_filters_hold(service: Service) -> None:
    assert listed(service, exclude=[53, 52, 999]) != listed(service)
    assert not {53, 52} & {*listed(service, k=50, exclude=[53, 52])}
    only = service.recommend(AT | {"k": 50, "only": {"kind": ["b", "?"]}})
    assert only["catalog"] == ITEMS / 3
    assert {line["item"] % 3 for line in only["list"]} == {1}
    assert listed(service, only={"kind": []}) == []
    few = listed(service, k=6, at_most={"kind": 1})
    assert len(few) == 3 == len({item % 3 for item in few})
    for wrong in ({"only": {"price": [1]}}, {"at_most": {"kind": 0}}):
        with pytest.raises(Refused):
            service.recommend(AT | wrong)


def test_what_was_consumed_is_left_out_where_it_is_not_had_again() -> None:
    once = Schema(
        SCHEMA.scenarios,
        SCHEMA.tasks,
        item_categorical=("kind",),
        item_numeric=("price",),
    )
    service = Service(Priced(), shop(once))
    before = listed(service, k=60)
    assert not {50, 51, 52, 53} & {*before} and len(before) == 56
    event = {"user": 7, "item": before[0], "scenario": "shop", "time": "2026-01-31"}
    service.record({"events": [event]})
    assert before[0] not in listed(service, k=60)


def test_a_list_that_waited_has_fewer_candidates(service: Service) -> None:
    request, late = AT | {"k": 2}, time.perf_counter() - 60
    assert service.answer("recommend", request)["candidates"] == 8
    answer = service.answer("recommend", request, arrived=late)
    assert answer["candidates"] == 2 == len(answer["list"])
    assert answer["took_ms"] > 60_000
    assert service.recommend(request | {"budget_ms": 1e-6})["candidates"] == 2


def test_a_score_says_what_it_is_made_of(service: Service) -> None:
    mix = {"click": 1.0, "buy": 0.5}
    answer = service.recommend(AT | {"task": mix, "explain": True})
    for line in answer["list"]:
        parts = line["explain"]
        logs = {task: weight * np.log(line[task]) for task, weight in mix.items()}
        assert parts["tasks"] == pytest.approx(logs)
        assert parts["score"] == pytest.approx(sum(logs.values()))
        assert {n for n, v in parts["inputs"].items() if v} <= {"price", "user × item"}
    top = answer["list"][0]
    mean = 1 / (1 + np.exp(0)), top["buy"]
    gain = np.log(top["click"] / mean[0])
    assert top["explain"]["inputs"]["price"] == pytest.approx(gain)
    items = [*range(3)]
    scores = service.score(
        {n: v for n, v in AT.items() if n != "k"} | {"items": items, "explain": True}
    )["scores"]
    assert all("explain" in line for line in scores)


def http(service: Service, path: str, body: Any = None, **headers: str) -> Any:
    headers = {"Content-Type": "application/json", **headers}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def test_a_batch_is_its_lists_in_turn(service: Service) -> None:
    requests = [AT | {"user": user} for user in (7, 8, 7)]
    answers = json.loads(http(service, "/batch", {"requests": requests}))["answers"]
    assert [a["user"] for a in answers] == [7, 8, 7]
    assert answers[0]["list"] == answers[2]["list"] == service.recommend(AT)["list"]
    with pytest.raises(urllib.error.HTTPError, match="400") as wrong:
        http(service, "/batch", {"requests": [AT, AT | {"k": 0}]})
    assert b"requests.1.k: Input should be greater" in wrong.value.read()


def test_the_openapi_page_knows_this_shop(service: Service) -> None:
    page = json.loads(http(service, "/openapi.json"))
    models = page["components"]["schemas"]
    assert models["Recommend"]["properties"]["scenario"]["enum"] == ["shop", "feed"]
    assert models["Score"]["properties"]["user"]["type"] == "integer"
    assert {"/events", "/score", "/recommend", "/batch"} <= {*page["paths"]}
    assert "swagger" in http(service, "/docs")


def test_metrics_count_what_was_answered(service: Service) -> None:
    def metrics() -> dict[str, float]:
        lines = [line.rpartition(" ") for line in http(service, "/metrics").split("\n")]
        return {name: float(v) for name, _, v in lines if v and name[:1] != "#"}

    before = metrics()
    http(service, "/recommend", AT)
    with pytest.raises(urllib.error.HTTPError):
        http(service, "/recommend", AT | {"k": 0})
    with pytest.raises(urllib.error.HTTPError):
        http(service, f"/{time.time()}")
    after = metrics()
    for labels, more in (
        ('path="/recommend",status="200"', 1),
        ('path="/recommend",status="400"', 1),
        ('path="another",status="404"', 1),
    ):
        name = f"requests_total{{{labels}}}"
        assert after[name] - before.get(name, 0) == more
    assert after["events"] == service.health()["events"]
    model = service.live.versions
    info = f'model_info{{model="{model["model"]}",vocabulary="{model["vocabulary"]}"}}'
    assert after[info] == 1
    count = 'request_seconds_count{path="/recommend"}'
    assert after[count] - before.get(count, 0) == 2


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/x-www-form-urlencoded"]
)
def test_a_body_of_another_type_is_refused(service: Service, kind: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="415"):
        http(service, "/recommend", AT, **{"Content-Type": kind})
    http(
        service, "/recommend", AT, **{"Content-Type": "Application/JSON; charset=utf-8"}
    )
