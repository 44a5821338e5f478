"""The management server: /healthz, /readyz and /metrics over HTTP.

It has an event loop in a thread of its own, so that it still answers when the main event loop is blocked. What belongs
to the main loop is read there, never from this thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from flagsvc.api.common.gate import Check
from flagsvc.api.common.peers import peer_name
from flagsvc.api.http.server import Acceptor, HttpServer
from flagsvc.auth_mode import is_loopback
from flagsvc.background import outliving
from flagsvc.core.errors import FlagsvcError, PermissionDenied, Unauthenticated
from flagsvc.health import Health
from flagsvc.telemetry import Metrics

MAIN_LOOP_S = 2.0
"""Seconds in which the main loop must hand over its samples."""
PAUSE_FACTOR = 10
"""After a metrics page the next one waits this many times as long as it took: scrapes take a bounded share of a CPU."""
MAX_PAUSE_S = 1.0
SLICE_S = 0.001
MAX_CONNECTIONS = 100
STOP_S = 5.0
REFUSAL_STATUSES: Mapping[type[FlagsvcError], int] = {Unauthenticated: 401, PermissionDenied: 403}
"""HTTP status of a caller who may not read metrics; 503 where that cannot be decided now."""
PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"
T = TypeVar("T")


class ManagementServer:
    """HTTP for probes and Prometheus, on a listening socket. Create it in the main loop.

    `check`: what callers from other machines need for metrics; None if callers are not authenticated. `acceptor`:
    HttpServer's.
    """

    def __init__(
        self,
        listening: socket.socket,
        health: Health,
        metrics: Metrics,
        check: Check | None = None,
        acceptor: Callable[[socket.socket, HttpServer], Acceptor] | None = None,
    ) -> None:
        self._health, self._metrics, self._check = health, metrics, check
        self._main_loop = asyncio.get_running_loop()
        self._page = Shared(self._metrics_page)
        self._http = HttpServer(self._answer, listening, max_connections=MAX_CONNECTIONS, acceptor=acceptor)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="management", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Stop serving and release the port."""
        with contextlib.suppress(RuntimeError):  # its thread has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._thread.join, STOP_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._http.start()
        await self._stopping.wait()
        await self._http.stop()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: an ASGI application."""
        await (await self._response(Request(scope)))(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("use GET\n", 405, {"allow": "GET, HEAD"})
        match request.url.path:
            case "/healthz":
                return PlainTextResponse("ok\n") if self._health.alive else PlainTextResponse("stuck\n", 503)
            case "/readyz":
                return PlainTextResponse("ready\n") if self._health.ready else PlainTextResponse("wait\n", 412)
            case "/metrics":
                return await self._refusal(request) or await self._metrics_response()
        return PlainTextResponse("try /healthz, /readyz or /metrics\n", 404)

    async def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a caller who may not read metrics. Callers on this machine may.

        The main loop decides: a JWT may have to be verified, and what recognizes callers belongs to that loop.
        """
        if self._check is None or request.client is None or is_loopback(request.client.host):
            return None
        verified = self._check.verified(request.headers.items(), peer_name(tuple(request.client)))
        try:
            decided = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(verified, self._main_loop))
            await asyncio.wait_for(decided, MAIN_LOOP_S)
        except TimeoutError:
            return _stuck()
        except FlagsvcError as error:
            status = REFUSAL_STATUSES.get(type(error), 503)
            headers = {"www-authenticate": "Bearer"} if status == REFUSAL_STATUSES[Unauthenticated] else {}
            return PlainTextResponse(f"{error}\n", status, headers)
        return None

    async def _metrics_response(self) -> Response:
        try:
            return Response(await self._page.result(), media_type=PAGE_TYPE)
        except TimeoutError:
            return _stuck()

    async def _metrics_page(self) -> bytes:
        samples = await asyncio.wait_for(asyncio.wrap_future(self._in_main_loop(self._metrics.samples)), MAIN_LOOP_S)
        page, pause_at = bytearray(), time.monotonic() + SLICE_S
        for piece in self._metrics.pieces(samples):
            page += piece
            if time.monotonic() > pause_at:
                await asyncio.sleep(SLICE_S)  # lets the main loop have the interpreter
                pause_at = time.monotonic() + SLICE_S
        return bytes(page)

    def _in_main_loop(self, work: Callable[[], Sequence[T]]) -> concurrent.futures.Future[Sequence[T]]:
        """Run `work` in the main loop, whose state only it may read."""
        future: concurrent.futures.Future[Sequence[T]] = concurrent.futures.Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  it belongs to the caller
                    future.set_exception(error)

        self._main_loop.call_soon_threadsafe(run)
        return future


def _stuck() -> Response:
    return PlainTextResponse(f"the event loop has not answered for {MAIN_LOOP_S:g} s; see /healthz\n", 503)


class Shared:
    """Runs `make` for all who wait at its start together, and pauses in proportion to how long it took."""

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make = make
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None
        self._not_before = 0.0

    async def result(self) -> bytes:
        """Return what a run has made that began after this call. Raises what `make` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await outliving(self._next)

    async def _run(self) -> bytes:
        async with self._turn:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            self._next = None  # whoever asks from now on may ask for something newer
            began = time.monotonic()
            try:
                return await self._make()
            finally:
                ended = time.monotonic()
                self._not_before = ended + min(PAUSE_FACTOR * (ended - began), MAX_PAUSE_S)
