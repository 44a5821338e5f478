"""Health: liveness (the loop turns) apart from readiness (there is something to answer from, and no stop under way).

Over gRPC as grpc.health.v1 services "", readiness and each service's own; liveness; for detail store, cache, changes.
Over HTTP as /healthz, /readyz and /metrics, from a thread of its own, so that a stuck loop shows.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

CHECK_S = 0.1
STUCK_S = 10.0
READY_NAMES = (
    *("", "readiness", "flagsvc.v1.FlagService", "flagd.sync.v1.FlagSyncService"),
    *("flagd.evaluation.v1.Service", "flagd.evaluation.v2.Service", "schema.v1.Service"),
)
_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


class Health:
    """Keeps grpc.health.v1 true to what `ready` and the `details` (checks by name) say, ten times a second."""

    def __init__(self, ready: Callable[[], bool], details: Mapping[str, Callable[[], bool]]) -> None:
        self.servicer = health_aio.HealthServicer()
        self._checks = {**dict.fromkeys(READY_NAMES, ready), **details}
        self._told: dict[str, bool] = {}
        self._stopping = False
        self._turned_at = time.monotonic()

    @property
    def ready(self) -> bool:
        """What /readyz says."""
        return self._told.get("", False) and not self._stopping

    @property
    def alive(self) -> bool:
        """What /healthz says: the loop turned lately."""
        return time.monotonic() - self._turned_at < STUCK_S

    async def start(self) -> None:
        """Say the first state, before the server listens."""
        await self._tell("liveness", True)
        await self._tell_all()

    async def run(self) -> None:
        """Follow the checks, for ever."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self._tell_all()

    async def stop(self) -> None:
        """Say not ready, for good; liveness stays."""
        self._stopping = True
        for name in self._checks:
            await self._tell(name, False)

    async def _tell_all(self) -> None:
        self._turned_at = time.monotonic()
        if not self._stopping:
            for name, check in self._checks.items():
                await self._tell(name, check())

    async def _tell(self, name: str, serving: bool) -> None:
        if self._told.get(name) is not serving:
            self._told[name] = serving
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self.servicer.set(name, status)


class ManagementServer:
    """HTTP for probes and Prometheus. Raises OSError when the port is taken."""

    def __init__(self, host: str, port: int, health: Health, metrics_page: Callable[[], bytes]) -> None:
        self._health, self._page = health, metrics_page
        self._server = make_server(host, port, self._answer, _Server, _QuietHandler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="management", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
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
                status, body = "200 OK", self._page()
            case _:
                status, body = "404 Not Found", b"try /healthz, /readyz or /metrics\n"
        start_response(status, [_PLAIN, ("Content-Length", str(len(body)))])
        return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Probes are no news."""
