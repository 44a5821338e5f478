"""Plans, changes and cancels schedules, executes them on request, and says which ones a write touches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.background import cause_of
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Author
from flagsvc.core.documents import json_safe
from flagsvc.core.errors import FlagsvcError, SchedulesMissing
from flagsvc.core.model import ANONYMOUS, STORED_NAMES, Change, Flag, FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.schedules.decisions import check_room, checked, ended, on_request, planned
from flagsvc.core.schedules.model import (
    MAX_OPEN_OF_FLAG,
    RUNNABLE,
    Creator,
    OnConflict,
    Schedule,
    State,
    id_of_request,
)
from flagsvc.core.shown_text import visible
from flagsvc.ports.schedules import Room, ScheduleQuery, ScheduleStore
from flagsvc.schedules.attempts import RequestedAttempt
from flagsvc.serving.writer import WaitFor, Writer, WriteResult

NOTES_S = 1.0
"""How long a write waits to learn which schedules it touches."""

log = structlog.get_logger(__name__)


class SchedulePlanner:
    """The schedules of a store, for callers. `wake`: called when a schedule was planned here."""

    def __init__(
        self, store: ScheduleStore | None, writer: Writer, rights: PlannedRights, wake: Callable[[], None]
    ) -> None:
        self._given, self._writer, self._rights, self._wake = store, writer, rights, wake

    @property
    def _store(self) -> ScheduleStore:
        if self._given is None:
            raise SchedulesMissing
        return self._given

    async def create(
        self, wanted: Schedule, request: WriteRequest | None = None, *, validate_only: bool = False
    ) -> Schedule:
        """Plan a change, once for each `request`. Raises FlagNotFound, InvalidRequest and QuotaExceeded."""
        known_id = ""
        if request is not None:
            known_id = id_of_request(request.caller, wanted.flag_id.flag_set, request.request_id)
            wanted = replace(wanted, id=known_id, request=request.digest.hex())

        def decide(room: Room) -> Schedule:
            check_room(room.open_of_flag, room.open_of_store)
            return planned(replace(wanted, number=room.number, created_at=room.now), room.flag, room.now)

        entry = _entry("CreateSchedule", wanted, str(wanted.creator), wanted.actor, wanted.reason)
        schedule = await self._store.create(wanted.flag_id, decide, entry, known_id, dry_run=validate_only)
        if request is not None and schedule.request != wanted.request:
            raise request.reused()
        self._wake()
        return schedule

    async def update(
        self,
        flag_set: str,
        schedule_id: str,
        fields: Mapping[str, Any],
        creator: Creator,
        author: Author,
        *,
        etag: int | None,
        request: WriteRequest | None = None,
        validate_only: bool = False,
    ) -> Schedule:
        """Change fields of a schedule, which is then planned as if it were new. Raises as `create`, and ScheduleEnded.

        `creator`: who changes it, and is its creator from then on.
        """

        def decide(current: Schedule, flag: Flag | None, now: datetime) -> Schedule:
            changed = replace(checked(current, etag), **fields, creator=creator, actor=author.actor, created_at=now)
            return planned(changed, flag, now)

        found = await self._store.get(flag_set, schedule_id)
        entry = _entry("UpdateSchedule", found, str(creator), author.actor, author.reason)
        schedule = await self._store.change(
            flag_set, schedule_id, decide, entry, is_new_plan=True, request=request, dry_run=validate_only
        )
        self._wake()
        return schedule

    async def cancel(
        self,
        flag_set: str,
        schedule_id: str,
        author: Author,
        etag: int | None,
        *,
        request: WriteRequest | None = None,
        validate_only: bool = False,
    ) -> Schedule:
        """End a schedule before its time. Idempotent. Raises ScheduleNotFound, ScheduleEnded and ScheduleConflict."""
        by = author.caller or author.actor or ANONYMOUS

        def decide(current: Schedule, _flag: Flag | None, now: datetime) -> Schedule | None:
            if current.state is State.CANCELLED:
                return None
            return ended(checked(current, etag), State.CANCELLED, now, f"by {by}" + _because(author.reason))

        found = await self._store.get(flag_set, schedule_id)
        entry = _entry("CancelSchedule", found, author.caller, author.actor, author.reason)
        return await self._store.change(flag_set, schedule_id, decide, entry, request=request, dry_run=validate_only)

    async def execute(
        self,
        flag_set: str,
        schedule_id: str,
        author: Author,
        etag: int | None,
        wait_for: WaitFor,
        *,
        request: WriteRequest | None = None,
    ) -> tuple[Schedule, WriteResult]:
        """Execute a schedule now, whatever has changed since it was planned. Raises as `cancel`, and InvalidRequest."""
        store, found = self._store, await self._store.get(flag_set, schedule_id)
        attempt = RequestedAttempt(self._rights, author, etag)
        written = await self._writer.write(
            found.flag_id,
            attempt.decide,
            wait_for,
            through=lambda flag_id, decide: store.execute(flag_id, schedule_id, attempt, decide, request=request),
        )
        assert written is not None  # noqa: S101  on request there is always a change
        assert attempt.result is not None  # noqa: S101  with its schedule
        return attempt.result, written

    async def preview_execution(self, flag_set: str, schedule_id: str, author: Author, etag: int | None) -> Schedule:
        """Return how a schedule would end if it were executed now, without a revision. Raises as `execute`."""
        found, now = await self._store.get(flag_set, schedule_id), datetime.now(UTC)
        done: list[Schedule] = []

        def decide(flag: Flag | None) -> Change:
            schedule, change = on_request(checked(found, etag, RUNNABLE), flag, now, author)
            done.append(schedule)
            return change

        await self._writer.preview(found.flag_id, decide)
        return done[-1]

    async def get(self, flag_set: str, schedule_id: str) -> Schedule:
        """Read one schedule. Raises ScheduleNotFound."""
        return await self._store.get(flag_set, schedule_id)

    async def page(self, query: ScheduleQuery, size: int) -> list[Schedule]:
        """Read the first schedules that match, by time."""
        return await self._store.page(query, size)

    async def notes(self, flag_id: FlagId, fields: Collection[str], *, is_made: bool, gone: bool = False) -> list[str]:
        """Return a note for each pending schedule that changes one of these fields; none if the store cannot say.

        `is_made`: the write has been made here, and has seen whether anything is planned. `gone`: the flag is deleted.
        """
        if self._given is None or (is_made and not self._given.may_be_pending(flag_id.flag_set)):
            return []
        query = ScheduleQuery(flag_set=flag_id.flag_set, flag_key=flag_id.key, states=(State.PENDING,))
        try:
            async with asyncio.timeout(NOTES_S):
                pending = await self._given.page(query, MAX_OPEN_OF_FLAG)
        except (FlagsvcError, TimeoutError) as error:
            log.debug("schedule_notes_missing", cause=cause_of(error))
            return []
        found = ((each, [name for name in each.fields if name in fields]) for each in pending)
        return [_note(each, touched, gone=gone) for each, touched in found if touched]


_AFTER_WRITE = {
    OnConflict.HOLD: "it will be held then, because of this change; change it, execute it or cancel it",
    OnConflict.SKIP: "it will be left out then, because of this change",
    OnConflict.APPLY: "it will be applied in spite of this change",
}


def _note(schedule: Schedule, touched: Collection[str], *, gone: bool) -> str:
    names = ", ".join(STORED_NAMES[name] for name in touched)
    when = json_safe(schedule.execute_at)
    then = "it will fail then, because the flag is deleted" if gone else _AFTER_WRITE[schedule.on_conflict]
    return f"schedule {schedule.id} changes {names} at {when}: {then}"


def _because(reason: str) -> str:
    return f": {visible(reason)}" if reason else ""


def _entry(action: str, schedule: Schedule, caller: str, actor: str, reason: str) -> AuditEntry:
    return AuditEntry(
        at=datetime.now(UTC),
        actor=caller or actor or ANONYMOUS,
        on_behalf_of=actor if caller else "",
        action=action,
        flag_set=schedule.flag_id.flag_set,
        subject=schedule.flag_id.key,
        reason=f"{schedule.via}{_because(reason)}"[:255],
    )
