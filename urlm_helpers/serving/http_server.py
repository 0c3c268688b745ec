"""HTTP around a service: read a request, refuse what is wrong, answer in JSON.

The server is the one of the standard library: it needs nothing installed, and one page
shows all that a service has to decide. Towards the outside put a server made for it in
front (TLS, accounts, several processes).
"""

import json
import logging
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import methodcaller
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Routes = Mapping[str, tuple[str, Callable[..., dict[str, Any]]]]
"""From a path to its method and to what answers: to a GET as it is, to a POST from the
request's JSON. It may raise `Refused`."""


class Refused(ValueError):
    """A request that gets no scores: what would be right, and an HTTP status."""

    def __init__(self, message: str, status: int = 400, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): v for name, v in headers.items()}


def show(value: Any) -> str:
    """Write a value of a request as Python does, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check(fits: bool, name: str, wanted: str, got: Any) -> None:
    """Refuse what does not fit, and say what would."""
    if not fits:
        raise Refused(f"{name} must be {wanted}, got {show(got)}")


class Server(ThreadingHTTPServer):
    """One thread per connection, so many requests in work and no more.

    Parameters
    ----------
    address : tuple of str and int
        Where to listen.
    routes : Routes
        What to answer.
    max_bytes, max_waiting : int
        Largest body of a request, most requests in work.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], routes: Routes, max_bytes: int, max_waiting: int
    ) -> None:
        self.routes, self.max_bytes, self.max_waiting = routes, max_bytes, max_waiting
        self.slots = threading.BoundedSemaphore(max_waiting)
        self.stopping = False
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of this machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note that a client went away; no traceback on stderr."""
        log.debug("connection of %s broke", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """Reads one request after another from a connection and answers in JSON."""

    protocol_version = "HTTP/1.1"  # keeps the connection open
    disable_nagle_algorithm = True  # else a small answer waits 40 ms
    timeout = 10  # seconds without a byte
    server_version, sys_version = "urlm", ""
    server: Server

    def _do(self) -> None:
        headers: Mapping[str, str] = {}
        try:
            status, answer = 200, self._work()
            plain = methodcaller("item")  # NumPy's numbers as Python's
            body = json.dumps(answer, default=plain, allow_nan=False)
        except Refused as refused:
            status, headers = refused.status, refused.headers
            body = json.dumps({"error": str(refused)})
        except TimeoutError:
            self.close_connection = True
            status, body = 408, json.dumps({"error": "the body did not come in time"})
        except Exception:
            log.exception("%s %s failed", self.command, self.path)
            status = 500
            body = json.dumps({"error": "internal error: see the log of the service"})
        self._send(status, body, headers)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _do

    def _work(self) -> dict[str, Any]:
        server, path = self.server, urlsplit(self.path).path
        if server.stopping:
            self.close_connection = True
            raise Refused("the service is stopping", 503)
        body = self._body(server.max_bytes)
        if path not in server.routes:
            raise Refused(f"no {path} here: there are {', '.join(server.routes)}", 404)
        method, answer = server.routes[path]
        if self.command != method:
            message = f"{path} wants {method}, got {self.command}"
            raise Refused(message, 405, Allow=method)
        if method == "GET":
            return answer()
        if body is None:
            raise Refused("a POST needs the header Content-Length and a body", 411)
        request = _parse(body)
        if not server.slots.acquire(blocking=False):
            message = f"{server.max_waiting} requests are in work: come again later"
            raise Refused(message, 503, Retry_After="1")
        try:
            return answer(request)
        finally:
            server.slots.release()

    def _body(self, limit: int) -> bytes | None:
        """Read the body; None without one."""
        length = self.headers.get("Content-Length")
        if length is None:
            # a body of unknown length would be taken for the next request
            self.close_connection |= "Transfer-Encoding" in self.headers
            return None
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            self.close_connection = True
            raise Refused(f"Content-Length must be a number, got {show(length)}")
        if int(length) > limit:
            self.close_connection = True
            self.rfile.read(min(int(length), 16 * limit))  # else it sees no answer
            raise Refused(f"a body may have {limit:,} bytes, got {int(length):,}", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise Refused(f"{length} bytes were announced, {len(body)} came")
        return body

    def _send(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        content = body.encode()
        self.send_response(status)
        standard = {"Content-Type": "application/json"}
        standard["Content-Length"] = str(len(content))
        if self.close_connection:
            standard["Connection"] = "close"
        for name, value in {**standard, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answer what the standard library refuses (a broken request) in JSON too."""
        self.close_connection = True
        self._send(code, json.dumps({"error": message or explain or "refused"}), {})

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request, instead of writing it to stderr."""
        log.debug(format, *args)


def _parse(body: bytes) -> Any:
    """Read JSON, strictly: no NaN, no key twice, no text that is not Unicode."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise ValueError(f"{show(twice)} given more than once")
        return dict(pairs)

    try:
        request = json.loads(
            body.decode("utf-8"), parse_constant=constant, object_pairs_hook=once
        )
        json.dumps(request, ensure_ascii=False).encode("utf-8")  # half characters
    except (ValueError, RecursionError) as error:
        text = "too deeply nested" if isinstance(error, RecursionError) else error
        raise Refused(f"the body must be JSON in UTF-8: {text}") from None
    return request
