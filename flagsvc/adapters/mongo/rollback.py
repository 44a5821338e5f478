"""A rollback of a whole flag set in MongoDB, in one transaction.

The counter is taken first, so that no flag of the set can change between the decision and the commit. Each change has
a revision of its own, in the order in which the flags are written: the change stream relies on that order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from flagsvc.adapters.mongo import documents
from flagsvc.adapters.mongo.definitions import MongoDefinitions, one_of, recorded, row_of
from flagsvc.adapters.mongo.links import Links
from flagsvc.adapters.mongo.requests import MongoRequests
from flagsvc.adapters.mongo.segment_rows import SegmentRows, carrying
from flagsvc.core.bucketing import stamped
from flagsvc.core.changes import Author
from flagsvc.core.errors import NotRestorable
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.revisions.model import About, Moment, Recorded
from flagsvc.core.segments import SegmentChange, all_of
from flagsvc.core.segments.restoring import check_restored, restored
from flagsvc.ports.changes import Entry
from flagsvc.ports.revisions import MAX_CHANGED, ROLLED_BACK, DecideAll, RolledBack
from flagsvc.turns import in_turns, off_loop

_BATCH = 100


class Counted(NamedTuple):
    """A set's next revision with its moment, and the set's bucketing."""

    revision: int
    at: datetime
    bucketing: int


class Current(NamedTuple):
    """A flag as it is stored."""

    raw: Mapping[str, Any]
    flag: Flag


class Wanted(NamedTuple):
    """What a rollback shall do, as `FlagStore.roll_back` takes it."""

    flag_set: str
    revision: int
    decide: DecideAll
    author: Author


class Rollback:
    """Rollbacks of one database. `next_revision`: counts a change of a set, in a session."""

    def __init__(
        self,
        database: Any,
        kept: MongoDefinitions,
        links: Links,
        segments: SegmentRows,
        *,
        requests: MongoRequests,
        next_revision: Callable[[str, int, Any], Awaitable[Counted]],
    ) -> None:
        self._flags, self._history = database["feature_flags"], database["feature_flag_history"]
        self._audit, self._revisions = database["audit_logs"], database["flagsvc_revisions"]
        self._kept, self._links, self._segments, self._next_revision = kept, links, segments, next_revision
        self._requests = requests

    async def run(
        self, wanted: Wanted, session: Any, request: WriteRequest | None, *, dry_run: bool
    ) -> RolledBack | None:
        """Decide and store in the session's transaction; None ends it: there is nothing to change, or to remember."""
        done = await self._requests.once(
            request, ROLLED_BACK, lambda: self._run(wanted, session, dry_run=dry_run), session
        )
        return done if request is not None or dry_run or done.flags or done.segments else None

    async def _run(self, wanted: Wanted, session: Any, *, dry_run: bool) -> RolledBack:
        flag_set, revision, decide, author = wanted
        await self._kept.check(flag_set, revision, session)
        counted = None if dry_run else await self._next_revision(flag_set, 0, session)
        keys = await self._kept.changed_since(flag_set, revision, MAX_CHANGED + 1, session)
        if len(keys) > MAX_CHANGED:
            raise NotRestorable(f"more than {MAX_CHANGED} flags have changed since; roll back flag by flag")
        past: dict[str, Recorded] = {}
        current: dict[str, Current] = {}
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            async for row in in_turns(await self._kept.newest_rows(flag_set, some, revision, session)):
                past[row["key"]] = await recorded(row)
            query = {"key": {"$in": some}} | documents.in_set(flag_set)
            async for raw in self._flags.find(query, session=session):
                current[raw["key"]] = Current(raw, documents.to_flag(raw))
        changes = await off_loop(decide, past, {key: each.flag for key, each in current.items()})
        await self._links.check(flag_set, changes, session)
        segments = await self._segment_changes(flag_set, revision, changes, author, session)
        if counted is None:
            return RolledBack.of(changes, segments)
        await self._put(flag_set, segments, session)  # the flags' definitions carry them
        changes = [await self._links.linked(change, session) for change in changes]
        entries: list[Entry] = []
        if changes:
            entries = await self.store(flag_set, changes, current, counted, session)
        else:  # no flag has a new revision
            before = {"$set": {"revision": counted.revision - 1}}
            await self._revisions.update_one({"_id": flag_set}, before, session=session)
        last = entries[-1].revision if entries else counted.revision - 1
        await self._segments.finish(segments, last, session)
        return RolledBack.of(changes, segments, entries)

    async def _segment_changes(
        self, flag_set: str, revision: int, changes: Sequence[Change], author: Author, session: Any
    ) -> list[SegmentChange]:
        """Return what makes the set's segments as they were. Raises SegmentInUse, and NotRestorable."""
        past = await self._segments.changed_since(flag_set, revision, session)
        if not past:
            return []
        current = {each.name: each for each in await self._segments.of_set(flag_set, session)}
        found = await off_loop(restored, past, current, author)
        rules = {name: each.rule for name, each in current.items()}
        users: dict[str, list[str]] = {}
        changed = [subject.key for change in changes if (subject := change.after or change.before) is not None]
        for each in found:
            rules = all_of(rules, each)
            if each.after is None:
                query = carrying(each.id) | {"key": {"$nin": changed}}
                users[each.id.name] = [raw["key"] async for raw in self._flags.find(query, {"key": 1}, session=session)]
        await off_loop(check_restored, found, rules, users)
        return found

    async def _put(self, flag_set: str, segments: Sequence[SegmentChange], session: Any) -> None:
        if segments:
            version = int((await self._segments.claim(flag_set, session))["segments"])
            for each in segments:
                await self._segments.put(each.id, each.after and replace(each.after, version=version), session)

    async def store(
        self,
        flag_set: str,
        changes: Sequence[Change],
        current: Mapping[str, Current],
        counted: Counted,
        session: Any,
    ) -> list[Entry]:
        """Store changes of one set, each with a revision of its own: `counted` is the first one, just taken.

        `current`: the flags that exist, by key.
        """
        changes = await off_loop(lambda: [stamped(change, counted.bucketing) for change in changes])
        first = max(counted.revision, 1 + max((each.flag.revision for each in current.values()), default=0))
        if (last := first + len(changes) - 1) != counted.revision:
            await self._revisions.update_one({"_id": flag_set}, {"$set": {"revision": last}}, session=session)
        try:
            return await self._store(changes, current, first, counted.at, session)
        except BulkWriteError as error:
            raise _single(error) from error

    async def _store(
        self, changes: Sequence[Change], current: Mapping[str, Current], first: int, at: datetime, session: Any
    ) -> list[Entry]:
        history, audit, edits, rows, entries = [], [], [], [], []
        for revision, change in enumerate(changes, first):
            subject: Any = change.after or change.before
            raw, flag = current.get(subject.key, (None, None))
            stored, edit = documents.updated(change, raw, flag, revision)
            resource = (stored or raw or {}).get("_id")
            history.append(documents.history_document(change, subject, revision))
            audit.append(documents.audit_document(change, subject, resource))
            edits.append(_edit(raw, stored, edit))
            entry = Entry(
                FlagId(subject.flag_set, subject.key), revision, documents.to_flag(stored) if stored else None
            )
            row = await row_of(entry.id, Moment(revision, at), entry.flag, About.of(change))
            rows.append(ReplaceOne(one_of(entry.id) | {"revision": revision}, row, upsert=True))
            entries.append(entry)
        await self._history.insert_many(history, session=session)
        await self._audit.insert_many(audit, session=session)
        await self._flags.bulk_write(edits, ordered=True, session=session)
        if self._kept.is_recording:
            with self._kept.noting_refusals():
                await self._kept.rows.bulk_write(rows, session=session)
        return entries


def _edit(raw: Mapping[str, Any] | None, stored: dict[str, Any] | None, edit: dict[str, Any]) -> Any:
    if raw is None:
        return InsertOne(stored or {})
    one = {"_id": raw["_id"]}
    return DeleteOne(one) if stored is None else UpdateOne(one, edit)


def _single(error: BulkWriteError) -> OperationFailure:
    """Return the failure of the first document, which says why MongoDB refuses it."""
    failures = (error.details or {}).get("writeErrors") or [{}]
    return OperationFailure(str(failures[0].get("errmsg", error)), failures[0].get("code"), failures[0])
