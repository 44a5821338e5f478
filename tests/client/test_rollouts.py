"""Rollouts by the Python client, asyncio and synchronous, on a server and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flagsvc_client import Flag, FlagConflict, FlagServiceError, InvalidArgument, RolloutState, Status
from flagsvc_client.testing import AsyncInMemoryFlagClient, InMemoryFlagClient

from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica, until


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("moves")
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (_, server):
        await until(lambda: not server.replica.revision_sweep._is_first)
        yield f"127.0.0.1:{server.port}"


class InMemory(Asked):
    """A client of either form whose flags are in memory."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.client = AsyncInMemoryFlagClient() if form == "aio" else InMemoryFlagClient()


@pytest.fixture(params=[*FORMS, "local aio", *(f"memory {form}" for form in FORMS)])
async def client(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Asked]:
    where, _, form = request.param.rpartition(" ")
    if where == "memory":
        in_memory = InMemory(form)
        yield in_memory
        await in_memory.close()
        return
    is_local = where == "local"
    async with asked(form, target, timeout_s=5.0, flag_set=request.param, local=is_local, wait_ready_s=5.0) as client:
        yield client


async def test_a_rollout_is_begun_paused_resumed_and_rolled_back(client: Asked) -> None:
    await client.create(Flag(key="moving", status=Status.ENABLED))
    with pytest.raises(FlagServiceError) as missing:
        await client.rollout("moving")
    assert missing.value.reason == "ROLLOUT_MISSING"
    begun = await client.start_rollout("moving", "off", "on", steps=[(timedelta(0), 20), (timedelta(days=1), 100)])
    assert begun.flag.rollout["points"][0]["share"] == 20
    running = await client.rollout("moving")
    assert (running.state, running.share, running.next_share) == (RolloutState.RUNNING, 20, 100)
    assert running.next_time == running.points[1][0]

    checked = await client.pause_rollout("moving", validate_only=True, reason="error rate")
    assert (checked.reached, checked.rollout.state, checked.revision) == (None, "PAUSED", begun.revision)
    assert (await client.rollout("moving")).state is RolloutState.RUNNING, "nothing was written"
    request_id = f"pause {client.client._session.flag_set}"
    paused = await client.pause_rollout("moving", reason="error rate", request_id=request_id)
    assert (paused.rollout.state, paused.rollout.share, paused.rollout.next_time) == (RolloutState.PAUSED, 20, None)
    assert (await client.pause_rollout("moving", reason="error rate", request_id=request_id)).flag == paused.flag
    with pytest.raises(FlagConflict):
        await client.resume_rollout("moving", etag=begun.flag.etag)
    assert (await client.resume_rollout("moving")).rollout.state is RolloutState.RUNNING

    faster = await client.start_rollout("moving", "off", "on", over=timedelta(hours=2), bucket_by="targetingKey")
    assert faster.flag.rollout["points"][0]["share"] == 20, "from the share that stands"
    back = await client.rollback_rollout("moving", over=timedelta(0))
    assert (back.rollout.state, back.rollout.share) == (RolloutState.FINISHED, 0)
    assert await client.is_enabled("moving", {"targetingKey": "user-1"}) is False
    reasons = [entry.reason for entry in await client.history("moving")]
    assert reasons.count("error rate") == 1, "a request that is sent twice is made once"


async def test_what_cannot_be_begun_raises(client: Asked) -> None:
    await client.create(Flag(key="refused"))
    with pytest.raises(ValueError, match="give either over"):
        await client.start_rollout("refused", "off", "on")
    with pytest.raises(ValueError, match="a time must have a zone"):
        await client.start_rollout("refused", "off", "on", steps=[(datetime(2030, 1, 1), 5)])  # noqa: DTZ001  so it is
    with pytest.raises(InvalidArgument, match="it must be another variant"):
        await client.start_rollout("refused", "on", "on", steps=[(datetime(2030, 1, 1, tzinfo=UTC), 5)])
    request_id = f"once {client.client._session.flag_set}"
    await client.toggle("refused", True, request_id=request_id)
    with pytest.raises(InvalidArgument, match="request_id"):
        await client.toggle("refused", False, request_id=request_id)


async def test_every_write_can_be_checked_without_being_made(client: Asked) -> None:
    is_in_memory = isinstance(client, InMemory)
    new = await client.create(Flag(key="new"), validate_only=True)
    assert (new.flag.key, new.reached) == ("new", None)
    await client.create(Flag(key="checked", name="before"))
    before = await client.flag("checked")
    for checked in (
        await client.set("checked", name="after", validate_only=True),
        await client.update(Flag(key="checked", name="after"), ["name"], validate_only=True),
    ):
        assert (checked.flag.name, checked.revision, checked.reached) == ("after", before.revision, None)
    assert (await client.toggle("checked", True, validate_only=True)).flag.status is Status.ENABLED
    assert (await client.delete("checked", validate_only=True)).reached is None
    if not is_in_memory:
        assert (await client.rollback("checked", before.revision, validate_only=True)).reached is None
    with pytest.raises(InvalidArgument, match="default_variant"):
        await client.set("checked", default_variant="none", validate_only=True)
    assert await client.flag("checked") == before
    assert [entry.action for entry in await client.history("checked")] == ["CREATED"]
    assert "new" not in [flag.key for flag in await client.flags()]


async def test_flags_in_memory_say_what_they_do_not_have() -> None:
    with pytest.raises(FlagServiceError, match="flags in memory have no ListFlagRevisions"):
        InMemoryFlagClient().revisions("a")
