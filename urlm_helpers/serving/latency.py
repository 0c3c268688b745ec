"""A bounded load on an HTTP service: how long do its clients wait?"""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

JSON = {"Content-Type": "application/json"}

TIMEOUT = 30.0
"""Seconds after which an answer counts as an error."""


@dataclass(frozen=True, eq=False)
class Latency:
    """How long a service took, as its clients saw it.

    Parameters
    ----------
    milliseconds : ndarray
        Of each request that was answered with 200, in order of time needed.
    errors : int
        Requests that were not.
    seconds : float
        From the first request to the last answer.
    first_error : str
        What went wrong first; empty without errors.

    Examples
    --------
    >>> latency = Latency(np.array([1.0, 2.0, 9.0]), errors=1, seconds=0.5)
    >>> latency[50], latency.per_second
    (2.0, 6.0)
    """

    milliseconds: np.ndarray
    errors: int
    seconds: float
    first_error: str = ""

    def __getitem__(self, percent: float) -> float:
        """Return a percentile in ms: ``latency[95]``; NaN if nothing was answered."""
        if not len(self.milliseconds):
            return float("nan")
        return float(np.percentile(self.milliseconds, percent))

    @property
    def per_second(self) -> float:
        """Answers per second, over all clients."""
        return len(self.milliseconds) / self.seconds


def measure_latency(
    url: str,
    payloads: Sequence[Mapping[str, Any]],
    *,
    clients: int = 2,
    requests: int = 200,
) -> Latency:
    """Put a bounded load on a service and time every answer.

    Each client keeps one connection and sends its next request when it has the answer
    to the last one. So at most `clients` requests are under way, and a slow service
    is asked less often: the percentiles are those of this load, not of users who come
    whether or not the service keeps up. Clients and a service in one process share
    its cores and its interpreter lock, which makes the times longer.

    Parameters
    ----------
    url : str
        Such as ``service.url + "/score"``.
    payloads : sequence of mapping
        Bodies, sent in turn.
    clients, requests : int
        Connections at once, and requests of all together.

    Returns
    -------
    Latency

    Raises
    ------
    ValueError
        No payload, or `clients` or `requests` below 1.

    References
    ----------
    J. Dean, L. A. Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013:
    why the slowest answers count.
    """
    if not payloads or clients < 1 or requests < 1:
        raise ValueError(
            f"a load needs at least one payload, client and request, got "
            f"{len(payloads)}, {clients} and {requests}"
        )
    parts = urlsplit(url)
    bodies = [json.dumps(payload).encode() for payload in payloads]
    took: list[float] = []
    errors: list[str] = []

    def client(own: range) -> None:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
        for number in own:
            start = time.perf_counter()
            try:
                body = bodies[number % len(bodies)]
                connection.request("POST", parts.path, body, JSON)
                response = connection.getresponse()
                text = response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                errors.append(f"{type(error).__name__}: {error}")
                connection.close()  # the next request opens it anew
                continue
            if response.status == 200:
                took.append(1000 * (time.perf_counter() - start))
            else:
                errors.append(f"{response.status}: {text}")
        connection.close()

    shares = [range(first, requests, clients) for first in range(clients)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, shares))
    seconds = time.perf_counter() - begin
    return Latency(np.sort(took), len(errors), seconds, errors[0] if errors else "")
