"""Segments and prerequisites by the Python client, asyncio and synchronous."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from flagsvc_client import Flag, FlagServiceError, InvalidArgument, RolledBackSegment, Status

from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica, until

PRO, STAFF = '{"==":[{"var":"plan"},"pro"]}', '{"==":[{"var":"staff"},true]}'


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("segments")
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (_, server):
        await until(lambda: not server.replica.revision_sweep._is_first)
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Asked]:
    async with asked(request.param, target, timeout_s=5.0, flag_set=f"set-{request.param}") as client:
        yield client


async def test_a_segment_is_created_used_changed_and_deleted(client: Asked) -> None:
    made = await client.create_segment("pro", PRO, description="Who pays", reason="launch")
    assert (made.rule, made.description, made.flag_set, made.etag) == (PRO, "Who pays", f"set-{client.form}", '"1"')
    rule = '{"if":[{"$ref":"segment:pro"},"on","off"]}'
    created = await client.create(Flag(key="a", status=Status.ENABLED, targeting=rule))
    users = await client.segment_users("pro")
    assert (users.flag_keys, users.flag_count, users.segment_names) == (("a",), 1, ())
    planned = await client.update_segment("pro", rule=STAFF, validate_only=True)
    assert (planned.flags, (await client.segment("pro")).rule) == (("a",), PRO)
    done = await client.update_segment("pro", rule=STAFF, etag=made.etag)
    assert (done.flags, done.segment.rule) == (("a",), STAFF)
    assert await client.is_enabled("a", {"staff": True}) is True
    with pytest.raises(FlagServiceError) as failed:
        await client.delete_segment("pro")
    assert failed.value.reason == "SEGMENT_IN_USE"
    back = await client.rollback_set(created.revision)
    assert back.segments == [RolledBackSegment("pro", "UPDATED")]
    assert (await client.segment("pro")).rule == PRO
    await client.delete("a")
    await client.delete_segment("pro", reason="not used")
    assert await client.segments() == []


async def test_changes_of_segments_that_are_sent_twice_are_made_once(client: Asked) -> None:
    made = [await client.create_segment("twice", PRO, request_id=f"c-{client.form}") for _ in range(2)]
    assert made[0] == made[1]
    first = await client.update_segment("twice", rule=STAFF, request_id=f"u-{client.form}")
    await client.update_segment("twice", rule=PRO)
    assert await client.update_segment("twice", rule=STAFF, request_id=f"u-{client.form}") == first
    assert (await client.segment("twice")).rule == PRO
    for _ in range(2):
        await client.delete_segment("twice", request_id=f"d-{client.form}")
    assert await client.segments() == []


async def test_prerequisites_are_written_read_and_checked(client: Asked) -> None:
    await client.create(Flag(key="top"))
    wanted = [{"flagKey": "top", "variants": ["on"]}]
    await client.create(Flag(key="child", prerequisites=wanted))
    assert (await client.flag("child")).prerequisites == wanted
    with pytest.raises(InvalidArgument, match="top -> child -> top"):
        await client.set("top", prerequisites=[{"flagKey": "child", "variants": ["on"]}])
    with pytest.raises(FlagServiceError) as failed:
        await client.delete("top")
    assert (failed.value.reason, '"child"' in str(failed.value)) == ("FLAG_IN_USE", True)
    await client.set("child", prerequisites=None)
    assert (await client.flag("child")).prerequisites is None
