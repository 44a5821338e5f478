"""The front of the gRPC port: its thread, the calls that it leaves to the event loop, and gRPC behind it.

`NativeGrpcFront` speaks HTTP/2 outside the interpreter, and hands over the calls of the direct methods in batches.
Calls of all other methods pass through to grpc.aio on a unix socket that only this user can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from flagsvc.api.common.handlers import Handlers
from flagsvc.api.connect.statuses import Status
from flagsvc.core.errors import Overloaded
from flagsvc.listening import Address
from flagsvc.native.direct import EVALUATE, Answer
from flagsvc.native.loop_calls import Call, LoopCalls, status_of

BATCH = 128
"""Calls that are taken from the front at a time."""
MAX_METADATA_BYTES = 16_384
_INTERNAL = 13
_FULL = "the server gets more calls than it can answer in time; retry later"

log = structlog.get_logger(__name__)


class Fallback:
    """Where grpc.aio listens behind the front: a socket in a folder that only this user can enter."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="flagsvc-"))  # with mode 0700
        self.path = self._folder / "grpc"

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Let gRPC listen. It may be called again."""
        return add_port(f"unix:{self.path}")

    def remove(self) -> None:
        """Remove the socket with its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Native:
    """The front of one port. `direct`: what answers methods in its thread, by path; `handlers`: what the loop calls."""

    def __init__(
        self,
        direct: Mapping[str, Answer | None],
        handlers: Handlers,
        *,
        is_closed: Callable[[], bool],
        max_streams: int,
        max_waiting: int,
        ended: Callable[[], None],
    ) -> None:
        """`is_closed`: whether new calls are refused. `ended`: called in the loop if the thread ends by itself.

        `max_streams`: calls that one connection has open; `max_waiting`: calls that the loop has to answer.
        """
        self.fallback = Fallback()
        self._paths, self._answers = tuple(direct), tuple(direct.values())
        self._is_closed, self._ended = is_closed, ended
        self._max_streams, self._max_waiting = max_streams, max_waiting
        self._calls = LoopCalls(self, handlers.of)
        self._front: NativeGrpcFront
        self._loop: asyncio.AbstractEventLoop
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="native", daemon=True)

    def listen(self, address: Address) -> int:
        """Bind the port; connections are accepted from `start` on. Raises OSError."""
        return address.bind(self._bind)

    def start(self) -> None:
        """Serve. gRPC has to listen at the fallback's address."""
        self._loop = asyncio.get_running_loop()
        self._front.set_fallback(str(self.fallback.path))
        self._front.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Calls in progress have ended, and new ones were refused."""
        self._stopping = True
        if hasattr(self, "_front"):
            self._front.close()
        self.fallback.remove()

    def answer(self, number: int, payload: bytes) -> None:
        """Answer a call. The methods stream for the front, so that headers can be sent before a status."""
        self._front.stream_try_send(number, payload)
        self._front.stream_end(number)

    def fail(self, number: int, status: Status, *, headers_first: bool) -> None:
        """End a call with a status."""
        front, (code, _) = self._front, status.code.value
        try:
            if headers_first:
                front.stream_send_initial_metadata(number, ())
            front.fail(number, code, status.message, list(status.trailers))
        except ValueError:  # metadata that HTTP/2 cannot have; without this the call would never end
            front.fail(number, _INTERNAL, "the status cannot be sent")

    def _bind(self, target: str) -> int:
        try:
            self._front = NativeGrpcFront(
                target,
                [(path, True) for path in self._paths],
                call_details=True,
                delay_stream_headers=True,
                keepalive_time_ms=30_000,
                keepalive_timeout_ms=10_000,
                max_concurrent_streams=self._max_streams,
                max_metadata_size=MAX_METADATA_BYTES,
            )
        except OSError as error:
            raise RuntimeError(str(error)) from error  # as gRPC says it
        return self._front.bound_port

    def _run(self) -> None:
        """Answer calls until the front is closed. It must not end before: nobody else answers."""
        try:
            while (events := self._front.recv_batch_details(BATCH)) is not None:
                self._take(events)
        except BaseException:
            log.exception("native_thread_failed", detail="The thread of the native transport has ended.")
        if not self._stopping:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ended)

    def _take(self, events: list[Any]) -> None:
        left: list[Call | int] = []
        calls = self._calls
        is_closed, answers = self._is_closed(), self._answers
        for kind, number, method, payload, _, details in events:
            if kind != EVENT_CALL:
                left.append(number)
                continue
            metadata, peer, seconds = details
            if seconds is not None and seconds <= 0:
                continue  # its deadline has passed while it waited, and its client is gone
            respond = answers[method]
            answer = None if respond is None or is_closed else respond(payload, metadata)
            if answer is not None:
                self.answer(number, answer)
            elif calls.given - calls.ended < self._max_waiting:
                calls.given += 1
                left.append(Call(number, self._paths[method], payload, metadata, peer, seconds))
            else:
                calls.refused += 1
                path = self._paths[method]
                status = status_of(path, Overloaded(_FULL))
                self.fail(number, status, headers_first=path != EVALUATE)
        if left:
            self._loop.call_soon_threadsafe(self._calls.take, left)
