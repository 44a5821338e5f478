"""The schedules of a store. Planning takes no revision; executing one is an ordinary write of its flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from flagsvc.core.access.records import Record
from flagsvc.core.audit import AuditEntry
from flagsvc.core.changes import Decide
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.schedules.model import Schedule, State
from flagsvc.ports.changes import Entry


class Room(NamedTuple):
    """What a store knows at the moment at which a schedule is created. `number`: the new schedule's."""

    number: int
    now: datetime
    flag: Flag | None
    open_of_flag: int
    open_of_store: int


class Upcoming(NamedTuple):
    """A pending schedule, and in how many seconds it is due by the store's clock; below 0: it is due."""

    flag_id: FlagId
    wait_s: float
    id: str


class Ended(NamedTuple):
    """How an attempt ends: the schedule's next state, what later ones of the flag compare with, and an audit entry."""

    schedule: Schedule
    rebased: Mapping[str, str]
    entry: AuditEntry | None


class Attempt(Protocol):
    """One execution. A store begins it again if its transaction has to be repeated, and may then find nothing due."""

    is_patient: bool
    """Whether to wait for another transaction that is in the way: it may be that of a process that died."""

    def begin(self) -> None:
        """Forget what an earlier transaction has read and decided: it was not committed."""

    def claimed(self, schedule: Schedule, now: datetime, records: Mapping[str, Record]) -> None:
        """Take the schedule, the store's time, and the stored records that its creator's rights depend on."""

    def answered(self, schedule: Schedule) -> None:
        """Take how it ended when it was executed for an equal request: nothing is claimed, decided and stored."""

    def ended(self, revision: int) -> Ended:
        """Return how it ends, after the flag's change was decided. `revision`: the change's; 0 without a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleQuery:
    """Which schedules are listed. `after`: time in ms since 1970, and number, of the last one of the page before."""

    flag_set: str
    flag_key: str = ""
    states: Sequence[State] = ()
    after: tuple[int, int] | None = None


class ScheduleStore(Protocol):
    """Where schedules are kept. Every method raises StoreUnavailable when the store cannot be asked in time.

    Whether a schedule is due is decided by the store's own clock, within the statement that takes it.
    """

    async def create(
        self,
        flag_id: FlagId,
        decide: Callable[[Room], Schedule],
        entry: AuditEntry,
        known_id: str = "",
        *,
        dry_run: bool = False,
    ) -> Schedule:
        """Store what `decide` returns, with its audit entry, in one atomic step.

        `known_id`: an id under which it may be stored already; then that schedule is returned, and nothing is stored.
        `dry_run`: store nothing. Raises what `decide` raises, and what `FlagStore.write` raises for the planned change.
        """

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
        """Decide about one schedule in one atomic step. None: nothing is changed. Raises ScheduleNotFound.

        `is_new_plan`: the planned change is checked as by `create`. `request`: as in `FlagStore.write`. `dry_run`:
        store nothing.
        """

    async def get(self, flag_set: str, schedule_id: str) -> Schedule:
        """Read one schedule. Raises ScheduleNotFound."""

    async def page(self, query: ScheduleQuery, size: int) -> list[Schedule]:
        """Read the first schedules that match, in the order of their time, then of their creation."""

    def may_be_pending(self, flag_set: str) -> bool:
        """Whether schedules of a set may have been pending at this process's last write to it: True if not known."""

    async def upcoming(self, limit: int) -> list[Upcoming]:
        """Read the first pending schedules, in the order of their time."""

    async def execute(
        self,
        flag_id: FlagId,
        schedule_id: str,
        attempt: Attempt,
        decide: Decide,
        *,
        request: WriteRequest | None = None,
    ) -> Entry | None:
        """Take the flag's earliest due schedule and store what `decide` decides, both or neither; None: no change.

        With an id it is this one, whenever it is due. `request`: the execution is remembered with it; where it was made
        before, the flag is returned as it is now. Raises what the attempt and `decide` raise, ScheduleNotFound and
        ScheduleEnded.
        """
