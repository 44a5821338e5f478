"""Revocation across replicas: what is open ends, every replica refuses, and the answer names those that may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.sync.v1 import sync_pb2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.replicas import Client, until

STREAMS = (
    ("/flagsvc.v1.FlagService/WatchFlags", pb.WatchFlagsRequest()),
    ("/flagd.evaluation.v1.Service/EventStream", v1.EventStreamRequest()),
    ("/flagd.sync.v1.FlagSyncService/SyncFlags", sync_pb2.SyncFlagsRequest()),
)
APPLIED = pb.WRITE_LEVEL_APPLIED


class Cluster:
    """Replicas of one store, an admin's token, and a token to revoke."""

    def __init__(self) -> None:
        self.replicas: list[tuple[Client, Server]] = []
        self.root: Headers = ()
        self.caller: Headers = ()
        self.token_id = ""

    @property
    def names(self) -> list[str]:
        return sorted(server.replica.heartbeats.name for _, server in self.replicas)

    def tokens(self, at: int = 0) -> tokens_grpc.TokenServiceStub:
        return tokens_grpc.TokenServiceStub(self.replicas[at][0].channel)

    async def revoke(self, seconds: int = 5) -> tokens.RevokeTokenResponse:
        request = tokens.RevokeTokenRequest(id=self.token_id, wait_for=APPLIED)
        request.wait_timeout.seconds = seconds
        found: tokens.RevokeTokenResponse = await self.tokens().RevokeToken(request, metadata=self.root, timeout=10)
        return found

    async def status(self, at: int) -> grpc.StatusCode:
        try:
            await self.replicas[at][0].stub.GetFlag(pb.GetFlagRequest(flag_key="a"), metadata=self.caller, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.fixture
async def cluster(mongo_database_url: str, redis_clean_url: str) -> AsyncIterator[Cluster]:
    found = Cluster()
    (root, root_text), (token, text) = made("admin"), made("read", "default")
    await stored(mongo_database_url, root, token)
    found.root, found.caller, found.token_id = bearer(root_text), bearer(text), token.id
    async with AsyncExitStack() as stack:
        for _ in range(3):
            replica = guarded(mongo_database_url, cache_url=redis_clean_url)
            found.replicas.append(await stack.enter_async_context(replica))
        heartbeats = found.replicas[0][1].replica.heartbeats
        while len((await heartbeats.statuses())[0]) < 3:  # noqa: ASYNC110  the replicas report by themselves
            await asyncio.sleep(0.02)
        yield found


async def test_a_revocation_ends_every_stream_on_every_replica_and_is_proven(cluster: Cluster) -> None:
    streams = []
    for client, _ in cluster.replicas:
        for path, request in STREAMS:
            call = client.channel.unary_stream(path, type(request).SerializeToString)(request, metadata=cluster.caller)
            await call.read()
            streams.append(call)
    answer = await cluster.revoke()
    answered_at = time.monotonic()
    assert (answer.spread.reached, list(answer.spread.applied_by), list(answer.spread.lagging)) == (
        APPLIED,
        cluster.names,
        [],
    )
    assert [await cluster.status(at) for at in range(3)] == [grpc.StatusCode.UNAUTHENTICATED] * 3
    assert [await _end_of(call) for call in streams] == [grpc.StatusCode.UNAUTHENTICATED] * 9
    assert time.monotonic() - answered_at < 1
    assert sum(server.replica.access.authority.sessions.ended for _, server in cluster.replicas) == 9  # type: ignore[union-attr]


async def test_a_replica_that_does_not_follow_is_named(cluster: Cluster) -> None:
    _, deaf = cluster.replicas[2]
    assert deaf.replica.access is not None
    await deaf.replica.access.follower.close()
    answer = await cluster.revoke(seconds=1)
    while len(answer.spread.lagging) > 1:  # on a busy machine another one may need longer
        answer = await cluster.revoke(seconds=1)
    name = deaf.replica.heartbeats.name
    assert (answer.spread.reached, list(answer.spread.lagging)) == (pb.WRITE_LEVEL_CACHED, [name])
    assert sorted(answer.spread.applied_by) == [each for each in cluster.names if each != name]
    assert [await cluster.status(at) for at in range(2)] == [grpc.StatusCode.UNAUTHENTICATED] * 2


async def test_a_replica_that_has_not_seen_a_restore_is_not_named(cluster: Cluster) -> None:
    """It goes on saying what it has applied of the counter before, which is higher."""
    (_, server), (_, deaf) = cluster.replicas[0], cluster.replicas[2]
    assert server.replica.access is not None
    assert deaf.replica.access is not None
    for name in ("one", "two", "three"):
        token = tokens.Token(id=cluster.token_id, name=name)
        request = tokens.UpdateTokenRequest(token=token, update_mask={"paths": ["name"]}, wait_for=APPLIED)
        await cluster.tokens().UpdateToken(request, metadata=cluster.root, timeout=10)
    await deaf.replica.access.follower.close()
    kept: Any = server.replica.store.tokens
    await kept._counters.update_one({"_id": {"flagsvc": "tokens"}}, {"$set": {"revision": 2}})
    await kept._records.update_many({"revision": {"$exists": True}}, {"$set": {"revision": 2}})
    await server.replica.access.follower.looked()
    assert server.replica.access.view.revision < deaf.replica.access.view.revision
    answer = await cluster.revoke(seconds=3)
    assert (answer.spread.reached, list(answer.spread.lagging)) == (
        pb.WRITE_LEVEL_CACHED,
        [deaf.replica.heartbeats.name],
    )


async def test_without_redis_a_revocation_is_seen_within_a_second(cluster: Cluster) -> None:
    for _, server in cluster.replicas[1:]:
        assert server.replica.access is not None
        server.replica.follower.channels.tokens_changed = lambda: None  # every announcement is lost
    began = time.monotonic()
    answer = await cluster.revoke()
    assert answer.spread.reached == APPLIED
    assert time.monotonic() - began < 3
    assert [await cluster.status(at) for at in range(3)] == [grpc.StatusCode.UNAUTHENTICATED] * 3


async def test_forged_announcements_make_and_end_no_token(cluster: Cluster) -> None:
    _, server = cluster.replicas[0]
    assert server.replica.cache is not None
    assert server.replica.access is not None
    view = server.replica.access.view
    before, verified_at = view.revision, view.verified_at
    for _ in range(50):
        await server.replica.cache.announce_tokens()
    await until(lambda: view.verified_at > verified_at)
    assert (view.revision, await cluster.status(0)) == (before, grpc.StatusCode.NOT_FOUND)


async def test_past_the_staleness_bound_evaluations_and_open_streams_go_on_and_nothing_else(cluster: Cluster) -> None:
    client, server = cluster.replicas[0]
    assert server.replica.access is not None
    path, request = STREAMS[0]
    stream = client.channel.unary_stream(path, type(request).SerializeToString)(request, metadata=cluster.caller)
    await stream.read()
    await server.replica.access.follower.close()
    server.replica.access.view.verified_at = time.monotonic() - 6
    assert await cluster.status(0) is grpc.StatusCode.UNAVAILABLE
    found = await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), metadata=cluster.caller, timeout=5)
    assert found.evaluation.error_code
    assert not stream.done()
    explain = pb.EvaluateFlagRequest(flag_key="a", explain=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.stub.EvaluateFlag(explain, metadata=cluster.caller, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    stream.cancel()


async def _end_of(call: grpc.aio.UnaryStreamCall[object, object]) -> grpc.StatusCode:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
