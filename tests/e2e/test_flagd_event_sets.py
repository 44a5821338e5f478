"""Which sets an event stream without a selector covers: those that its own connection's evaluations select."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.flagd_clients import Evaluator, Events, selecting
from tests.providers.cases import COLORS, flag
from tests.replicas import Client, replica, until_serving

TENANT = selecting("flagSetId=tenant-a")


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[tuple[Client, str]]:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await until_serving(client)
        yield client, f"127.0.0.1:{server.port}"


@pytest.fixture
def client(started: tuple[Client, str]) -> Client:
    return started[0]


@pytest.fixture
async def connection(started: tuple[Client, str]) -> AsyncIterator[grpc.aio.Channel]:
    """A connection other than the client's."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(started[1], options=options) as channel:
        yield channel


async def create(client: Client, key: str, flag_set: str) -> None:
    made = flag(key, COLORS, "red", flag_set=flag_set)
    await client.create(key, flag_set=flag_set, status=made.status, variants=made.variants, default_variant="red")


async def announced_keys(events: Events) -> set[str]:
    kind, flags = await events.next()
    assert kind == "configuration_change"
    return set(flags)


@pytest.mark.grpcio
async def test_a_stream_follows_the_set_that_its_connection_evaluates(
    client: Client, connection: grpc.aio.Channel
) -> None:
    await create(client, "asked", "tenant-a")
    events, elsewhere = Evaluator("v2", connection).events(), Evaluator("v2", client.channel).events()
    assert (await events.next())[0] == (await elsewhere.next())[0] == "provider_ready"
    await Evaluator("v2", connection).resolve("String", "asked", headers=TENANT)
    assert await announced_keys(events) == {"asked"}, "what may have been missed until now"
    await client.toggle("asked", False, flag_set="tenant-a")
    assert await announced_keys(events) == {"asked"}
    await create(client, "ours", "")
    assert await announced_keys(events) == await announced_keys(elsewhere) == {"ours"}


async def test_a_stream_opened_after_the_evaluation_follows_too(client: Client, connection: grpc.aio.Channel) -> None:
    await create(client, "asked", "tenant-a")
    await Evaluator("v2", connection).resolve("String", "asked", headers=TENANT)
    events = Evaluator("v2", connection).events()
    assert (await events.next())[0] == "provider_ready"
    assert await announced_keys(events) == {"asked"}


async def test_a_stream_with_a_selector_gets_its_set_only(client: Client, connection: grpc.aio.Channel) -> None:
    await create(client, "asked", "tenant-a")
    await create(client, "theirs", "tenant-b")
    events = Evaluator("v2", connection).events(selecting("flagSetId=tenant-b"))
    assert (await events.next())[0] == "provider_ready"
    assert await announced_keys(events) == {"theirs"}
    await Evaluator("v2", connection).resolve("String", "asked", headers=TENANT)
    await client.toggle("asked", False, flag_set="tenant-a")
    await client.toggle("theirs", False, flag_set="tenant-b")
    assert await announced_keys(events) == {"theirs"}


@pytest.mark.grpcio
async def test_a_stream_left_on_an_old_connection_ends_when_a_new_one_selects_a_set(tmp_path: Path) -> None:
    """gRPC moves a client's evaluations to a new connection after a time, but not its event stream."""
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", connection_age_s=0.3) as (client, server):
        await until_serving(client)
        await create(client, "asked", "tenant-a")
        evaluator, selecting_none = Evaluator("v2", client.channel), Evaluator("v2", client.channel).events()
        selecting_one = evaluator.events(selecting("flagSetId=tenant-b"))
        assert (await selecting_none.next())[0] == (await selecting_one.next())[0] == "provider_ready"
        peers = server.services.peers._callers
        await asyncio.sleep(0.2)  # a stream that has just begun is not left behind
        async with asyncio.timeout(10):
            while len(peers) < 2:
                await asyncio.sleep(0.02)
                assert await client.serving()
        await evaluator.resolve("String", "asked", headers=TENANT)
        async with asyncio.timeout(10):
            assert await selecting_none.call.code() is grpc.StatusCode.UNAVAILABLE
        assert not selecting_one.call.done()
        again = evaluator.events()
        assert (await again.next())[0] == "provider_ready"
        assert await announced_keys(again) == {"asked"}
