"""The reader over a slow store: a list is never older than the call that asks for it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, create, toggle
from flagsvc.core.evaluation import ErrorCode
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import StoreContents
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer
from flagsvc.view.near_cache import NearCache
from tests.followers import STALENESS_S, follower_of, heartbeats_of

A = FlagId("default", "a")
AUTHOR = Author(datetime.now(UTC))


class SlowStore(SqliteStore):
    """The embedded store. A load returns once the gate is open."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> StoreContents:
        contents = await super().load()
        await self.gate.wait()
        return contents


@pytest.mark.parametrize("limit", [100, 0], ids=["near-cache", "no-near-cache"])
async def test_a_list_asked_for_after_a_write_contains_it_although_an_older_load_is_running(
    tmp_path: Path, limit: int
) -> None:
    store = SlowStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    near = NearCache(limit, STALENESS_S)
    follower = follower_of(near, store)
    follower.tried.set()
    reader, writer = Reader(near, store, None, follower), Writer(near, store, None, heartbeats_of(near, store))
    await writer.write(A, create(Flag(key="a", status=Status.ENABLED), AUTHOR))
    near.merge(await store.load(), time.monotonic() - 10 * STALENESS_S, time.monotonic() - 10 * STALENESS_S)
    store.gate.clear()
    earlier = asyncio.create_task(reader.flags("default"))
    await asyncio.sleep(0.05)
    await writer.write(A, toggle("a", False, None, AUTHOR))
    later = asyncio.create_task(reader.flags("default"))
    await asyncio.sleep(0.05)
    store.gate.set()
    assert [flag.status for flag in await later] == [Status.DISABLED]
    await earlier
    await reader.close()
    await store.close()


async def test_a_first_load_that_takes_too_long_is_answered_with_provider_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flagsvc.serving.lookup.UNKNOWN_WAIT_S", 0.1)
    store = SlowStore(f"sqlite:///{tmp_path}/flags.db")
    near = NearCache(100, STALENESS_S)
    follower = follower_of(near, store)
    follower.store_up = False
    reader = Reader(near, store, None, follower)
    evaluation = await reader.evaluate(A, {})
    assert evaluation.outcome.error_code is ErrorCode.PROVIDER_NOT_READY
    await reader.close()
    await store.close()
