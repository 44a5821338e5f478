"""flagd's event streams: changes, changes that may have been missed, and how a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pymongo
import pytest

from flagsvc.api.flagd import event_streams as flagd_events
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.view.changelog import RECENT_S
from tests.flagd_clients import VERSIONS, Evaluator, Events, selecting
from tests.providers.cases import flag
from tests.replicas import Client, replica, until, until_serving


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flags.db"


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with replica(store_url=store_url) as (client, _):
        await until_serving(client)
        yield client


async def delete(client: Client, key: str) -> None:
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key=key), timeout=5)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_reports_that_it_is_ready_and_then_each_change(client: Client, version: str) -> None:
    events = Evaluator(version, client.channel).events()
    assert await events.next() == ("provider_ready", {})
    await client.create("a", status=1)
    assert await events.next() == ("configuration_change", {"a": "write"})
    await client.toggle("a", False)
    assert await events.next() == ("configuration_change", {"a": "update"})
    await delete(client, "a")
    assert await events.next() == ("configuration_change", {"a": "delete"})
    await client.create("a")
    assert await events.next() == ("configuration_change", {"a": "write"})


async def test_a_stream_gets_its_set_only(client: Client) -> None:
    evaluator = Evaluator("v1", client.channel)
    default, other = evaluator.events(), evaluator.events(selecting("flagSetId=other"))
    assert await default.next() == await other.next() == ("provider_ready", {})
    await client.create("theirs", flag_set="other")
    await client.create("ours")
    assert await default.next() == ("configuration_change", {"ours": "write"})
    assert await other.next() == ("configuration_change", {"theirs": "write"})


async def test_recent_changes_are_sent_to_streams_that_reconnect(store_url: str) -> None:
    async with replica(store_url=store_url) as (client, server):
        await until_serving(client)
        for key in ("old", "gone", "changed"):
            await client.create(key)
        recent = server.replica.near.changelogs.of("default").recent_changes
        for number, change in recent.items():
            recent[number] = change._replace(at=change.at - RECENT_S - 1)
        evaluator = Evaluator("v2", client.channel)
        quiet = evaluator.events()
        assert await quiet.next() == ("provider_ready", {})
        await client.toggle("changed", True)
        assert await quiet.next() == ("configuration_change", {"changed": "update"})
        await delete(client, "gone")
        assert await quiet.next() == ("configuration_change", {"gone": "delete"})
        back = evaluator.events()
        assert await back.next() == ("provider_ready", {})
        assert await back.next() == ("configuration_change", {"changed": "update", "gone": "delete"})


async def test_a_new_replica_sends_changes_from_before_its_start(mongo_database_url: str) -> None:
    now = datetime.now(UTC)
    documents = [
        {"key": "old", "name": "old", "status": "ENABLED", "updatedAt": now - timedelta(hours=1)},
        {"key": "recent", "name": "recent", "status": "ENABLED", "updatedAt": now - timedelta(seconds=30)},
        {"key": "unknown", "name": "unknown", "status": "ENABLED"},
    ]
    with pymongo.MongoClient(mongo_database_url) as mongo:
        mongo.get_default_database().feature_flags.insert_many(documents)
    async with replica(store_url=mongo_database_url) as (client, _):
        await until_serving(client)
        events = Evaluator("v2", client.channel).events()
        assert await events.next() == ("provider_ready", {})
        assert await events.next() == ("configuration_change", {"recent": "update", "unknown": "update"})


async def test_a_stream_opened_before_the_first_load_gets_what_it_may_have_missed(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text("{")
    async with replica(store_url=f"file:{path}") as (client, _):
        events = Evaluator("v2", client.channel).events()
        assert await events.next() == ("provider_ready", {})
        definition = {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"}
        path.write_text(json.dumps({"flags": {"a": definition}}))
        assert await events.next() == ("configuration_change", {"a": "update"})


async def test_an_idle_stream_gets_keep_alives(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flagd_events, "KEEP_ALIVE_S", 0.2)
    events = Evaluator("v2", client.channel).events()
    assert await events.next() == ("provider_ready", {})
    message = await events.call.read()
    assert (message.type, message.HasField("data")) == ("keep_alive", False)
    assert await events.next() == ("keep_alive", {})
    await client.create("a")
    assert await events.next() == ("configuration_change", {"a": "write"})


async def test_a_reader_who_is_away_finds_each_key_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flagd_events, "PAUSE_S", 2.0)
    events = Evaluator("v2", client.channel).events()
    assert await events.next() == ("provider_ready", {})
    await client.create("first")
    assert await events.next() == ("configuration_change", {"first": "write"})
    for key in ("a", "b", "c"):
        await client.create(key)
    await client.toggle("a", True)
    await delete(client, "b")
    await delete(client, "first")
    await client.create("first")
    expected = {"a": "write", "b": "delete", "c": "write", "first": "update"}
    assert await events.next() == ("configuration_change", expected)


async def ended(events: Events) -> grpc.StatusCode:
    """Return the status of a stream that must end soon."""
    async with asyncio.timeout(5):
        with contextlib.suppress(grpc.aio.AioRpcError):
            assert await events.call.read() is grpc.aio.EOF
        return await events.call.code()


async def test_a_stop_ends_streams_so_that_clients_reconnect(store_url: str) -> None:
    async with replica(store_url=store_url) as (client, server):
        await until_serving(client)
        evaluator = Evaluator("v2", client.channel)
        events = evaluator.events()
        assert await events.next() == ("provider_ready", {})
        assert server.services.event_streams.active == 1
        server.services.event_streams.close()
        assert await ended(events) is grpc.StatusCode.UNAVAILABLE
        await until(lambda: server.services.event_streams.active == 0)
        late = evaluator.events()
        assert await late.next() == ("provider_ready", {})
        assert await ended(late) is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_ends_at_its_maximum_age(store_url: str) -> None:
    async with replica(store_url=store_url, stream_age_s=0.5) as (client, server):
        await until_serving(client)
        events = Evaluator("v2", client.channel).events()
        assert await events.next() == ("provider_ready", {})
        await until(lambda: server.services.event_streams.active == 0, 3)
        assert await ended(events) is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_disconnects_leaves_nothing(store_url: str) -> None:
    async with replica(store_url=store_url) as (client, server):
        await until_serving(client)
        events = Evaluator("v2", client.channel).events()
        assert await events.next() == ("provider_ready", {})
        assert any(state.listeners for state in server.replica.near.changelogs._of_set.values())
        events.call.cancel()
        await until(lambda: server.services.event_streams.active == 0)
        assert not any(state.listeners for state in server.replica.near.changelogs._of_set.values())


async def test_a_toggle_on_one_replica_is_an_event_on_the_other(mongo_database_url: str, redis_clean_url: str) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, _), replica(**settings) as (two, server):
        await until_serving(one)
        await until_serving(two)
        await until(lambda: server.replica.follower.channels.subscription_up)
        await one.stub.CreateFlag(pb.CreateFlagRequest(flag=flag("a")))
        events = Evaluator("v2", two.channel).events()
        assert await events.next() == ("provider_ready", {})
        assert (await events.next())[1].keys() == {"a"}
        await one.toggle("a", False)
        async with asyncio.timeout(1):
            assert await events.next() == ("configuration_change", {"a": "update"})
        assert (await Evaluator("v2", two.channel).resolve("Boolean", "a"))["reason"] == "DISABLED"


async def test_a_stream_stores_a_thousand_keys_at_most_and_announces_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flagd_events, "MAX_KEYS", 10)
    monkeypatch.setattr(flagd_events, "PAUSE_S", 0.3)
    path = tmp_path / "flags.json"

    def write(variant: str) -> None:
        definition = {"state": "ENABLED", "variants": {"on": variant}, "defaultVariant": "on"}
        path.write_text(json.dumps({"flags": {f"k{number:02}": definition for number in range(35)}}))

    write("before")
    async with replica(store_url=f"file:{path}") as (client, server):
        await until_serving(client)
        events = Evaluator("v2", client.channel).events()
        assert await events.next() == ("provider_ready", {})
        for _ in range(4):  # what a new client may have missed
            await events.next()
        write("after")
        [stream] = next(iter(server.services.event_streams._by_peer.values()))
        announced: list[int] = []
        keys: set[str] = set()
        async with asyncio.timeout(10):
            while len(keys) < 35:
                _, changed = await events.next()
                assert len(stream.kinds) <= 10
                announced.append(len(changed))
                keys |= changed.keys()
        assert announced == [10, 10, 10, 5]


@pytest.mark.grpcio
async def test_streams_outlast_their_connection_which_gets_no_new_calls(store_url: str) -> None:
    """A provider takes the end of a stream for an error, and reports STALE."""
    async with replica(store_url=store_url, connection_age_s=0.3) as (client, server):
        await until_serving(client)
        await client.create("a")
        evaluator = Evaluator("v2", client.channel)
        events = evaluator.events()
        assert [(await events.next())[0] for _ in range(2)] == ["provider_ready", "configuration_change"]
        peers = server.services.peers._callers
        async with asyncio.timeout(10):
            while len(peers) < 2:  # the stream's connection is one, that of new calls another
                await evaluator.resolve("Boolean", "a")
                await asyncio.sleep(0.02)
        await client.toggle("a", True)
        assert await events.next() == ("configuration_change", {"a": "update"})
        assert not events.call.done()
