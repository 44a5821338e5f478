"""MongoDB transactions: one at a time per process, retried on conflicts with other writers, never left open."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pymongo
import structlog
from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.mongo.causes import refused_change, unavailable
from flagsvc.adapters.mongo.orphans import end_orphans
from flagsvc.background import outliving
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported

_MAJORITY = WriteConcern("majority")
_SNAPSHOT = ReadConcern("snapshot")
_LIFETIME_S = 60.0  # MongoDB's own default
NOT_A_REPLICA_SET = 20
_ORPHAN_MARGIN_S = 0.5
"""A transaction counts as orphaned once it has been idle for this much longer than one may take."""

log = structlog.get_logger(__name__)

T = TypeVar("T")
Work = Callable[[Any], Awaitable[T | None]]
"""The operations of a transaction, called with its session. It is committed unless the result is None."""
OnDuplicateKey = Callable[[DuplicateKeyError], Awaitable[None]]
"""Raises if repeating the work cannot succeed, because the unique key stays taken."""


class Transactions:
    """The transactions of one client."""

    def __init__(self, client: Any, timeout_s: float, conflict_timeout_s: float) -> None:
        """`timeout_s` limits one attempt; `conflict_timeout_s` limits all attempts while other writers conflict."""
        self._client = client
        self._timeout_s, self._conflict_timeout_s = timeout_s, conflict_timeout_s
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._abandoned: deque[Any] = deque(maxlen=1000)
        self._cleanup: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Wait for running transactions to end."""
        if self._running:
            await asyncio.wait(self._running)
        if self._cleanup:
            self._cleanup.cancel()
            await asyncio.wait([self._cleanup])

    async def run(
        self, work: Work[T], on_duplicate_key: OnDuplicateKey | None = None, *, timeout_s: float = 0.0
    ) -> T | None:
        """Run the work in one transaction, retried on conflicts. Raises StoreUnavailable or WritesUnsupported.

        `timeout_s`: limits one attempt of work that is longer than that of other writers; 0: as theirs.
        ChangeRefused and StoreForbidden are StoreUnavailable too: repeating the work later does not help then.

        Writers of one process are serialized: all of them update the revision counter, and queueing is cheaper than
        conflicts. If the caller is cancelled, the transaction still runs to its end, and the next writer waits for it.
        """
        try:
            async with asyncio.timeout(self._conflict_timeout_s):
                await self._writing.acquire()
        except TimeoutError as error:
            raise StoreUnavailable from error
        task = asyncio.create_task(self._with_retries(work, on_duplicate_key, timeout_s or self._timeout_s))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: self._writing.release())
        return await outliving(task)

    async def _with_retries(self, work: Work[T], on_duplicate_key: OnDuplicateKey | None, timeout_s: float) -> T | None:
        started = time.monotonic()
        left = timeout_s
        for attempt in itertools.count():
            try:
                with pymongo.timeout(left):
                    return await self._attempt(work)
            except (PyMongoError, BSONError, OverflowError) as error:
                if isinstance(error, OperationFailure) and error.code == NOT_A_REPLICA_SET:
                    raise WritesUnsupported(
                        "MongoDB is running without transactions: changes need a replica set (one member is enough)"
                    ) from error
                if isinstance(error, DuplicateKeyError) and on_duplicate_key is not None:
                    await on_duplicate_key(error)
                if (refused := refused_change(error)) is not None:
                    raise refused from error
                disconnected = isinstance(error, ConnectionFailure)
                spent = time.monotonic() - started
                conflict_left = min(timeout_s, max(timeout_s, self._conflict_timeout_s) - spent)
                left = timeout_s - spent if disconnected else conflict_left
                if not _is_retryable(error) or left <= 0:
                    raise unavailable(error) from error
                if spent > self._timeout_s:
                    # No live writer can hold a conflict this long, so its process must have died.
                    await end_orphans(self._client, self._timeout_s + _ORPHAN_MARGIN_S)
            await asyncio.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))  # noqa: S311 - jitter, no secret
        raise AssertionError

    async def _attempt(self, work: Work[T]) -> T | None:
        session = await maybe_await(self._client.start_session())
        disconnected = False
        try:
            await maybe_await(session.start_transaction(read_concern=_SNAPSHOT, write_concern=_MAJORITY))
            result = await work(session)
            if result is not None:
                await _commit(session)
        except ConnectionFailure:
            disconnected = True
            raise
        finally:
            if disconnected:
                self._end_later(session)
            else:
                await session.end_session()
        return result

    def _end_later(self, session: Any) -> None:
        """End a transaction in the background. Its abort cannot be sent, and MongoDB would keep its locks a minute."""
        self._abandoned.append(session)
        if self._cleanup is None or self._cleanup.done():
            # The driver keeps the current operation's deadline in the context, so the task gets a new one.
            self._cleanup = asyncio.create_task(self._end_abandoned(), context=contextvars.Context())

    async def _end_abandoned(self) -> None:
        """Kill the sessions before they return to the driver's pool: a later kill would hit their next use."""
        until = time.monotonic() + _LIFETIME_S
        while self._abandoned and time.monotonic() < until:
            sessions = list(self._abandoned)
            try:
                await self._client.admin.command("killSessions", [session.session_id for session in sessions])
            except PyMongoError:
                await asyncio.sleep(0.1)
            else:
                for session in sessions:
                    self._abandoned.popleft()
                    await session.end_session()


async def _commit(session: Any) -> None:
    """Commit, and retry while the result is unknown. MongoDB commits at most once."""
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult") or error.timeout:
                raise
            await asyncio.sleep(0.01)
        else:
            return


def _is_retryable(error: Exception) -> bool:
    """Whether the transaction had no effect and may succeed if repeated."""
    if not isinstance(error, PyMongoError) or error.has_error_label("UnknownTransactionCommitResult"):
        return False
    return isinstance(error, DuplicateKeyError) or error.has_error_label("TransientTransactionError")


@asynccontextmanager
async def session_of(client: Any, **options: Any) -> AsyncIterator[Any]:
    """A session. A transaction that is not committed at the end is aborted."""
    session = await maybe_await(client.start_session(**options))
    try:
        yield session
    finally:
        await session.end_session()


async def close_client(client: Any) -> None:
    """Close a client's connections. A blocking close runs in a thread: it may wait for a server that is down."""
    if inspect.iscoroutinefunction(client.close):
        await client.close()
    else:
        await asyncio.to_thread(client.close)


async def maybe_await(result: Any) -> Any:
    """Await the result if it is awaitable. Motor and PyMongo differ in which methods are coroutines."""
    return await result if inspect.isawaitable(result) else result
