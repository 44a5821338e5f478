"""The front of the gRPC port: its thread, the calls that it leaves to the event loop, and gRPC behind it.

`NativeGrpcFront` speaks HTTP/2 outside the interpreter, and hands over the calls of its methods in batches. Calls of
all other methods pass through to gRPC, on a unix socket that only this user can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
from pygrpc_native import NativeGrpcFront

from flagsvc.api.common.handlers import Handlers
from flagsvc.api.http.server import MAX_HEAD_BYTES
from flagsvc.listening import UNIX, Address
from flagsvc.native.answering import Answering, Method
from flagsvc.native.loop_calls import LoopCalls
from flagsvc.native.sending import Sender, Unread
from flagsvc.telemetry import Sample

log = structlog.get_logger(__name__)


class Behind:
    """The socket at which what the front does not answer is served, in a folder that only this user can enter."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="flagsvc-"))  # with mode 0700
        self.address = Address("", f"{UNIX}{self._folder / 'grpc'}")
        self._numbers = itertools.count(1)

    def name_of(self, _address: object) -> str:
        """Return a name for the next connection. The front has one for each of its callers, and no more is known."""
        return f"unix-{next(self._numbers)}:0"

    def remove(self) -> None:
        """Remove the socket with its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Native:
    """The front of one port. `methods`: what it answers, by the thread or by `handlers` in the event loop."""

    def __init__(
        self,
        methods: Sequence[Method],
        handlers: Handlers,
        *,
        is_stopping: Callable[[], bool],
        before: Callable[[], object],
        max_streams: int,
        max_waiting: int,
        max_unread: int,
        ended: Callable[[], None],
    ) -> None:
        """`is_stopping`: new calls are refused. `before`: called before the event loop begins with calls.

        `max_streams`: calls that one connection has open; `max_waiting`: calls that the loop has at once.
        `max_unread`: bytes of answers that wait for clients, above which large ones are refused.
        `ended`: called in the loop if the thread ends by itself.
        """
        self.behind = Behind()
        self._methods, self._is_stopping, self._ended = methods, is_stopping, ended
        self._max_streams, self._max_unread = max_streams, max_unread
        self.calls = LoopCalls(handlers.of, max_waiting, before)
        self._front: NativeGrpcFront
        self._unread: Unread
        self._answering: Answering
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="native", daemon=True)

    def listen(self, address: Address) -> None:
        """Bind the port; connections are accepted from `start` on. Raises OSError."""
        address.bind(self._bind)

    def start(self) -> None:
        """Serve. What is behind the front has to be served by now."""
        self.calls.loop = asyncio.get_running_loop()
        self._front.set_fallback(str(self.behind.address.path))
        self._front.start()
        self._thread.start()

    async def stop(self) -> None:
        """Close the port. Calls in progress have ended, and new ones were refused."""
        self._stopping = True
        if hasattr(self, "_front"):
            # It waits for its connections, which may wait for gRPC, which needs the event loop.
            await asyncio.to_thread(self._front.close)
        self.behind.remove()

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        about = "Calls and streams refused because their kind was at its limit or the event loop was late."
        yield Sample("flagsvc_refused_total", about, self._answering.refused, {"kind": "calls of the native front"})
        about = "Calls of the native front that wait for its thread."
        yield Sample("flagsvc_native_waiting", about, self._answering.waiting)
        about = "Bytes of answers in the native front that clients have not taken, as of the last large answer."
        yield Sample("flagsvc_native_unread_bytes", about, self._unread.bytes)
        about = "Calls of the native front that its thread has left to the event loop."
        yield Sample("flagsvc_native_left_to_loop_total", about, self.calls.given)

    def _bind(self, target: str) -> int:
        try:
            self._front = NativeGrpcFront(
                target,
                [(method.path, True) for method in self._methods],
                call_details=True,
                delay_stream_headers=True,
                keepalive_time_ms=30_000,
                keepalive_timeout_ms=10_000,
                max_concurrent_streams=self._max_streams,
                max_metadata_size=MAX_HEAD_BYTES,
                metrics=True,
            )
        except OSError as error:
            raise RuntimeError(str(error)) from error  # as gRPC says it
        front = self._front
        self._unread = Unread(front, self._max_unread)
        self.calls.sender = Sender(front, self._unread)
        sender = Sender(front, self._unread)  # the thread's own, since each counts
        self._answering = Answering(front, self._methods, self.calls, sender, self._is_stopping)
        return front.bound_port

    def _run(self) -> None:
        """Answer calls until the front is closed. It must not end before: nobody else answers."""
        try:
            self._answering.run()
        except BaseException:
            log.exception("native_thread_failed", detail="The thread of the native transport has ended.")
        if not self._stopping:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.calls.call_soon(self._ended)
