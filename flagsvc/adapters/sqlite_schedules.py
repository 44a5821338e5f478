"""Schedules in the embedded store: SQL for a connection of `sqlite.py`, which runs it, one function at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from flagsvc.adapters import sqlite_audit, sqlite_requests, sqlite_tokens
from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Decide
from flagsvc.core.errors import ChangeRefused, ScheduleEnded, ScheduleNotFound
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.schedules.decisions import trial
from flagsvc.core.schedules.documents import MALFORMED, OUTCOME, from_json, to_json
from flagsvc.core.schedules.model import KEPT_S, OPEN, RUNNABLE, Schedule, State
from flagsvc.ports.changes import Entry
from flagsvc.ports.schedules import Attempt, Room, ScheduleQuery, Upcoming

SCHEMA = """
CREATE TABLE IF NOT EXISTS schedules (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, flag_set TEXT NOT NULL, flag_key TEXT NOT NULL, state TEXT NOT NULL,
    execute_ms INTEGER NOT NULL, ended_ms INTEGER, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS schedules_by_time ON schedules (state, execute_ms, number);
CREATE INDEX IF NOT EXISTS schedules_of_a_flag ON schedules (flag_set, flag_key, execute_ms, number);
"""
_OPEN = f"state IN ({', '.join(repr(state.value) for state in sorted(OPEN))})"
_OF_FLAG = "flag_set = ? AND flag_key = ?"

log = structlog.get_logger(__name__)


class SqliteSchedules:
    """The schedules in one file. `run` runs a function of its connection.

    `read`: reads a flag. `change`: the store's own writer of flags; `preview`: what it would store. All three work in
    the transaction that is open.
    """

    def __init__(
        self,
        run: Callable[[Callable[[Any], Any]], Awaitable[Any]],
        read: Callable[[Any, FlagId], Flag | None],
        change: Callable[[Any, FlagId, Decide], Entry | None],
        preview: Callable[[Any, FlagId, Decide], Entry],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run, self._read, self._change, self._preview, self._clock = run, read, change, preview, clock

    async def create(
        self,
        flag_id: FlagId,
        decide: Callable[[Room], Schedule],
        entry: AuditEntry,
        known_id: str = "",
        *,
        dry_run: bool = False,
    ) -> Schedule:
        """Number and store a schedule, and remove those that have ended long ago, in one transaction."""

        def work(db: Any) -> Schedule:
            with transaction(db, "IMMEDIATE"):
                known = db.execute("SELECT document FROM schedules WHERE id = ?", (known_id,)).fetchone()
                if known is not None:
                    return _schedule(known_id, known[0])
                now = self._now()
                db.execute("DELETE FROM schedules WHERE ended_ms < ?", (_ms(now) - KEPT_S * 1000,))
                (number,) = db.execute("SELECT coalesce(max(number), 0) + 1 FROM schedules").fetchone()
                of_flag = f"SELECT count(*) FROM schedules WHERE {_OF_FLAG} AND {_OPEN}"  # noqa: S608
                of_store = f"SELECT count(*) FROM schedules WHERE {_OPEN}"  # noqa: S608
                counts = db.execute(of_flag, flag_id).fetchone()[0], db.execute(of_store).fetchone()[0]
                schedule = decide(Room(number, now, self._read(db, flag_id), *counts))
                self._preview(db, flag_id, trial(schedule, now))
                if dry_run:
                    return schedule
                _put(db, schedule)
                sqlite_audit.insert(db, [entry])
                return schedule

        return await self._run(work)  # type: ignore[no-any-return]

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

        def changed_in(db: Any) -> Schedule:
            schedule, now = _get(db, flag_set, schedule_id), self._now()
            changed = decide(schedule, self._read(db, schedule.flag_id), now)
            if is_new_plan and changed is not None:
                self._preview(db, schedule.flag_id, trial(changed, now))
            if dry_run or changed is None:
                return changed or schedule
            stored = replace(changed, version=schedule.version + 1)
            _put(db, stored)
            sqlite_audit.insert(db, [entry])
            return stored

        def work(db: Any) -> Schedule:
            with transaction(db, "IMMEDIATE"):
                return sqlite_requests.once(db, request, OUTCOME, lambda: changed_in(db))

        return await self._run(work)  # type: ignore[no-any-return]

    async def get(self, flag_set: str, schedule_id: str) -> Schedule:
        """Read one schedule."""
        return await self._run(lambda db: _get(db, flag_set, schedule_id))  # type: ignore[no-any-return]

    async def page(self, query: ScheduleQuery, size: int) -> list[Schedule]:
        """Read schedules in the order of their time."""
        return await self._run(lambda db: _page(db, query, size))  # type: ignore[no-any-return]

    def may_be_pending(self, flag_set: str) -> bool:  # noqa: ARG002  the same for all
        """Return True: to look is cheap here."""
        return True

    async def upcoming(self, limit: int) -> list[Upcoming]:
        """Read the first pending schedules."""
        found = (
            "SELECT flag_set, flag_key, execute_ms, id FROM schedules"
            " WHERE state = ? ORDER BY execute_ms, number LIMIT ?"
        )

        def work(db: Any) -> list[Upcoming]:
            now = _ms(self._now())
            rows = db.execute(found, (State.PENDING, limit))
            return [Upcoming(FlagId(flag_set, key), (at - now) / 1000, each) for flag_set, key, at, each in rows]

        return await self._run(work)  # type: ignore[no-any-return]

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

        def work(db: Any) -> Entry | None:
            with transaction(db, "IMMEDIATE"):
                attempt.begin()
                if request is not None and (known := sqlite_requests.known_outcome(db, request, OUTCOME)) is not None:
                    attempt.answered(known)
                    flag = self._read(db, flag_id)
                    return Entry.of(flag) if flag is not None else Entry.absent(flag_id, known.executed_revision)
                now = self._now()
                schedule = _get(db, flag_id.flag_set, schedule_id) if schedule_id else _due(db, flag_id, now)
                if schedule is None:
                    return None
                if schedule.state not in RUNNABLE:
                    raise ScheduleEnded(f'Schedule "{schedule_id}" has ended: it is {schedule.state}')
                attempt.claimed(schedule, now, sqlite_tokens.read_records(db, schedule.creator.record_ids))
                entry = self._change(db, flag_id, decide)
                ended = attempt.ended(entry.revision if entry is not None else 0)
                _put(db, ended.schedule)
                if request is not None:
                    sqlite_requests.note(db, request, OUTCOME, ended.schedule)
                _rebase(db, schedule, ended.rebased)
                if ended.entry is not None:
                    sqlite_audit.insert(db, [ended.entry])
                return entry

        return await self._run(work)  # type: ignore[no-any-return]

    def _now(self) -> datetime:
        """Return the time as stores keep it, in milliseconds."""
        at = self._clock()
        return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


def _due(db: Any, flag_id: FlagId, now: datetime) -> Schedule | None:
    """Return the flag's earliest schedule that is due. One that is malformed fails."""
    row = db.execute(
        f"SELECT id, document FROM schedules WHERE {_OF_FLAG} AND state = ? AND execute_ms <= ?"  # noqa: S608
        " ORDER BY execute_ms, number LIMIT 1",
        (*flag_id, State.PENDING, _ms(now)),
    ).fetchone()
    if row is None:
        return None
    try:
        return _schedule(*row)
    except ChangeRefused:
        log.error("schedule_malformed", schedule=row[0][:64])  # noqa: TRY400  the cause is its content
        db.execute("UPDATE schedules SET state = ?, ended_ms = ? WHERE id = ?", (State.FAILED, _ms(now), row[0]))
        return None


def _rebase(db: Any, schedule: Schedule, digests: Mapping[str, str]) -> None:
    """Let later schedules of the flag take what this one has changed for what was there when they were planned."""
    order = _ms(schedule.execute_at), schedule.number
    for name, digest in digests.items():
        path = f"$.base.{name}"
        db.execute(
            f"UPDATE schedules SET document = json_set(document, ?, ?) WHERE {_OF_FLAG} AND state = ?"  # noqa: S608
            " AND (execute_ms, number) > (?, ?) AND json_extract(document, ?) IS NOT NULL",
            (path, digest, *schedule.flag_id, State.PENDING, *order, path),
        )


def _page(db: Any, query: ScheduleQuery, size: int) -> list[Schedule]:
    conditions, values = ["flag_set = ?"], [query.flag_set]
    if query.flag_key:
        conditions.append("flag_key = ?")
        values.append(query.flag_key)
    if query.states:
        conditions.append(f"state IN ({', '.join('?' * len(query.states))})")
        values += query.states
    after = query.after or (-(2**62), 0)
    rows = db.execute(
        f"SELECT id, document FROM schedules WHERE {' AND '.join(conditions)}"  # noqa: S608
        " AND (execute_ms, number) > (?, ?) ORDER BY execute_ms, number LIMIT ?",
        (*values, *after, size),
    )
    return [schedule for schedule in (_readable(*row) for row in rows) if schedule is not None]


def _get(db: Any, flag_set: str, schedule_id: str) -> Schedule:
    row = db.execute("SELECT document FROM schedules WHERE id = ? AND flag_set = ?", (schedule_id, flag_set)).fetchone()
    if row is None:
        raise ScheduleNotFound(schedule_id)
    return _schedule(schedule_id, row[0])


def _put(db: Any, schedule: Schedule) -> None:
    ended_ms = _ms(schedule.ended_at) if schedule.ended_at is not None else None
    times = schedule.state, _ms(schedule.execute_at), ended_ms
    row = schedule.id, schedule.number, *schedule.flag_id, *times, to_json(schedule)
    db.execute("INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _schedule(schedule_id: str, document: str) -> Schedule:
    """Read a row. Raises ChangeRefused."""
    try:
        return from_json(schedule_id, document)
    except (ValueError, TypeError):
        raise ChangeRefused(MALFORMED) from None


def _readable(schedule_id: str, document: str) -> Schedule | None:
    try:
        return _schedule(schedule_id, document)
    except ChangeRefused:
        log.warning("schedule_malformed", schedule=schedule_id[:64])
        return None


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
