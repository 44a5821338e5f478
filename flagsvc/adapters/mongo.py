"""Flags in MongoDB, in the existing system's collections, in place. The only file that imports motor.

Written in what motor and PyMongo's own async client share, so that exchanging them is a matter of one import.
Reads ask the primary for majority-committed data, writes are majority-committed transactions: a read that starts after
a write returned shows it, and nothing that was read is ever rolled back.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pymongo
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import CollectionInvalid, ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from flagsvc.adapters import mongo_documents as documents
from flagsvc.core.changes import Decide
from flagsvc.core.errors import InvalidRequest, StoreUnavailable, Violation, WritesUnsupported, invalid
from flagsvc.core.model import DEFAULT_SET, Flag, FlagId, HistoryEntry
from flagsvc.ports import Entry, StoreContents

DEFAULT_DATABASE = "flagsvc"
_MAJORITY = WriteConcern("majority")
_SNAPSHOT = ReadConcern("snapshot")
_BUILD_S = 60.0  # for indexes over years of history
_LOAD_S = 30.0  # for everything; each batch has the bound of a single operation
_TRANSACTION_LIFETIME_S = 60.0  # MongoDB's own default
_NAMESPACE_EXISTS = 48
_NOT_A_REPLICA_SET = 20


class MongoStore:
    """Keeps flags, their history and the audit log; `reads` counts the queries sent, for metrics."""

    look_s = 1.0

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 50,
        timeout_s: float = 2.0,
        patience_s: float = 5.0,
        client_factory: Callable[..., Any] = AsyncIOMotorClient,
    ) -> None:
        """`timeout_s` bounds each operation, `patience_s` a write that has to be repeated because of others."""
        self.reads = 0
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._turn = asyncio.Lock()
        self._changes: set[asyncio.Task[Entry | None]] = set()
        self._cut_off: deque[Any] = deque(maxlen=1000)
        self._cleaning: asyncio.Task[None] | None = None
        milliseconds = int(timeout_s * 1000)
        try:
            self._client = client_factory(
                url,
                appname="flagsvc",
                connect=False,
                maxPoolSize=pool_size,
                timeoutMS=milliseconds,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                retryReads=True,
                retryWrites=True,
                w="majority",
                readConcernLevel="majority",
                readPreference="primary",
            )
            database = self._client.get_default_database(DEFAULT_DATABASE)
        except (PyMongoError, ValueError, TypeError):
            wanted = "mongodb://host[:port][/database][?options]"
            raise InvalidRequest([Violation("the store URL", "no usable MongoDB URL", wanted)]) from None
        self._database = database.with_options(codec_options=documents.CODEC)
        self._flags = self._database["feature_flags"]
        self._history = self._database["feature_flag_history"]
        self._audit = self._database["audit_logs"]
        self._revisions = self._database["flagsvc_revisions"]

    async def open(self) -> None:
        """Create what is missing of collections and indexes; those of the existing system are taken as they are."""
        await self.ping()
        async with self._asking(_BUILD_S):
            for name in ("audit_logs", "flagsvc_revisions"):
                await self._create_collection(name)
            flags = await _index_keys(self._flags)
            if flags.get(("key",)) is not True and ("flagSet", "key") not in flags:
                await self._create_index(self._flags, [("flagSet", 1), ("key", 1)], unique=True)
            if not any(key[0] == "featureKey" for key in await _index_keys(self._history)):
                await self._create_index(self._history, [("featureKey", 1), ("createdAt", -1)])

    async def close(self) -> None:
        """Let changes that are under way end, then release the connections."""
        if self._changes:
            await asyncio.wait(self._changes)
        if self._cleaning:
            self._cleaning.cancel()
            await asyncio.wait([self._cleaning])
        await _awaited(self._client.close())

    async def ping(self) -> None:
        """Ask the primary for a sign of life."""
        async with self._asking(self._timeout_s):
            await self._client.admin.command("ping")

    async def get(self, flag_id: FlagId) -> Flag | None:
        """Read one flag."""
        async with self._asking(self._timeout_s):
            raw = await self._find(flag_id)
        return documents.to_flag(raw) if raw else None

    async def load(self) -> StoreContents:
        """Read the counters, then every flag: a change up to a counter can then not be missing."""
        async with self._asking(_LOAD_S), self._session() as session:
            revisions = await self._counters(session)
            flags = []
            self.reads += 1
            async for raw in self._flags.find(session=session):
                if documents.identifiable(raw):
                    flags.append(documents.to_flag(raw))
                if not len(flags) % 100:
                    await asyncio.sleep(0)  # thousands of flags in one go would hold up every call
        return StoreContents(flags, revisions)

    async def revisions(self) -> Mapping[str, int]:
        """Read the counters."""
        async with self._asking(self._timeout_s):
            return await self._counters()

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes, by whomever."""
        if limit <= 0:
            return []
        async with self._asking(self._timeout_s):
            self.reads += 1
            query = {"featureKey": flag_id.key} | documents.in_set(flag_id.flag_set)
            newest = [("createdAt", -1), ("_id", -1)]
            rows = [row async for row in self._history.find(query).sort(newest).limit(limit)]
        return documents.history_entries(rows)

    async def change(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Decide and store in one transaction, repeated while other writers are in its way.

        Writers of this process take turns: they all meet at the counter, and queueing is cheaper than conflicts.
        A caller who leaves does not stop a transaction half-way; the next writer waits for its end.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable from error
        task = asyncio.create_task(self._change(flag_id, decide))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(task)

    async def _change(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        started = time.monotonic()
        left = self._timeout_s
        for attempt in itertools.count():
            try:
                with pymongo.timeout(left):
                    return await self._transaction(flag_id, decide)
            except (PyMongoError, BSONError) as error:
                if isinstance(error, OperationFailure) and error.code == _NOT_A_REPLICA_SET:
                    raise WritesUnsupported(
                        "MongoDB runs without transactions: changes need a replica set (one member is enough)"
                    ) from error
                if isinstance(error, DuplicateKeyError):
                    await self._refuse_taken_key(flag_id, error)
                gone = isinstance(error, ConnectionFailure)
                spent = time.monotonic() - started
                left = self._timeout_s - spent if gone else min(self._timeout_s, self._patience_s - spent)
                if not _repeatable(error) or left <= 0:
                    raise StoreUnavailable from error
            await asyncio.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))  # noqa: S311 - jitter, no secret
        raise AssertionError

    async def _transaction(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Read, decide, store. The counter comes before the rest: a writer who is in another's way learns it early."""
        async with self._session() as session:
            await _awaited(session.start_transaction(read_concern=_SNAPSHOT, write_concern=_MAJORITY))
            raw = await self._find(flag_id, session)
            flag = documents.to_flag(raw) if raw else None
            change = decide(flag)
            subject = (change.after or flag) if change else None
            if change is None or subject is None:
                return None
            revision = await self._next_revision(flag_id.flag_set, flag.revision if flag else 0, session)
            stored, edit = documents.outcome(change, raw, flag, revision)
            resource = (stored or raw or {}).get("_id")
            await self._history.insert_one(documents.history_document(change, subject, revision), session=session)
            await self._audit.insert_one(documents.audit_document(change, subject, resource), session=session)
            if stored is None:
                await self._flags.delete_one({"_id": resource}, session=session)
            elif raw is None:
                await self._flags.insert_one(stored, session=session)
            else:
                await self._flags.update_one({"_id": resource}, edit, session=session)
            await self._commit(session)
        return Entry(flag_id, revision, documents.to_flag(stored) if stored else None)

    async def _commit(self, session: Any) -> None:
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

    async def _refuse_taken_key(self, flag_id: FlagId, error: DuplicateKeyError) -> None:
        """Raise if another flag set has the key and the existing system's index allows only one."""
        async with self._asking(self._timeout_s):
            if (await _index_keys(self._flags)).get(("key",)) is not True:
                return
            self.reads += 1
            taken = await self._flags.find_one({"key": flag_id.key})
        if taken is not None and (taken.get("flagSet") or DEFAULT_SET) != flag_id.flag_set:
            wanted = "a key that no other flag set has, while the collection has a unique index on `key` alone"
            raise invalid("flag.key", flag_id.key, wanted, "KEY_TAKEN_IN_OTHER_SET") from error

    async def _find(self, flag_id: FlagId, session: Any = None) -> dict[str, Any] | None:
        self.reads += 1
        query = {"key": flag_id.key} | documents.in_set(flag_id.flag_set)
        found: dict[str, Any] | None = await self._flags.find_one(query, session=session)
        return found

    async def _counters(self, session: Any = None) -> dict[str, int]:
        self.reads += 1
        rows = self._revisions.find(session=session)
        return {row["_id"]: int(row["revision"]) async for row in rows}

    async def _next_revision(self, flag_set: str, floor: int, session: Any) -> int:
        """Raise the set's counter above itself and `floor`; where it is lost, its flags tell where it was."""
        above = {"$add": [{"$max": ["$revision", floor]}, 1]}
        before = await self._revisions.find_one_and_update(
            {"_id": flag_set}, [{"$set": {"revision": above}}], upsert=True, session=session
        )
        if before is not None:
            return max(int(before["revision"]), floor) + 1
        self.reads += 1
        numbered = {"revision": {"$type": "number"}} | documents.in_set(flag_set)
        newest = await self._flags.find_one(numbered, sort=[("revision", -1)], session=session)
        revision = max(int(newest["revision"]) if newest else 0, floor) + 1
        await self._revisions.update_one({"_id": flag_set}, {"$set": {"revision": revision}}, session=session)
        return revision

    async def _create_collection(self, name: str) -> None:
        try:
            await self._database.create_collection(name)
        except CollectionInvalid:
            return
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:  # another replica was quicker
                raise

    async def _create_index(self, collection: Any, key: list[tuple[str, int]], **options: Any) -> None:
        with pymongo.timeout(_BUILD_S):
            await collection.create_index(key, **options)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Any]:
        """Give a session; what it has not committed at the end is aborted."""
        session = await _awaited(self._client.start_session())
        try:
            yield session
        except ConnectionFailure:
            self._cut_off.append(session.session_id)
            if self._cleaning is None or self._cleaning.done():
                # In a context of its own: the driver keeps the deadline of this operation in the current one.
                self._cleaning = asyncio.create_task(self._end_cut_off(), context=contextvars.Context())
            raise
        finally:
            await session.end_session()

    async def _end_cut_off(self) -> None:
        """End transactions whose abort may not have arrived: MongoDB would hold their locks for a minute."""
        until = time.monotonic() + _TRANSACTION_LIFETIME_S
        while self._cut_off and time.monotonic() < until:
            sessions = list(self._cut_off)
            try:
                await self._client.admin.command("killSessions", sessions)
            except PyMongoError:
                await asyncio.sleep(0.1)
            else:
                for _ in sessions:
                    self._cut_off.popleft()

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        """Bound the whole of what is asked and turn every failure into StoreUnavailable, without the driver's words."""
        try:
            async with asyncio.timeout(seconds + 0.5):  # the driver's own bound first: it leaves its connections sound
                yield
        except (PyMongoError, BSONError, TimeoutError) as error:
            raise StoreUnavailable from error


def _repeatable(error: Exception) -> bool:
    """Whether nothing of the transaction happened and it may succeed now."""
    if not isinstance(error, PyMongoError) or error.has_error_label("UnknownTransactionCommitResult"):
        return False
    return isinstance(error, DuplicateKeyError) or error.has_error_label("TransientTransactionError")


async def _index_keys(collection: Any) -> dict[tuple[str, ...], bool]:
    """Give the field names of each index and whether it is unique; its name depends on who made it."""
    indexes = (await collection.index_information()).values()
    return {tuple(name for name, _ in index["key"]): bool(index.get("unique")) for index in indexes}


async def _awaited(result: Any) -> Any:
    """Await what motor gives as a coroutine and PyMongo at once, or the other way round."""
    return await result if inspect.isawaitable(result) else result
