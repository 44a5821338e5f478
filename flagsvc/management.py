"""The management server: /healthz, /readyz and /metrics over HTTP.

It runs in a thread of its own, so that it still answers when the event loop is blocked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from flagsvc.health import Health

_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


class ManagementServer:
    """HTTP for probes and Prometheus. Raises OSError if the port cannot be bound."""

    def __init__(self, host: str, port: int, health: Health, metrics_page: Callable[[], bytes]) -> None:
        self._health, self._metrics_page = health, metrics_page
        self._server = make_server(host, port, self._answer, _Server, _QuietHandler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="management", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/healthz":
                status, body = ("200 OK", b"ok\n") if self._health.alive else ("503 Service Unavailable", b"stuck\n")
            case "/readyz":
                status, body = ("200 OK", b"ready\n") if self._health.ready else ("412 Precondition Failed", b"wait\n")
            case "/metrics":
                status, body = "200 OK", self._metrics_page()
            case _:
                status, body = "404 Not Found", b"try /healthz, /readyz or /metrics\n"
        start_response(status, [_PLAIN, ("Content-Length", str(len(body)))])
        return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Do not log probes."""
