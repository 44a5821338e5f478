"""A call's context, as handlers and interceptors of grpc.aio use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from flagsvc.api.connect.statuses import Metadata, Status


class CallContext:
    """The part of `grpc.aio.ServicerContext` that this server's handlers use.

    `read`: reads the call's one message; `begin`: sends the head of the response, where that is possible at once.
    """

    def __init__(
        self, peer: str, metadata: Metadata, seconds: float | None, read: Callable[[], Awaitable[Any]]
    ) -> None:
        self._peer, self._metadata, self._read = peer, metadata, read
        self._loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101  a call runs in a task
        self.task = task
        self._ends_at = None if seconds is None else self._loop.time() + seconds
        self._callbacks: list[Callable[[Any], None]] = []
        self._ended = asyncio.Event()
        self._was_read = False
        self.begin: Callable[[], Awaitable[None]] | None = None
        self.initial: list[tuple[str, str | bytes]] = []
        self.status = Status()

    async def read(self) -> Any:
        """Return the call's message, and after it the end of messages."""
        if self._was_read:
            return grpc.aio.EOF
        self._was_read = True
        return await self._read()

    def peer(self) -> str:
        """Return the caller's address in gRPC's form: `ipv4:10.0.0.1:50000`."""
        return self._peer

    def invocation_metadata(self) -> Metadata:
        """Return the request's headers."""
        return self._metadata

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return nothing: a port that asks for client certificates serves gRPC alone."""
        return {}

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline, at least 0; None without a deadline."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._loop.time())

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Add headers to the response, and send its head where the protocol allows."""
        self.initial += metadata or ()
        if self.begin is not None:
            await self.begin()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that is sent at the call's end."""
        self.status = Status(self.status.code, self.status.message, tuple(metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status. Another task than the call's own waits until the call has ended."""
        self.status = Status(code, details, tuple(trailing_metadata) or self.status.trailers)
        if asyncio.current_task() is not self.task:
            await self._ended.wait()
        raise grpc.aio.AbortError

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call a function with this context when the client has taken the response, or is gone."""
        self._callbacks.append(callback)

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._ended.is_set()

    def end(self) -> None:
        """Record the call's end."""
        self._ended.set()
        for callback in self._callbacks:
            callback(self)
