"""Denials across replicas of one MongoDB and Redis, and what a restored store does to denials and revocations."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.replicas import Client, until

KEY = ec_key()
APPLIED = pb.WRITE_LEVEL_APPLIED
POD = f"jwt:{KUBERNETES}|system:serviceaccount:team-a:web"


class Cluster:
    """Two replicas of one store that accept an issuer's JWTs, an admin's token, and one to revoke."""

    def __init__(self, store_url: str) -> None:
        self.store_url = store_url
        self.replicas: list[tuple[Client, Server]] = []
        self.root: Headers = ()
        self.caller: Headers = ()
        self.token_id = ""

    @property
    def names(self) -> list[str]:
        return sorted(server.replica.heartbeats.name for _, server in self.replicas)

    @property
    def tokens(self) -> tokens_grpc.TokenServiceStub:
        return tokens_grpc.TokenServiceStub(self.replicas[0][0].channel)

    async def deny(self, identity: str, **fields: object) -> tokens.DenyIdentityResponse:
        request = tokens.DenyIdentityRequest(identity=identity, wait_for=APPLIED, **fields)  # type: ignore[arg-type]
        found: tokens.DenyIdentityResponse = await self.tokens.DenyIdentity(request, metadata=self.root, timeout=10)
        return found

    async def allow(self, identity: str) -> None:
        request = tokens.AllowIdentityRequest(identity=identity, wait_for=APPLIED)
        await self.tokens.AllowIdentity(request, metadata=self.root, timeout=10)

    async def statuses(self, headers: Headers) -> set[str]:
        """What the replicas answer to a caller who reads a flag that does not exist."""
        return {await status(client, headers) for client, _ in self.replicas}


async def status(client: Client, headers: Headers) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"), metadata=headers, timeout=5)
    return error.value.code().name


async def end_of(stream: Any) -> grpc.StatusCode:
    """Read a stream until it fails."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def pod(account: str = "web") -> Headers:
    return bearer(signed(kubernetes_claims(account=account), KEY))


@pytest.fixture
async def cluster(mongo_database_url: str, redis_clean_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    found = Cluster(mongo_database_url)
    (root, root_text), (token, text) = made("admin"), made("read", "default")
    await stored(mongo_database_url, root, token)
    found.root, found.caller, found.token_id = bearer(root_text), bearer(text), token.id
    (tmp_path / "keys.json").write_bytes(jwks(k1=KEY))
    rule = {"when": [{"claim": "sub", "prefix": "system:serviceaccount:"}], "grant": "read@default"}
    issuer = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{tmp_path}/keys.json", "rules": [rule]}
    (tmp_path / "issuers.json").write_text(json.dumps({"issuers": [issuer]}))
    async with AsyncExitStack() as stack:
        for _ in range(2):
            settings = {"cache_url": redis_clean_url, "jwt_issuers_file": str(tmp_path / "issuers.json")}
            found.replicas.append(await stack.enter_async_context(guarded(mongo_database_url, **settings)))
        heartbeats = found.replicas[0][1].replica.heartbeats
        while len((await heartbeats.statuses())[0]) < 2:  # noqa: ASYNC110  the replicas report by themselves
            await asyncio.sleep(0.02)
        yield found


async def test_a_denied_subject_is_refused_by_every_replica_and_its_streams_end(cluster: Cluster) -> None:
    headers, streams = pod(), []
    for client, _ in cluster.replicas:
        for caller in headers, pod("other"):
            stream = client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=caller, timeout=20)
            await stream.read()
            streams.append(stream)
    answer = await cluster.deny(POD, reason="stolen")
    answered_at = time.monotonic()
    spread = answer.spread
    assert (spread.reached, list(spread.applied_by), list(spread.lagging)) == (APPLIED, cluster.names, [])
    assert await cluster.statuses(headers) == {"PERMISSION_DENIED"}
    assert await cluster.statuses(pod("other")) == await cluster.statuses(cluster.caller) == {"NOT_FOUND"}
    assert [await end_of(stream) for stream in streams[::2]] == [grpc.StatusCode.UNAUTHENTICATED] * 2
    assert time.monotonic() - answered_at < 1
    assert not any(stream.done() for stream in streams[1::2])
    listed = await cluster.tokens.ListDeniedIdentities(tokens.ListDeniedIdentitiesRequest(), metadata=cluster.root)
    assert [(each.identity, each.reason, each.in_force) for each in listed.denied] == [(POD, "stolen", True)]
    await cluster.allow(POD)
    assert await cluster.statuses(headers) == {"NOT_FOUND"}
    for stream in streams:
        stream.cancel()
    await check_that_a_denial_ends_with_its_time(cluster)
    await check_that_a_replica_that_does_not_follow_is_named(cluster)


async def check_that_a_denial_ends_with_its_time(cluster: Cluster) -> None:
    request = tokens.DenyIdentityRequest(identity=POD, wait_for=APPLIED)
    request.expire_time.FromNanoseconds(time.time_ns() + 1_500_000_000)
    await cluster.tokens.DenyIdentity(request, metadata=cluster.root, timeout=10)
    while await cluster.statuses(pod()) != {"NOT_FOUND"}:  # noqa: ASYNC110  the replicas do it by themselves
        await asyncio.sleep(0.05)
    assert time.time_ns() > request.expire_time.ToNanoseconds()


async def check_that_a_replica_that_does_not_follow_is_named(cluster: Cluster) -> None:
    _, deaf = cluster.replicas[1]
    assert deaf.replica.access is not None
    await deaf.replica.access.follower.close()
    request = tokens.DenyIdentityRequest(identity=POD, wait_for=APPLIED)
    request.wait_timeout.FromSeconds(1)
    answer = await cluster.tokens.DenyIdentity(request, metadata=cluster.root, timeout=10)
    assert list(answer.spread.lagging) == [deaf.replica.heartbeats.name]


async def test_a_restored_store_and_a_resync_bring_nobody_back(cluster: Cluster) -> None:
    with pymongo.MongoClient[dict[str, object]](cluster.store_url) as client:
        database = client.get_default_database()
        names = ("flagsvc_tokens", "flagsvc_revisions")
        backup = {name: list(database[name].find()) for name in names}
        revoke = tokens.RevokeTokenRequest(id=cluster.token_id, wait_for=APPLIED)
        await cluster.tokens.RevokeToken(revoke, metadata=cluster.root, timeout=10)
        await cluster.deny(POD)
        for name in names:
            database[name].delete_many({})
            if backup[name]:
                database[name].insert_many(backup[name])
    views = [server.replica.access.view for _, server in cluster.replicas]  # type: ignore[union-attr]
    await until(lambda: all(view.returned and view.denials.lost for view in views))
    resync = pb.ResyncRequest(confirm=True)
    await cluster.replicas[0][0].stub.Resync(resync, metadata=cluster.root, timeout=20)
    for _, server in cluster.replicas:
        assert server.replica.access is not None
        await server.replica.access.follower.looked()
        problems = {each.name for each in server.replica.status().problems}
        assert {"revoked_tokens_returned", "denials_lost"} <= problems
    assert await cluster.statuses(pod()) == {"PERMISSION_DENIED"}
    assert await cluster.statuses(cluster.caller) == {"UNAUTHENTICATED"}
    # The cures that the status names.
    await cluster.tokens.RevokeToken(revoke, metadata=cluster.root, timeout=10)
    await cluster.allow(POD)
    assert await cluster.statuses(pod()) == {"NOT_FOUND"}
    await until(lambda: not any(view.returned or view.denials.lost for view in views))
