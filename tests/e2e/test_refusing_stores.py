"""A replica whose Redis refuses: writes are stored and never an error, their spread is honest, and status names it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from flagsvc.cli.main import main
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.replication import snapshot_writer
from tests.replicas import Client, replica, until
from tests.servers import RedisServer


async def spread_of(client: Client, level: pb.WriteLevel.ValueType = pb.WRITE_LEVEL_UNSPECIFIED) -> pb.WriteSpread:
    request = pb.ToggleFlagRequest(flag_key="a", enabled=True, wait_for=level)
    if level:
        request.wait_timeout.CopyFrom(Duration(nanos=300_000_000))
    return (await client.stub.ToggleFlag(request, timeout=10)).spread


async def test_a_redis_that_becomes_read_only(mongo_database_url: str, redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as direct, capture_logs() as logs:
        async with replica(store_url=mongo_database_url, cache_url=redis_server.url) as (client, server):
            await client.create("a")
            await until(lambda: server.replica.follower.channels.subscription_up)
            reached = [(await spread_of(client)).reached]
            while reached[-1] != pb.WRITE_LEVEL_CACHED and len(reached) < 100:  # the first call may find Redis slow
                await asyncio.sleep(0.1)
                reached.append((await spread_of(client)).reached)
            assert reached[-1] == pb.WRITE_LEVEL_CACHED
            assert (await spread_of(client, pb.WRITE_LEVEL_APPLIED)).reached == pb.WRITE_LEVEL_APPLIED
            assert server.replica.status().problems == ()
            direct.execute_command("REPLICAOF", "127.0.0.1", "1")
            await until(lambda: not server.replica.cache_is_up())  # a heartbeat was refused
            for level in (pb.WRITE_LEVEL_UNSPECIFIED, pb.WRITE_LEVEL_CACHED, pb.WRITE_LEVEL_APPLIED):
                assert (await spread_of(client, level)).reached == pb.WRITE_LEVEL_STORED
            assert (await client.evaluate("a")).value.boolean_value
            response = await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
            [problem] = response.replicas[0].problems
            assert (problem.name, response.complete) == ("cache_refuses_writes", False)
            assert "READONLY You can't write against a read only replica" in problem.detail
            assert not await client.serving("cache")
            direct.execute_command("REPLICAOF", "NO", "ONE")
            await until(lambda: server.replica.cache_is_up() and server.replica.status().problems == ())
            assert (await spread_of(client, pb.WRITE_LEVEL_APPLIED)).reached == pb.WRITE_LEVEL_APPLIED
    refused = [line for line in logs if line["event"] == "cache_refuses_writes"]
    assert len(refused) == 1, "once, however long it lasts"


async def test_a_stored_change_is_no_error_whatever_the_cache_does(
    mongo_database_url: str, redis_clean_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(store_url=mongo_database_url, cache_url=redis_clean_url) as (client, server):
        await client.create("a")

        async def broken(*_: object, **__: object) -> None:
            raise AttributeError("a driver's mistake")

        monkeypatch.setattr(server.replica.cache, "put", broken)
        monkeypatch.setattr(server.replica.heartbeats, "wait_for_acks", broken)
        spread = await spread_of(client, pb.WRITE_LEVEL_APPLIED)
        assert (spread.reached, spread.revision) == (pb.WRITE_LEVEL_STORED, 2)
        assert (await client.evaluate("a")).value.boolean_value


async def test_a_snapshot_that_cannot_be_saved_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_writer, "MIN_SAVE_INTERVAL_S", 0.05)
    monkeypatch.setattr(snapshot_writer, "CHECK_EVERY_S", 0.05)
    folder = tmp_path / "snapshots"
    folder.touch()
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "snapshot_file": str(folder / "flags")}
    async with replica(**settings) as (client, server):
        await until(lambda: bool(server.replica.status().problems))
        [problem] = server.replica.status().problems
        assert problem.name == "snapshot_not_saved"
        assert "Not a directory" in problem.detail
        assert str(tmp_path) not in problem.detail
        folder.unlink()
        await client.create("a")
        await until(lambda: not server.replica.status().problems)


async def test_a_store_that_cannot_be_used_is_a_problem_with_its_cause(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/no/such/folder/flags.db") as (_, server):
        await until(lambda: bool(server.replica.status().problems))
        [problem] = server.replica.status().problems
        assert problem.name == "store_unavailable"
        assert "unable to open database file" in problem.detail
        assert "path in the store URL" in problem.cure


def test_an_import_says_what_was_not_announced(
    tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with redis.Redis.from_url(redis_server.url) as direct:
        direct.execute_command("REPLICAOF", "127.0.0.1", "1")
    flags = tmp_path / "flags.json"
    flags.write_text('{"flags": {"a": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "on"}}}')
    assert main(["import", str(flags), "--store", f"sqlite:///{tmp_path}/flags.db", "--cache", redis_server.url]) == 0
    captured = capsys.readouterr()
    assert "1 flags: 1 created" in captured.out
    assert "warning: 1 change is stored, but not announced" in captured.err
