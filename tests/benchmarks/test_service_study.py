"""The study of the service: what it asks for, and what it counts."""

import importlib
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("service_study")


def test_a_load_at_a_rate_counts_every_request_once() -> None:
    numbers = count()

    class Every(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response((200, 200, 429, 503)[next(numbers) % 4])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Every) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}/recommend"
        statuses, took, seconds = study.offer(url, [{"k": 1}], 200, 0.2, connections=4)
        server.shutdown()
    assert statuses == Counter({200: 20, 429: 10, 503: 10})
    assert len(took) == 20 and (took > 0).all()
    assert seconds > 0.19  # the last one was due then
    gone, took, _ = study.offer(url, [{"k": 1}], 200, 0.05, connections=2)
    assert gone == Counter({0: 10}) and not len(took)


def test_the_one_before_is_asked_for_items_and_this_one_for_lists() -> None:
    path, asked = study.requests("now", 400, 80_000)
    assert path == "/recommend" and asked[0]["k"] == 10
    path, scored = study.requests("before", 400, 80_000)
    assert path == "/score"
    assert [a["user"] for a in asked] == [s["user"] for s in scored]
    assert {len(set(s["items"])) for s in scored} == {study.RANKED}


@pytest.mark.parametrize("catalog", [400, 1_000])
def test_a_shop_has_as_many_items_and_events_as_it_says(catalog: int) -> None:
    data = study.shop(catalog, 4_000)
    assert len(data.items) == catalog and len(data.events) == 4_000
    assert data.interactions["time"].max() < np.datetime64(study.ASKED)
    ids = set(data.items["item"])
    _, scored = study.requests("before", catalog, 4_000)
    assert {*scored[0]["items"]} <= ids
