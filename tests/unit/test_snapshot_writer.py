"""The snapshot writer saves only a verified view: soon after a change, and now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents
from flagsvc.replication import snapshot_writer as snapshots
from flagsvc.replication.snapshot_writer import SnapshotWriter
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge, restore
from tests.snapshot_files import NOW, Kept, Near, at


@pytest.fixture
def kept() -> Kept:
    kept = Kept()
    kept.open.set()
    return kept


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHECK_EVERY_S", 0.002)
    monkeypatch.setattr(snapshots, "MIN_SAVE_INTERVAL_S", 0.1)
    monkeypatch.setattr(snapshots, "MAX_SAVE_INTERVAL_S", 60.0)


@asynccontextmanager
async def running(near: Any, snapshot: Any) -> AsyncIterator[SnapshotWriter]:
    saving = SnapshotWriter(near, snapshot, lambda: NOW)
    saving.start()
    try:
        yield saving
    finally:
        await saving.close()


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0.002)


async def test_the_view_is_saved_as_of_when_it_was_verified(kept: Kept) -> None:
    near = Near()
    near.verified_at -= 3.0
    async with running(near, kept) as saving:
        await until(lambda: saving.writes)
        assert kept.all[0].contents == near.contents()
        assert timedelta(seconds=3) <= NOW - kept.all[0].saved_at < timedelta(seconds=4)
        assert saving.saved_at == kept.all[0].saved_at


async def test_only_a_complete_and_verified_view_is_saved(kept: Kept) -> None:
    near = Near()
    near.complete = False
    async with running(near, kept) as saving:
        await asyncio.sleep(0.03)
        near.complete, near.verified_at = True, time.monotonic() - 6.0
        await asyncio.sleep(0.03)
        assert saving.writes == 0
        near.verified_at = time.monotonic()
        await until(lambda: saving.writes)
        near.replacements, near.verified_at = 1, time.monotonic() - 6.0
    assert saving.writes == 1, "nor at the end"


async def test_changes_are_saved_soon_but_not_each_of_them(kept: Kept) -> None:
    near = Near()
    began = time.monotonic()
    async with running(near, kept) as saving:
        await until(lambda: saving.writes)
        for change in range(100):
            near.replacements = change
            await asyncio.sleep(0.003)
        await until(lambda: kept.all[-1].contents == near.contents())
        near.revision += 1
        await until(lambda: kept.all[-1].contents == near.contents())
        assert 3 <= saving.writes <= (time.monotonic() - began) / 0.1 + 1


async def test_unchanged_contents_are_saved_now_and_then(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MIN_SAVE_INTERVAL_S", 0.01)
    monkeypatch.setattr(snapshots, "MAX_SAVE_INTERVAL_S", 0.3)
    async with running(Near(), kept) as saving:
        await until(lambda: saving.writes == 2)
    assert kept.times[1] - kept.times[0] > 0.25


async def test_close_saves_what_changed_since(kept: Kept) -> None:
    near = Near()
    async with running(near, kept) as saving:
        await until(lambda: saving.writes)
        near.revision = 2
    assert [each.contents.revisions["default"] for each in kept.all] == [1, 2]
    async with running(near, kept) as saving:
        await until(lambda: saving.writes)
    assert saving.writes == 1, "nothing changed since"


async def test_close_waits_for_a_running_save(kept: Kept) -> None:
    kept.open.clear()
    saving = SnapshotWriter(Near(), kept)  # type: ignore[arg-type]
    saving.start()
    await asyncio.to_thread(kept.started.wait, 10)
    closing = asyncio.create_task(saving.close())
    impatient = asyncio.create_task(saving.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    impatient.cancel()
    await asyncio.sleep(0)
    kept.open.set()
    await closing
    assert (saving.writes, len(kept.all)) == (1, 1)
    assert impatient.cancelled()


async def test_close_without_start(kept: Kept) -> None:
    await SnapshotWriter(Near(), kept).close()  # type: ignore[arg-type]
    assert not kept.all


async def test_a_failure_is_logged_once_counted_and_retried(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MIN_SAVE_INTERVAL_S", 0.01)
    near, errors = Near(), (OSError(28, "full"), OSError(13, "denied"), ValueError("odd"))
    with capture_logs() as lines:
        async with running(near, kept) as saving:
            for number, kept.error in enumerate(errors):
                failures = saving.failures
                await until(lambda failures=failures: saving.failures >= failures + 3)
                assert [line["cause"] for line in lines][number:] == [str(kept.error)]
            assert saving.writes == 0
            kept.error = None
            await until(lambda: saving.writes)
            assert lines[-1]["event"] == "snapshots_resumed"
            near.replacements, kept.error, failures = 1, errors[0], saving.failures
            await until(lambda: saving.failures > failures)
            assert lines[-1]["cause"] == str(errors[0]), "it had worked in between"
    assert [line["log_level"] for line in lines] == ["warning"] * 3 + ["info", "warning"]


async def test_after_a_failure_unchanged_contents_are_saved_soon_too(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MIN_SAVE_INTERVAL_S", 0.01)
    monkeypatch.setattr(snapshots, "MAX_SAVE_INTERVAL_S", 0.05)
    async with running(Near(), kept) as saving:
        await until(lambda: saving.writes)
        kept.error = OSError(28, "full")
        await until(lambda: saving.failures)
        monkeypatch.setattr(snapshots, "MAX_SAVE_INTERVAL_S", 60.0)
        await until(lambda: saving.failures > 2)


async def test_a_newer_snapshot_of_another_process_counts_as_saved(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MIN_SAVE_INTERVAL_S", 0.01)
    kept.newer = True
    async with running(Near(), kept) as saving:
        await asyncio.to_thread(kept.started.wait, 10)
        await asyncio.sleep(0.02)
        kept.started.clear()
        await asyncio.sleep(0.05)
        assert not kept.started.is_set()
        assert (saving.writes, saving.failures, saving.saved_at) == (0, 0, None), "its time is not this replica's"


async def test_a_replicas_view_survives_its_end(tmp_path: Path) -> None:
    near = NearCache(10, 5.0)
    flag = Flag(key="a", name="last", revision=7)
    async with running(near, at(tmp_path / "s")):
        merge(near, StoreContents([Flag(key="a", revision=6)], {"default": 6}), time.monotonic(), time.monotonic())
        near.apply_read(Entry.of(flag), time.monotonic(), time.monotonic())
    found = await snapshots.read(at(tmp_path / "s"))
    assert found is not None
    assert found.contents.flags == [flag]
    again = NearCache(10, 5.0)
    restore(again, found.contents, 0.0, time.monotonic())
    held = again.get(FlagId("default", "a"))
    assert held is not None
    assert held.entry == Entry.of(flag)
    assert await snapshots.read(at(tmp_path / "none")) is None
