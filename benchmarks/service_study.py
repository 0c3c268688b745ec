"""How fast a list comes: the service of page 5.8 and the one before it, under load.

A shop with a catalog of 400, 10,000 or 100,000 items and a log of 80,000 or 800,000
events; 1, 8 or 32 clients that send their next request when they have their answer.
``make`` writes the shops, with a model of weights as drawn: time does not depend on
them. ``run`` measures, in turns, the service of page 5.8 (``now``), which finds, ranks
and lists, and the one before it, which sorted the whole log at each request and is only
asked to score items that the client names. It adds to ``service.csv`` what is not there
yet. ``overload`` then offers requests at a rate, whether or not the service keeps up
(``service-overload.csv``). The service before runs from a checkout of its last commit::

    git worktree add --detach ../before f5b22fc
    python benchmarks/service_study.py make --folder shops
    python benchmarks/service_study.py run overload --folder shops --before ../before

Service and clients share the machine's cores. The column ``others`` is the share of
them that other processes took meanwhile: a line with more than a few percent is to be
thrown away and measured anew.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
from results import Result

ROOT = Path(__file__).resolve().parent.parent
CATALOGS, EVENTS, CLIENTS = (400, 10_000, 100_000), (80_000, 800_000), (1, 8, 32)
START = pd.Timestamp("2026-01-01")
DAYS = 28
ASKED = "2026-01-29T12:00:00"
RANKED = 100
"""Items that the one before is asked to score; that of 5.8 ranks as many or more."""

TURNS = 3
"""Measurements of each; one where the service before needs a second a request."""

SECONDS = {"before": 2.0, "now": 4.0}
"""That a measurement takes: the one that answers more needs more for its p99."""

SHOP = (10_000, 80_000)
"""The shop of the overload."""

RATES = {"before": (10, 20, 40, 80, 160), "now": (50, 100, 200, 400, 800, 1600)}
"""Requests per second that are offered."""
LOOK_BACK = [["user"], ["item"], ["user", "item"]]


def shop(catalog: int, events: int) -> Any:
    """Return a shop's log, all of whose rows are events, as a `Dataset`."""
    from urlm_helpers.data import Schema, from_frames

    rng = np.random.default_rng(catalog + events)
    users = np.arange(1_000, 1_000 + max(events // 40, 1))
    items = pd.DataFrame({"item": [f"B{n:06d}" for n in range(catalog)]})
    items["category"] = rng.choice([f"c{n}" for n in range(20)], catalog)
    items["price"] = rng.lognormal(3, 1, catalog).round(2)
    popularity = 1 / np.arange(10, catalog + 10)
    second = np.sort(rng.integers(0, DAYS * 86_400, events))
    log = pd.DataFrame(
        {
            "user": rng.choice(users, events),
            "item": items["item"].to_numpy()[
                rng.choice(catalog, events, p=popularity / popularity.sum())
            ],
            "scenario": rng.choice(["shop", "social", "search"], events),
            "time": START + pd.to_timedelta(second, "s"),
            "click": 1,
            "buy": rng.integers(0, 2, events),
        }
    )
    schema = Schema(
        scenarios=("shop", "social", "search"),
        tasks=("click", "buy"),
        funnel={"buy": "click"},
        item_categorical=("category",),
        item_numeric=("price",),
        consumed_again=True,
    )
    return from_frames(log, items=items, schema=schema)


def make(folder: Path) -> None:
    """Write the shops: encoder, and a model of weights as drawn, exported."""
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.preprocessing import Encoder, save_encoder
    from urlm_helpers.serving import export

    for catalog in CATALOGS:
        for events in EVENTS:
            own = folder / f"{catalog}-{events}"
            if (own / "encoder.npz").exists():
                continue
            data = shop(catalog, events)
            encoder = Encoder(
                data,
                START + pd.Timedelta(DAYS, "D"),
                look_back=LOOK_BACK,
                history_fields=["item", "category"],
                history_length=10,
                min_count=5,
            )
            model = UnifiedRecommender(encoder.spec, bottom=64, match=32)
            model.reset(seed=0)
            some = {name: array[:64] for name, array in encoder.encoded.items()}
            export(model, own, some)
            save_encoder(encoder, own / "encoder.npz")  # last: the shop is there
            print(own, flush=True)


# --- the services ---------------------------------------------------------------------

START_UP = {
    "before": """
import sys, threading
from urlm_helpers.preprocessing import load_encoder
from urlm_helpers.serving import LiteScores, Service
folder, port, waiting = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
scores = LiteScores(folder + "/float32.tflite")
encoder = load_encoder(folder + "/encoder.npz")
with Service(scores, encoder, port=port, max_waiting=waiting):
    threading.Event().wait()
""",
    "now": """
import sys, threading
from urlm_helpers.serving import from_bundle
folder, port, waiting = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with from_bundle(folder, port=port, max_waiting=waiting):
    threading.Event().wait()
""",
}


@contextmanager
def running(which: str, folder: Path, before: Path, waiting: int) -> Iterator[Any]:
    """Start a service in a process of its own; yield its address and the process."""
    port = _free_port()
    code = before if which == "before" else ROOT
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", START_UP[which], str(folder), str(port), str(waiting)],
        cwd=code,
        env={**os.environ, **quiet, "PYTHONPATH": str(code)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise RuntimeError(f"the service {which} ended: {process.returncode}")
            if _status(url + "/health") == 200:
                break
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _status(url: str) -> int:
    """Return the status of a GET, 0 where nobody listens."""
    parts = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        connection.request("GET", parts.path)
        return connection.getresponse().status
    except OSError:
        return 0


def requests(which: str, catalog: int, events: int) -> tuple[str, list[dict[str, Any]]]:
    """Return the path, and requests of 200 users."""
    rng = np.random.default_rng(1)
    users = rng.integers(1_000, 1_000 + events // 40, 200).tolist()
    asked = [{"user": user, "scenario": "shop", "time": ASKED} for user in users]
    if which == "now":
        return "/recommend", [{**one, "k": 10} for one in asked]
    ids = [rng.choice(catalog, RANKED, replace=False).tolist() for _ in asked]
    named = [[f"B{n:06d}" for n in own] for own in ids]
    return "/score", [{**one, "items": i} for one, i in zip(asked, named, strict=True)]


class Watch:
    """What else the machine did meanwhile."""

    def __init__(self, service: psutil.Process) -> None:
        self.own = (service, psutil.Process())
        self.load, self.before = os.getloadavg()[0], self._times()

    def _times(self) -> np.ndarray:
        cpu = psutil.cpu_times()
        idle = cpu.idle + getattr(cpu, "iowait", 0.0)
        ours = sum(sum(process.cpu_times()[:2]) for process in self.own)
        return np.array([sum(cpu[:8]), sum(cpu[:8]) - idle - ours])

    def seen(self) -> dict[str, float]:
        """Return the load at the start, the share of others, the service's memory."""
        every, others = self._times() - self.before
        return {
            "load": self.load,
            "others": max(float(others / every), 0.0),
            "megabytes": self.own[0].memory_info().rss / 1e6,
        }


# --- clients that wait ----------------------------------------------------------------

ABOUT = ("service", "catalog", "events")
TIMES = ("p50", "p95", "p99", "per_second", "load", "others", "megabytes")


def turns(which: str, events: int, clients: int, quick: bool) -> int:
    """Return how often something is measured: not at all where it takes minutes."""
    slow = which == "before" and events == max(EVENTS) and clients == max(CLIENTS)
    return 0 if slow else 1 if quick else TURNS


def run(folder: Path, before: Path, quick: bool) -> None:
    """Measure what is not in the file yet."""
    columns = (*ABOUT, "clients", "turn", "requests", "errors", "ranked", *TIMES)
    result = Result("service.csv", columns, digits=4)
    done = Counter(
        (line["service"], *(int(line[c]) for c in ("catalog", "events", "clients")))
        for line in result.lines()
    )
    for catalog, events in itertools.product(CATALOGS, EVENTS):
        missing = [
            (which, clients, turn)
            for clients, turn, which in itertools.product(
                CLIENTS, range(TURNS), SECONDS
            )
            if done[which, catalog, events, clients] <= turn
            and turn < turns(which, events, clients, quick)
        ]
        if not missing:
            continue
        shop = folder / f"{catalog}-{events}"
        waiting = max(CLIENTS)
        with (
            running("before", shop, before, waiting) as first,
            running("now", shop, before, waiting) as second,
        ):
            services = {"before": first, "now": second}
            for which, clients, turn in missing:
                about = dict(zip(ABOUT, (which, catalog, events), strict=True))
                about |= {"clients": clients, "turn": turn}
                seconds = SECONDS[which] / (1 + 3 * quick)
                line = about | measure(*services[which], about, seconds)
                result.keep(line)
                print(line, flush=True)


def measure(url: str, process: Any, about: Any, seconds: float) -> dict[str, Any]:
    """Put a load on a service for about so long; each client asks at least once."""
    from urlm_helpers.serving import measure_latency

    path, payloads = requests(about["service"], about["catalog"], about["events"])
    probe = measure_latency(url + path, payloads, clients=1, requests=2)
    if probe.errors:
        raise RuntimeError(f"{about}: {probe.first_error}")
    clients = about["clients"]
    number = max(int(probe.per_second * seconds), clients, 2)
    watch = Watch(process)
    took = measure_latency(url + path, payloads, clients=clients, requests=number)
    return {
        "requests": len(took.milliseconds),
        "errors": took.errors,
        "ranked": _ranked(url + path, payloads[0]),
        **{f"p{n}": took[n] for n in (50, 95, 99)},
        "per_second": took.per_second,
        **watch.seen(),
    }


def _ranked(url: str, payload: Mapping[str, Any]) -> int:
    """Ask how many items the model was asked about."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    head = {"Content-Type": "application/json"}
    connection.request("POST", parts.path, json.dumps(payload), head)
    answer = json.load(connection.getresponse())
    connection.close()
    return int(
        answer["candidates"] if "candidates" in answer else len(answer["scores"])
    )


# --- requests that come whether or not the service keeps up ---------------------------


def offer(
    url: str,
    payloads: Sequence[Mapping[str, Any]],
    rate: float,
    seconds: float,
    connections: int = 160,
) -> tuple[Counter[int], np.ndarray, float]:
    """Offer requests at a steady rate; time answers from when they were due.

    A request that finds all connections taken waits for one, and its waiting counts.
    Returns the count of each status (0: no answer), the milliseconds of those with 200,
    and the seconds until the last answer.
    """
    parts = urlsplit(url)
    bodies = [json.dumps(payload).encode() for payload in payloads]
    head = {"Content-Type": "application/json"}
    numbers, statuses, took = itertools.count(), Counter[int](), []
    begin, total = time.perf_counter() + 0.1, int(rate * seconds)

    def connect() -> None:
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        while (number := next(numbers)) < total:
            due = begin + number / rate
            time.sleep(max(due - time.perf_counter(), 0))
            try:
                connection.request(
                    "POST", parts.path, bodies[number % len(bodies)], head
                )
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                status = 0
                connection.close()
            statuses[status] += 1
            if status == 200:
                took.append(1000 * (time.perf_counter() - due))
        connection.close()

    threads = [threading.Thread(target=connect) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, np.array(took), time.perf_counter() - begin


def overload(folder: Path, before: Path, quick: bool) -> None:
    """Measure the rates that are not in the file yet."""
    columns = ("service", "offered", "answered", "refused", "failed", "p50", "p99")
    result = Result("service-overload.csv", (*columns, *TIMES[-3:]), digits=4)
    done = {(line["service"], int(line["offered"])) for line in result.lines()}
    for which, rates in RATES.items():
        if all((which, rate) in done for rate in rates):
            continue
        shop = folder / "-".join(map(str, SHOP))
        waiting = {"before": 16, "now": 64}[which]  # what each has by default
        with running(which, shop, before, waiting) as (url, process):
            path, payloads = requests(which, *SHOP)
            offer(url + path, payloads, rates[0], 1.0)
            for rate in rates:
                if (which, rate) in done:
                    continue
                watch = Watch(process)
                statuses, took, seconds = offer(
                    url + path, payloads, rate, 2.0 if quick else 5.0
                )
                full = statuses[429] + statuses[503]
                line = {
                    **{"service": which, "offered": rate},
                    "answered": statuses[200] / seconds,
                    "refused": full / seconds,
                    "failed": (statuses.total() - statuses[200] - full) / seconds,
                    **{f"p{n}": _percentile(took, n) for n in (50, 99)},
                    **watch.seen(),
                }
                result.keep(line)
                print(line, flush=True)


def _percentile(took: np.ndarray, percent: float) -> float:
    return float(np.percentile(took, percent)) if len(took) else float("nan")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["make", "run", "overload"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="a checkout of f5b22fc")
    parser.add_argument(
        "--quick", action="store_true", help="one short turn, to try it"
    )
    a = parser.parse_args()
    if "make" in a.what:
        make(a.folder)
    if "run" in a.what:
        run(a.folder, a.before, a.quick)
    if "overload" in a.what:
        overload(a.folder, a.before, a.quick)
