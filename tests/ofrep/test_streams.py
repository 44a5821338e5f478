"""OFREP's event streams: which events are sent, when and to whom, and how streams end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from flagsvc.api.ofrep import sse_streams
from tests.ofrep.asking import EVENTS_PATH, FLAGS_PATH, Asked, asking
from tests.ofrep.conftest import FEW
from tests.providers.servers import serving
from tests.replicas import until


async def test_a_change_is_announced_with_the_configuration_that_has_it(few: Asked) -> None:
    async with few.events() as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-cache"
        await stream.opened()
        await stream.event()  # the flags are new
        revision = await few.set_default("color", "red")
        assert await stream.event() == {"type": "refetchEvaluation", "etag": f'"{revision}"'}


async def test_simultaneous_changes_are_announced_together(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_streams, "PAUSE_S", 0.2)  # so that several changes fall into it on a busy machine too
    async with few.events() as stream:
        await stream.event()
        for number in range(40):
            await few.set_default("color", "red" if number % 2 else "blue")
        await few.grpc.toggle("switch", enabled=False)
        latest = f'"{few.server.replica.near.changelogs.watermark("default")}"'
        seen = [await stream.event()]
        while seen[-1]["etag"] != latest:
            seen.append(await stream.event())
        assert len(seen) < 41
        await stream.nothing()


async def test_a_change_in_another_set_is_not_announced(few: Asked) -> None:
    async with few.events() as stream, few.events({"selector": "flagSetId=tenant-a"}) as tenant:
        await stream.event()
        await tenant.event()
        await few.set_default("color", "blue", flag_set="tenant-a")
        await tenant.event()
        await stream.nothing()
    async with few.events(Flagd_Selector="flagSetId=tenant-a") as tenant:
        await tenant.event()
        await few.set_default("color", "red", flag_set="tenant-a")
        await tenant.event()


async def test_a_client_that_reconnects_gets_what_it_missed_and_nothing_else(few: Asked) -> None:
    async with few.events() as stream:
        await stream.event()
        await stream.nothing()
        position = stream.id
    async with few.events(Last_Event_ID=position) as again:
        await again.opened()
        await again.nothing()
    await few.set_default("color", "red")
    async with few.events(Last_Event_ID=position) as again:
        await again.event(2)
    async with few.events(Last_Event_ID="of-another-replica.1.0") as again:
        await again.event(2)


async def test_a_position_is_sent_before_any_event(few: Asked) -> None:
    async with few.events() as stream:
        await stream.opened()
        first = stream.id
        assert first
        await stream.event()
    async with few.events(Last_Event_ID=first) as again:
        await again.nothing()


async def test_a_new_client_gets_what_changed_shortly_before(few: Asked) -> None:
    async with few.events() as stream:
        await stream.event(2)
    async with few.events({"selector": "flagSetId=quiet"}) as stream:
        await stream.opened()
        await stream.nothing()


async def test_an_idle_stream_gets_keep_alives(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_streams, "KEEP_ALIVE_S", 0.1)
    async with few.events({"selector": "flagSetId=quiet"}) as stream:
        await stream.opened()
        async with asyncio.timeout(5):
            assert await stream.block() == {"": "alive"}
            assert await stream.block() == {"": "alive"}


async def test_a_stream_ends_at_its_maximum_age(tmp_path: Path) -> None:
    began = time.monotonic()
    async with asking(tmp_path / "flags.db", connection_age_s=1.0) as asked, asked.events() as stream:
        async with asyncio.timeout(10):
            assert await stream.response.aread()
    assert time.monotonic() - began >= 0.9


def test_a_stop_ends_streams_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.db", FEW, "--log-level", "error") as (process, _):
        url = f"http://127.0.0.1:{process.ofrep_port}"
        with httpx.Client(base_url=url, timeout=10) as idle, httpx.stream("GET", url + EVENTS_PATH, timeout=10) as sse:
            assert idle.post(FLAGS_PATH).status_code == 200
            lines = sse.iter_lines()
            while not next(lines).startswith("data:"):
                pass
            time.sleep(0.1)  # the stream waits for the next change
            began = time.monotonic()
            process.terminate()
            assert all(line == "" or line[0] in "ide:" for line in lines), "the stream is ended, not cut off"
            assert process.process is not None
            assert process.process.wait(10) == 0
            assert time.monotonic() - began < 5


async def test_a_caller_that_disconnects_is_forgotten(few: Asked) -> None:
    live = few.server._ofrep.streams
    async with few.events() as stream:
        await stream.opened()
        assert live.active == 1
    await until(lambda: live.active == 0)
    await few.set_default("color", "red")
    assert not few.server.replica.near.changelogs.of("default").listeners
