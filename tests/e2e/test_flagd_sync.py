"""flagd's sync service: whole sets, unchanged, always the newest, and one broken flag affects no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest
from google.protobuf.json_format import MessageToDict
from openfeature.contrib.tools.flagd.core import FlagdCore

from flagsvc.api.flagd import sync as flagd_sync
from flagsvc.api.flagd.sync_payload import Payload
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from tests.flagd_clients import refused, selecting
from tests.providers.cases import BETA, COLORS, DISABLED, SWITCH, flag
from tests.replicas import Client, replica, until, until_serving

MAIL = {"ends_with": [{"var": "email"}, "@flagsvc.example"]}
FLAGS = [
    flag("switch"),
    flag("rule", COLORS, "red", targeting={"if": [{"$ref": "mail"}, "blue"]}, evaluators={"mail": MAIL}),
    flag("meta", {"few": 1, "many": 2.5}, metadata={"team": "web"}),
    flag("off", SWITCH, "on", status=DISABLED),
    flag("beta", COLORS, "red", status=BETA, targeting={"if": [True, "blue"]}),
    flag("theirs", {"x": {"a": [1, None]}}, "x", flag_set="mobile"),
]
DEFAULT = {
    "switch": {"state": "ENABLED", "defaultVariant": "on", "variants": SWITCH, "source": "default"},
    "rule": {
        "state": "ENABLED",
        "defaultVariant": "red",
        "variants": COLORS,
        "source": "default",
        "targeting": {"if": [MAIL, "blue"]},
    },
    "meta": {
        "state": "ENABLED",
        "defaultVariant": "",
        "variants": {"few": 1, "many": 2.5},
        "source": "default",
        "metadata": {"team": "web"},
    },
    "off": {"state": "DISABLED", "defaultVariant": "on", "variants": SWITCH, "source": "default"},
    "beta": {
        "state": "ENABLED",
        "defaultVariant": "",
        "variants": COLORS,
        "source": "default",
        "targeting": {"if": [True, "blue"]},
    },
}
MOBILE = {
    "theirs": {
        "state": "ENABLED",
        "defaultVariant": "x",
        "variants": {"x": {"a": [1, None]}},
        "source": "mobile",
        "metadata": {"flagSetId": "mobile"},
    }
}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Client, Server]]:
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "context_values": "region=eu,tier=gold"}
    async with replica(**settings) as (client, server):
        await until_serving(client)
        for each in FLAGS:
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=each), timeout=10)
        yield client, server


def stub(client: Client) -> Any:
    return sync_grpc.FlagSyncServiceStub(client.channel)


def opened(client: Client, headers: Any = (), **fields: str) -> Any:
    return stub(client).SyncFlags(sync.SyncFlagsRequest(**fields), metadata=headers)


async def next_flags(call: Any) -> dict[str, Any]:
    message = await call.read()
    assert message is not grpc.aio.EOF
    document = json.loads(message.flag_configuration)
    assert document.keys() == {"flags"}
    flags: dict[str, Any] = document["flags"]
    return flags


async def test_a_set_is_sent_unchanged(served: tuple[Client, Server]) -> None:
    client, _ = served
    assert await next_flags(opened(client)) == DEFAULT
    whole = await stub(client).FetchAllFlags(sync.FetchAllFlagsRequest())
    assert json.loads(whole.flag_configuration) == {"flags": DEFAULT}


async def test_flagds_own_engine_accepts_it(served: tuple[Client, Server]) -> None:
    client, _ = served
    core = FlagdCore()
    core.set_flags((await opened(client).read()).flag_configuration)
    assert core.resolve_boolean_value("switch", False, None).value is True
    assert core.resolve_string_value("beta", "mine", None).value == "#00f"
    assert core.resolve_boolean_value("off", False, None).reason == "DISABLED"


async def test_the_header_takes_precedence_over_the_field(served: tuple[Client, Server]) -> None:
    client, _ = served
    assert await next_flags(opened(client, selector="flagSetId=mobile")) == MOBILE
    assert await next_flags(opened(client, selecting("source=mobile"), selector="nobody")) == MOBILE
    assert await next_flags(opened(client, selecting("nobody"), selector="mobile")) == {}
    request = sync.FetchAllFlagsRequest(selector="mobile")
    fetched = await stub(client).FetchAllFlags(request)
    assert json.loads(fetched.flag_configuration)["flags"] == MOBILE
    fetched = await stub(client).FetchAllFlags(request, metadata=selecting("default"))
    assert json.loads(fetched.flag_configuration)["flags"] == DEFAULT


async def test_a_selector_by_another_key_is_refused(served: tuple[Client, Server]) -> None:
    client, _ = served
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, 'invalid selector key "key", valid keys: "flagSetId", "source"')
    assert await refused(opened(client, selector="key=x").read()) == refusal
    assert await refused(stub(client).FetchAllFlags(sync.FetchAllFlagsRequest(), metadata=selecting("key="))) == refusal


async def test_the_configured_context_is_sent_with_every_set(served: tuple[Client, Server]) -> None:
    client, _ = served
    message = await opened(client).read()
    assert MessageToDict(message.sync_context) == {"region": "eu", "tier": "gold"}
    metadata = await stub(client).GetMetadata(sync.GetMetadataRequest())
    assert MessageToDict(metadata) == {"metadata": {"region": "eu", "tier": "gold"}}


async def test_an_empty_context_is_still_set(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        await until_serving(client)
        message = await opened(client).read()
        assert message.HasField("sync_context")
        assert json.loads(message.flag_configuration) == {"flags": {}}
        assert MessageToDict(await stub(client).GetMetadata(sync.GetMetadataRequest())) == {"metadata": {}}


async def test_each_change_of_the_set_sends_it_again_and_other_changes_do_not(served: tuple[Client, Server]) -> None:
    client, _ = served
    call, other = opened(client), opened(client, selector="mobile")
    assert await next_flags(call) == DEFAULT
    assert await next_flags(other) == MOBILE
    await client.toggle("switch", False)
    assert (await next_flags(call))["switch"]["state"] == "DISABLED"
    await client.create("new")
    assert "new" in await next_flags(call)
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="new"))
    after = await next_flags(call)
    assert after == DEFAULT | {"switch": DEFAULT["switch"] | {"state": "DISABLED"}}
    await client.toggle("theirs", False, flag_set="mobile")
    assert (await next_flags(other))["theirs"]["state"] == "DISABLED"


async def test_the_sync_port_serves_the_same(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", sync_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        assert server.sync_port not in (0, server.port)
        on_port = Client(f"127.0.0.1:{server.sync_port}")
        assert (await next_flags(opened(on_port))).keys() == {"a"}
        await on_port.channel.close()


async def test_one_message_is_built_for_all_streams_and_one_definition_for_a_change(
    served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = served
    rendered: list[str] = []
    built: list[int] = []
    definition_of, build = flagd_sync.definition_of, Payload._build

    def counted_definition(each: Any, *others: Any) -> Any:
        rendered.append(each.key)
        return definition_of(each, *others)

    async def counted_build(payload: Payload) -> None:
        built.append(payload.version)
        await build(payload)

    monkeypatch.setattr(flagd_sync, "definition_of", counted_definition)
    monkeypatch.setattr(Payload, "_build", counted_build)
    calls = [opened(client) for _ in range(20)]
    await asyncio.gather(*map(next_flags, calls))
    assert (sorted(rendered), len(built)) == (sorted(DEFAULT), 1)
    await client.toggle("switch", False)
    await asyncio.gather(*map(next_flags, calls))
    assert rendered[len(DEFAULT) :] == ["switch"]
    assert len(built) == 2


async def test_a_slow_reader_continues_with_the_newest(served: tuple[Client, Server]) -> None:
    client, server = served
    for key in ("big", "bigger"):
        big = flag(key, {f"x{number}": "y" * 60_000 for number in range(8)}, "x1")
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=big))
    slow_client = Client(f"127.0.0.1:{server.port}")
    slow, quick = opened(slow_client), opened(client)
    await next_flags(slow)
    await next_flags(quick)
    changes = 200
    for number in range(changes):
        await client.toggle("switch", bool(number % 2))
    await client.create("last")
    async with asyncio.timeout(5):
        while "last" not in await next_flags(quick):
            pass
    read = 1
    async with asyncio.timeout(10):
        while "last" not in (found := await next_flags(slow)):
            read += 1
    assert found["switch"]["state"] == "ENABLED"
    assert read < changes / 4, "it is spared what came in between"
    await slow_client.channel.close()


async def test_a_burst_is_not_sent_change_by_change(
    served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = served
    call = opened(client)
    await next_flags(call)
    await asyncio.sleep(0.1)  # the pause after that is over
    monkeypatch.setattr(flagd_sync, "PAUSE_S", pause_s := 3.0)
    began = time.monotonic()
    await client.create("first")
    assert "first" in await next_flags(call)
    assert time.monotonic() - began < pause_s * 0.7, "what comes alone goes at once"
    for number in range(20):
        await client.create(f"burst-{number}")
    assert len((await next_flags(call)).keys()) == len(DEFAULT) + 21


async def test_a_broken_flag_does_not_affect_the_rest_of_the_set(
    mongo_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [
        {"key": "rule", "name": "r", "status": "ENABLED", "targeting": '{"nope": []}'},
        {"key": "cut", "name": "c", "status": "ENABLED", "targeting": '{"if": ['},
        {"key": "default", "name": "d", "status": "ENABLED", "variants": {"a": "x"}, "defaultVariant": "b"},
        {"key": "variants", "name": "v", "status": "ENABLED", "variants": 7},
        {"key": "status", "name": "s", "status": "MAYBE"},
        {"key": "meta", "name": "m", "status": "ENABLED", "metadata": {"deep": {"a": 1}}},
        {"key": "good", "name": "g", "status": "ENABLED"},
    ]
    with pymongo.MongoClient(mongo_database_url) as mongo:
        mongo.get_default_database().feature_flags.insert_many(documents)
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        call = opened(client)
        message = await call.read()
        flags = json.loads(message.flag_configuration)["flags"]
        assert {key for key, found in flags.items() if found["state"] == "ENABLED"} == {"good", "meta"}
        assert not any("targeting" in found for found in flags.values())
        core = FlagdCore()
        core.set_flags(message.flag_configuration)
        assert core.resolve_boolean_value("good", False, None).value is True
        assert core.resolve_boolean_value("rule", False, None).reason == "DISABLED"
        call.cancel()
        await until(lambda: not server.services.sync._payloads)
        assert await next_flags(opened(client)) == flags
    assert capsys.readouterr().out.count("flag_synced_as_disabled") == 5


async def test_a_stop_ends_streams_and_leaves_nothing(served: tuple[Client, Server]) -> None:
    client, server = served
    call, leaving = opened(client), opened(client)
    await next_flags(call)
    await next_flags(leaving)
    assert server.services.sync.active == 2
    leaving.cancel()
    await until(lambda: server.services.sync.active == 1)
    server.services.sync.close()
    async with asyncio.timeout(5):
        with contextlib.suppress(grpc.aio.AioRpcError):
            assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    await until(lambda: server.services.sync.active == 0)
    assert server.services.sync._payloads == {}
    assert not any(state.listeners for state in server.replica.near.changelogs._of_set.values())


async def test_a_toggle_on_one_replica_reaches_streams_of_the_other(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, _), replica(**settings) as (two, server):
        await until_serving(one)
        await until_serving(two)
        await until(lambda: server.replica.follower.channels.subscription_up)
        call = opened(two)
        await next_flags(call)
        await one.create("a", status=1)
        async with asyncio.timeout(1):
            assert (await next_flags(call))["a"]["state"] == "ENABLED"
        await one.toggle("a", False)
        async with asyncio.timeout(1):
            assert (await next_flags(call))["a"]["state"] == "DISABLED"


async def test_without_near_cache_streams_follow_changes_too(mongo_database_url: str, redis_clean_url: str) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "near_cache_entries": 0}
    async with replica(**settings) as (client, _):
        await until_serving(client)
        await client.create("a", status=1)
        call = opened(client)
        assert (await next_flags(call))["a"]["state"] == "ENABLED"
        async with asyncio.timeout(2):
            await client.toggle("a", False)
            while (await next_flags(call))["a"]["state"] != "DISABLED":
                pass
            await client.create("b")
            while "b" not in (found := await next_flags(call)):
                pass
        assert found.keys() == {"a", "b"}
