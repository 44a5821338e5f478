"""What every store that plans changes does with them: SQLite, and MongoDB with both drivers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes, segments
from flagsvc.core.audit import AuditQuery
from flagsvc.core.errors import FlagsvcError, InvalidRequest, ScheduleEnded, ScheduleNotFound
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.requests import WriteRequest
from flagsvc.core.schedules.decisions import ended
from flagsvc.core.schedules.model import OnConflict, Schedule, State
from flagsvc.core.segments import Segment
from flagsvc.ports import FlagStore
from flagsvc.ports.schedules import ScheduleQuery
from flagsvc.schedules.attempts import DueAttempt, RequestedAttempt
from flagsvc.schedules.planner import SchedulePlanner
from tests.conformance.test_store import store  # noqa: F401
from tests.schedules.plans import (
    CHAT,
    ENTRY,
    HOUR,
    RIGHTS,
    author,
    due_now,
    executed,
    flag_in,
    plan,
    planned_and_due,
    schedules_of,
    stored,
)

OTHER = FlagId("default", "other")


def in_an_hour() -> datetime:
    at = datetime.now(UTC) + HOUR
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


async def test_a_schedule_is_numbered_timed_and_read_back(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    made = [await stored(store, plan()) for _ in range(2)]
    assert [each.number for each in made] == [1, 2]
    assert abs((made[0].created_at - datetime.now(UTC)).total_seconds()) < 60
    assert made[0].base_revision == 1
    assert await schedules_of(store).get("default", made[0].id) == made[0]
    for flag_set, schedule_id in (("team", made[0].id), ("default", "nobody")):
        with pytest.raises(ScheduleNotFound):
            await schedules_of(store).get(flag_set, schedule_id)
    revisions = await store.revisions()
    assert revisions == {"default": 1}, "planning takes no revision"
    assert store.audit is not None
    assert [each.action for each in await store.audit.page(AuditQuery(action="CreateSchedule"), 9)] == [
        "CreateSchedule"
    ] * 2


async def test_it_is_executed_once_with_its_history(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    assert await executed(store) is None
    (made,) = await planned_and_due(store, plan(reason="launch", actor="ann"))
    result = await executed(store)
    assert result is not None
    assert (result.id, result.state, result.executed_revision) == (made.id, State.EXECUTED, 2)
    assert await executed(store) is None
    kept = await schedules_of(store).get("default", made.id)
    assert (kept.state, kept.executed_revision, kept.version) == (State.EXECUTED, 2, 3)
    assert kept.ended_at is not None
    assert kept.ended_at >= kept.execute_at
    (newest, _) = await store.history(CHAT, 10)
    assert (newest.via, newest.action, newest.reason, newest.actor) == (made.via, "ENABLED", "launch", "ann")
    flag = (await store.get(CHAT)).flag
    assert flag is not None
    assert (flag.status, flag.revision, flag.enabled_at) == (Status.ENABLED, 2, kept.ended_at)


async def test_before_its_time_nothing_happens(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    await stored(store, plan(seconds=30))
    assert await executed(store) is None
    (left,) = await schedules_of(store).upcoming(10)
    assert left.flag_id == CHAT
    assert 20 < left.wait_s <= 30


async def test_those_of_one_flag_are_executed_by_time_then_creation(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    at = in_an_hour()
    wanted = [plan(at=at + timedelta(milliseconds=ms), owner=f"{n}") for n, ms in enumerate((20, 0, 20, 10))]
    made = await planned_and_due(store, *wanted)
    done = [await executed(store) for _ in made]
    assert [each.id for each in done if each] == [made[n].id for n in (1, 3, 0, 2)]
    assert {each.state for each in done if each} == {State.EXECUTED}, "what an earlier one changed is no conflict"
    assert await executed(store) is None


async def test_a_later_one_never_goes_before_one_that_is_held_by_nothing_but_its_turn(store: FlagStore) -> None:  # noqa: F811
    """Ten executors race for two schedules of one flag, which both are due: first the first, once each."""
    await flag_in(store)
    at = in_an_hour()
    made = await planned_and_due(store, plan(at=at, owner="1"), plan(at=at + timedelta(milliseconds=1), owner="2"))
    results = await asyncio.gather(*(executed(store) for _ in range(10)))
    assert sorted(each.id for each in results if each) == sorted(each.id for each in made)
    history = [each.via for each in await store.history(CHAT, 10)]
    assert history == [made[1].via, made[0].via, ""]


async def test_a_conflict_changes_no_flag_and_has_an_audit_entry(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    await flag_in(store, OTHER)
    made = [
        await stored(store, plan(owner="a")),
        await stored(store, plan(OTHER, owner="a", on_conflict=OnConflict.SKIP)),
    ]
    for flag_id in (CHAT, OTHER):
        wanted = replace(made[0].patch, key=flag_id.key, owner="b")
        await store.write(flag_id, changes.update(wanted, ["owner"], None, author()))
    await due_now(store, *made)
    held, skipped = await executed(store), await executed(store, OTHER)
    assert held is not None
    assert skipped is not None
    assert (held.state, skipped.state) == (State.HELD, State.SKIPPED)
    assert len(await store.history(CHAT, 10)) == 2
    assert store.audit is not None
    entries = [each for each in await store.audit.page(AuditQuery(), 20) if each.action.startswith("Schedule")]
    assert sorted(each.action for each in entries) == ["ScheduleHeld", "ScheduleSkipped"]
    assert made[0].via in next(each.reason for each in entries if each.action == "ScheduleHeld")
    assert await schedules_of(store).upcoming(10) == []
    assert [each.state for each in await schedules_of(store).page(ScheduleQuery(flag_set="default"), 9)] == [
        *(State.HELD, State.SKIPPED)
    ]


async def test_what_the_decision_refuses_leaves_no_trace(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    (made,) = await planned_and_due(store, plan())

    class Refusing(DueAttempt):
        def decide(self, flag: Any) -> Any:
            super().decide(flag)
            raise FlagsvcError("no")

    attempt = Refusing(RIGHTS)
    with pytest.raises(FlagsvcError, match="no"):
        await schedules_of(store).execute(CHAT, "", attempt, attempt.decide)
    assert await schedules_of(store).get("default", made.id) == made
    assert (await store.revisions(), len(await store.history(CHAT, 9))) == ({"default": 1}, 1)


async def test_one_is_executed_on_request_before_its_time_and_not_twice(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    made = await stored(store, plan())

    def attempt() -> RequestedAttempt:
        return RequestedAttempt(RIGHTS, author(caller="token:b"), None)

    first = attempt()
    entry = await schedules_of(store).execute(CHAT, made.id, first, first.decide)
    assert entry is not None
    assert first.result is not None
    assert (entry.revision, first.result.state) == (2, State.EXECUTED)
    assert (await store.history(CHAT, 1))[0].caller == "token:b"
    for schedule_id, error in ((made.id, ScheduleEnded), ("nobody", ScheduleNotFound)):
        again = attempt()
        with pytest.raises(error):
            await schedules_of(store).execute(CHAT, schedule_id, again, again.decide)
    assert (await store.revisions()) == {"default": 2}


async def test_a_plan_is_made_once_for_its_request_and_not_at_all_when_only_checked(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    planner = SchedulePlanner(schedules_of(store), None, RIGHTS, lambda: None)  # type: ignore[arg-type]  nothing is written
    checked = await planner.create(plan(), WriteRequest("ann", "r-1", b"a"), validate_only=True)
    assert checked.base_revision == 1
    assert await schedules_of(store).upcoming(10) == []
    request = WriteRequest("ann", "r-1", b"a")
    one, *again = await asyncio.gather(*(planner.create(plan(), request) for _ in range(4)))
    assert again == [one] * 3
    with pytest.raises(InvalidRequest, match="a new id for a new write"):
        await planner.create(plan(), WriteRequest("ann", "r-1", b"b"))
    assert (await planner.create(plan(), WriteRequest("bob", "r-1", b"b"))).id != one.id
    cancelled = await planner.cancel("default", one.id, author(actor="ann"), None, validate_only=True)
    assert cancelled.state is State.CANCELLED
    assert await schedules_of(store).get("default", one.id) == one
    if isinstance(store, MongoStore):
        row = await store._database["flagsvc_schedules"].find_one({"_id": one.id})
        assert "claimedAt" not in row, "not even taken"
    assert store.audit is not None
    assert len(await store.audit.page(AuditQuery(action="CreateSchedule"), 9)) == 2


async def test_a_change_of_a_schedule_with_a_request_id_is_made_once(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    planner = SchedulePlanner(schedules_of(store), None, RIGHTS, lambda: None)  # type: ignore[arg-type]  nothing is written
    made = await planner.create(plan())

    def named(name: str, digest: bytes = b"d") -> WriteRequest:
        return WriteRequest("ann", name, digest)

    async def move(at: datetime, request: WriteRequest | None) -> Schedule:
        fields = {"execute_at": at}
        return await planner.update("default", made.id, fields, made.creator, author(), etag=None, request=request)

    first, second = in_an_hour(), in_an_hour() + HOUR
    moved = await asyncio.gather(*(move(first, named("u-1")) for _ in range(4)))
    assert {(each.execute_at, each.version) for each in moved} == {(first, 2)}
    await move(second, None)
    assert (await move(first, named("u-1"))) == moved[0]
    assert (await schedules_of(store).get("default", made.id)).execute_at == second
    with pytest.raises(InvalidRequest, match="a new id for a new write"):
        await move(first, named("u-1", b"other"))

    async def execute(schedule_id: str) -> tuple[Any, Any]:
        attempt = RequestedAttempt(RIGHTS, author(), None)
        done = await schedules_of(store).execute(CHAT, schedule_id, attempt, attempt.decide, request=named("e-1"))
        return done, attempt.result

    (entry, result), *others = await asyncio.gather(*(execute(made.id) for _ in range(3)))
    assert others == [(entry, result)] * 2
    assert result == await schedules_of(store).get("default", made.id)
    assert (result.executed_revision, await store.revisions()) == (2, {"default": 2})
    await store.write(CHAT, changes.delete(CHAT.key, None, author()))
    assert (await execute(made.id))[1] == result, "also when the flag is gone"
    await flag_in(store)
    dropped = await planner.create(plan())
    for _ in range(2):
        ended = await planner.cancel("default", dropped.id, author(actor="ann"), None, request=named("x-1"))
        assert ended == await schedules_of(store).get("default", dropped.id)
    assert store.audit is not None
    counts = [len(await store.audit.page(AuditQuery(action=each), 9)) for each in ("UpdateSchedule", "CancelSchedule")]
    assert counts == [2, 1]


async def test_links_of_a_plan_are_checked_when_it_is_made_and_changed(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    planner = SchedulePlanner(schedules_of(store), None, RIGHTS, lambda: None)  # type: ignore[arg-type]  nothing is written
    rule = '{"if":[{"$ref":"segment:pro"},"on","off"]}'
    needs = [{"flagKey": "other", "variants": ["on"]}]
    for fields, word in (({"targeting": rule}, "'segment:pro'"), ({"prerequisites": needs}, "'other'")):
        with pytest.raises(InvalidRequest, match=word) as direct:
            await store.write(CHAT, changes.update(Flag(key="chat", **fields), list(fields), None, author()))
        for only in (True, False):
            with pytest.raises(InvalidRequest) as refused:
                await planner.create(plan(**fields), validate_only=only)
            assert str(refused.value) == str(direct.value)
    assert await schedules_of(store).upcoming(10) == []
    made = await planner.create(plan())
    patched = {"patch": plan(targeting=rule).patch, "fields": ("targeting",)}
    for only in (True, False):
        with pytest.raises(InvalidRequest, match="'segment:pro'"):
            await planner.update("default", made.id, patched, made.creator, author(), etag=None, validate_only=only)
    assert await schedules_of(store).get("default", made.id) == made
    assert store.segments is not None
    segment = Segment(name="pro", rule='{"==":[1,1]}')
    await store.segments.write(segment.id, segments.create(segment, author()))
    changed = await planner.update("default", made.id, patched, made.creator, author(), etag=None)
    request = WriteRequest("ann", "r-1", b"a")
    kept = await planner.create(plan(targeting=rule), request)
    await store.segments.write(segment.id, segments.delete("pro", None, author()))
    assert await planner.create(plan(targeting=rule), request) == kept, "what was planned is not checked again"
    ended = await planner.cancel("default", changed.id, author(), None)
    assert ended.state is State.CANCELLED


async def test_a_change_is_decided_on_what_is_stored(store: FlagStore) -> None:  # noqa: F811
    await flag_in(store)
    made = await stored(store, plan())
    kept = await schedules_of(store).change("default", made.id, lambda *_: None, ENTRY)
    assert kept == made
    gone = await schedules_of(store).change(
        "default", made.id, lambda current, _, now: ended(current, State.CANCELLED, now, "by ann"), ENTRY
    )
    assert (gone.state, gone.detail, gone.version) == (State.CANCELLED, "by ann", 2)
    assert await schedules_of(store).upcoming(10) == []
    with pytest.raises(ScheduleNotFound):
        await schedules_of(store).change("team", made.id, lambda *_: None, ENTRY)


async def test_pages_are_in_the_order_of_time_and_keep_to_set_flag_and_states(store: FlagStore) -> None:  # noqa: F811
    foreign = FlagId("team", "chat")
    for flag_id in (CHAT, OTHER, foreign):
        await flag_in(store, flag_id)
    at = in_an_hour()
    made = [await stored(store, plan(CHAT, at=at + timedelta(seconds=n % 2), owner=f"{n}")) for n in range(4)]
    await stored(store, plan(OTHER, at=at))
    await stored(store, plan(foreign, at=at))
    query = ScheduleQuery(flag_set="default", flag_key="chat", states=[State.PENDING])
    first = await schedules_of(store).page(query, 3)
    last = first[-1]
    after = round(last.execute_at.timestamp() * 1000), last.number
    rest = await schedules_of(store).page(replace(query, after=after), 3)
    assert [each.id for each in (*first, *rest)] == [made[n].id for n in (0, 2, 1, 3)]
    assert await schedules_of(store).page(replace(query, states=[State.HELD]), 9) == []
    assert len(await schedules_of(store).page(ScheduleQuery(flag_set="default"), 9)) == 5
