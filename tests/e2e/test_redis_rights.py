"""The Redis user of docs/operating.md has every right that flagsvc needs, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import replica, until, until_serving
from tests.servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def documented_user() -> list[str]:
    """Return the words of the documented command, which makes the user."""
    found = re.search(r"<!-- acl -->\n```\n(.*?)```\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found, "the page has no command between its marks"
    return found.group(1).split()


@pytest.mark.grpcio
async def test_the_documented_user_has_every_right_that_is_needed(
    mongo_database_url: str, redis_server: RedisServer
) -> None:
    words = documented_user()
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*words)
        url = redis_server.url.replace("redis://", "redis://flagsvc:PASSWORD@")
        settings = {"store_url": mongo_database_url, "cache_url": url, "verify_interval_s": 0.0}
        settings["rate_limits"] = "enforce"
        async with replica(**settings) as (one, first), replica(**settings) as (two, second):
            for client, server in ((one, first), (two, second)):
                await until_serving(client)
                await until(lambda server=server: server.replica.follower.channels.subscription_up)
            await until(lambda: any(s.replica.cache_lease.is_holder for s in (first, second)))
            created = await one.stub.CreateFlag(
                pb.CreateFlagRequest(
                    flag=types.Flag(key="a", flag_set="a b", status=types.FLAG_STATUS_ENABLED),
                    wait_for=pb.WRITE_LEVEL_APPLIED,
                ),
                timeout=10,
            )
            assert len(created.spread.applied_by) == 2
            await one.create("b")
            assert (await two.stub.VerifyCache(pb.VerifyCacheRequest(repair=True), timeout=10)).checked == 2
            near = second.replica.near  # as if it held nothing: lookups go to Redis, and fill it
            near.drop()
            assert (await two.evaluate("b")).revision
            await one.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="b"), timeout=5)
            assert not (await one.stub.Resync(pb.ResyncRequest(confirm=True), timeout=20)).waiting
            status = await two.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
            assert [each for replica in status.replicas for each in replica.problems] == []
        refused = [each for each in admin.acl_log() if each["username"] == "flagsvc"]
        assert refused == []
        stats = admin.info("commandstats")
        used = {name.removeprefix("cmdstat_") for name in stats}
    granted = {word[1:].partition("|")[0] for word in words if word.startswith("+")}
    assert granted <= used, "a right that nothing uses"


async def test_a_user_without_a_channel_or_a_key_is_refused(redis_server: RedisServer) -> None:
    """Otherwise the documented patterns would restrict nothing."""
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*documented_user())
        with redis.Redis.from_url(redis_server.url.replace("redis://", "redis://flagsvc:PASSWORD@")) as user:
            for command in (("GET", "other"), ("PUBLISH", "other", "x"), ("FLUSHDB",), ("KEYS", "*")):
                try:
                    user.execute_command(*command)
                except redis.exceptions.NoPermissionError:
                    continue
                raise AssertionError(f"{command} was allowed")
