"""Clients without a server, in both forms: evaluations, definitions, writes and watches of flags in memory."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from flagsvc_client._engine.model import Flag
from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.client_events import Events
from flagsvc_client.details import JsonValue
from flagsvc_client.errors import client_unusable
from flagsvc_client.following.aio import AsyncFollower
from flagsvc_client.following.sync import Follower
from flagsvc_client.hooks import Hook
from flagsvc_client.local.updater import LocalUpdater
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.sync import FlagClient
from flagsvc_client.testing.flags import InMemoryFlags
from flagsvc_client.testing.service import InMemoryService, change_message
from flagsvc_client.testing.sources import Source
from flagsvc_client.watch_events import Change

_NO_SERVER = "127.0.0.1:1"
"""The target, which is never connected to."""


class _InMemoryClient:
    """What both forms have. `source`: flags that are the client's own, or InMemoryFlags, which clients can share."""

    _session: Any
    _transport: Any
    _new_transport: Any
    _local: Any
    _follower: Any

    def _use(
        self,
        source: Source | InMemoryFlags,
        *,
        strict: bool,
        transport: Callable[[InMemoryService], Any],
        follower: type[Any],
    ) -> None:
        self.in_memory = source if isinstance(source, InMemoryFlags) else InMemoryFlags(source, strict=strict)
        events = Events(None)
        events.state = "ready"
        self._session.flag_set = self.in_memory.flag_set
        self._local = LocalUpdater(self.in_memory.flag_set, self.in_memory.evaluated, events, None)
        self._follower = follower(self._session, self._local, 0.0)
        self._new_transport = partial(transport, InMemoryService(self.in_memory))
        self._transport = self._new_transport()
        self.in_memory.listen(lambda change: events.changed(frozenset((change.key,))))

    def override(self, key: str, value: JsonValue | Flag) -> AbstractContextManager[None]:
        """Give a flag this value inside the block."""
        return self.in_memory.override(key, value)


class InMemoryFlagClient(_InMemoryClient, FlagClient):
    """A FlagClient whose flags are in memory. `strict`: an evaluation that fails raises StrictError."""

    def __init__(
        self,
        source: Source | InMemoryFlags = (),
        *,
        strict: bool = False,
        raise_errors: bool = False,
        hooks: Sequence[Hook] = (),
    ) -> None:
        FlagClient.__init__(self, _NO_SERVER, raise_errors=raise_errors, hooks=hooks)
        self._use(source, strict=strict, transport=_Transport, follower=Follower)


class AsyncInMemoryFlagClient(_InMemoryClient, AsyncFlagClient):
    """An AsyncFlagClient whose flags are in memory. `strict`: an evaluation that fails raises StrictError."""

    def __init__(
        self,
        source: Source | InMemoryFlags = (),
        *,
        strict: bool = False,
        raise_errors: bool = False,
        hooks: Sequence[Hook] = (),
    ) -> None:
        AsyncFlagClient.__init__(self, _NO_SERVER, raise_errors=raise_errors, hooks=hooks)
        self._use(source, strict=strict, transport=_AsyncTransport, follower=AsyncFollower)


class _Base:
    """A transport that ends in this process."""

    running = True

    def __init__(self, service: InMemoryService) -> None:
        self._service = service
        self._ends: list[Callable[[], None]] = []
        self.closed = False

    def _answer(self, method: str, request: Any) -> Any:
        if self.closed:
            raise client_unusable("it is closed; `open` it again")
        return self._service.call(method, request)

    def _end(self) -> None:
        self.closed = True
        for end in self._ends:
            end()


class _Transport(_Base):
    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:  # noqa: ARG002
        return self._answer(method, request)

    def messages(self, _: pb.WatchFlagsRequest) -> Generator[pb.WatchFlagsResponse, None, None]:
        changes = queue.SimpleQueue[Change | None]()
        self._ends.append(lambda: changes.put(None))
        stop = self._service.flags.listen(changes.put)
        try:
            yield self._service.first_message()
            while not self.closed and (change := changes.get()) is not None:
                yield change_message(change)
        finally:
            stop()

    def sleep(self, _: float) -> None:
        """Nothing is waited for in memory."""

    def run_blocking(self, function: Callable[[], None]) -> None:
        function()

    def close(self) -> None:
        self._end()


class _AsyncTransport(_Base):
    async def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:  # noqa: ARG002
        return self._answer(method, request)

    async def messages(self, _: pb.WatchFlagsRequest) -> AsyncGenerator[pb.WatchFlagsResponse, None]:
        loop, changes = asyncio.get_running_loop(), asyncio.Queue[Change | None]()

        def put(change: Change | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changes.put_nowait, change)

        self._ends.append(lambda: put(None))
        stop = self._service.flags.listen(put)
        try:
            yield self._service.first_message()
            while not self.closed and (change := await changes.get()) is not None:
                yield change_message(change)
        finally:
            stop()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0 * seconds)

    async def run_blocking(self, function: Callable[[], None]) -> None:
        function()

    async def close(self) -> None:
        self._end()
