"""One execution of a schedule, as a store's transaction runs it. It begins again if the transaction is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.core.access.records import Record
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Author
from flagsvc.core.model import ANONYMOUS, Change, Flag
from flagsvc.core.schedules.decisions import checked, due, on_request, rebased
from flagsvc.core.schedules.model import RUNNABLE, Schedule, State
from flagsvc.ports.schedules import Ended

_WORDS = {
    State.MISSED: "ScheduleMissed",
    State.HELD: "ScheduleHeld",
    State.SKIPPED: "ScheduleSkipped",
    State.FAILED: "ScheduleFailed",
}
"""Actions of audit entries. An executed schedule has its entry in the flag's history."""


class DueAttempt:
    """Executes a schedule because its time has come. `schedule`: the one that was taken, in its state before."""

    def __init__(self, rights: PlannedRights, *, is_patient: bool = True) -> None:
        self._rights, self.is_patient = rights, is_patient
        self.schedule: Schedule | None = None
        self.result: Schedule | None = None
        self._change: Change | None = None

    def begin(self) -> None:
        """Forget what an earlier transaction has decided."""
        self.schedule = self.result = self._change = None

    def claimed(self, schedule: Schedule, now: datetime, records: Mapping[str, Record]) -> None:
        """Take what the store has read."""
        self.schedule, self._now, self._records = schedule, now, records

    def decide(self, flag: Flag | None) -> Change | None:
        """Decide about the flag. Raises PermissionDenied, FlagNotFound, InvalidRequest or AccessUnknown."""
        schedule = self._taken
        if self._now - schedule.execute_at <= timedelta(seconds=schedule.max_lateness_s):
            self._rights.check(schedule.creator, self._records, schedule.flag_id.flag_set, self._now)
        self.result, self._change = due(schedule, flag, self._now)
        return self._change

    def answered(self, schedule: Schedule) -> None:
        """Take how it ended before."""
        self.result = schedule

    def ended(self, revision: int) -> Ended:
        """Return how it ends."""
        assert self.result is not None  # noqa: S101  a store decides before it asks
        self.result = replace(self.result, executed_revision=revision, version=self.result.version + 1)
        entry = entry_of(self.result) if self.result.state in _WORDS else None
        return Ended(self.result, rebased(self._change) if self._change is not None else {}, entry)

    @property
    def _taken(self) -> Schedule:
        assert self.schedule is not None  # noqa: S101  a store takes a schedule before it decides
        return self.schedule


class RequestedAttempt(DueAttempt):
    """Executes a schedule because somebody asks for it, with the rights of who asks."""

    def __init__(self, rights: PlannedRights, author: Author, etag: int | None) -> None:
        super().__init__(rights)
        self._author, self._etag = author, etag

    def decide(self, flag: Flag | None) -> Change | None:
        """Decide about the flag. Raises FlagNotFound, InvalidRequest, ScheduleEnded and ScheduleConflict."""
        schedule = checked(self._taken, self._etag, RUNNABLE)
        self.result, self._change = on_request(schedule, flag, self._now, self._author)
        return self._change


def entry_of(schedule: Schedule) -> AuditEntry:
    """Return the audit entry of a schedule that was not executed."""
    return AuditEntry(
        at=schedule.ended_at or schedule.execute_at,
        actor=str(schedule.creator) or schedule.actor or ANONYMOUS,
        on_behalf_of=schedule.actor if str(schedule.creator) else "",
        action=_WORDS[schedule.state],
        flag_set=schedule.flag_id.flag_set,
        subject=schedule.flag_id.key,
        reason=f"{schedule.via}: {schedule.detail}"[:255],
    )
