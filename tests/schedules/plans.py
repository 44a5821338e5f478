"""Schedules for tests, and stores with them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.core import changes
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Author
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.schedules.decisions import check_room, planned
from flagsvc.core.schedules.model import Creator, Schedule, new_id
from flagsvc.ports import FlagStore
from flagsvc.ports.schedules import Room, ScheduleStore
from flagsvc.schedules.attempts import DueAttempt

UNCHECKED = Creator("unchecked", "")
CHAT = FlagId("default", "chat")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
ENTRY = AuditEntry(at=NOON, actor="ann", action="CreateSchedule")
RIGHTS = PlannedRights(None)
HOUR = timedelta(hours=1)


def plan(flag_id: FlagId = CHAT, *, seconds: float = 3_600, at: datetime | None = None, **fields: Any) -> Schedule:
    """Return a schedule that is not stored: by default it enables the flag in an hour."""
    options = {
        name: fields.pop(name)
        for name in ("on_conflict", "max_lateness_s", "creator", "actor", "reason")
        if name in fields
    }
    values = fields or {"status": Status.ENABLED}
    moment = at or datetime.now(UTC) + timedelta(seconds=seconds)
    return Schedule(
        id=new_id(),
        flag_id=flag_id,
        execute_at=moment.replace(microsecond=moment.microsecond // 1_000 * 1_000),
        patch=replace(Flag(key=flag_id.key, flag_set=flag_id.flag_set), **values),
        fields=tuple(values),
        created_at=NOON,
        **{"creator": UNCHECKED, **options},
    )


def schedules_of(store: FlagStore) -> ScheduleStore:
    assert store.schedules is not None
    return store.schedules


async def flag_in(store: FlagStore, flag_id: FlagId = CHAT, **fields: Any) -> None:
    """Create a flag."""
    await store.write(flag_id, changes.create(Flag(key=flag_id.key, flag_set=flag_id.flag_set, **fields), author()))


def author(**fields: Any) -> Author:
    return Author(datetime.now(UTC), **fields)


async def stored(store: FlagStore, wanted: Schedule) -> Schedule:
    """Plan it."""

    def decide(room: Room) -> Schedule:
        check_room(room.open_of_flag, room.open_of_store)
        return planned(replace(wanted, number=room.number, created_at=room.now), room.flag, room.now)

    return await schedules_of(store).create(wanted.flag_id, decide, ENTRY)


async def due_now(store: FlagStore, *schedules: Schedule) -> list[Schedule]:
    """Move schedules that are planned for in an hour: they were due five seconds ago. So no test waits for time."""

    def moved(current: Schedule, _flag: Flag | None, _now: datetime) -> Schedule:
        return replace(current, execute_at=current.execute_at - HOUR - timedelta(seconds=5))

    return [await schedules_of(store).change(each.flag_id.flag_set, each.id, moved, ENTRY) for each in schedules]


async def planned_and_due(store: FlagStore, *wanted: Schedule) -> list[Schedule]:
    """Plan schedules, and make them due."""
    return await due_now(store, *[await stored(store, each) for each in wanted])


async def executed(store: FlagStore, flag_id: FlagId = CHAT) -> Schedule | None:
    """Execute the flag's earliest due schedule; return what became of it. Raises what the attempt raises."""
    attempt = DueAttempt(RIGHTS)
    await schedules_of(store).execute(flag_id, "", attempt, attempt.decide)
    return attempt.result
