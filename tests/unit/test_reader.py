"""The reader over a slow store: a list is never older than the call that asks for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, create, toggle
from flagsvc.core.errors import RevisionUnavailable
from flagsvc.core.evaluation import ErrorCode, Prepared, prepare
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import Entry, StoreContents
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer
from flagsvc.view.near_cache import NearCache
from tests.followers import STALENESS_S, follower_of, heartbeats_of
from tests.near_caches import merge

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
    merge(near, await store.load(), time.monotonic() - 10 * STALENESS_S, time.monotonic() - 10 * STALENESS_S)
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


class CountingStore(SqliteStore):
    """The embedded store. Counts full loads."""

    loads = 0

    async def load(self) -> StoreContents:
        self.loads += 1
        return await super().load()


class CountingContext(dict[str, str]):
    """A context that counts how often a field is read: once by each evaluation of a rule with one condition."""

    reads = 0

    def get(self, name: str, default: object = None) -> object:
        self.reads += 1
        return super().get(name, default)  # type: ignore[arg-type]


RULE = '{"if": [{"==": [{"var": "tier"}, "gold"]}, "on", "off"]}'


async def loaded(tmp_path: Path, *flags: Flag) -> tuple[CountingStore, Reader]:
    store = CountingStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    near = NearCache(100, STALENESS_S)
    follower = follower_of(near, store)
    follower.tried.set()
    for flag in flags:
        await store.write(flag.id, create(flag, AUTHOR))
    merge(near, await store.load(), time.monotonic(), time.monotonic())
    return store, Reader(near, store, None, follower)


async def test_equal_keys_of_a_batch_are_evaluated_once_and_answered_at_each_position(tmp_path: Path) -> None:
    flags = (Flag(key=key, status=Status.ENABLED, targeting=RULE) for key in ("a", "b"))
    store, reader = await loaded(tmp_path, *flags)
    context = CountingContext(tier="gold")
    evaluations = await reader.evaluate_all("default", ["a", "b", "a", "unknown", *["a"] * 996], context)
    assert [each.flag_id.key for each in evaluations[:4]] == ["a", "b", "a", "unknown"]
    assert len(evaluations) == 1_000
    assert all(each.outcome.variant == "on" for each in evaluations if each.flag_id.key == "a")
    assert context.reads == 2
    await reader.close()
    await store.close()


async def test_a_set_is_evaluated_flag_by_flag_as_of_one_moment(tmp_path: Path) -> None:
    flags = (Flag(key=key, status=Status.ENABLED, targeting=RULE) for key in ("a", "b", "c"))
    store, reader = await loaded(tmp_path, *flags)
    context = CountingContext(tier="gold")
    evaluations = reader.evaluate_set("default", context)
    assert (await anext(evaluations)).flag_id.key == "a"
    assert context.reads == 1, "the others are not evaluated before they are needed"
    near = reader._lookup._near
    near.apply_change(Entry.absent(FlagId("default", "c"), 9), time.monotonic())
    near.apply_change(Entry.of(Flag(key="d", revision=10)), time.monotonic())
    assert [each.flag_id.key async for each in evaluations] == ["b", "c"]
    await reader.close()
    await store.close()


async def test_a_revision_that_does_not_exist_is_refused_by_the_counter_without_a_load(tmp_path: Path) -> None:
    store, reader = await loaded(tmp_path, Flag(key="a"))
    before = store.loads
    for flag_set in ("default", *(f"invented-{number}" for number in range(30))):
        with pytest.raises(RevisionUnavailable):
            await anext(reader.evaluate_set(flag_set, {}, 1_000))
    assert store.loads == before
    await reader.close()
    await store.close()


async def test_lists_of_many_sets_that_need_a_load_share_one(tmp_path: Path) -> None:
    store, reader = await loaded(tmp_path, *(Flag(key="a", flag_set=f"set-{number}") for number in range(20)))
    reader._lookup._near.complete = False
    before = store.loads
    lists = await asyncio.gather(*(reader.flags(f"set-{number}") for number in range(20)))
    assert [len(list(flags)) for flags in lists] == [1] * 20
    assert store.loads - before <= 2
    await reader.close()
    await store.close()


async def test_a_long_rule_is_compiled_outside_the_event_loop_and_a_short_one_at_once(tmp_path: Path) -> None:
    long_rule = f'{{"if": [{{"in": [{{"var": "tier"}}, {json.dumps([f"t{i}" for i in range(1_000)])}]}}, "on", "off"]}}'
    flags = (Flag(key="long", status=Status.ENABLED, targeting=long_rule), Flag(key="a", status=Status.ENABLED))
    store, reader = await loaded(tmp_path, *flags)
    near = reader._lookup._near
    threads: list[str] = []

    def prepared(flag: Flag) -> Prepared:
        threads.append(threading.current_thread().name)
        return prepare(flag)

    for held in near.of_set("default"):
        held._prepare = prepared
    found = await reader.evaluate_all("default", ["long", "a"], {"tier": "t7"})
    assert [each.outcome.variant for each in found] == ["on", "on"]
    assert threads[0].startswith("off-loop")
    assert threads[1] == threading.current_thread().name
    await reader.evaluate(FlagId("default", "long"), {})
    assert len(threads) == 2
    await reader.close()
    await store.close()
