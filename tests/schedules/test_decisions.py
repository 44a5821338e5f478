"""What a schedule does to a flag, without a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import FlagNotFound, InvalidRequest, QuotaExceeded, ScheduleConflict, ScheduleEnded
from flagsvc.core.model import Action, Flag, Status
from flagsvc.core.schedules.decisions import check_room, checked, due, on_request, planned, rebased
from flagsvc.core.schedules.documents import from_document, from_json, to_document, to_json
from flagsvc.core.schedules.model import Conflict, ConflictKind, Creator, OnConflict, Schedule, State
from flagsvc.core.schedules.preview import previewed
from flagsvc.core.schedules.zones import instant_of, local_text, zone_of
from tests.schedules.plans import NOON, plan

HOUR = timedelta(hours=1)
OFF = Flag(key="chat", created_at=NOON - 24 * HOUR, revision=7, variants={"a": 1, "b": 2}, default_variant="a")


def at_noon(schedule: Schedule, flag: Flag = OFF) -> Schedule:
    """The schedule as it is planned at noon for one o'clock."""
    return planned(replace(schedule, execute_at=NOON + HOUR), flag, NOON)


def later(flag: Flag, **fields: object) -> Flag:
    """The flag after a change by somebody else at half past twelve."""
    wanted = replace(flag, **fields)  # type: ignore[arg-type]
    change = changes.update(wanted, list(fields), None, Author(NOON + HOUR / 2))(flag)
    assert change is not None
    assert change.after is not None
    return change.after


def switched(flag: Flag, *, on: bool, minute: int) -> Flag:
    change = changes.toggle("chat", on, None, Author(NOON + timedelta(minutes=minute)))(flag)
    assert change is not None
    assert change.after is not None
    return change.after


def test_it_is_executed_as_toggle_flag_would_with_its_creator_and_via() -> None:
    schedule = at_noon(plan(creator=Creator("token", "abc"), actor="ann", reason="launch"))
    result, change = due(schedule, OFF, NOON + HOUR)
    assert change is not None
    assert (result.state, result.ended_at, result.conflicts) == (State.EXECUTED, NOON + HOUR, ())
    assert (change.action, change.previous, change.new) == (
        Action.ENABLED,
        {"status": "DISABLED"},
        {"status": "ENABLED"},
    )
    assert (change.caller, change.actor, change.reason) == ("token:abc", "ann", "launch")
    assert (change.via, change.at) == (f"schedule/{schedule.id}", NOON + HOUR)


@pytest.mark.parametrize(
    ("on_conflict", "state"),
    [(OnConflict.HOLD, State.HELD), (OnConflict.SKIP, State.SKIPPED), (OnConflict.APPLY, State.EXECUTED)],
)
def test_a_changed_field_of_the_mask_is_a_conflict(on_conflict: OnConflict, state: State) -> None:
    schedule = at_noon(plan(owner="payments", on_conflict=on_conflict))
    result, change = due(schedule, later(OFF, owner="search"), NOON + HOUR)
    assert (result.state, change is not None) == (state, state is State.EXECUTED)
    assert [(each.kind, each.field) for each in result.conflicts] == [(ConflictKind.FIELD_CHANGED, "owner")]
    assert (result.ended_at is None) == (state is State.HELD)


def test_other_fields_and_equal_values_are_none() -> None:
    schedule = at_noon(plan(owner="payments"))
    for flag in (later(OFF, name="Chat", default_variant="b"), later(OFF, owner="payments"), replace(OFF, revision=99)):
        assert due(schedule, flag, NOON + HOUR)[0].state is State.EXECUTED


def test_a_flag_that_was_switched_off_is_not_switched_on_by_an_older_schedule_unless_it_says_so() -> None:
    """It was off when the schedule was made, on for a while, then off again: its status is what it was."""
    killed = switched(switched(OFF, on=True, minute=10), on=False, minute=20)
    schedule = at_noon(plan())
    result, change = due(schedule, killed, NOON + HOUR)
    assert (result.state, change) == (State.HELD, None)
    assert [each.kind for each in result.conflicts] == [ConflictKind.SWITCHED_OFF]
    bold = due(replace(schedule, on_conflict=OnConflict.APPLY), killed, NOON + HOUR)
    assert bold[0].state is State.EXECUTED
    assert due(at_noon(plan(status=Status.DISABLED)), killed, NOON + HOUR)[0].state is State.EXECUTED, (
        "off stays allowed"
    )


def test_what_an_earlier_schedule_changed_is_no_conflict() -> None:
    first, second = at_noon(plan(status=Status.DISABLED, on_conflict=OnConflict.APPLY)), at_noon(plan())
    _, change = due(first, switched(OFF, on=True, minute=10), NOON + HOUR)
    assert change is not None
    moved = replace(second, base={**second.base, **rebased(change)})
    assert due(second, change.after, NOON + HOUR)[0].state is State.HELD
    assert due(moved, change.after, NOON + HOUR)[0].state is State.EXECUTED


def test_too_late_is_missed_whatever_else_is_so() -> None:
    schedule = at_noon(plan(max_lateness_s=60.0))
    in_time, too_late = NOON + HOUR + timedelta(seconds=60), NOON + HOUR + timedelta(seconds=60.001)
    assert due(schedule, OFF, in_time)[0].state is State.EXECUTED
    result, change = due(schedule, None, too_late)
    assert (result.state, change, result.ended_at) == (State.MISSED, None, too_late)
    assert "60 s late is too late" in result.detail


def test_a_flag_that_is_gone_or_was_created_again_is_another_one() -> None:
    schedule = at_noon(plan())
    for flag in (None, replace(OFF, created_at=NOON + HOUR / 2)):
        with pytest.raises(FlagNotFound):
            due(schedule, flag, NOON + HOUR)


def test_a_variant_that_is_gone_makes_the_change_impossible() -> None:
    schedule = at_noon(plan(default_variant="b"))
    with pytest.raises(InvalidRequest, match="default_variant"):
        due(schedule, later(OFF, variants={"a": 1}), NOON + HOUR)


def test_on_request_nothing_holds_it_and_conflicts_are_noted() -> None:
    schedule = at_noon(plan(owner="payments"))
    author = Author(NOON, "bob", "now", "token:b")
    result, change = on_request(schedule, later(OFF, owner="search"), NOON + HOUR / 2, author)
    assert (result.state, len(result.conflicts), change.caller) == (State.EXECUTED, 1, "token:b")
    assert (change.via, change.at) == (f"schedule/{schedule.id}", NOON + HOUR / 2)


def test_what_cannot_be_planned_is_refused_with_the_field_and_the_stores_time() -> None:
    for execute_at in (NOON, NOON - HOUR, NOON + timedelta(days=4_000)):
        with pytest.raises(InvalidRequest, match=r"schedule.execute_time .*2026-11-30T12:00:00.000Z"):
            planned(replace(plan(), execute_at=execute_at), OFF, NOON)
    with pytest.raises(InvalidRequest, match="default_variant"):
        at_noon(plan(default_variant="c"))
    with pytest.raises(FlagNotFound):
        planned(replace(plan(), execute_at=NOON + HOUR), None, NOON)
    for counts in ((100, 0), (0, 10_000)):
        with pytest.raises(QuotaExceeded):
            check_room(*counts)


def test_one_that_has_ended_or_has_another_etag_is_not_changed() -> None:
    schedule = replace(plan(), version=3)
    assert checked(schedule, 3) is checked(schedule, None) is schedule
    with pytest.raises(ScheduleConflict, match='etag "3", not "2"'):
        checked(schedule, 2)
    with pytest.raises(ScheduleEnded, match="MISSED"):
        checked(replace(schedule, state=State.MISSED), None)


def test_a_schedule_is_read_back_whole_as_document_and_as_json() -> None:
    conflict = Conflict(ConflictKind.FIELD_CHANGED, "owner", "it was changed")
    schedule = replace(
        at_noon(
            plan(
                targeting='{"$ref":"x"}',
                evaluators={"x": '"a"'},
                expires_at=NOON,
                creator=Creator("jwt", "i|s", {"names": ["i|s"]}),
            )
        ),
        conflicts=(conflict,),
        detail="why",
        ended_at=NOON + HOUR,
        executed_revision=8,
        zone="Europe/Berlin",
        number=5,
    )
    assert from_document(schedule.id, to_document(schedule)) == schedule
    assert from_json(schedule.id, to_json(schedule)) == schedule
    for name in ("patch", "executeAt", "creator", "state", "base", "version"):
        with pytest.raises(ValueError, match=r"malformed|nonsense|could not|Invalid|Expecting"):
            from_document(schedule.id, {**to_document(schedule), name: "nonsense"})


@pytest.mark.parametrize(
    ("local", "instant"),
    [
        ("2026-12-01T09:00", "2026-12-01T08:00:00+00:00"),
        ("2026-07-01T09:00:30", "2026-07-01T07:00:30+00:00"),
        ("2026-10-25T02:30", "2026-10-25T00:30:00+00:00"),
        ("2026-03-29T02:30", "2026-03-29T01:00:00+00:00"),
        ("2026-03-29T02:00", "2026-03-29T01:00:00+00:00"),
        ("2026-03-29T03:00", "2026-03-29T01:00:00+00:00"),
    ],
    ids=["winter", "summer", "twice", "gap", "its first moment", "after the gap"],
)
def test_local_times_are_moments_also_where_clocks_change(local: str, instant: str) -> None:
    assert instant_of(local, ZoneInfo("Europe/Berlin"), "f") == datetime.fromisoformat(instant)


def test_local_times_are_shown_with_their_offset() -> None:
    assert local_text(datetime(2026, 12, 1, 8, tzinfo=UTC), "Europe/Berlin") == "2026-12-01T09:00:00+01:00"
    assert zone_of("", "f").key == "UTC"


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../etc/passwd", "/etc/localtime", "a" * 100, "Zürich", "\0"])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="IANA"):
        zone_of(name, "schedule.time_zone")


@pytest.mark.parametrize("local", ["tomorrow", "2026-12-01T09:00+01:00", "2026-12-01T09:00Z", "0001-01-01T00:00"])
def test_a_local_time_that_is_none_is_refused(local: str) -> None:
    with pytest.raises(InvalidRequest, match="local time"):
        instant_of(local, ZoneInfo("Asia/Tokyo"), "schedule.local_time")


def test_a_preview_makes_the_changes_in_order_and_leaves_out_what_would_be_held() -> None:
    on = at_noon(plan())
    name = replace(at_noon(plan(owner="payments")), execute_at=NOON + 2 * HOUR)
    off = replace(at_noon(plan(status=Status.DISABLED)), execute_at=NOON + 3 * HOUR)
    flag = previewed(OFF, [on, name, off])
    assert (flag.status, flag.owner, flag.revision) == (Status.DISABLED, "payments", 7)
    assert previewed(OFF, [on, name]).status is Status.ENABLED
    assert previewed(later(OFF, owner="search"), [on, name]).owner == "search", "it would be held"
    assert previewed(later(OFF, owner="search"), [on, name]).status is Status.ENABLED
    again = replace(OFF, created_at=NOON)
    assert previewed(again, [on]) == again, "a flag that was created again is another one"
