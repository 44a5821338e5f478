"""The transport for asyncio: one channel for each event loop, because it belongs to that."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio

from flagsvc_client.access import Access
from flagsvc_client.errors import client_unusable, failure_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.transport.channel import IDLE_TIMEOUT_S, fork_count, open_channel
from flagsvc_client.transport.stub import stub_of

CALL_ERRORS = (grpc.RpcError, grpc.aio.UsageError, RuntimeError, TimeoutError, asyncio.CancelledError)
"""What ends a call without a response. RuntimeError, UsageError: the event loop or the channel is closed."""


_CLOSED = "it is closed; `open` it again"


class Event:
    """An asyncio.Event that any thread may set: the background tasks may run in another loop."""

    def __init__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()

    def set(self) -> None:
        """Set it."""
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._event.wait()


async def wait_for(event: Event, timeout_s: float) -> None:
    """Wait until the event is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def _read(stream: Any) -> Any:
    """Read one message. `asyncio.wait_for` would lose a cancellation that comes with a message, before Python 3.12."""
    async with asyncio.timeout(IDLE_TIMEOUT_S):
        return await stream.read()


class _Connection(NamedTuple):
    """A channel can be used only in the event loop and the process that opened it."""

    channel: grpc.aio.Channel
    stub: Any


class Transport:
    """Sends calls, reads streams and runs background tasks until it is closed. Failures are FlagServiceErrors."""

    def __init__(
        self,
        target: str,
        access: Access,
        options: Sequence[tuple[str, Any]],
        timeout_s: float,
    ) -> None:
        self._target, self._access, self._options = target, access, options
        self._timeout_s = timeout_s
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}
        self._fork_count: int | None = None
        """Of the process that connected first: no other can use the transport."""
        self._connecting = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._tasks_loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    async def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """Send one call and return the response."""
        try:
            return await getattr(self._stub, method)(
                request, timeout=timeout_s or self._timeout_s, metadata=self._access.metadata()
            )
        except CALL_ERRORS as error:
            self._raise_failure(error)

    async def messages(self, request: pb.WatchFlagsRequest) -> AsyncGenerator[pb.WatchFlagsResponse, None]:
        """Open one watch and yield its messages; a stream that is silent for too long fails with DEADLINE_EXCEEDED."""
        try:
            stream = self._stub.WatchFlags(request, metadata=self._access.metadata())
            try:
                while (message := await _read(stream)) is not grpc.aio.EOF:
                    yield message
            finally:
                stream.cancel()
        except CALL_ERRORS as error:
            self._raise_failure(error)

    @property
    def running(self) -> bool:
        """Whether background tasks run: those of a loop that has ended or is paused do not."""
        loop = self._tasks_loop
        return loop is not None and loop.is_running()

    def start(self, *loops: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run functions in the background until the transport is closed; False if no event loop is running yet."""
        try:
            running_loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._cancel_tasks()
        self._tasks_loop = running_loop
        self._tasks = [running_loop.create_task(loop(), name="flagsvc") for loop in loops]
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def run_blocking(self, function: Callable[[], None]) -> None:
        """Run a function that blocks without blocking the event loop."""
        await asyncio.to_thread(function)

    async def close(self) -> None:
        """End the background tasks and close the channels, each in its own loop."""
        self.closed = True
        here = asyncio.get_running_loop()
        self._cancel_tasks()
        if self._tasks_loop is here:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        with self._connecting:
            connections, self._connections = self._connections, {}
        for loop, connection in connections.items():
            if loop is here:
                await connection.channel.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(connection.channel.close(), loop)

    def _cancel_tasks(self) -> None:
        """Cancel the background tasks; those of a closed loop have ended with it."""
        loop = self._tasks_loop
        if loop is not None and not loop.is_closed():
            for task in self._tasks:
                loop.call_soon_threadsafe(task.cancel)

    @property
    def _stub(self) -> Any:
        """The running loop's stub, connected if need be. Raises FlagServiceError if it cannot be used here."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None or self._fork_count != fork_count():
            connection = self._connect(loop)
        return connection.stub

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        with self._connecting:
            if self.closed:
                raise client_unusable(_CLOSED)
            if self._fork_count not in (None, fork_count()):
                raise client_unusable(
                    "it was used in the parent of this process, before a fork; create one in the child"
                )
            self._fork_count = fork_count()
            channel = open_channel(grpc.aio, self._target, self._access.credentials, self._options)
            connection = _Connection(channel, stub_of(channel))
            alive = {loop: other for loop, other in self._connections.items() if not loop.is_closed()}
            self._connections = {**alive, loop: connection}
            return connection

    def _raise_failure(self, error: BaseException) -> NoReturn:
        """Raise FlagServiceError for a call that failed, but leave the caller's own cancellation alone."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                raise client_unusable(_CLOSED) from None  # closing the channel cancelled the call
            raise error
        raise failure_of(error) from error
