"""RolloutService and the command `rollout`, on a server: begun, changed, paused, resumed and rolled back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from flagsvc.cli.main import main
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as rollouts
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as rollouts_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, reason_of, replica, until_serving

ON = types.FLAG_STATUS_ENABLED
HALF_A_DAY = 43_200


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with replica(store_url=f"sqlite:///{tmp_path_factory.mktemp('rollouts')}/flags.db") as (client, _):
        await until_serving(client)
        yield client


def of(client: Client) -> rollouts_grpc.RolloutServiceStub:
    return rollouts_grpc.RolloutServiceStub(client.channel)


def message(*points: tuple[int, float], **fields: Any) -> types.Rollout:
    """Return a rollout of a plain switch with points at seconds from now."""
    now = int(time.time())
    made = types.Rollout(**{"from_variant": "off", "to_variant": "on", **fields})
    for later, share in points:
        made.points.add(share=share).time.seconds = now + later
    return made


async def update(client: Client, key: str, rollout: types.Rollout | None) -> types.Flag:
    request = pb.UpdateFlagRequest(flag=types.Flag(key=key, rollout=rollout), update_mask={"paths": ["rollout"]})
    return (await client.stub.UpdateFlag(request, timeout=5)).flag


async def status(client: Client, key: str) -> rollouts.RolloutStatus:
    return (await of(client).GetRollout(rollouts.GetRolloutRequest(flag_key=key), timeout=5)).status


async def share_of_people(client: Client, key: str) -> float:
    answers = [
        await client.evaluate(key, context=types.EvaluationContext(targeting_key=f"user-{number}"))
        for number in range(200)
    ]
    return sum(answer.variant == "on" for answer in answers) / 200


async def test_a_rollout_on_its_way(client: Client) -> None:
    flag = await client.create("way", status=ON, rollout=message((-HALF_A_DAY, 0), (HALF_A_DAY, 100), linear=True))
    assert list(flag.needs) == ["rollout-1"]
    assert flag.rollout.bucket_by == "targetingKey"
    assert await share_of_people(client, "way") == pytest.approx(0.5, abs=0.12)
    found = await status(client, "way")
    assert (found.state, found.next_share) == (rollouts.ROLLOUT_STATE_RUNNING, 100)
    assert found.share == pytest.approx(50, abs=0.1)

    held = await of(client).PauseRollout(rollouts.PauseRolloutRequest(flag_key="way", reason="error rate"), timeout=5)
    assert held.status.state == rollouts.ROLLOUT_STATE_PAUSED
    assert held.status.share == pytest.approx(50, abs=0.1)
    assert not held.status.HasField("next_time")
    again = await of(client).ResumeRollout(rollouts.ResumeRolloutRequest(flag_key="way"), timeout=5)
    assert again.status.state == rollouts.ROLLOUT_STATE_RUNNING
    edited = await update(client, "way", message((3_600, 60), (7_200, 100)))
    assert edited.rollout.start_share == pytest.approx(50, abs=0.1)
    assert (await status(client, "way")).share == pytest.approx(50, abs=0.1)
    back = await of(client).RollbackRollout(rollouts.RollbackRolloutRequest(flag_key="way", over={}), timeout=5)
    assert (back.status.state, back.status.share) == (rollouts.ROLLOUT_STATE_FINISHED, 0)
    assert await share_of_people(client, "way") == 0

    history = (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="way"), timeout=5)).entries
    assert [entry.action for entry in history] == ["UPDATED"] * 4 + ["CREATED"]
    paused = history[3].new_value.object_value.fields["rollout"].object_value.fields
    assert "pausedAt" in paused
    assert history[3].reason == "error rate"


async def test_what_is_wrong_is_named(client: Client) -> None:
    await client.create("wrong", status=ON)
    for rollout, field, text in (
        (
            message((0, 5), from_variant="no"),
            "flag.rollout.from",
            "is 'no'; it must be one of the flag's variants: on, off",
        ),
        (message((0, 5), to_variant="off"), "flag.rollout.to", "another variant than flag.rollout.from"),
        (message(), "flag.rollout.points", "is a list of 0; it must be a list of 1 to 50 points"),
        (message((0, 101)), "flag.rollout.points[0].share", "a percentage from 0 to 100 with at most three decimals"),
        (
            message((0, 0.1234)),
            "flag.rollout.points[0].share",
            "a percentage from 0 to 100 with at most three decimals",
        ),
        (message((5, 1), (5, 2)), "flag.rollout.points[1].time", "later than the point before it"),
        (message((0, 5), bucket_by="$flagd.flagKey"), "flag.rollout.bucketBy", "the name of a context field"),
        (message((0, 5), start_share=-1), "flag.rollout.startShare", "a percentage"),
        (message((10**12, 5)), "flag.rollout.points[0].time", "a time in whole seconds from 2000 to 2199"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await update(client, "wrong", rollout)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(refused.value.details())
        assert text in str(refused.value.details())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await status(client, "wrong")
    assert (refused.value.code(), reason_of(refused.value)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ROLLOUT_MISSING",
    )
    request = rollouts.RollbackRolloutRequest(flag_key="wrong", over={"seconds": -1})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await of(client).RollbackRollout(request, timeout=5)
    assert "over is '-1 s'; it must be whole seconds, 0 to 315360000" in str(refused.value.details())


async def test_an_etag_is_held_and_a_rollout_is_removed(client: Client) -> None:
    await client.create("tagged", status=ON, rollout=message((0, 100)))
    request = rollouts.PauseRolloutRequest(flag_key="tagged", etag='"1"')
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await of(client).PauseRollout(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    flag = await update(client, "tagged", None)
    assert not flag.HasField("rollout")
    assert not flag.needs
    assert (await client.evaluate("tagged")).reason == types.REASON_STATIC


async def run(client: Client, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the command and return its exit status, its JSON and what it says to people."""
    command = ["rollout", *arguments, "--json", "--address", client.target]
    exit_code = await asyncio.to_thread(main, command)
    out, err = capsys.readouterr()
    return exit_code, json.loads(out) if out else {}, err


async def test_the_command(client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    await client.create("typed")
    code, found, said = await run(client, capsys, "typed", "--to", "on", "--over", "3d")
    assert (code, found["from"], found["to"], found["linear"], found["state"]) == (0, "off", "on", True, "RUNNING")
    assert found["nextShare"] == 100
    assert "the flag is switched off, so nobody gets a variant: flagsvc toggle typed on" in said
    code, found, _ = await run(client, capsys, "typed", "--steps", "1%,10%@+1h,100%@2199-01-01T00:00:00Z")
    assert (code, found["share"], found["nextShare"]) == (0, 1, 10)
    assert found["points"][2] == {"time": "2199-01-01T00:00:00Z", "share": 100}
    assert (await run(client, capsys, "typed", "--pause"))[1]["state"] == "PAUSED"
    assert (await run(client, capsys, "typed", "--resume"))[1]["state"] == "RUNNING"
    assert (await run(client, capsys, "typed", "--rollback", "--over", "1h"))[1]["nextShare"] == 0
    assert (await run(client, capsys, "typed", "--rollback", "--over", "0s"))[1]["share"] == 0
    code, found, _ = await run(client, capsys, "typed")
    assert (code, found["state"], found["share"]) == (0, "FINISHED", 0)


async def test_words_for_slips(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    await client.create("slip", status=ON)
    for arguments, text in (
        (("--to", "onn", "--over", "1d"), "--to is 'onn'; did you mean on?; it must be one of on, off"),
        (("--over", "1d"), "--to is missing; it must be the variant to move to: on, off"),
        (("--to", "on"), "give either --over, such as --over 3d, or --steps"),
        (("--to", "on", "--steps", "x"), "'x' has no share"),
        (("--to", "on", "--steps", "1%@tomorrow"), "'1%@tomorrow' has no such time"),
        (("--to", "on", "--steps", "1%@2030-01-01T00:00"), "has no zone"),
        (("--pause", "--resume"), "give one of"),
        (("--by", "company"), "--from and --by need --over or --steps"),
    ):
        code, _, said = await run(client, capsys, "slip", *arguments)
        assert code == 2, arguments
        assert text in said
    code, _, said = await run(client, capsys, "slip", "--pause")
    assert code == 1
    assert "has no rollout" in said
