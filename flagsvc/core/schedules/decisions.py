"""What a schedule does to a flag: conflicts by field, and the change itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from flagsvc.core import changes
from flagsvc.core.changes import Author, Decide
from flagsvc.core.documents import json_safe, to_document
from flagsvc.core.errors import (
    FlagNotFound,
    QuotaExceeded,
    ScheduleConflict,
    ScheduleEnded,
    invalid,
)
from flagsvc.core.json_values import same
from flagsvc.core.model import STORED_NAMES, Change, Flag, JsonValue, Status
from flagsvc.core.schedules.model import (
    MAX_AHEAD,
    MAX_OPEN,
    MAX_OPEN_OF_FLAG,
    OPEN,
    Conflict,
    ConflictKind,
    OnConflict,
    Schedule,
    State,
)

_CREATED, _SWITCHED_OFF = "createdAt", "disabledAt"
_DIGEST_CHARS = 32


def planned(schedule: Schedule, flag: Flag | None, now: datetime) -> Schedule:
    """Return a schedule as it is planned on the flag of this moment. Raises FlagNotFound and InvalidRequest.

    The change is tried, so that one that is not valid is refused now.
    """
    if flag is None:
        raise FlagNotFound(schedule.flag_id.key)
    if not now < schedule.execute_at <= now + MAX_AHEAD:
        wanted = f"after now, {json_safe(now)} by the store's clock, and within {MAX_AHEAD.days} days"
        raise invalid("schedule.execute_time", json_safe(schedule.execute_at), wanted)
    change_of(schedule, flag, Author(now))
    return replace(
        schedule,
        base=_base(schedule, flag),
        base_revision=flag.revision,
        state=State.PENDING,
        conflicts=(),
        detail="",
        ended_at=None,
    )


def check_room(open_of_flag: int, open_of_store: int) -> None:
    """Raise QuotaExceeded if there are as many schedules as there may be."""
    if open_of_flag >= MAX_OPEN_OF_FLAG:
        raise QuotaExceeded(f"the flag has {MAX_OPEN_OF_FLAG} schedules that have not ended: cancel some first")
    if open_of_store >= MAX_OPEN:
        raise QuotaExceeded(f"the store has {MAX_OPEN} schedules that have not ended: cancel some first")


def checked(schedule: Schedule, etag: int | None, states: Collection[State] = OPEN) -> Schedule:
    """Return a schedule that is in one of these states, and has this etag. Raises ScheduleEnded, ScheduleConflict."""
    if schedule.state not in states:
        raise ScheduleEnded(f'Schedule "{schedule.id}" has ended: it is {schedule.state}')
    _check_etag(schedule, etag)
    return schedule


def _check_etag(schedule: Schedule, etag: int | None) -> None:
    """Raise ScheduleConflict unless the schedule still has this etag; None: it is not asked for."""
    if etag is not None and schedule.version != etag:
        state = f'Schedule "{schedule.id}" is at etag {schedule.etag}, not "{etag}"'
        raise ScheduleConflict(f"{state}: read it again, then repeat the change")


def ended(
    schedule: Schedule, state: State, now: datetime, detail: str = "", conflicts: Sequence[Conflict] = ()
) -> Schedule:
    """Return a schedule at its end, or held."""
    at = None if state in OPEN else now
    return replace(schedule, state=state, ended_at=at, detail=detail, conflicts=tuple(conflicts))


def due(schedule: Schedule, flag: Flag | None, now: datetime) -> tuple[Schedule, Change | None]:
    """Decide about a schedule whose time has come: return its next state, and the change if it is executed.

    Raises FlagNotFound if the flag is gone, and InvalidRequest if the changed flag would not be valid.
    """
    if now - schedule.execute_at > timedelta(seconds=schedule.max_lateness_s):
        detail = f"it was due at {json_safe(schedule.execute_at)}, and {schedule.max_lateness_s:g} s late is too late"
        return ended(schedule, State.MISSED, now, detail), None
    current = _present(schedule, flag)
    conflicts = conflicts_of(schedule, current)
    if conflicts and schedule.on_conflict is not OnConflict.APPLY:
        state = State.HELD if schedule.on_conflict is OnConflict.HOLD else State.SKIPPED
        return ended(schedule, state, now, conflicts[0].detail, conflicts), None
    author = Author(now, schedule.actor, schedule.reason, str(schedule.creator), schedule.via)
    return ended(schedule, State.EXECUTED, now, conflicts=conflicts), change_of(schedule, current, author)


def on_request(schedule: Schedule, flag: Flag | None, now: datetime, author: Author) -> tuple[Schedule, Change]:
    """Execute a schedule because somebody wants it now, whatever has changed. Raises as `due`."""
    current = _present(schedule, flag)
    change = change_of(schedule, current, replace(author, at=now, via=schedule.via))
    return ended(schedule, State.EXECUTED, now, conflicts=conflicts_of(schedule, current)), change


def conflicts_of(schedule: Schedule, flag: Flag) -> list[Conflict]:
    """Return which fields of the schedule have changed since it was planned, except by an earlier schedule.

    A field that has the planned value already is none.
    """
    now, wanted = to_document(flag), to_document(schedule.patch)
    is_off = flag.status not in (Status.ENABLED, Status.BETA)
    found = []
    if schedule.switches_on and is_off and schedule.base.get(_SWITCHED_OFF) != digest(now.get(_SWITCHED_OFF)):
        detail = "the flag was switched off after this was planned, and would be switched on again"
        found.append(Conflict(ConflictKind.SWITCHED_OFF, "status", detail))
    for name in (STORED_NAMES[each] for each in schedule.fields):
        is_known = found and name == "status"
        if (
            schedule.base.get(name) != digest(now.get(name))
            and not is_known
            and not same(now.get(name), wanted.get(name))
        ):
            detail = f"{name} was changed after this was planned (revision {schedule.base_revision})"
            found.append(Conflict(ConflictKind.FIELD_CHANGED, name, detail))
    return found


def change_of(schedule: Schedule, flag: Flag, author: Author) -> Change:
    """Return the change, as UpdateFlag would make it, or ToggleFlag. Raises InvalidRequest."""
    status = schedule.patch.status
    if schedule.fields == ("status",) and status in (Status.ENABLED, Status.DISABLED):
        decide = changes.toggle(flag.key, status is Status.ENABLED, None, author)
    else:
        decide = changes.update(schedule.patch, list(schedule.fields), None, author)
    change = decide(flag)
    assert change is not None  # noqa: S101  both always change something
    return change


def trial(schedule: Schedule, now: datetime) -> Decide:
    """Return the decision with which a store checks what the planned change refers to, as a write of now."""
    return lambda flag: change_of(schedule, flag, Author(now)) if flag is not None else None


def rebased(change: Change) -> Mapping[str, str]:
    """Return what later schedules of the flag compare with after this change, which a schedule has made."""
    after = to_document(change.after) if change.after is not None else {}
    names = [*(change.new or ())]
    if "status" in names:
        names.append(_SWITCHED_OFF)
    return {name: digest(after.get(name)) for name in names}


def digest(value: JsonValue) -> str:
    """Return a digest of a stored field's value."""
    text = json.dumps(json_safe(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def _present(schedule: Schedule, flag: Flag | None) -> Flag:
    if flag is None or schedule.base.get(_CREATED) != digest(to_document(flag).get(_CREATED)):
        raise FlagNotFound(schedule.flag_id.key)  # a flag that was created again under the key is another one
    return flag


def _base(schedule: Schedule, flag: Flag) -> dict[str, str]:
    document = to_document(flag)
    names = [*(STORED_NAMES[each] for each in schedule.fields), _CREATED]
    if schedule.switches_on:
        names.append(_SWITCHED_OFF)
    return {name: digest(document.get(name)) for name in names}
