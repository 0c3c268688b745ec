"""Events: written before they are acknowledged, seen by the next request, kept."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, from_frames
from urlm_helpers.preprocessing import Encoder, save_encoder, vocabulary_version
from urlm_helpers.preprocessing.columns import Vocabulary
from urlm_helpers.serving import EventStore, Online, Refused, Service, StoreError, live
from urlm_helpers.serving import service as module
from urlm_helpers.serving.service import load_bundle

SCHEMA = Schema(
    ("shop", "feed"), ("click", "buy"), funnel={"buy": "click"}, consumed_again=True
)


def shop(schema: Schema = SCHEMA) -> Encoder:
    rng, n = np.random.default_rng(0), 200
    log = pd.DataFrame(
        {
            "user": rng.integers(1, 9, n),
            "item": rng.integers(1, 13, n),
            "scenario": rng.choice(schema.scenarios, n),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(n), "h"),
            "click": rng.integers(0, 2, n),
            "buy": 0,
        }
    )
    data = from_frames(log, schema=schema)
    return Encoder(data, "2026-01-06", look_back=[("user", "item")], min_count=1)


class Counts:
    """A model that looks at how often the user had the item."""

    def probabilities(self, x: Any) -> np.ndarray:
        p = 1 / (3 + np.exp(-x["numeric"][:, 0].astype(float)))
        return np.stack([p, p / 2], axis=1)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    yield Service(Counts(), shop(), store=tmp_path / "events.db")


KIND = {"Content-Type": "application/json"}

AT = {"user": 7, "scenario": "shop", "time": "2026-02-01"}


def event(**fields: Any) -> dict[str, Any]:
    return AT | {"item": 5, "time": "2026-01-31"} | fields


def score(service: Service, item: int = 5) -> float:
    return float(service.score(AT | {"items": [item]})["scores"][0]["click"])


def test_the_next_request_sees_an_event(service: Service) -> None:
    before, known = score(service), service.health()["events"]
    answer = service.record({"events": [event(), event(labels={"click": 1, "buy": 1})]})
    assert answer == {"accepted": 2, "duplicates": 0}
    assert score(service) > before
    assert service.health()["events"] == known + 2
    after = score(service)
    service.record({"events": [event(labels={"click": 0})]})  # shown, not clicked
    assert score(service) == after and service.health()["events"] == known + 3
    late = AT | {"items": [5], "time": "2026-01-31"}  # at its very moment
    assert service.score(late)["scores"][0]["click"] == before


def test_what_came_twice_counts_once(service: Service) -> None:
    twice = {"events": [event(id="a"), event(id="b"), event(id="a")]}
    assert service.record(twice) == {"accepted": 2, "duplicates": 1}
    known, after = service.health()["events"], score(service)
    assert service.record(twice) == {"accepted": 0, "duplicates": 3}
    assert (service.health()["events"], score(service)) == (known, after)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"time": "2999-01-01"}, "from 1700 to 2200"),
        ({"time": "2199-01-01"}, r"events\.1: time lies in the future"),
        ({"labels": {"buy": 1}}, r"events\.1: 'buy' is 1 where 'click' is 0"),
        ({"labels": {"like": 1}}, "'click' or 'buy'"),
        ({"labels": {"click": 2}}, "events.1.labels.click: Input should be less than"),
        ({"item": "5"}, "events.1.item: Input should be a valid integer"),
        ({"price": 5}, "events.1.price: Extra inputs"),
    ],
)
def test_one_wrong_event_and_none_is_kept(
    service: Service, wrong: dict[str, Any], text: str
) -> None:
    known = service.store.log()
    with pytest.raises(Refused, match=text) as refused:
        service.record({"events": [event(), event(**wrong)]})
    assert refused.value.status == 400
    pd.testing.assert_frame_equal(service.store.log(), known)


def test_the_store_is_a_log_to_train_on(service: Service) -> None:
    assert service.store.log().empty  # the encoder's events have no labels
    service.record({"events": [event(), event(labels={"click": 0}, scenario="feed")]})
    log = service.store.log()
    assert log[["click", "buy"]].to_numpy().tolist() == [[1, 0], [0, 0]]
    data = from_frames(log, schema=SCHEMA)
    assert data.interactions["time"].iloc[0] == pd.Timestamp("2026-01-31")
    assert len(data.events) == 1


def test_services_share_a_store_and_a_new_one_goes_on(
    service: Service, tmp_path: Path
) -> None:
    other = Service(Counts(), shop(), store=tmp_path / "events.db")
    assert other.health()["events"] == service.health()["events"]  # filled once
    before = score(other)
    service.record({"events": [event()] * 3})
    assert score(other) == score(service) > before
    assert score(Service(Counts(), shop(), store=tmp_path / "events.db")) == score(
        other
    )


def test_a_full_disk_keeps_what_was_acknowledged(service: Service) -> None:
    service.record({"events": [event(item=3)]})
    kept, store = score(service, 3), service.store
    assert isinstance(store, EventStore)
    (pages,) = store._write.execute("PRAGMA page_count").fetchone()
    store._write.execute(f"PRAGMA max_page_count = {pages}")
    known = service.health()["events"]
    with service:
        url, body = service.url + "/events", {"events": [event()]}
        lots = {"events": [event(id=f"{n:0150}") for n in range(200)]}
        request = urllib.request.Request(
            url, headers={"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as full:
            urllib.request.urlopen(request, json.dumps(lots).encode(), timeout=30)
        assert full.value.code == 507 and b"no event was kept" in full.value.read()
        assert score(service, 3) == kept and service.health()["events"] == known
        store._write.execute("PRAGMA max_page_count = 100000")
        with urllib.request.urlopen(request, json.dumps(body).encode()) as answer:
            assert json.load(answer)["accepted"] == 1


def test_another_process_that_writes_for_long_is_waited_for_and_then_told(
    service: Service, tmp_path: Path
) -> None:
    assert isinstance(service.store, EventStore)
    service.store._write.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Refused, match="locked") as refused:
        service.record({"events": [event()]})
    assert refused.value.status == 507
    other.execute("ROLLBACK")
    assert service.record({"events": [event()]})["accepted"] == 1


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough " * 99)
    with pytest.raises(ValueError, match="no store of events"):
        EventStore(tmp_path / "text", SCHEMA)
    EventStore(tmp_path / "other", Schema(("shop",), ("like",))).close()
    with pytest.raises(ValueError, match="has events with the columns .*'like'"):
        EventStore(tmp_path / "other", SCHEMA)
    store = EventStore(tmp_path / "store", SCHEMA)
    with pytest.raises(StoreError, match="no event was kept"):
        store.append([(None, 1, 2, "shop", 3, 1, 0), (None, 1)])
    assert store.since(0) == []


SERVER = """
import sys
sys.path.insert(0, {here!r})
from test_store import Counts, Service, shop
with Service(Counts(), shop(), store={store!r}) as service:
    print(service.url, flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_loses_no_acknowledged_event(tmp_path: Path) -> None:
    store = str(tmp_path / "events.db")
    here = str(Path(__file__).parent)
    program = [sys.executable, "-c", SERVER.format(here=here, store=store)]
    process = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip() + "/events"
    request = urllib.request.Request(url, headers=KIND)
    acknowledged: list[str] = []

    def client(name: int) -> None:
        for number in range(10_000):
            key = f"{name} {number}"
            body = json.dumps({"events": [event(id=key)]}).encode()
            try:
                urllib.request.urlopen(request, body, timeout=10).read()
            except (OSError, urllib.error.URLError):
                return
            acknowledged.append(key)

    threads = [threading.Thread(target=client, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 60:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for thread in threads:
        thread.join()
    rows = sqlite3.connect(store).execute("SELECT id FROM events").fetchall()
    assert {(key,) for key in acknowledged} <= set(rows)
    again = Service(Counts(), shop(), store=store)
    assert again.health()["events"] == len(rows)
    assert again.record({"events": [event(id=acknowledged[0])]})["duplicates"] == 1


# --- another model while requests come ------------------------------------------------


def test_a_reload_drops_no_request_and_no_event(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Other(Counts):
        version = "other"

    def slowly(*past: Any) -> Online:  # once the events are read
        started.set()
        assert go_on.wait(20)
        return Online(*past)

    monkeypatch.setattr(module, "load_bundle", lambda _: (Other(), shop()))
    monkeypatch.setattr(live, "Online", slowly)
    service.folder = tmp_path

    def post(path: str, body: Any) -> Any:
        request = urllib.request.Request(service.url + path, headers=KIND)
        with urllib.request.urlopen(request, json.dumps(body).encode(), 30) as answer:
            return json.load(answer)

    with service:
        answers: list[Any] = []
        first = service.live
        reload = threading.Thread(target=lambda: answers.append(post("/reload", {})))
        reload.start()
        assert started.wait(20)
        before = post("/score", AT | {"items": [5]})
        service.record({"events": [event()] * 4})  # in the meantime
        assert post("/score", AT | {"items": [5]})["versions"]["model"] == "Counts"
        go_on.set()
        reload.join()
        after = post("/score", AT | {"items": [5]})
    assert answers[0]["model"] == after["versions"]["model"] == "other"
    assert after["scores"][0]["click"] > before["scores"][0]["click"]
    assert service.live is not first and service.live.requests is not first.requests


@pytest.mark.parametrize("case", ["too few tasks", "not finite", "raises", "tables"])
def test_a_model_that_does_not_fit_is_refused_and_the_old_one_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    class Wrong(Counts):
        def probabilities(self, x: Any) -> np.ndarray:
            if case == "raises":
                raise IndexError("the table has 3 rows")
            p = super().probabilities(x)
            p = p[:, :1] if case == "too few tasks" else p
            return p * np.nan if case == "not finite" else p

    other = Schema(("shop", "feed"), ("click", "buy"), context_categorical=("day",))
    encoder = shop()
    if case == "tables":
        encoder.schema = other
    monkeypatch.setattr(module, "load_bundle", lambda _: (Wrong(), encoder))
    old = service.live
    with pytest.raises(Refused, match="the old model goes on: ") as refused:
        service.reload("somewhere")
    assert refused.value.status == 409 and service.live is old and score(service)
    with pytest.raises(Refused, match="name one"):
        service.reload()


def test_a_folder_must_hold_what_belongs_together(tmp_path: Path) -> None:
    encoder, folder = shop(), tmp_path / "served"
    with pytest.raises(ValueError, match="lacks a file.*spec.json"):
        load_bundle(folder)
    folder.mkdir()
    spec = encoder.spec.to_dict()
    (folder / "spec.json").write_text(json.dumps(spec))
    save_encoder(encoder, folder / "encoder.npz")
    with pytest.raises(ValueError, match=r"lacks a file.*float32\.tflite"):
        load_bundle(folder)
    (folder / "spec.json").write_text(json.dumps(spec | {"history_length": 3}))
    with pytest.raises(ValueError, match=r"other tables .* \['history_length'\]"):
        load_bundle(folder)
    own = {"vocabulary": vocabulary_version(encoder)}
    (folder / "spec.json").write_text(json.dumps(spec | own))
    with pytest.raises(ValueError, match=r"lacks a file.*float32\.tflite"):
        load_bundle(folder)
    item = encoder.vocabularies["item"]  # as many words, in another order
    encoder.vocabularies["item"] = Vocabulary(item.values[::-1])
    save_encoder(encoder, folder / "encoder.npz")
    with pytest.raises(ValueError, match="expects the vocabulary .* its encoder has"):
        load_bundle(folder)


def test_a_new_scenario_comes_with_a_reload(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = Schema(
        ("shop", "feed", "mail"),
        SCHEMA.tasks,
        funnel=SCHEMA.funnel,
        consumed_again=True,
    )
    monkeypatch.setattr(module, "load_bundle", lambda _: (Counts(), shop(three)))
    with pytest.raises(Refused, match="'shop' or 'feed'"):
        service.recommend(AT | {"scenario": "mail", "k": 2})
    service.reload("somewhere")
    assert len(service.recommend(AT | {"scenario": "mail", "k": 2})["list"]) == 2
