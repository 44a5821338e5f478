"""Transactions in MongoDB: one at a time, repeated while other writers are in the way, none left half-way."""

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
from typing import Any

import pymongo
import structlog
from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.mongo.orphans import end_orphans
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.ports import Entry

_MAJORITY = WriteConcern("majority")
_SNAPSHOT = ReadConcern("snapshot")
_LIFETIME_S = 60.0  # MongoDB's own default
_NOT_A_REPLICA_SET = 20
_CAUSE_CHARS = 300
_DEAD_S = 0.5
"""How much longer than any of ours may take a transaction is left alone."""

log = structlog.get_logger(__name__)

Work = Callable[[Any], Awaitable[Entry | None]]
"""What is done in a transaction, with its session; committed unless the outcome is None."""
Taken = Callable[[DuplicateKeyError], Awaitable[None]]
"""Raises when a unique key will stay taken however often the work is repeated."""


class Transactions:
    """The transactions of one client."""

    def __init__(self, client: Any, timeout_s: float, conflict_timeout_s: float) -> None:
        """`timeout_s` bounds a transaction, `conflict_timeout_s` one that has to be repeated because of others."""
        self._client = client
        self._timeout_s, self._conflict_timeout_s = timeout_s, conflict_timeout_s
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Entry | None]] = set()
        self._cut_off: deque[Any] = deque(maxlen=1000)
        self._cleaning: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Let transactions that are under way end."""
        if self._running:
            await asyncio.wait(self._running)
        if self._cleaning:
            self._cleaning.cancel()
            await asyncio.wait([self._cleaning])

    async def run(self, work: Work, taken: Taken | None = None) -> Entry | None:
        """Do the work in one transaction, repeated while other writers are in its way.

        Writers of this process take turns: they all meet at the counter, and queueing is cheaper than conflicts.
        A caller who leaves does not stop a transaction half-way; the next writer waits for its end.
        """
        try:
            async with asyncio.timeout(self._conflict_timeout_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable from error
        task = asyncio.create_task(self._repeated(work, taken))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(task)

    async def _repeated(self, work: Work, taken: Taken | None) -> Entry | None:
        started = time.monotonic()
        left = self._timeout_s
        for attempt in itertools.count():
            try:
                with pymongo.timeout(left):
                    return await self._once(work)
            except (PyMongoError, BSONError) as error:
                if isinstance(error, OperationFailure) and error.code == _NOT_A_REPLICA_SET:
                    raise WritesUnsupported(
                        "MongoDB runs without transactions: changes need a replica set (one member is enough)"
                    ) from error
                if isinstance(error, DuplicateKeyError) and taken is not None:
                    await taken(error)
                gone = isinstance(error, ConnectionFailure)
                spent = time.monotonic() - started
                left = self._timeout_s - spent if gone else min(self._timeout_s, self._conflict_timeout_s - spent)
                if not _repeatable(error) or left <= 0:
                    log.warning("a change failed", cause=repr(error)[:_CAUSE_CHARS])
                    raise StoreUnavailable from error
                if spent > self._timeout_s:
                    # Nobody alive can be in the way for so long.
                    await end_orphans(self._client, self._timeout_s + _DEAD_S)
            await asyncio.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))  # noqa: S311 - jitter, no secret
        raise AssertionError

    async def _once(self, work: Work) -> Entry | None:
        session = await awaited(self._client.start_session())
        cut_off = False
        try:
            await awaited(session.start_transaction(read_concern=_SNAPSHOT, write_concern=_MAJORITY))
            entry = await work(session)
            if entry is not None:
                await _commit(session)
        except ConnectionFailure:
            cut_off = True
            raise
        finally:
            if cut_off:
                self._end_later(session)
            else:
                await session.end_session()
        return entry

    def _end_later(self, session: Any) -> None:
        """See to the end of a transaction whose abort would not arrive: MongoDB would hold its locks for a minute."""
        self._cut_off.append(session)
        if self._cleaning is None or self._cleaning.done():
            # In a context of its own: the driver keeps the deadline of this operation in the current one.
            self._cleaning = asyncio.create_task(self._end_cut_off(), context=contextvars.Context())

    async def _end_cut_off(self) -> None:
        """Kill the sessions, and only then give them back: they are used again, and a kill would meet that use."""
        until = time.monotonic() + _LIFETIME_S
        while self._cut_off and time.monotonic() < until:
            sessions = list(self._cut_off)
            try:
                await self._client.admin.command("killSessions", [session.session_id for session in sessions])
            except PyMongoError:
                await asyncio.sleep(0.1)
            else:
                for session in sessions:
                    self._cut_off.popleft()
                    await session.end_session()


async def _commit(session: Any) -> None:
    """Commit; repeated while it is unknown whether it happened, which commits at most once."""
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult") or error.timeout:
                raise
            await asyncio.sleep(0.01)
        else:
            return


def _repeatable(error: Exception) -> bool:
    """Whether nothing of the transaction happened and it may succeed now."""
    if not isinstance(error, PyMongoError) or error.has_error_label("UnknownTransactionCommitResult"):
        return False
    return isinstance(error, DuplicateKeyError) or error.has_error_label("TransientTransactionError")


@asynccontextmanager
async def session_of(client: Any, **options: Any) -> AsyncIterator[Any]:
    """Give a session; what it has not committed at the end is aborted."""
    session = await awaited(client.start_session(**options))
    try:
        yield session
    finally:
        await session.end_session()


async def closed(client: Any) -> None:
    """Release a client's connections. One that blocks does so in a thread: it waits for a server that is gone."""
    if inspect.iscoroutinefunction(client.close):
        await client.close()
    else:
        await asyncio.to_thread(client.close)


async def awaited(result: Any) -> Any:
    """Await what motor gives as a coroutine and PyMongo at once, or the other way round."""
    return await result if inspect.isawaitable(result) else result
