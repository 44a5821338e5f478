"""Hole 11: a client opens streams and never reads them; it blocks all others, and cannot be disconnected."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service import watch as watching
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync_pb
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.flagd_clients import Evaluator
from tests.holes.stage import ENABLED, NEAR, events, running, sync, watch
from tests.replicas import Client, until

CHANGES_BEFORE, CHANGES = 50, 120
QUEUE = 32
WEIGHT = "x" * 50_000
"""In each message: a client that does not read soon fills all buffers on the way."""


class Deaf:
    """Streams of each kind on a connection of their own that nobody reads."""

    def __init__(self, port: int) -> None:
        self.client = Client(f"127.0.0.1:{port}")
        self.watch = self.client.stub.WatchFlags(pb.WatchFlagsRequest())
        self.events = Evaluator("v2", self.client.channel).events().call
        self.sync = sync_grpc.FlagSyncServiceStub(self.client.channel).SyncFlags(sync_pb.SyncFlagsRequest())


async def test_11_clients_that_never_read_block_nobody_and_are_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "QUEUE_LENGTH", QUEUE)
    async with running(NEAR, store_url=f"sqlite:///{tmp_path}/flags.db") as (one,):
        for key in "ab":
            await one.client.create(key, status=ENABLED, variants={"on": to_value(WEIGHT)}, default_variant="on")
        streams = [watch(one.client), sync(one.client), events(one.client)]
        server = one.server
        await until(
            lambda: (
                (server.services.watches.active, server.services.sync.active, server.services.event_streams.active)
                == (1, 1, 1)
            )
        )
        waits = []
        for number in range(CHANGES_BEFORE + CHANGES):
            if number == CHANGES_BEFORE:
                deaf, leaving = Deaf(one.server.port), Deaf(one.server.port)
                streams_open = server.services.watches, server.services.sync, server.services.event_streams
                await until(lambda: [each.active for each in streams_open] == [3, 3, 3])  # noqa: B023
            began = time.monotonic()
            flag = await one.client.toggle("a", number % 2 == 1)
            assert (await one.client.evaluate("a")).revision == flag.revision
            waits.append(time.monotonic() - began)
            await until(lambda: len(streams[0].changes) == number + 1, 10)  # noqa: B023
        usual = sorted(waits[:CHANGES_BEFORE])[int(CHANGES_BEFORE * 0.9)]
        assert sorted(waits[CHANGES_BEFORE:])[int(CHANGES * 0.9)] < 0.05 + 4 * usual
        await until(lambda: streams[1].states[-1] == "ENABLED" and "a" in streams[2].keys)

        await leaving.client.channel.close()
        await until(
            lambda: (
                (server.services.watches.active, server.services.sync.active, server.services.event_streams.active)
                == (2, 2, 2)
            ),
            2,
        )
        await late_reader(deaf, flag.revision)
        await deaf.client.channel.close()
        for stream in streams:
            await stream.close()
        await until(
            lambda: (
                (server.services.watches.active, server.services.sync.active, server.services.event_streams.active)
                == (0, 0, 0)
            ),
            2,
        )


async def late_reader(deaf: Deaf, newest: int) -> None:
    """A client that begins to read late gets the newest state, not each change that it missed."""
    received, held = 0, types.Flag()
    async with asyncio.timeout(5):
        while held.revision < newest:
            message = await deaf.watch.read()
            assert message is not grpc.aio.EOF
            received += 1
            if message.HasField("snapshot"):
                held = next(flag for flag in message.snapshot.flags if flag.key == "a")
            else:
                held = message.change.flag
        assert held.status == ENABLED
        assert received < CHANGES, "nothing was ever held back"
        messages = 0
        while '"state":"ENABLED"' not in str((await deaf.sync.read()).flag_configuration).split('"b"')[0]:
            messages += 1
        assert messages < CHANGES
        while "a" not in MessageToDict(await deaf.events.read()).get("data", {}).get("flags", {}):
            pass


async def test_11_a_stop_does_not_wait_for_clients_that_never_read(tmp_path: Path) -> None:
    async with running(NEAR, store_url=f"sqlite:///{tmp_path}/flags.db", grace_s=0.3) as (one,):
        await one.client.create("a", status=ENABLED, variants={"on": to_value(WEIGHT)}, default_variant="on")
        deaf = Deaf(one.server.port)
        await until(lambda: one.server.services.watches.active == 1)
        for number in range(CHANGES):
            await one.client.toggle("a", number % 2 == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 3.0
    await deaf.client.channel.close()
