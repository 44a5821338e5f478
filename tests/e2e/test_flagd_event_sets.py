"""Which sets an event stream without a selector covers: those that evaluations from its address select."""

from __future__ import annotations

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


async def test_a_stream_follows_the_set_that_its_client_evaluates_also_over_another_connection(
    client: Client, connection: grpc.aio.Channel
) -> None:
    await create(client, "asked", "tenant-a")
    events, elsewhere = Evaluator("v2", connection).events(), Evaluator("v2", client.channel).events()
    assert (await events.next())[0] == (await elsewhere.next())[0] == "provider_ready"
    await Evaluator("v2", connection).resolve("String", "asked", headers=TENANT)
    for stream in (events, elsewhere):
        assert await announced_keys(stream) == {"asked"}, "what may have been missed until now"
    await client.toggle("asked", False, flag_set="tenant-a")
    for stream in (events, elsewhere):
        assert await announced_keys(stream) == {"asked"}
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
