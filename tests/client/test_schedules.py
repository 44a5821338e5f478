"""Planned changes by the Python client, asyncio and synchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client import Flag, FlagServiceError, InvalidArgument, OnConflict, Schedule, ScheduleState, Status

from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("plans")
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (_, server):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Asked]:
    async with asked(request.param, target, timeout_s=5.0, on_behalf_of="the console") as client:
        yield client


async def test_a_change_is_planned_moved_listed_and_cancelled(client: Asked) -> None:
    key = f"planned-{client.form}"
    await client.create(Flag(key=key))
    at = datetime(2030, 12, 1, 9)  # noqa: DTZ001  a local time of the zone
    found = await client.schedule(key, at, zone="Europe/Berlin", status="beta", owner="a", max_lateness_s=60)
    assert (found.execute_at, found.state) == (datetime(2030, 12, 1, 8, tzinfo=UTC), ScheduleState.PENDING)
    assert (found.changes, found.patch.status, found.patch.owner) == (("status", "owner"), Status.BETA, "a")
    assert found.on_behalf_of == "the console"
    moved = await client.move_schedule(found.id, datetime(2031, 1, 1, tzinfo=UTC), etag=found.etag)
    assert moved.local_time == "2031-01-01T01:00:00+01:00"
    assert [each.id for each in await client.schedules(key)] == [found.id]
    assert (await client.toggle(key, True)).schedule_notes[0].startswith(f"schedule {found.id} changes status")
    assert (await client.cancel_schedule(found.id)).state is ScheduleState.CANCELLED
    assert await client.schedules(key) == []
    assert [each.id for each in await client.schedules(key, ["CANCELLED"])] == [found.id]


async def test_a_change_is_made_at_its_time_or_on_request_and_read_afterwards(client: Asked) -> None:
    key = f"made-{client.form}"
    await client.create(Flag(key=key))
    found = await planned_soon(client, key, on_conflict=OnConflict.APPLY, status="ENABLED", reason="launch")
    async with asyncio.timeout(20):
        while (await client.get_schedule(found.id)).state is ScheduleState.PENDING:  # noqa: ASYNC110  the server does it
            await asyncio.sleep(0.01)
    assert (await client.history(key))[0].via == f"schedule/{found.id}"
    later = await client.schedule(key, datetime.now(UTC) + timedelta(days=1), status="DISABLED")
    done = await client.execute_schedule(later.id, reason="now")
    assert done.state is ScheduleState.EXECUTED
    assert await client.is_enabled(key) is False


async def planned_soon(client: Asked, key: str, **fields: Any) -> Schedule:
    """Plan a change that is due in a moment; on a slow machine that has passed, and a later one is taken."""
    for seconds in (0.5, 2, 8, 32):
        with suppress(InvalidArgument):
            return await client.schedule(key, datetime.now(UTC) + timedelta(seconds=seconds), **fields)
    raise AssertionError("the change could not be planned before its time")


async def test_what_cannot_be_planned_raises(client: Asked) -> None:
    key = f"refused-{client.form}"
    await client.create(Flag(key=key))
    with pytest.raises(InvalidArgument, match="execute_time"):
        await client.schedule(key, datetime(2020, 1, 1, tzinfo=UTC), status="ENABLED")
    with pytest.raises(TypeError, match="no field"):
        await client.schedule(key, datetime(2030, 1, 1, tzinfo=UTC), statsu="ENABLED")
    with pytest.raises(FlagServiceError, match="not found"):
        await client.get_schedule("nobody")


async def test_a_plan_that_is_sent_twice_is_planned_once_and_one_that_is_checked_not_at_all(client: Asked) -> None:
    key, at = f"once-{client.form}", datetime(2030, 1, 1, tzinfo=UTC)
    await client.create(Flag(key=key))
    checked = await client.schedule(key, at, status="ENABLED", validate_only=True)
    assert (checked.state, checked.changes) == (ScheduleState.PENDING, ("status",))
    with pytest.raises(InvalidArgument, match="default_variant"):
        await client.schedule(key, at, default_variant="none", validate_only=True)
    assert await client.schedules(key) == []
    first = await client.schedule(key, at, status="ENABLED", request_id=key)
    assert await client.schedule(key, at, status="ENABLED", request_id=key) == first
    with pytest.raises(InvalidArgument, match="a new id for a new write"):
        await client.schedule(key, at, status="BETA", request_id=key)
    later = at + timedelta(days=1)
    assert (await client.move_schedule(first.id, later, validate_only=True)).execute_at == later
    assert (await client.cancel_schedule(first.id, validate_only=True)).state is ScheduleState.CANCELLED
    assert await client.schedules(key) == [first]
    moved = await client.move_schedule(first.id, later)
    assert await client.schedule(key, at, status="ENABLED", request_id=key) == moved


async def test_a_change_of_a_plan_that_is_sent_twice_is_made_once(client: Asked) -> None:
    key, at = f"changed-{client.form}", datetime(2030, 1, 1, tzinfo=UTC)
    await client.create(Flag(key=key))
    plan = await client.schedule(key, at, status="ENABLED")
    moved = await client.move_schedule(plan.id, at + timedelta(days=1), request_id=f"m-{key}")
    again = await client.move_schedule(plan.id, at, etag=moved.etag)
    assert await client.move_schedule(plan.id, at + timedelta(days=1), request_id=f"m-{key}") == moved
    assert await client.get_schedule(plan.id) == again
    checked = await client.execute_schedule(plan.id, validate_only=True)
    assert (checked.state, checked.executed_revision) == (ScheduleState.EXECUTED, 0)
    assert await client.get_schedule(plan.id) == again
    done = [await client.execute_schedule(plan.id, request_id=f"e-{key}") for _ in range(2)]
    assert (done[0], done[0].executed_revision > 0) == (done[1], True)
    plan = await client.schedule(key, at, status="DISABLED")
    ended = [await client.cancel_schedule(plan.id, etag=plan.etag, request_id=f"x-{key}") for _ in range(2)]
    assert [each.state for each in ended] == [ScheduleState.CANCELLED] * 2
