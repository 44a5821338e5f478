"""Deployments on one Redis never mix: each message, entry and snapshot names its store (promise P11)."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import Client, replica, until, until_serving
from tests.stores import CHANNEL, OWNER_KEY

ON = types.FLAG_STATUS_ENABLED


async def ready(client: Client, server: Server, *, subscribed: bool = True) -> None:
    await until_serving(client)
    if subscribed:
        await until(lambda: server.replica.follower.channels.subscription_up)


async def problems(client: Client) -> dict[str, pb.Problem]:
    status = await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
    [own] = [each for each in status.replicas if each.replica == status.answered_by]
    return {problem.name: problem for problem in own.problems}


def database(url: str, number: int) -> str:
    return f"{url.rpartition('/')[0]}/{number}"


@pytest.mark.parametrize("apart", ["database", "prefix"])
async def test_two_deployments_on_one_redis_both_work_in_full(tmp_path: Path, redis_clean_url: str, apart: str) -> None:
    """Staging's toggle changes nothing in production, whose own toggle is in the shared cache and on its channel."""
    ours: dict[str, Any] = {"store_url": f"sqlite:///{tmp_path}/prod.db", "cache_url": redis_clean_url}
    theirs: dict[str, Any] = {"store_url": f"sqlite:///{tmp_path}/staging.db"}
    theirs |= {
        "database": {"cache_url": database(redis_clean_url, 1)},
        "prefix": {"cache_url": redis_clean_url, "cache_prefix": "staging"},
    }[apart]
    async with replica(**ours) as (prod, production), replica(**theirs) as (stage, staging):
        await ready(prod, production)
        await ready(stage, staging)
        await prod.create("night-mode", status=ON)
        await stage.create("night-mode", status=ON)
        toggled = await stage.stub.ToggleFlag(
            pb.ToggleFlagRequest(flag_key="night-mode", enabled=False, wait_for=pb.WRITE_LEVEL_APPLIED), timeout=10
        )
        assert list(toggled.spread.applied_by) == [staging.replica.heartbeats.name]
        await prod.create("other", status=ON)  # its announcement comes after what staging announced
        await until(lambda: production.replica.follower.channels.received == 2)
        assert (await prod.evaluate("night-mode")).enabled
        assert not (await stage.evaluate("night-mode")).enabled
        for client, server in ((prod, production), (stage, staging)):
            assert not await problems(client)
            assert server.replica.cache is not None
            assert server.replica.cache.foreign_messages == 0
            await until(lambda server=server: server.replica.cache_lease.is_holder)
    with redis.Redis.from_url(redis_clean_url) as direct:
        mine = direct.get("feature-flag:night-mode")
        assert mine
        assert b'"ENABLED"' in mine
        where = direct if apart == "prefix" else redis.Redis.from_url(database(redis_clean_url, 1))
        other = where.get("staging:feature-flag:night-mode" if apart == "prefix" else "feature-flag:night-mode")
        assert other
        assert b'"DISABLED"' in other


async def test_of_two_stores_under_one_prefix_the_second_runs_without_the_cache(
    tmp_path: Path, redis_clean_url: str
) -> None:
    """Both names and the setting that helps stand in its status; neither overwrites what the other put."""
    first: dict[str, Any] = {"store_url": f"sqlite:///{tmp_path}/first.db", "cache_url": redis_clean_url}
    second = {**first, "store_url": f"sqlite:///{tmp_path}/second.db"}
    async with AsyncExitStack() as owner, AsyncExitStack() as stack:
        other, another = await owner.enter_async_context(replica(**second))
        await ready(other, another)
        client, server = await stack.enter_async_context(replica(**first))
        await ready(client, server, subscribed=False)
        await until(lambda: not server.replica.cache_is_up())
        [problem] = (await problems(client)).values()
        assert problem.name == "cache_of_another_store"
        assert "first.db" in problem.detail
        assert "second.db (" in problem.detail
        assert "FLAGSVC_CACHE_PREFIX" in problem.cure
        await other.create("a", status=ON)
        await client.create("a")
        assert not (await client.evaluate("a")).enabled
        assert (await other.evaluate("a")).enabled
        with redis.Redis.from_url(redis_clean_url) as direct:
            assert b'"ENABLED"' in (direct.get("feature-flag:a") or b"")
        assert not await problems(other)
        await owner.aclose()  # the owner's last replica gives the keys back
        await until(server.replica.cache_is_up)
        await client.toggle("a", False)
        assert not await problems(client)
        with redis.Redis.from_url(redis_clean_url) as direct:
            assert b"first.db" in (direct.get(OWNER_KEY) or b"")
            assert b'"DISABLED"' in (direct.get("feature-flag:a") or b"")


async def test_messages_of_another_store_are_ignored_counted_and_logged_once(
    tmp_path: Path, redis_clean_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first: dict[str, Any] = {"store_url": f"sqlite:///{tmp_path}/first.db", "cache_url": redis_clean_url}
    async with replica(**first) as (client, server):
        await ready(client, server)
        await client.create("a", status=ON)
        before = server.replica.follower.channels.received
        flag = {"key": "a", "status": "DISABLED", "revision": 2}
        theirs = '{"set":"default","key":"a","revision":2,"flag":%s,"store":["ffff","mongodb://other/db"]}'
        with redis.Redis.from_url(redis_clean_url) as direct:
            text = theirs % str(flag).replace("'", '"')
            for message in (text, text, text.partition(',"store"')[0] + "}"):
                direct.publish(CHANNEL, message)
        cache = server.replica.cache
        assert cache is not None
        await until(lambda: cache.foreign_messages == 3)
        assert server.replica.follower.channels.received == before
        assert (await client.evaluate("a")).enabled
    logged = capsys.readouterr()
    assert (logged.out + logged.err).count("mongodb://other/db") == 1


async def test_a_copy_of_a_store_is_another_store(tmp_path: Path, redis_clean_url: str) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/one.db") as (client, server):
        await until_serving(client)
        await client.create("a")
        one = server.replica.store.identity
    shutil.copy(tmp_path / "one.db", tmp_path / "two.db")
    async with replica(store_url=f"sqlite:///{tmp_path}/two.db") as (client, server):
        await until_serving(client)
        two = server.replica.store.identity
    async with replica(store_url=f"sqlite:///{tmp_path}/one.db") as (client, server):
        await until_serving(client)
        assert one
        assert two
        assert one.id != two.id
        assert server.replica.store.identity == one, "it is made once"


async def test_a_snapshot_of_another_store_is_not_used(tmp_path: Path) -> None:
    """The file at the store's URL was replaced by another store, which is where a snapshot's URL alone says nothing."""
    settings: dict[str, Any] = {
        "store_url": f"sqlite:///{tmp_path}/flags.db",
        "snapshot_file": str(tmp_path / "snapshot"),
    }
    async with replica(**settings) as (client, _):
        await until_serving(client)
        for key in ("a", "b"):
            await client.create(key, status=ON)
    (tmp_path / "flags.db").unlink()
    async with replica(**settings) as (client, server):
        await until_serving(client)
        await until(lambda: server.replica.follower.proof.loaded.is_set() and not server.replica.near.restored)
        assert (await client.evaluate("a")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        assert (await client.create("c", status=ON)).revision == 1
        assert (await client.evaluate("c")).enabled


async def test_stores_in_mongodb_have_an_identity_each(mongo_database_url: str, redis_clean_url: str) -> None:
    """All replicas of one database make one identity, also where they start at once."""
    settings: dict[str, Any] = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, first), replica(**settings) as (two, second):
        await asyncio.gather(ready(one, first), ready(two, second))
        assert first.replica.store.identity
        assert first.replica.store.identity == second.replica.store.identity
        assert mongo_database_url.rpartition("/")[2].partition("?")[0] in str(first.replica.store.identity)
        await one.create("a", status=ON)
        await until(lambda: second.replica.near.contains("default", 1))
        assert (await two.evaluate("a")).enabled
