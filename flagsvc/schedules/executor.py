"""Executes due schedules: one task of a process. Every replica tries, and the store lets one of them succeed.

It reads the first pending schedules by an index, sleeps until the earliest is due, and reads again every few seconds,
because other replicas plan too. Nothing else wakes it, and no clock but the store's decides.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import structlog

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.background import BackgroundTasks, backoff_s, cause_of
from flagsvc.core.errors import (
    AccessUnknown,
    ChangeRefused,
    FlagNotFound,
    FlagsvcError,
    PermissionDenied,
    StoreForbidden,
    StoreUnavailable,
    WritesUnsupported,
)
from flagsvc.core.model import ANONYMOUS, Flag, FlagId
from flagsvc.core.schedules.decisions import ended
from flagsvc.core.schedules.model import Conflict, ConflictKind, Schedule, State
from flagsvc.ports.reports import Problem
from flagsvc.ports.schedules import ScheduleStore, Upcoming
from flagsvc.schedules.attempts import DueAttempt, entry_of
from flagsvc.schedules.progress import Progress
from flagsvc.serving.writer import Writer

POLL_S = 5.0
"""Longest time between two reads: so late can a schedule be that another replica planned for now and then died."""
LOOK_AGAIN_S = 0.5
"""The same after something was due: another replica may have had it, and failed."""
JITTER_S = 0.1
GO_ON_S, LEAVE_S = (0.01, 0.05), (0.25, 0.5)
"""The same, from and to, after another writer was in the way: of the replica that has executed some, and of others."""
BATCH = 100
MIN_RETRY_S, MAX_RETRY_S, MAX_FORBIDDEN_S = 0.1, 5.0, 60.0
_LATER = (StoreUnavailable, AccessUnknown, WritesUnsupported)
"""Errors after which the schedule stays pending and is tried again."""
_EVENTS = {
    State.MISSED: "schedule_missed",
    State.FAILED: "schedule_failed",
    State.HELD: "schedule_held",
    State.SKIPPED: "schedule_skipped",
}

log = structlog.get_logger(__name__)


class ScheduleExecutor:
    """The executor of one replica. `outcomes`: how many schedules ended here, by state."""

    def __init__(self, store: ScheduleStore, writer: Writer, rights: PlannedRights) -> None:
        self._store, self._writer, self._rights = store, writer, rights
        self.outcomes: Counter[State] = Counter()
        self.lateness_s = self.max_lateness_s = 0.0
        self.due = 0
        self._overdue_since = 0.0
        self._failures = 0
        self._is_forbidden = False
        self._progress = Progress()
        self._woken = asyncio.Event()
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._tasks.start(self._run(), "schedules")

    async def close(self) -> None:
        """Stop. What is being written is written."""
        await self._tasks.close()

    def wake(self) -> None:
        """Look now: a schedule was planned here."""
        self._woken.set()

    @property
    def overdue_s(self) -> float:
        """How long the earliest due schedule has waited, as of now."""
        return time.monotonic() - self._overdue_since if self.due else 0.0

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps this replica from executing schedules, where it is not the store's being away."""
        if self._is_forbidden:
            detail = "the store's user may not read schedules, so this replica executes none"
            yield Problem("schedules_forbidden", detail, "grant the rights that docs/operating.md lists")

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """Return the name, meaning and value of each count."""
        yield "flagsvc_schedules_due", "Due schedules that no replica had executed, at the last look.", self.due
        yield "flagsvc_schedules_overdue_seconds", "How long the earliest of them has waited.", self.overdue_s
        about = "Schedules that were executed here."
        yield "flagsvc_schedules_executed_total", about, self.outcomes[State.EXECUTED]
        about = "Schedules that were found here too late to be executed."
        yield "flagsvc_schedules_missed_total", about, self.outcomes[State.MISSED]
        about = "Schedules whose change was not possible, or whose creator had lost the right to it."
        yield "flagsvc_schedules_failed_total", about, self.outcomes[State.FAILED]
        about = "Schedules that conflict with a later change and wait for a decision."
        yield "flagsvc_schedules_held_total", about, self.outcomes[State.HELD]
        about = "Schedules that conflicted and were left out, as planned."
        yield "flagsvc_schedules_skipped_total", about, self.outcomes[State.SKIPPED]
        about = "Seconds by which schedules that were executed here were late, summed."
        yield "flagsvc_schedules_lateness_seconds_total", about, self.lateness_s
        about = "Seconds by which the latest schedule that was executed here was late."
        yield "flagsvc_schedules_lateness_max_seconds", about, self.max_lateness_s

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause_s = await self._look()
                self._failures, self._is_forbidden = 0, False
            except FlagsvcError as error:
                pause_s = self._retry_s(error)
            except Exception:
                log.exception("schedules_failed", detail="It is tried again.")
                pause_s = self._retry_s(None)
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _look(self) -> float:
        """Execute what is due; return after how many seconds to look again."""
        upcoming = await self._store.upcoming(BATCH)
        due = [each for each in upcoming if each.wait_s <= 0]
        self._note_due(due)
        problem: FlagsvcError | None = None
        executed = 0
        for of_set in self._progress.look(due):
            try:
                executed += await self._execute_all(of_set)
            except _LATER as error:
                problem = error
        if problem is not None:
            raise problem
        if executed < len(due):
            return random.uniform(*GO_ON_S if executed else LEAVE_S)  # noqa: S311  jitter is no secret
        self._note_due([])
        if len(due) == BATCH:
            return 0
        waits = [each.wait_s for each in upcoming if each.wait_s > 0]
        return min([LOOK_AGAIN_S if due else POLL_S, *waits]) + random.uniform(0, JITTER_S)  # noqa: S311  jitter is no secret

    async def _execute_all(self, due: Sequence[Upcoming]) -> int:
        """Execute what is due of a set until another writer is in the way. Return how many. Raises as `_execute`."""
        problem: FlagsvcError | None = None
        executed, flag_set = 0, due[0].flag_id.flag_set
        for each in due:
            try:
                if not await self._execute(each.flag_id, is_patient=self._progress.is_stuck(each)):
                    break
                executed += 1
            except _LATER as error:
                problem = error
        if problem is not None:
            raise problem
        if executed:
            self._progress.go_on(flag_set)
        else:
            self._progress.leave(flag_set)
        return executed

    def _note_due(self, due: list[Upcoming]) -> None:
        self.due = len(due)
        if due:
            self._overdue_since = time.monotonic() + due[0].wait_s

    async def _execute(self, flag_id: FlagId, *, is_patient: bool) -> bool:
        """Execute the flag's earliest due schedule. Return whether it was done here. Raises what is in _LATER.

        `is_patient`: wait for another replica that is at it, which may have died.
        """
        attempt, store = DueAttempt(self._rights, is_patient=is_patient), self._store
        try:
            await self._writer.write(
                flag_id, attempt.decide, through=lambda flag_id, decide: store.execute(flag_id, "", attempt, decide)
            )
        except ChangeRefused as error:
            await self._fail(attempt, ConflictKind.REFUSED, str(error))
        except _LATER:
            raise
        except PermissionDenied as error:
            await self._fail(attempt, ConflictKind.PERMISSION_LOST, str(error))
        except FlagNotFound:
            await self._fail(attempt, ConflictKind.FLAG_GONE, "the flag was deleted, or created again since")
        except FlagsvcError as error:
            await self._fail(attempt, ConflictKind.REFUSED, str(error))
        except Exception:
            log.exception("schedule_attempt_failed")
            await self._fail(attempt, ConflictKind.REFUSED, "an internal error occurred; it is in the log")
        else:
            if attempt.result is not None:
                self._ended(attempt.result)
        return attempt.schedule is not None

    async def _fail(self, attempt: DueAttempt, kind: ConflictKind, detail: str) -> None:
        """Record a failure. The transaction that failed has left no trace, so this is another one."""
        schedule = attempt.schedule
        if schedule is None:
            raise StoreUnavailable(cause=detail)
        now = datetime.now(UTC)
        failed = ended(schedule, State.FAILED, now, detail, [Conflict(kind, "", detail)])

        def decide(current: Schedule, _flag: Flag | None, at: datetime) -> Schedule | None:
            is_same = current.state is State.PENDING and current.version == schedule.version
            return ended(current, State.FAILED, at, detail, failed.conflicts) if is_same else None

        entry = entry_of(failed)
        stored = await self._store.change(schedule.flag_id.flag_set, schedule.id, decide, entry)
        if stored.state is State.FAILED:
            self._ended(stored)

    def _ended(self, schedule: Schedule) -> None:
        self.outcomes[schedule.state] += 1
        about = {
            "schedule": schedule.id,
            "flag_set": schedule.flag_id.flag_set,
            "flag_key": schedule.flag_id.key,
            "planned_by": str(schedule.creator) or schedule.actor or ANONYMOUS,
        }
        if schedule.state is State.EXECUTED:
            late_s = schedule.late_s
            self.lateness_s += late_s
            self.max_lateness_s = max(self.max_lateness_s, late_s)
            log.info("schedule_executed", **about, revision=schedule.executed_revision, late_s=round(late_s, 3))
        else:
            log.warning(_EVENTS[schedule.state], **about, detail=schedule.detail)

    def _retry_s(self, error: FlagsvcError | None) -> float:
        """Return after how many seconds to try again; log the first of several failures in a row."""
        self._failures += 1
        self._is_forbidden = isinstance(error, StoreForbidden)
        if self._failures == 1 and error is not None:
            detail = "Due schedules are executed late, or missed, until this works."
            log.warning("schedules_not_executed", error=str(error), cause=cause_of(error), detail=detail)
        return backoff_s(self._failures, MIN_RETRY_S, MAX_FORBIDDEN_S if self._is_forbidden else MAX_RETRY_S)
