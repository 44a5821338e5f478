"""Consistency tokens and write levels: what a caller can require, and what a write reports of its spread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pymongo
import pytest
from google.protobuf.duration_pb2 import Duration

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.replication.change_channels import ChangeChannels
from flagsvc.server import Server
from tests.databases import with_database
from tests.replicas import Client, info_of, reason_of, replica, until, until_serving
from tests.servers import Mongod, RedisServer

RESOLVE = "/flagd.evaluation.v1.Service/ResolveBoolean"


def hears_nothing(*_: object) -> None:
    """Replace the handling of announced changes."""


async def started(stack: AsyncExitStack, number: int, **settings: Any) -> list[tuple[Client, Server]]:
    found = []
    for _ in range(number):
        client, server = await stack.enter_async_context(replica(**settings))
        await until_serving(client)
        await until(lambda server=server: server.replica.follower.channels.subscription_up)
        found.append((client, server))
    return found


@pytest.fixture(
    scope="module",
    params=[100_000, 0, pytest.param(1, marks=pytest.mark.long)],
    ids=["near-cache", "no-near-cache", "too-small-near-cache"],
)
async def ahead_and_deaf(request: pytest.FixtureRequest, mongo_url: str) -> AsyncIterator[tuple[Client, Client]]:
    """One replica that writes, and one that ignores announcements, so that only its own polls update it.

    They have flags `a` and `b`, with any status. Each test leaves no others.
    """
    name = f"flagsvc_tokens_{request.param}"
    async with AsyncExitStack() as stack:
        urls = {"store_url": with_database(mongo_url, name), "cache_url": stack.enter_context(RedisServer()).url}
        client = stack.enter_context(pymongo.MongoClient[dict[str, Any]](mongo_url))
        stack.callback(client.drop_database, name)
        [(ahead, _)] = await started(stack, 1, **urls)
        for key in ("a", "b"):
            await ahead.create(key)
        [(deaf, server)] = await started(stack, 1, **urls, near_cache_entries=request.param)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(server.replica.follower.channels, "_apply_change", hears_nothing)
        yield ahead, deaf


async def test_a_consistency_token_shows_the_write_on_a_replica_that_missed_its_announcement(
    ahead_and_deaf: tuple[Client, Client],
) -> None:
    ahead, deaf = ahead_and_deaf
    for number in range(20):
        enabled = number % 2 == 0
        revision = (await ahead.toggle("a", enabled)).revision
        found = await deaf.evaluate("a", min_revision=revision)
        assert (found.revision, found.enabled) == (revision, enabled)
        request = pb.BatchEvaluateFlagsRequest(flag_keys=["b", "a"], min_revision=revision)
        batch = (await deaf.stub.BatchEvaluateFlags(request)).evaluations
        assert batch[1].revision == revision
        assert (
            await deaf.stub.GetFlag(pb.GetFlagRequest(flag_key="a", min_revision=revision))
        ).flag.revision == revision


async def test_a_consistency_token_for_a_whole_set_and_for_a_deleted_flag(
    ahead_and_deaf: tuple[Client, Client],
) -> None:
    ahead, deaf = ahead_and_deaf
    revision = (await ahead.create("c", status=types.FLAG_STATUS_ENABLED)).revision
    batch = await deaf.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(min_revision=revision))
    assert [e.flag_key for e in batch.evaluations] == ["a", "b", "c"]
    gone = (await ahead.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="c"))).revision
    assert (await deaf.evaluate("c", min_revision=gone)).error_code == types.ERROR_CODE_FLAG_NOT_FOUND


async def test_a_consistency_token_from_another_flag_of_the_set_is_honoured(
    ahead_and_deaf: tuple[Client, Client],
) -> None:
    ahead, deaf = ahead_and_deaf
    revision_of_a = (await ahead.toggle("a", True)).revision
    revision = (await ahead.toggle("b", True)).revision
    assert (await deaf.evaluate("a", min_revision=revision)).revision == revision_of_a


async def test_flagd_calls_carry_the_consistency_token_as_a_header(ahead_and_deaf: tuple[Client, Client]) -> None:
    ahead, deaf = ahead_and_deaf
    resolve = deaf.channel.unary_unary(
        RESOLVE, flagd.ResolveBooleanRequest.SerializeToString, flagd.ResolveBooleanResponse.FromString
    )
    revision = (await ahead.toggle("a", True)).revision
    answer = await resolve(
        flagd.ResolveBooleanRequest(flag_key="a"), metadata=(("flagsvc-min-revision", str(revision)),), timeout=5
    )
    assert answer.value is True
    for wrong in ("x", "-1", "1.5", "9" * 30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resolve(
                flagd.ResolveBooleanRequest(flag_key="a"), metadata=(("flagsvc-min-revision", wrong),), timeout=5
            )
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(caught.value).metadata["field"] == "flagsvc-min-revision"


async def test_a_revision_that_does_not_exist_is_unavailable(ahead_and_deaf: tuple[Client, Client]) -> None:
    _, deaf = ahead_and_deaf
    for call in (
        deaf.evaluate("a", min_revision=10**9),
        deaf.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(min_revision=10**9)),
        deaf.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=["a"], min_revision=10**9)),
        deaf.stub.GetFlag(pb.GetFlagRequest(flag_key="a", min_revision=10**9)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "REVISION_UNAVAILABLE")
        assert 'revision 1000000000 of flag set "default" is not available' in str(caught.value.details())


async def test_a_negative_consistency_token_is_refused(ahead_and_deaf: tuple[Client, Client]) -> None:
    _, deaf = ahead_and_deaf
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await deaf.evaluate("a", min_revision=-1)
    assert (caught.value.code(), info_of(caught.value).metadata["field"]) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "min_revision",
    )


async def test_a_consistency_token_is_not_met_from_memory_when_the_store_is_gone(
    mongod: Mongod, redis_clean_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        urls = {"store_url": mongod.url, "cache_url": redis_clean_url}
        (ahead, _), (deaf, server) = await started(stack, 2, **urls)
        old = (await ahead.create("a")).revision
        await until(lambda: server.replica.near.changelogs.watermark("default") == old)
        monkeypatch.setattr(ChangeChannels, "_apply_change", hears_nothing)
        mongod.pause()
        try:
            assert (await deaf.evaluate("a", min_revision=old)).revision == old, "known already"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await deaf.evaluate("a", min_revision=old + 1)
            assert reason_of(caught.value) == "REVISION_UNAVAILABLE"
        finally:
            mongod.resume()


async def test_a_write_reports_how_far_it_has_spread(
    mongo_database_url: str, redis_clean_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "staleness_bound_s": 60.0}
        found = await started(stack, 3, **urls)
        names = sorted(server.replica.heartbeats.name for _, server in found)
        await asyncio.sleep(1.2)  # each has reported itself
        client = found[0][0]
        await client.create("a")
        for level in (pb.WRITE_LEVEL_UNSPECIFIED, pb.WRITE_LEVEL_STORED, pb.WRITE_LEVEL_CACHED):
            request = pb.ToggleFlagRequest(flag_key="a", enabled=True, wait_for=level)
            answer = await client.stub.ToggleFlag(request, timeout=5)
            assert answer.spread.reached == (level or pb.WRITE_LEVEL_CACHED)
            assert answer.spread.revision == answer.flag.revision
        for _, server in found:  # replicas answer at once: none waits for its next heartbeat
            seldom = replace(server.replica.heartbeats._timing, heartbeat_every_s=60.0)
            monkeypatch.setattr(server.replica.heartbeats, "_timing", seldom)
        for number in range(20):
            request = pb.ToggleFlagRequest(flag_key="a", enabled=number % 2 == 0, wait_for=pb.WRITE_LEVEL_APPLIED)
            answer = await client.stub.ToggleFlag(request, timeout=8)
            assert answer.spread.reached == pb.WRITE_LEVEL_APPLIED
            assert (list(answer.spread.applied_by), list(answer.spread.lagging)) == (names, [])
            for other, _ in found:
                assert (await other.evaluate("a")).revision == answer.flag.revision


async def test_a_wait_for_the_cache_ends_when_redis_is_back_or_with_the_level_reached(
    mongo_database_url: str, redis_server: Any
) -> None:
    async with replica(store_url=mongo_database_url, cache_url=redis_server.url) as (client, _):
        await until_serving(client)
        await client.create("a")
        redis_server.kill()
        await asyncio.sleep(0.1)
        request = pb.ToggleFlagRequest(flag_key="a", enabled=True, wait_for=pb.WRITE_LEVEL_CACHED)
        request.wait_timeout.CopyFrom(Duration(nanos=300_000_000))
        answer = await client.stub.ToggleFlag(request, timeout=5)
        assert answer.spread.reached == pb.WRITE_LEVEL_STORED
        request.wait_timeout.CopyFrom(Duration(seconds=20))
        waiting = asyncio.ensure_future(client.stub.ToggleFlag(request, timeout=25))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(redis_server.start)
        assert (await waiting).spread.reached == pb.WRITE_LEVEL_CACHED


async def test_a_stop_does_not_wait_for_what_a_write_waits_for(mongo_database_url: str, redis_server: Any) -> None:
    """A stop has `grace_s`, one second here, for its calls; a write may wait a minute for the cache."""
    async with replica(store_url=mongo_database_url, cache_url=redis_server.url) as (client, _):
        await until_serving(client)
        await client.create("a")
        redis_server.kill()
        request = pb.ToggleFlagRequest(flag_key="a", enabled=True, wait_for=pb.WRITE_LEVEL_CACHED)
        request.wait_timeout.CopyFrom(Duration(seconds=60))
        asked_at = time.monotonic()
        waiting = asyncio.ensure_future(client.stub.ToggleFlag(request))
        await asyncio.sleep(0.5)
        assert not waiting.done()
    assert time.monotonic() - asked_at < 60 / 2
    waiting.cancel()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"wait_for": 9}, "wait_for"),
        ({"wait_timeout": Duration(seconds=61)}, "wait_timeout"),
        ({"wait_timeout": Duration(seconds=-1)}, "wait_timeout"),
    ],
)
async def test_an_invalid_wait_changes_nothing(tmp_path: Any, fields: dict[str, Any], field: str) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        await until_serving(client)
        revision = (await client.create("a")).revision
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a", enabled=True, **fields), timeout=5)
        assert (caught.value.code(), info_of(caught.value).metadata["field"]) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            field,
        )
        assert (await client.evaluate("a")).revision == revision


async def test_the_embedded_store_has_no_other_replica_to_wait_for(tmp_path: Any) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await until_serving(client)
        await client.create("a")
        request = pb.ToggleFlagRequest(flag_key="a", enabled=True, wait_for=pb.WRITE_LEVEL_APPLIED)
        spread = (await client.stub.ToggleFlag(request, timeout=5)).spread
        assert (spread.reached, list(spread.applied_by)) == (pb.WRITE_LEVEL_APPLIED, [server.replica.heartbeats.name])
