"""Schedules in MongoDB: a collection of their own. One is executed in the transaction that writes its flag.

MongoDB's clock ($$NOW) alone decides what is due. Of several executors one takes the schedule; the others conflict with
it, repeat, and find nothing that is due.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog
from pymongo import ReturnDocument
from pymongo.errors import OperationFailure

from flagsvc.adapters.mongo import audit
from flagsvc.adapters.mongo.requests import MongoRequests
from flagsvc.adapters.mongo.schedule_rows import all_readable, schedule_in, upcoming
from flagsvc.adapters.mongo.tokens import COLLECTION as TOKENS
from flagsvc.adapters.mongo.tokens import read_records
from flagsvc.adapters.mongo.transactions import Work
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Decide
from flagsvc.core.errors import ChangeRefused, ScheduleEnded, ScheduleNotFound
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.schedules.decisions import trial
from flagsvc.core.schedules.documents import MALFORMED, OUTCOME, to_document
from flagsvc.core.schedules.model import MAX_OPEN, MAX_OPEN_OF_FLAG, OPEN, RUNNABLE, Schedule, State
from flagsvc.ports.changes import Entry
from flagsvc.ports.schedules import Attempt, Room, ScheduleQuery, Upcoming
from flagsvc.turns import off_loop

COLLECTION = "flagsvc_schedules"
_COUNTER = {"_id": {"flagsvc": "schedules"}}
"""No text, as a schedule's id is."""
_OPEN = {"$in": [state.value for state in OPEN]}
_RUNNABLE = {"$in": [state.value for state in RUNNABLE]}
_IN_ORDER = [("executeAt", 1), ("number", 1)]
_IS_DUE = {"$expr": {"$lte": ["$executeAt", "$$NOW"]}}
_CLAIM = [{"$set": {"claimedAt": "$$NOW"}}]
"""Takes the schedule for this transaction, and says what time it is."""
_PLANNED = [{"$set": {"number": {"$add": [{"$ifNull": ["$number", 0]}, 1]}, "now": "$$NOW"}}]

_WRITE_CONFLICT = 112
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Run(Protocol):
    """Runs work in a transaction, as the store's writes do."""

    async def __call__(self, work: Work[T]) -> T | None:
        """Return what the work returns. Raises StoreUnavailable or WritesUnsupported."""


class MongoSchedules:
    """The schedules of one database.

    `read`: reads a flag in a session. `change`: the store's own writer of flags, in a session; `preview`: what it would
    store.
    """

    def __init__(
        self,
        database: Any,
        run: Run,
        asking: Callable[[], AbstractAsyncContextManager[None]],
        read: Callable[[FlagId, Any], Awaitable[Flag | None]],
        *,
        change: Callable[[FlagId, Decide, Any], Awaitable[Entry | None]],
        preview: Callable[[FlagId, Decide, Any], Awaitable[Entry]],
        requests: MongoRequests,
    ) -> None:
        self._schedules, self._tokens, self._audit = database[COLLECTION], database[TOKENS], database[audit.AUDIT]
        self._run, self._asking, self._read = run, asking, read
        self._change, self._preview, self._requests = change, preview, requests
        self._counters = database["flagsvc_revisions"]
        self._has_pending: dict[str, bool] = {}

    async def create(
        self,
        flag_id: FlagId,
        decide: Callable[[Room], Schedule],
        entry: AuditEntry,
        known_id: str = "",
        *,
        dry_run: bool = False,
    ) -> Schedule:
        """Number and store a schedule, in one transaction."""
        checked: list[Schedule] = []

        async def work(session: Any) -> Schedule | None:
            known = await self._schedules.find_one({"_id": known_id}, session=session) if known_id else None
            if known is not None:
                return await off_loop(schedule_in, known)
            at = await self._schedules.find_one_and_update(
                _COUNTER, _PLANNED, upsert=True, return_document=ReturnDocument.AFTER, session=session
            )
            flag = await self._read(flag_id, session)
            of_flag = await self._count({**_of(flag_id), "state": _OPEN}, MAX_OPEN_OF_FLAG, session)
            of_store = await self._count({"state": _OPEN}, MAX_OPEN, session)
            schedule = await off_loop(decide, Room(int(at["number"]), at["now"], flag, of_flag, of_store))
            await self._preview(flag_id, trial(schedule, at["now"]), session)
            if dry_run:
                checked.append(schedule)
                return None
            document = await off_loop(to_document, schedule)
            await self._schedules.insert_one({"_id": schedule.id, **document}, session=session)
            await self._note_pending(schedule, session)
            await self._audit.insert_one(audit.document_of(entry), session=session)
            return schedule

        return _done(await self._run(work), checked)

    async def change(
        self,
        flag_set: str,
        schedule_id: str,
        decide: Callable[[Schedule, Flag | None, datetime], Schedule | None],
        entry: AuditEntry,
        *,
        is_new_plan: bool = False,
        request: WriteRequest | None = None,
        dry_run: bool = False,
    ) -> Schedule:
        """Decide and store, in one transaction."""
        checked: list[Schedule] = []

        async def changed_in(session: Any) -> Schedule:
            of_one = {"_id": schedule_id, "flagSet": flag_set}
            raw = await self._schedules.find_one_and_update(
                of_one, _CLAIM, return_document=ReturnDocument.AFTER, session=session
            )
            if raw is None:
                raise ScheduleNotFound(schedule_id)
            schedule = await off_loop(schedule_in, raw)
            now, flag = raw["claimedAt"], await self._read(schedule.flag_id, session)
            changed = await off_loop(decide, schedule, flag, now)
            if is_new_plan and changed is not None:
                await self._preview(schedule.flag_id, trial(changed, now), session)
            if dry_run:
                return changed or schedule
            stored = replace(changed, version=schedule.version + 1) if changed is not None else schedule
            await self._schedules.replace_one(of_one, await off_loop(to_document, stored), session=session)
            await self._note_pending(stored, session)
            if changed is not None:
                await self._audit.insert_one(audit.document_of(entry), session=session)
            return stored

        async def work(session: Any) -> Schedule | None:
            done = await self._requests.once(request, OUTCOME, lambda: changed_in(session), session)
            checked.append(done)
            return None if dry_run else done

        return _done(await self._run(work), checked)

    async def get(self, flag_set: str, schedule_id: str) -> Schedule:
        """Read one schedule."""
        async with self._asking():
            raw = await self._schedules.find_one({"_id": schedule_id, "flagSet": flag_set})
        if raw is None:
            raise ScheduleNotFound(schedule_id)
        return await off_loop(schedule_in, raw)

    async def page(self, query: ScheduleQuery, size: int) -> list[Schedule]:
        """Read schedules in the order of their time."""
        wanted: dict[str, Any] = {"flagSet": query.flag_set}
        if query.flag_key:
            wanted["flagKey"] = query.flag_key
        if query.states:
            wanted["state"] = {"$in": [state.value for state in query.states]}
        if query.after is not None:
            at, number = datetime.fromtimestamp(query.after[0] / 1000, UTC), query.after[1]
            wanted["$or"] = [{"executeAt": {"$gt": at}}, {"executeAt": at, "number": {"$gt": number}}]
        async with self._asking():
            rows = [raw async for raw in self._schedules.find(wanted).sort(_IN_ORDER).limit(size)]
        return await off_loop(all_readable, rows)

    async def _note_pending(self, schedule: Schedule, session: Any) -> None:
        """Say beside the set's counter, which each write reads, until when the schedule can be pending.

        The row is changed each time, so that a change of the flag and this transaction conflict: the schedule would
        else be planned on the flag as it was before an earlier schedule, which does not see it either.
        """
        if schedule.state is State.PENDING:
            until = schedule.execute_at + timedelta(seconds=schedule.max_lateness_s)
            row, edit = {"_id": schedule.flag_id.flag_set}, {"$max": {"plannedUntil": until}, "$inc": {"planned": 1}}
            await self._counters.update_one(row, edit, upsert=True, session=session)

    def note_counter(self, flag_set: str, row: Mapping[str, Any]) -> None:
        """Take a set's counter with its moment, as a write has read it."""
        until = row.get("plannedUntil")
        self._has_pending[flag_set] = isinstance(until, datetime) and until > row["at"]

    def may_be_pending(self, flag_set: str) -> bool:
        """Whether a set has had a pending schedule, as its counter said."""
        return self._has_pending.get(flag_set, True)

    async def upcoming(self, limit: int) -> list[Upcoming]:
        """Read the first pending schedules with the time that is left by MongoDB's clock: one query of an index."""
        fields = {"flagSet": 1, "flagKey": 1, "waitMs": {"$subtract": ["$executeAt", "$$NOW"]}}
        async with self._asking():
            cursor = self._schedules.find({"state": State.PENDING.value}, fields).sort(_IN_ORDER).limit(limit)
            return [upcoming(raw) async for raw in cursor]

    async def execute(
        self,
        flag_id: FlagId,
        schedule_id: str,
        attempt: Attempt,
        decide: Decide,
        *,
        request: WriteRequest | None = None,
    ) -> Entry | None:
        """Take a schedule, write its flag and end the schedule, in one transaction."""

        async def work(session: Any) -> tuple[Entry | None] | None:
            attempt.begin()
            if request is not None and (known := await self._requests.known(request, OUTCOME, session)) is not None:
                attempt.answered(known)
                flag = await self._read(flag_id, session)
                return (Entry.of(flag) if flag is not None else Entry.absent(flag_id, known.executed_revision),)
            try:
                return await self._executed(flag_id, schedule_id, attempt, decide, session, request=request)
            except OperationFailure as error:
                if error.code != _WRITE_CONFLICT or attempt.is_patient:
                    raise
                attempt.begin()
                return None  # another replica is at it: to try again would only be in its way

        done = await self._run(work)
        return done[0] if done is not None else None

    async def _executed(
        self,
        flag_id: FlagId,
        schedule_id: str,
        attempt: Attempt,
        decide: Decide,
        session: Any,
        *,
        request: WriteRequest | None,
    ) -> tuple[Entry | None]:
        raw = await self._claim(flag_id, schedule_id, session)
        if raw is None:
            return (None,)
        of_one = {"_id": raw["_id"]}
        try:
            schedule = await off_loop(schedule_in, raw)
        except ChangeRefused:
            if schedule_id:
                raise
            log.error("schedule_malformed", schedule=str(raw["_id"])[:64])  # noqa: TRY400  the cause is its content
            failed = {"state": State.FAILED.value, "detail": MALFORMED, "endedAt": raw["claimedAt"]}
            await self._schedules.update_one(of_one, {"$set": failed}, session=session)
            return (None,)
        records = await read_records(self._tokens, schedule.creator.record_ids, session)
        attempt.claimed(schedule, raw["claimedAt"], records)
        entry = await self._change(flag_id, decide, session)
        ended = await off_loop(attempt.ended, entry.revision if entry is not None else 0)
        await self._schedules.replace_one(of_one, await off_loop(to_document, ended.schedule), session=session)
        if request is not None:
            await self._requests.note(request, OUTCOME, ended.schedule, session)
        await self._rebase(schedule, ended.rebased, session)
        if ended.entry is not None:
            await self._audit.insert_one(audit.document_of(ended.entry), session=session)
        return (entry,)

    async def _claim(self, flag_id: FlagId, schedule_id: str, session: Any) -> dict[str, Any] | None:
        """Take the earliest schedule that is due, or the one with this id. Raises ScheduleNotFound, ScheduleEnded."""
        due = {**_of(flag_id), "state": State.PENDING.value, **_IS_DUE}
        wanted = {**_of(flag_id), "_id": schedule_id, "state": _RUNNABLE} if schedule_id else due
        raw: dict[str, Any] | None = await self._schedules.find_one_and_update(
            wanted, _CLAIM, sort=_IN_ORDER, return_document=ReturnDocument.AFTER, session=session
        )
        if raw is None and schedule_id:
            found = await self._schedules.find_one({**_of(flag_id), "_id": schedule_id}, session=session)
            if found is None:
                raise ScheduleNotFound(schedule_id)
            raise ScheduleEnded(f'Schedule "{schedule_id}" has ended: it is {schedule_in(found).state}')
        return raw

    async def _rebase(self, schedule: Schedule, digests: Mapping[str, str], session: Any) -> None:
        """Let later schedules of the flag take what this one has changed for what was there when they were planned."""
        at = schedule.execute_at
        later = [{"executeAt": {"$gt": at}}, {"executeAt": at, "number": {"$gt": schedule.number}}]
        others = {**_of(schedule.flag_id), "state": State.PENDING.value, "$or": later}
        known = {
            field: {"$cond": [{"$eq": [{"$type": f"${field}"}, "missing"]}, "$$REMOVE", digest]}
            for field, digest in ((f"base.{name}", digest) for name, digest in digests.items())
        }
        if known:
            await self._schedules.update_many(others, [{"$set": known}], session=session)

    async def _count(self, query: Mapping[str, Any], limit: int, session: Any) -> int:
        return int(await self._schedules.count_documents(query, limit=limit, session=session))


def _of(flag_id: FlagId) -> dict[str, Any]:
    return {"flagSet": flag_id.flag_set, "flagKey": flag_id.key}


def _done(result: Schedule | None, checked: Sequence[Schedule]) -> Schedule:
    """Return what a transaction has stored, or what it would have stored, which ends without a commit."""
    return result if result is not None else checked[-1]
