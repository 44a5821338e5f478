"""Flags in MongoDB, in the existing system's collections, in place. The only file that imports motor.

Written in what motor and PyMongo's own async client share, so that exchanging them is a matter of one import.
Reads ask the primary for majority-committed data, writes are majority-committed transactions: a read that starts after
a write returned shows it, and nothing that was read is ever rolled back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern

from flagsvc.adapters.batch_loader import BatchLoader
from flagsvc.adapters.identity import identity_of
from flagsvc.adapters.mongo import documents
from flagsvc.adapters.mongo import setup as mongo_setup
from flagsvc.adapters.mongo.audit import MongoAudit
from flagsvc.adapters.mongo.causes import unavailable
from flagsvc.adapters.mongo.change_stream import RESUME_POINTS, ChangeStream
from flagsvc.adapters.mongo.definition_sweep import DefinitionSweep
from flagsvc.adapters.mongo.definitions import MongoDefinitions
from flagsvc.adapters.mongo.events import Known
from flagsvc.adapters.mongo.identity import MongoIdentity
from flagsvc.adapters.mongo.links import Links
from flagsvc.adapters.mongo.requests import MongoRequests
from flagsvc.adapters.mongo.rollback import Counted, Rollback, Wanted
from flagsvc.adapters.mongo.schedules import MongoSchedules
from flagsvc.adapters.mongo.segment_rows import SegmentRows
from flagsvc.adapters.mongo.segments import MongoSegments
from flagsvc.adapters.mongo.tokens import MongoTokens
from flagsvc.adapters.mongo.transactions import OnDuplicateKey, Transactions, Work, close_client, session_of
from flagsvc.background import cause_of
from flagsvc.core.bucketing import stamped, version_for
from flagsvc.core.changes import Author, Decide
from flagsvc.core.errors import ChangeRefused, InvalidRequest, StoreForbidden, StoreUnavailable, Violation, invalid
from flagsvc.core.model import DEFAULT_BUCKETING, DEFAULT_SET, Flag, FlagId, HistoryEntry
from flagsvc.core.requests import WriteRequest
from flagsvc.core.revisions.model import CHANGED_ELSEWHERE, About, Moment
from flagsvc.core.sizes import HistorySize
from flagsvc.ports import Entry, Family, Problem, StoreContents, StoreEvent, StoreIdentity
from flagsvc.ports.revisions import DecideAll, RolledBack
from flagsvc.replication.timing import LOAD_TIMEOUT_S
from flagsvc.turns import Turns, off_loop

DEFAULT_DATABASE = "flagsvc"
log = structlog.get_logger(__name__)
_LINEARIZABLE, _LOCAL = ReadConcern("linearizable"), ReadConcern("local")
_ONE_REPLY = 100_000  # a linearizable read is one only for its first reply
_GETS, _KEYS = 8, 100  # reads of single flags under way, and how many flags one of them asks for

_ROLLBACK_S = 10.0
"""How long the transaction of a rollback of a set may take, which writes up to 1,000 flags."""
T = TypeVar("T")


class MongoStore:
    """Keeps flags, their history and the audit log; `reads` counts the queries sent, for metrics."""

    poll_interval_s = 1.0

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 50,
        timeout_s: float = 2.0,
        stream_wait_s: float = 0.25,
        prove_after_s: float = 1.25,
        conflict_timeout_s: float = 5.0,
        given_identity: str = "",
        client_factory: Callable[..., Any] = AsyncIOMotorClient,
    ) -> None:
        """`timeout_s` bounds each operation, `conflict_timeout_s` a write that has to be repeated because of others.

        `given_identity` is the identity of a store that refuses to keep one.
        """
        self.reads = 0
        self._url = url
        self._timeout_s = timeout_s
        self._linearizable = False
        mongo_setup.check_options(url)
        try:
            self._client = client_factory(url, **mongo_setup.client_options(url, timeout_s, pool_size))
            stream_client = client_factory(url, **mongo_setup.change_stream_options(url))
            self._database, streamed = (
                client.get_default_database(DEFAULT_DATABASE).with_options(codec_options=documents.CODEC)
                for client in (self._client, stream_client)
            )
        except (PyMongoError, ValueError, TypeError):
            wanted = "mongodb://host[:port][/database][?options]"
            raise InvalidRequest([Violation("the store URL", "no usable MongoDB URL", wanted)]) from None
        self._flags = self._database["feature_flags"]
        self._history = self._database["feature_flag_history"]
        self._raw_history = self._history.with_options(codec_options=documents.RAW)
        self._audit = self._database["audit_logs"]
        self._revisions = self._database["flagsvc_revisions"]
        self._bucketings: dict[str, int] = {}
        self._identity = MongoIdentity(self._revisions, given_identity)
        self._gets = BatchLoader(self._get, max_reads=_GETS, max_keys=_KEYS)
        self._transactions = Transactions(self._client, timeout_s, conflict_timeout_s)
        self.tokens = MongoTokens(
            self._client,
            self._database,
            self._transactions,
            lambda: self._asking(self._timeout_s),
            lambda: self._linearizable,
        )
        self.audit = MongoAudit(self._database, lambda: self._asking(self._timeout_s))
        self.definitions = MongoDefinitions(
            self._client,
            self._database,
            lambda: self._asking(self._timeout_s),
            lambda: self._linearizable,
            DefinitionSweep(self._client, self._database, lambda: self._asking(LOAD_TIMEOUT_S), self._read),
        )
        self._requests = MongoRequests(self._database)
        self._links = Links(self._database)
        segments = SegmentRows(self._database, lambda: self.definitions.is_recording, self.definitions.noting_refusals)
        self._rollback = Rollback(
            self._database,
            self.definitions,
            self._links,
            segments,
            requests=self._requests,
            next_revision=self._next_revision,
        )
        self.segments = MongoSegments(
            self._database,
            segments,
            self._requests,
            run=self._stored,
            asking=lambda: self._asking(self._timeout_s),
            store=self._rollback.store,
            next_revision=self._next_revision,
        )
        self.schedules = MongoSchedules(
            self._database,
            self._run,
            lambda: self._asking(self._timeout_s),
            self._flag,
            change=self._change,
            preview=self._preview,
            requests=self._requests,
        )
        self._change_stream = ChangeStream(
            stream_client, streamed, self._database[RESUME_POINTS], wait_s=stream_wait_s, prove_after_s=prove_after_s
        )

    async def open(self) -> None:
        """Create what is missing of collections and indexes; those of the existing system are taken as they are."""
        async with self._asking(self._timeout_s):
            hello = await self._client.admin.command("hello")
        self._linearizable = "setName" in hello
        async with self._asking(mongo_setup.BUILD_S):
            await mongo_setup.prepare(self._database)
        async with self._asking(self._timeout_s):
            await self._identity.read_or_make()

    @property
    def identity(self) -> StoreIdentity | None:
        """Which store this is, as last read."""
        return identity_of(self._identity.id, self._url) if self._identity.id else None

    def problems(self) -> Sequence[Problem]:
        """Return what is not recorded. Odd documents are found when they are prepared."""
        return self.definitions.problems()

    async def renew_identity(self) -> None:
        """Replace the store's identity."""
        async with self._asking(self._timeout_s):
            await self._identity.renew()

    async def close(self) -> None:
        """Let changes that are under way end, then release the connections."""
        await self._transactions.close()
        await self._gets.close()
        await asyncio.gather(close_client(self._client), self._change_stream.close())

    async def get(self, flag_id: FlagId) -> Entry:
        """Read one flag, together with others that are read at this time."""
        return await self._gets.get(flag_id)

    async def get_family(self, flag_id: FlagId) -> Family:
        """Read a flag and those that it depends on, in one snapshot."""
        async with self._asking(self._timeout_s):
            self.reads += 1
            revision, rows = await self._links.family(flag_id)
            flags = [self._read(raw) for raw in rows]
        return Family(revision, {flag.key: Entry.of(flag) for flag in flags})

    async def load(self) -> StoreContents:
        """Read the counters, then every flag: a change up to a counter can then not be missing."""
        async with self._asking(LOAD_TIMEOUT_S), session_of(self._client) as session:
            revisions = await self._newest(session)
            flags: list[Flag] = []
            known: dict[bytes, Known] = {}
            self.reads += 1
            turns = Turns()
            async for raw in self._flags.find(session=session):
                if documents.identifiable(raw):
                    flags.append(flag := self._read(raw))
                    known[documents.identity(raw["_id"])] = Known(flag.id, flag.revision)
                if turns.is_over():
                    await turns.next()
        self._change_stream.events.loaded = known
        return StoreContents(flags, revisions)

    async def revisions(self) -> Mapping[str, int]:
        """Read the counters, from what surely is the primary."""
        async with self._asking(self._timeout_s):
            return await self._newest()

    async def bucketing(self, flag_set: str) -> int:
        """Read a set's bucketing, which is beside its counter."""
        async with self._asking(self._timeout_s):
            self.reads += 1
            return documents.bucketing_of(await self._revisions.find_one({"_id": flag_set}))

    async def set_bucketing(self, flag_set: str, version: int) -> None:
        """Store a set's bucketing. A write that read another one in its transaction conflicts, and is repeated."""
        row, edit = {"_id": flag_set}, {"$set": {"bucketing": version}}
        await self._transactions.run(
            lambda session: self._revisions.update_one(row, edit, upsert=True, session=session)
        )

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes, by whomever."""
        if limit <= 0:
            return []
        async with self._asking(self._timeout_s):
            self.reads += 1
            query = {"featureKey": flag_id.key} | documents.in_set(flag_id.flag_set)
            newest = [("createdAt", -1), ("_id", -1)]
            rows, size = [], HistorySize()
            async for row in self._raw_history.find(query).sort(newest).limit(limit):
                size.add(len(row.raw))
                rows.append(row.raw)
        return await off_loop(documents.history_entries, rows)

    @property
    def feed(self) -> MongoStore:
        """The store itself: other programs may change flags without counting revisions."""
        return self

    def changes(self) -> AsyncIterator[StoreEvent]:
        """Deliver changes by whomever, for ever. Raises ChangesUnsupported."""
        return self._change_stream.changes()

    async def save_resume_token(self) -> None:
        """Save how far `changes` has delivered."""
        await self._change_stream.save_resume_point()

    @property
    def stream_restarts(self) -> int:
        """How often the change stream broke."""
        return self._change_stream.restarts

    @property
    def stream_up(self) -> bool:
        """Whether the change stream delivers now."""
        return self._change_stream.up

    async def write(self, flag_id: FlagId, decide: Decide, request: WriteRequest | None = None) -> Entry | None:
        """Decide and store in one transaction, repeated while other writers are in its way."""

        async def taken(error: DuplicateKeyError) -> None:
            await self._refuse_taken_key(flag_id, error)

        return await self._stored(lambda session: self._change(flag_id, decide, session, request), taken)

    async def preview(self, flag_id: FlagId, decide: Decide) -> Entry:
        """Decide in a transaction that stores nothing."""
        found = await self._transactions.run(lambda session: self._preview(flag_id, decide, session))
        return found or Entry.absent(flag_id)

    async def roll_back(
        self,
        flag_set: str,
        revision: int,
        decide: DecideAll,
        author: Author,
        *,
        dry_run: bool,
        request: WriteRequest | None = None,
    ) -> RolledBack:
        """Decide about all flags and segments that have changed since, and store, in one transaction."""
        wanted = Wanted(flag_set, revision, decide, author)
        found = await self._stored(
            lambda session: self._rollback.run(wanted, session, request, dry_run=dry_run), timeout_s=_ROLLBACK_S
        )
        return found or RolledBack([], [])

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        """Give a flag that another program changed the next revision; without history, which is not ours to write.

        A flag that is gone keeps no trace of it: each caller gives it one, unless a deletion of ours came after.
        """
        return await self._run(lambda session: self._assign_revision(flag_id, revision, session))

    async def _stored(
        self, work: Work[T], on_duplicate_key: OnDuplicateKey | None = None, timeout_s: float = 0.0
    ) -> T | None:
        """Run a change in a transaction, and log its failure."""
        try:
            return await self._run(work, on_duplicate_key, timeout_s)
        except StoreUnavailable as error:
            log.warning("change_failed", cause=cause_of(error), detail=error.cause)
            raise

    async def _run(
        self, work: Work[T], on_duplicate_key: OnDuplicateKey | None = None, timeout_s: float = 0.0
    ) -> T | None:
        """Run whatever changes a flag; without its definition where flagsvc's user has never had a right to record it.

        A kill switch has to work after an upgrade, before the user gets the new right, and a schedule that sets one.
        """
        try:
            return await self._transactions.run(work, on_duplicate_key, timeout_s=timeout_s)
        except StoreForbidden:
            if not self.definitions.stop_recording():
                raise
            return await self._transactions.run(work, on_duplicate_key, timeout_s=timeout_s)

    async def _get(self, ids: Sequence[FlagId]) -> Mapping[FlagId, Entry]:
        """Read some flags; for those that are not there the counter too, before they are looked for again."""
        async with self._asking(self._timeout_s):
            found = await self._found(ids)
            missing = [flag_id for flag_id in ids if flag_id not in found]
            if missing:
                async with session_of(self._client) as session:
                    sets = {flag_id.flag_set for flag_id in missing}
                    revisions = {flag_set: await self._counter(flag_set, session) for flag_set in sets}
                    absent = {flag_id: Entry.absent(flag_id, revisions[flag_id.flag_set]) for flag_id in missing}
                    found |= absent | await self._found(missing, session)
        return found

    async def _found(self, ids: Sequence[FlagId], session: Any = None) -> dict[FlagId, Entry]:
        self.reads += 1
        cursor = self._flags.find(documents.with_ids(ids), session=session, batch_size=len(ids) + 1)  # in one reply
        flags = [self._read(raw) async for raw in cursor]
        return {flag.id: Entry.of(flag) for flag in reversed(flags)}

    async def _change(
        self, flag_id: FlagId, decide: Decide, session: Any, request: WriteRequest | None = None
    ) -> Entry | None:
        """Read, decide, store. The counter comes before the rest: a writer who is in another's way learns it early."""
        if request is not None and (answered := await self._requests.answer(request, flag_id, session)) is not None:
            return answered
        raw = await self._find(flag_id, session)
        flag = documents.to_flag(raw) if raw else None
        change = await off_loop(decide, flag)  # it validates the flag, which takes long where that is large
        subject = (change.after or flag) if change else None
        if change is None or subject is None:
            return None
        revision, at, bucketing = await self._next_revision(flag_id.flag_set, flag.revision if flag else 0, session)
        await self._links.check(flag_id.flag_set, [change], session)
        change = await off_loop(stamped, await self._links.linked(change, session), bucketing)
        stored, edit = documents.updated(change, raw, flag, revision)
        resource = (stored or raw or {}).get("_id")
        await self._history.insert_one(documents.history_document(change, subject, revision), session=session)
        await self._audit.insert_one(documents.audit_document(change, subject, resource), session=session)
        if stored is None:
            await self._flags.delete_one({"_id": resource}, session=session)
        elif raw is None:
            await self._flags.insert_one(stored, session=session)
        else:
            await self._flags.update_one({"_id": resource}, edit, session=session)
        entry = Entry(flag_id, revision, documents.to_flag(stored) if stored else None)
        await self.definitions.record(flag_id, Moment(revision, at), entry.flag, About.of(change), session)
        if request is not None:
            await self._requests.remember(request, entry, change, at, session)
        return entry

    async def _preview(self, flag_id: FlagId, decide: Decide, session: Any) -> Entry:
        flag = await self._flag(flag_id, session)
        counter = await self._revisions.find_one({"_id": flag_id.flag_set}, session=session) or {}
        revision = flag.revision if flag else documents.counter_of(counter)
        change = await off_loop(decide, flag)
        if change is None:
            return Entry(flag_id, revision, None)
        await self._links.check(flag_id.flag_set, [change], session)
        linked = await self._links.linked(change, session)
        change = await off_loop(stamped, linked, documents.bucketing_of(counter))
        return Entry(flag_id, revision, change.after)

    async def _assign_revision(self, flag_id: FlagId, revision: int, session: Any) -> Entry | None:
        raw = await self._find(flag_id, session)
        found = documents.revision_of(raw)
        if raw is not None and revision < found <= await self._counter(flag_id.flag_set, session):
            return None
        if raw is None and await self._deletion(flag_id, revision, session) is not None:
            return None
        # `revision` is only a claim
        new, at, bucketing = await self._next_revision(flag_id.flag_set, found, session)
        entry = Entry.absent(flag_id, new)
        if raw is not None:
            rules = await self._links.rules_of(documents.to_flag(raw), session)
            stored, edit = await off_loop(documents.numbered, raw, new, bucketing, rules)
            await self._flags.update_one({"_id": raw["_id"]}, edit, session=session)
            entry = Entry.of(documents.to_flag(stored))
        about = About(action=CHANGED_ELSEWHERE)
        await self.definitions.record(flag_id, Moment(new, at), entry.flag, about, session)
        return entry

    def _read(self, raw: Mapping[str, Any]) -> Flag:
        """Read a document. One that other programs alone have written has its set's bucketing, as last read."""
        flag = documents.to_flag(raw)
        if flag.revision or "bucketing" in raw:
            return flag
        return replace(flag, bucketing=version_for(flag, self._bucketings.get(flag.flag_set, DEFAULT_BUCKETING)))

    async def _refuse_taken_key(self, flag_id: FlagId, error: DuplicateKeyError) -> None:
        """Raise if the key stays taken: by another flag set, or by a key that the index's collation finds equal."""
        fields = (error.details or {}).get("keyPattern", {})
        if "key" not in fields:
            return
        async with self._asking(self._timeout_s):
            self.reads += 1
            # Local: what an index refuses for may not be committed by a majority yet.
            taken = [raw async for raw in self._flags.with_options(read_concern=_LOCAL).find({"key": flag_id.key})]
        sets = {raw.get("flagSet") or DEFAULT_SET for raw in taken}
        if flag_id.flag_set in sets:
            return  # another writer was faster
        if sets and "flagSet" not in fields:
            wanted = "a key that no other flag set has, while the collection has a unique index on `key` alone"
            raise invalid("flag.key", flag_id.key, wanted, "KEY_TAKEN_IN_OTHER_SET") from error
        raise ChangeRefused("a unique index takes this key for equal to another one, such as in other case") from error

    async def _find(self, flag_id: FlagId, session: Any = None) -> dict[str, Any] | None:
        self.reads += 1
        query = {"key": flag_id.key} | documents.in_set(flag_id.flag_set)
        found: dict[str, Any] | None = await self._flags.find_one(query, session=session)
        return found

    async def _flag(self, flag_id: FlagId, session: Any) -> Flag | None:
        raw = await self._find(flag_id, session)
        return documents.to_flag(raw) if raw else None

    async def _deletion(self, flag_id: FlagId, revision: int, session: Any) -> dict[str, Any] | None:
        """Find the history row of a deletion of ours after this revision."""
        self.reads += 1
        query = documents.deletions(flag_id, revision)
        found: dict[str, Any] | None = await self._history.find_one(query, session=session)
        return found

    async def _counter(self, flag_set: str, session: Any) -> int:
        self.reads += 1
        return documents.counter_of(await self._revisions.find_one({"_id": flag_set}, session=session))

    async def _newest(self, later: Any = None) -> dict[str, int]:
        """Read the counters from what surely is the primary; the session `later` sees nothing that was before that."""
        self.reads += 1
        asked_at = time.monotonic()
        async with session_of(self._client, causal_consistency=False) as session:
            revisions = self._revisions.with_options(read_concern=_LINEARIZABLE if self._linearizable else None)
            rows = revisions.find(session=session, batch_size=_ONE_REPLY)
            found = [row async for row in rows]
            counters = documents.counters(found)
            self._bucketings = {row["_id"]: documents.bucketing_of(row) for row in found if "bucketing" in row}
            self._identity.note(found)
            moment = session.operation_time
            if moment is not None and later is not None:
                later.advance_cluster_time(session.cluster_time)
                later.advance_operation_time(moment)
        if moment is not None and self._linearizable:
            self._change_stream.prove(asked_at, moment)
        return counters

    async def _next_revision(self, flag_set: str, stored: int, session: Any) -> Counted:
        """Raise the set's counter above itself and a stored revision, and its moment with it.

        Where the counter is lost, the set's flags say where it was, and which bucketing the set had. A counter beyond
        MAX_REVISION, to which a message may once have led it, counts as lost.
        """
        fields = {"revision": documents.next_counter(stored), "before": "$revision", "at": documents.next_moment()}
        row = await self._revisions.find_one_and_update(
            {"_id": flag_set}, [{"$set": fields}], upsert=True, return_document=ReturnDocument.AFTER, session=session
        )
        self.schedules.note_counter(flag_set, row)
        if documents.counter_of({"revision": row.get("before")}):
            return Counted(int(row["revision"]), row["at"], documents.bucketing_of(row))
        self.reads += 1
        numbered = documents.with_revision(flag_set)
        newest = await self._flags.find_one(numbered, sort=[("revision", -1)], session=session)
        has_bucketing = documents.with_bucketing(flag_set)
        split = row if "bucketing" in row else await self._flags.find_one(has_bucketing, session=session)
        found = {"revision": max(int(newest["revision"]) if newest else 0, stored) + 1}
        found["bucketing"] = documents.bucketing_of(split)
        await self._revisions.update_one({"_id": flag_set}, {"$set": found}, session=session)
        return Counted(found["revision"], row["at"], found["bucketing"])

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        """Bound the whole of what is asked and turn every failure into StoreUnavailable, without the driver's words."""
        try:
            async with asyncio.timeout(seconds + 0.5):  # the driver's own bound first: it leaves its connections sound
                yield
        except (PyMongoError, BSONError, TimeoutError) as error:
            raise unavailable(error) from error
