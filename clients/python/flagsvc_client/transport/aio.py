"""The transport for asyncio: one channel, which belongs to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio

from flagsvc_client.access import Access
from flagsvc_client.errors import client_unusable, failure_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc_client.transport.channel import IDLE_TIMEOUT_S, fork_count, open_channel

CALL_ERRORS = (grpc.RpcError, grpc.aio.UsageError, RuntimeError, TimeoutError, asyncio.CancelledError)
"""What ends a call without a response. RuntimeError, UsageError: the event loop or the channel is closed."""
Event = asyncio.Event


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

    loop: asyncio.AbstractEventLoop
    fork_count: int
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
        self._connection: _Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
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

    def start(self, *loops: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run functions in the background until the transport is closed; False if no event loop is running yet."""
        try:
            running_loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._tasks = [running_loop.create_task(loop(), name="flagsvc") for loop in loops]
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def run_blocking(self, function: Callable[[], None]) -> None:
        """Run a function that blocks without blocking the event loop."""
        await asyncio.to_thread(function)

    async def close(self) -> None:
        """End the background tasks and close the channel."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.channel.close()

    @property
    def _stub(self) -> Any:
        """The stub, connected if need be. Raises FlagServiceError if the transport cannot be used here."""
        running_loop, connection = asyncio.get_running_loop(), self._connection
        if connection is None:
            if self.closed:
                raise client_unusable("it is closed")
            channel = open_channel(grpc.aio, self._target, self._access.credentials, self._options)
            connection = _Connection(running_loop, fork_count(), channel, pb_grpc.FlagServiceStub(channel))
            self._connection = connection
        elif connection.loop is not running_loop or connection.fork_count != fork_count():
            raise client_unusable(
                "it was used in another event loop or before a fork; create one in each loop and process"
            )
        return connection.stub

    def _raise_failure(self, error: BaseException) -> NoReturn:
        """Raise FlagServiceError for a call that failed, but leave the caller's own cancellation alone."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                raise client_unusable("it is closed") from None  # closing the channel cancelled the call
            raise error
        raise failure_of(error) from error
