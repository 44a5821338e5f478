"""A flag and those that it depends on are of one moment, and no older than anything that was answered or written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, create, delete, toggle, update
from flagsvc.core.errors import RevisionUnavailable, StoreUnavailable
from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.model import FlagId
from flagsvc.ports import Entry, Family, StoreContents
from flagsvc.serving.reader import Evaluation, Reader
from flagsvc.serving.writer import Writer
from flagsvc.view.entries import Source
from flagsvc.view.near_cache import NearCache
from tests.dependencies.test_family import on
from tests.dependencies.test_served import flag as at
from tests.followers import STALENESS_S, follower_of, heartbeats_of
from tests.near_caches import merge, resync
from tests.replicas import until

AUTHOR = Author(datetime.now(UTC))


def of(key: str) -> FlagId:
    return FlagId("default", key)


class CountingStore(SqliteStore):
    """The embedded store. Counts families that are read, each of which waits for the gate, and fails while down."""

    families, down = 0, False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()

    async def get_family(self, flag_id: FlagId) -> Family:
        self.families += 1
        if self.down:
            raise StoreUnavailable
        found = await super().get_family(flag_id)
        await self.gate.wait()
        return found


class Replica:
    """A near cache of this size before a store with a parent and its child."""

    def __init__(self, store: CountingStore, limit: int) -> None:
        self.store, self.near = store, NearCache(limit, STALENESS_S)
        self.follower = follower_of(self.near, store)
        self.follower.tried.set()
        self.reader = Reader(self.near, store, None, self.follower)
        self.writer = Writer(self.near, store, None, heartbeats_of(self.near, store))

    async def child(self, min_revision: int = 0) -> Evaluation:
        return await self.reader.evaluate(of("child"), {}, min_revision=min_revision)

    async def variant(self) -> str | None:
        return (await self.child()).outcome.variant

    async def elsewhere(self, key: str, enabled: bool) -> Entry:
        """Let another replica switch a flag; nothing is announced here."""
        entry = await self.store.write(of(key), toggle(key, enabled, None, AUTHOR))
        assert entry is not None
        return entry

    def hear(self, entry: Entry) -> None:
        self.near.apply_change(entry, time.monotonic())

    async def load(self) -> None:
        asked_at = time.monotonic()
        merge(self.near, await self.store.load(), asked_at, asked_at)


@pytest.fixture(params=[100], ids=["whole"])
async def replica(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    store = CountingStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    for each in (on("parent"), on("child", "parent"), on("x")):
        await store.write(each.id, create(each, AUTHOR))
    made = Replica(store, request.param)
    await made.load()
    yield made
    await made.reader.close()
    await store.close()


partial = pytest.mark.parametrize("replica", [0, 1], ids=["nothing-held", "one-held"], indirect=True)


async def test_a_whole_view_answers_without_asking(replica: Replica) -> None:
    found = await replica.child()
    assert (found.outcome.variant, found.source, found.replies is not None) == ("on", Source.NEAR, True)
    await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
    found = await replica.child()
    assert (found.outcome.reason, found.outcome.failed_prerequisite) == (Reason.DISABLED, "parent")
    assert replica.store.families == 0


async def test_over_a_gap_the_store_is_asked_once_and_two_moments_are_never_mixed(replica: Replica) -> None:
    lost = await replica.elsewhere("parent", False)
    renamed = await replica.store.write(of("child"), toggle("child", False, None, AUTHOR))
    assert renamed is not None
    child = await replica.elsewhere("child", True)
    replica.hear(child)  # held is the child of now, with the parent of before
    found = [await replica.child() for _ in range(3)]
    assert {(each.outcome.failed_prerequisite, each.source) for each in found} == {("parent", Source.STORE)}
    assert replica.store.families == 1
    replica.hear(lost)
    replica.hear(renamed)
    assert ((await replica.child()).source, replica.store.families) == (Source.NEAR, 1)


async def test_a_load_that_is_half_applied_is_no_moment(replica: Replica) -> None:
    parent, child = replica.near.peek(of("parent")), replica.near.peek(of("child"))
    assert parent is not None
    assert child is not None
    foreign = [
        replace(each.entry.flag, description="changed by another program")
        for each in (parent, child)
        if each.entry.flag is not None
    ]
    asked_at = time.monotonic()
    steps = replica.near.merging(StoreContents(foreign, {"default": 3}), asked_at, asked_at, [])
    seen = [(await replica.child()).source for _ in steps]
    assert {Source.STORE, Source.NEAR} == set(seen)
    assert ((await replica.child()).source, seen[0]) == (Source.NEAR, Source.NEAR)


async def test_after_a_resync_the_view_is_whole_again(replica: Replica) -> None:
    contents = await replica.store.load()
    with replica.near.starting_over(time.monotonic()):
        assert replica.near.whole_up_to("default") == -1
    resync(replica.near, contents, time.monotonic(), time.monotonic())
    assert replica.near.whole_up_to("default") == 3


@partial
async def test_a_partial_view_reads_a_family_once_until_one_of_it_changes(replica: Replica) -> None:
    assert [await replica.variant() for _ in range(3)] == ["on"] * 3
    assert replica.store.families == 1
    await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
    assert [await replica.variant() for _ in range(3)] == [None] * 3
    assert replica.store.families == 2
    replica.hear(await replica.elsewhere("parent", True))
    assert (await replica.variant(), replica.store.families) == ("on", 3)
    replica.near.mark_gap(await replica.store.revisions(), time.monotonic())
    assert (await replica.variant(), replica.store.families) == ("on", 4)


@partial
async def test_what_is_kept_is_not_answered_past_the_bound(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await replica.variant() == "on"
    await replica.elsewhere("parent", False)
    assert await replica.variant() == "on"
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + STALENESS_S + 0.1)
    assert await replica.variant() is None


@partial
async def test_a_read_that_began_before_a_write_is_not_for_who_asks_after_it(replica: Replica) -> None:
    replica.store.gate.clear()
    earlier = asyncio.create_task(replica.child())
    await until(lambda: replica.store.families == 1)
    await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
    later = asyncio.create_task(replica.variant())
    await asyncio.sleep(0.02)
    replica.store.gate.set()
    assert await later is None
    await earlier


@pytest.mark.parametrize("replica", [2, 100], ids=["partial", "whole"], indirect=True)
async def test_a_slow_store_never_brings_back_what_was_before_an_own_write(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await replica.variant() == "on"
    await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
    monkeypatch.setattr("flagsvc.serving.families.UNKNOWN_WAIT_S", 0.01)
    monkeypatch.setattr("flagsvc.serving.lookup.UNKNOWN_WAIT_S", 0.01)
    if replica.near.complete:  # a gap: no moment is sure
        await replica.elsewhere("x", False)
        changed = update(on("child", description="new"), ["description"], None, AUTHOR)
        entry = await replica.store.write(of("child"), changed)
        assert entry is not None
        replica.hear(entry)
    replica.store.gate.clear()
    found = await replica.child()
    assert (found.outcome.failed_prerequisite, found.outcome.variant) == ("parent", None)
    replica.store.gate.set()


@partial
async def test_a_deleted_parent_does_not_come_back(replica: Replica) -> None:
    await replica.store.write(of("child2"), create(on("child2", "x"), AUTHOR))
    assert (await replica.reader.evaluate(of("child2"), {})).outcome.variant == "on"
    await replica.writer.write(of("child2"), delete("child2", None, AUTHOR))
    assert (await replica.reader.evaluate(of("child2"), {})).outcome.error_code is ErrorCode.FLAG_NOT_FOUND


@pytest.mark.parametrize("replica", [0, 100], ids=["nothing-held", "whole"], indirect=True)
async def test_a_token_gets_every_change_up_to_its_revision(replica: Replica) -> None:
    assert await replica.variant() == "on"
    revision = (await replica.elsewhere("parent", False)).revision
    assert (await replica.child(min_revision=revision)).outcome.failed_prerequisite == "parent"
    with pytest.raises(RevisionUnavailable):
        await replica.child(min_revision=revision + 1)
    with pytest.raises(RevisionUnavailable):
        await replica.reader._families.find(of("child"), revision + 1)


@pytest.mark.parametrize("replica", [2, 100], ids=["partial", "whole"], indirect=True)
async def test_without_the_store_the_last_known_family_is_stale(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await replica.variant() == "on"
    await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
    assert await replica.variant() is None
    replica.store.down, replica.follower.store_up = True, False
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + STALENESS_S + 0.1)
    found = await replica.child()
    assert (found.outcome.reason, found.outcome.failed_prerequisite) == (Reason.STALE, "parent")
    assert found.is_disabled
    assert found.metadata == {"prerequisiteFailed": "parent"}
    if replica.near.complete:
        first = await anext(replica.reader.evaluate_set("default", {}))
        assert (first.flag_id.key, first.outcome.reason, first.is_disabled) == ("child", Reason.STALE, True)


@pytest.mark.parametrize("replica", [0, 1, 100], ids=["nothing-held", "one-held", "whole"], indirect=True)
async def test_a_set_is_evaluated_as_of_one_moment(replica: Replica) -> None:
    await replica.writer.write(of("z"), create(on("z", "parent"), AUTHOR))
    variants = {}
    async for each in replica.reader.evaluate_set("default", {}):
        if each.flag_id.key == "parent":
            await replica.writer.write(of("parent"), toggle("parent", False, None, AUTHOR))
        variants[each.flag_id.key] = each.outcome.variant
    assert variants == {"child": "on", "parent": "on", "x": "on", "z": "on"}
    batch = await replica.reader.evaluate_all("default", ["parent", "child"], {})
    assert [each.outcome.variant for each in batch] == [None, None]


async def test_answers_are_kept_only_where_no_flag_of_a_family_reads_the_clock(replica: Replica) -> None:
    assert (await replica.child()).replies is not None
    rule = '{"if": [{">": [{"var": "$flagd.timestamp"}, 5]}, "on"]}'
    changed = update(on("parent", targeting=rule), ["targeting"], None, AUTHOR)
    await replica.writer.write(of("parent"), changed)
    found = await replica.child()
    assert (found.outcome.variant, found.replies) == ("on", None)


@pytest.mark.parametrize("replica", [10_000], ids=["whole"], indirect=True)
async def test_what_another_program_stores_is_found_without_recursion(replica: Replica) -> None:
    chain = [at(str(n), 10 + n, *([str(n - 1)] if n else [])) for n in range(12)]
    ring = [at(f"r{n}", 30 + n, f"r{(n + 1) % 900}") for n in range(900)]
    wide = [at(f"w{n}", 2_000 + n, *(f"v{20 * n + i}" for i in range(20))) for n in range(130)]
    wide += [at(f"v{n}", 3_000 + n) for n in range(2_600)]
    wide += [at(f"t{n}", 6_000 + n, *(f"w{20 * n + i}" for i in range(20) if 20 * n + i < 130)) for n in range(7)]
    top = at("top", 7_000, *(f"t{n}" for n in range(7)))
    contents = StoreContents([*chain, *ring, *wide, top], {"default": 8_000})
    merge(replica.near, contents, time.monotonic(), time.monotonic())

    async def message(key: str) -> str:
        outcome = (await replica.reader.evaluate(of(key), {})).outcome
        assert outcome.error_code in (None, ErrorCode.GENERAL)
        return outcome.message

    assert (await message("10"), "a chain of more than 10" in await message("11")) == ("", True)
    assert "they depend on themselves: r0 -> r1" in await message("r0")
    assert "too much work" in await message("top")


def test_a_flag_that_needs_nothing_is_compiled_as_ever(replica: Replica) -> None:
    held = replica.near.peek(of("x"))
    assert held is not None
    assert (held.prepared, held.dependent) == (held.compiled, None)
    child = replica.near.peek(of("child"))
    assert child is not None
    assert (child.prepared, child.compiled) == (child.dependent, None)
