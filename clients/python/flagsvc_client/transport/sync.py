"""The transport for threads: one channel for all threads of a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import grpc

from flagsvc_client.access import Access
from flagsvc_client.errors import client_unusable, failure_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.transport.channel import IDLE_TIMEOUT_S, fork_count, open_channel
from flagsvc_client.transport.stub import stub_of

CALL_ERRORS = (grpc.RpcError, ValueError)
"""What ends a call without a response. ValueError: the channel is closed."""
CLOSE_TIMEOUT_S = 2.0
Event = threading.Event


def wait_for(event: Event, timeout_s: float) -> None:
    """Wait until the event is set or the time is over."""
    event.wait(timeout_s)


class _Connection(NamedTuple):
    """A channel can be used only in the process that opened it."""

    fork_count: int
    channel: grpc.Channel
    stub: Any


class Transport:
    """Sends calls, reads streams and runs background threads until it is closed. Failures are FlagServiceErrors."""

    def __init__(
        self,
        target: str,
        access: Access,
        options: Sequence[tuple[str, Any]],
        timeout_s: float,
    ) -> None:
        self._target, self._access, self._options = target, access, options
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting, self._closing = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []
        self.running = False
        """Whether functions run in the background."""

    @property
    def closed(self) -> bool:
        """Whether it is closed, or being closed."""
        return self._closing.is_set()

    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """Send one call and return the response."""
        try:
            return getattr(self._stub, method)(
                request, timeout=timeout_s or self._timeout_s, metadata=self._access.metadata()
            )
        except CALL_ERRORS as error:
            raise failure_of(error) from error

    def messages(self, request: pb.WatchFlagsRequest) -> Generator[pb.WatchFlagsResponse, None, None]:
        """Open one watch and yield its messages; a stream that is silent for too long fails with CANCELLED."""
        try:
            stream, received = self._stub.WatchFlags(request, metadata=self._access.metadata()), threading.Event()
            idle_check = _thread(_cancel_when_idle, stream, received)
            try:
                for message in stream:
                    received.set()
                    yield message
            finally:
                stream.cancel()
                received.set()
                idle_check.join()
        except CALL_ERRORS as error:
            raise failure_of(error) from error

    def start(self, *loops: Callable[[], None]) -> bool:
        """Run functions in the background until the transport is closed."""
        self._threads, self.running = [_thread(loop) for loop in loops], True
        return True

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than until the transport is closed."""
        self._closing.wait(seconds)

    def run_blocking(self, function: Callable[[], None]) -> None:
        """Run a function that blocks: a thread may be blocked."""
        function()

    def close(self) -> None:
        """Close the channel, which ends all streams, and wait for the background threads."""
        self._closing.set()
        with self._connecting:
            connection, self._connection = self._connection, None
        if connection is not None and connection.fork_count == fork_count():
            connection.channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():  # a listener may close the client
                thread.join(CLOSE_TIMEOUT_S)

    @property
    def _stub(self) -> Any:
        """The stub, connected if need be. Raises FlagServiceError if the transport cannot be used here."""
        connection = self._connection or self._connect()
        if connection.fork_count != fork_count():
            raise client_unusable("it was used in the parent of this process, before a fork; create one in the child")
        return connection.stub

    def _connect(self) -> _Connection:
        with self._connecting:
            if self.closed:
                raise client_unusable("it is closed; `open` it again")
            if self._connection is None:
                channel = open_channel(grpc, self._target, self._access.credentials, self._options)
                self._connection = _Connection(fork_count(), channel, stub_of(channel))
            return self._connection


def _thread(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, name="flagsvc", daemon=True)
    thread.start()
    return thread


def _cancel_when_idle(stream: Any, received: threading.Event) -> None:
    """Cancel a stream that is silent for too long; return when the stream has ended."""
    while received.wait(IDLE_TIMEOUT_S):
        received.clear()
        if not stream.is_active():
            return
    stream.cancel()
