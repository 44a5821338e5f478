"""A replica that does not hold every flag, and has missed changes: whoever holds values of it hears of that."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.stage import NONE, events, running, sync, watch
from tests.replicas import until

SETTINGS = {"cache_url": "none"}


async def test_streams_of_a_set_begin_again_after_a_gap(tmp_path: Path) -> None:
    """Nobody was notified of what was missed, and the flags that changed are not known."""
    async with running(NONE, store_url=f"sqlite:///{tmp_path}/flags.db", **SETTINGS) as [asked]:
        await asked.client.create("a", status=types.FLAG_STATUS_ENABLED)
        watched, synced, told = watch(asked.client), sync(asked.client), events(asked.client)
        await until(lambda: bool(watched.received and synced.received and told.received))
        near, before = asked.replica.near, len(synced.received)
        near.mark_gap({"default": near.changelogs.watermark("default") + 1}, time.monotonic())
        await until(lambda: sum(message.HasField("snapshot") for message in watched.received) == 2)
        await until(lambda: len(synced.received) > before)
        assert await told.call.code() is grpc.StatusCode.UNAVAILABLE, "providers drop their values, and connect again"
        assert "missed changes" in str(await told.call.details())
        for stream in (watched, synced):
            await stream.close()


async def test_without_a_missed_change_streams_go_on(tmp_path: Path) -> None:
    """The view is verified by counters alone, every two seconds."""
    async with running(NONE, store_url=f"sqlite:///{tmp_path}/flags.db", **SETTINGS) as [asked]:
        await asked.client.create("a", status=types.FLAG_STATUS_ENABLED)
        watched, told = watch(asked.client), events(asked.client)
        await until(lambda: bool(watched.received and told.received))
        near = asked.replica.near
        near.mark_gap({"default": near.changelogs.watermark("default")}, time.monotonic())
        await asked.client.toggle("a", False)
        await until(lambda: "a" in told.keys)
        assert sum(message.HasField("snapshot") for message in watched.received) == 1
        for stream in (watched, told):
            await stream.close()
