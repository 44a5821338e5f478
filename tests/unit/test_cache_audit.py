"""The cache audit finds wrong entries, and only those, and repairs them while others write."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, create, delete, toggle
from flagsvc.core.errors import CacheMissing, CacheUnavailable, FlagsvcError, StoreUnavailable
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import NEVER, Entry, LeaseState
from flagsvc.replication import cache_audit
from flagsvc.replication.cache_audit import MAX_LISTED, AuditReport, CacheAuditor, DriftedEntry, DriftKind, kind_of
from flagsvc.view.near_cache import NearCache
from tests.replicas import until
from tests.servers import RedisServer
from tests.stores import STORE

AUTHOR = Author(datetime.now(UTC))
A, B, C = FlagId("default", "a"), FlagId("default", "b"), FlagId("staging", "c")
Step = Callable[[], Awaitable[object]]


async def nothing() -> None:
    pass


class Store(SqliteStore):
    """The embedded store, with a hook for each call."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.on_get: Callable[[FlagId, Entry], Entry] = lambda _, entry: entry
        self.on_revisions: Callable[[], None] = lambda: None

    async def get(self, flag_id: FlagId) -> Entry:
        return self.on_get(flag_id, await super().get(flag_id))

    async def revisions(self) -> Mapping[str, int]:
        self.on_revisions()
        return await super().revisions()


class Cache(RedisCache):
    """The shared cache on a real Redis, with hooks: after a scan, before single reads, and after a forced put."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_s=1.0, identity=STORE)
        self.forced = 0
        self.scans_twice = self.refuses = False
        self.after_scan: Step | None = None
        self.before_peek: Step | None = None
        self.after_force: Step | None = None

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        async for piece in super().entries():
            yield piece
            if self.scans_twice:
                yield piece
        step, self.after_scan = self.after_scan, None
        await (step() if step else nothing())

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        step, self.before_peek = self.before_peek, None
        await (step() if step else nothing())
        return await super().peek(ids)

    async def put(self, entries: Sequence[Entry], as_of: float, *, fills: bool = False, force: bool = False) -> bool:
        self.forced += force
        if self.refuses:
            return False
        put = await super().put(entries, as_of, fills=fills, force=force)
        if force:
            step, self.after_force = self.after_force, None
            await (step() if step else nothing())
        return put

    async def plant(self, entries: Sequence[Entry]) -> None:
        """Put wrong entries, whatever is held."""
        assert await super().put(entries, time.monotonic(), force=True)


class Parts:
    """A store, a cache and the auditor that compares them."""

    def __init__(
        self, path: Path, url: str, interval_s: float = 0.0, is_holder: Callable[[], bool] = lambda: True
    ) -> None:
        self.path = path / "flags.db"
        self.store, self.cache = Store(f"sqlite:///{self.path}"), Cache(url)
        self.near = NearCache(10_000, 5.0)
        self.cache_auditor = CacheAuditor(self.near, self.store, self.cache, interval_s, is_holder)

    async def make(self, flag_id: FlagId, *, cached: bool = True, **fields: object) -> Entry:
        flag = Flag(key=flag_id.key, flag_set=flag_id.flag_set, **fields)  # type: ignore[arg-type]
        made = await self.store.write(flag_id, create(flag, AUTHOR))
        assert made is not None
        return await self.put(made) if cached else made

    async def switch(self, flag_id: FlagId, enabled: bool) -> Entry:
        made = await self.store.write(flag_id, toggle(flag_id.key, enabled, None, AUTHOR))
        assert made is not None
        return made

    async def remove(self, flag_id: FlagId) -> Entry:
        made = await self.store.write(flag_id, delete(flag_id.key, None, AUTHOR))
        assert made is not None
        return made

    async def put(self, entry: Entry) -> Entry:
        assert await self.cache.put([entry], time.monotonic())
        return entry

    async def plant(self, entry: Entry) -> Entry:
        """Put a wrong entry into the cache, whatever is held."""
        await self.cache.plant([entry])
        return entry

    def edit(self, sql: str, *values: object) -> None:
        """Change the store as another program would, without a new revision."""
        with sqlite3.connect(self.path) as db:
            db.execute(sql, values)
        db.close()

    async def held(self, flag_id: FlagId) -> Entry | None:
        return (await self.cache.peek([flag_id]))[0]


@asynccontextmanager
async def parts_in(path: Path, url: str, **options: object) -> AsyncIterator[Parts]:
    parts = Parts(path, url, **options)  # type: ignore[arg-type]
    await parts.store.open()
    await parts.cache.open()
    try:
        yield parts
    finally:
        await parts.cache_auditor.close()
        await parts.cache.close()
        await parts.store.close()


@pytest.fixture
async def parts(tmp_path: Path, redis_clean_url: str) -> AsyncIterator[Parts]:
    async with parts_in(tmp_path, redis_clean_url) as made:
        yield made


def flag(revision: int, name: str = "") -> Entry:
    return Entry.of(Flag(key="a", name=name, revision=revision))


def gone(revision: int) -> Entry:
    return Entry.absent(A, revision)


def value(revision: int, of: object) -> Entry:
    return Entry.of(Flag(key="a", variants={"x": of}, default_variant="x", revision=revision))


@pytest.mark.parametrize(
    ("cached", "stored", "kind"),
    [
        (flag(5), flag(5), None),
        (flag(4), flag(5), DriftKind.OLDER),
        (flag(6), flag(5), DriftKind.NEWER),
        (flag(5, "x"), flag(5), DriftKind.DIFFERENT),
        (value(5, 1), value(5, 1.0), DriftKind.DIFFERENT),
        (value(5, 1), value(5, True), DriftKind.DIFFERENT),
        (flag(5), gone(6), DriftKind.DELETED),
        (flag(5), gone(5), DriftKind.DELETED),
        (flag(5), gone(4), DriftKind.DELETED),
        (gone(5), gone(6), None),
        (gone(0), gone(6), None),
        (gone(6), gone(5), DriftKind.NEWER),
        (gone(4), flag(5), DriftKind.OLDER),
        (gone(0), flag(5), DriftKind.OLDER),
        (gone(5), flag(5), DriftKind.DIFFERENT),
        (gone(6), flag(5), DriftKind.NEWER),
    ],
)
def test_how_a_cached_entry_differs_from_the_store(cached: Entry, stored: Entry, kind: DriftKind | None) -> None:
    assert kind_of(cached, stored) is kind


async def test_right_entries_are_no_drift_and_flags_that_are_not_cached_are_missing(parts: Parts) -> None:
    await parts.make(A, status=Status.ENABLED, config={"n": 2**40, "f": 2.0}, variants={"x": 1.0}, default_variant="x")
    await parts.make(B, cached=False)
    await parts.put(await parts.switch(A, enabled=False))
    await parts.make(C)
    await parts.put(await parts.remove(C))
    await parts.put(Entry.absent(FlagId("default", "unknown"), 1))
    assert await parts.cache_auditor.verify(repair=True) == AuditReport(checked=3, missing=1)
    assert parts.cache.forced == 0


async def test_each_kind_of_drift_is_found_and_reported(parts: Parts) -> None:
    planted = await plant_one_of_each(parts)
    found = await parts.cache_auditor.verify(repair=False)
    assert {drift.id.key: drift for drift in found.drifts} == planted
    assert (found.checked, found.drifted, found.repaired, found.missing) == (6, 6, 0, 0)
    assert await parts.cache_auditor.verify(repair=False) == found, "only reported, so it is still there"


async def test_each_kind_of_drift_is_repaired(parts: Parts) -> None:
    planted = await plant_one_of_each(parts)
    found = await parts.cache_auditor.verify(repair=True)
    assert (found.drifted, found.repaired) == (6, 6)
    assert all(drift.repaired for drift in found.drifts)
    for drift in planted.values():
        assert await parts.held(drift.id) == await parts.store.get(drift.id)
    assert await parts.cache_auditor.verify(repair=True) == AuditReport(checked=6)
    assert (parts.cache_auditor.checks, parts.cache_auditor.drifted, parts.cache_auditor.repaired) == (2, 6, 6)
    assert time.time() - parts.cache_auditor.last_at < 5


async def test_entries_that_the_cache_takes_anyway_are_not_forced(parts: Parts) -> None:
    await parts.make(A)
    await parts.switch(A, enabled=True)
    await parts.make(B)
    await parts.remove(B)
    assert (await parts.cache_auditor.verify(repair=True)).repaired == 2
    assert parts.cache.forced == 0


async def test_an_entry_that_is_scanned_twice_counts_once(parts: Parts) -> None:
    await parts.make(A)
    await parts.switch(A, enabled=True)
    parts.cache.scans_twice = True
    found = await parts.cache_auditor.verify(repair=True)
    assert (found.checked, found.drifted, found.repaired) == (1, 1, 1)


async def test_an_entry_that_the_cache_refuses_is_not_repaired(parts: Parts) -> None:
    planted = await parts.plant(Entry.of(Flag(key="a", revision=9)))
    parts.cache.refuses = True
    found = await parts.cache_auditor.verify(repair=True)
    assert (found.drifted, found.repaired) == (1, 0)
    assert not found.drifts[0].repaired
    assert await parts.held(A) == planted


async def plant_one_of_each(parts: Parts) -> dict[str, DriftedEntry]:
    """Make six flags and as many wrong entries; return the drift that an audit must report, by key."""
    expected = {}

    def expect(entry: Entry, stored: int, kind: DriftKind) -> None:
        expected[entry.id.key] = DriftedEntry(entry.id, stored, entry.revision, kind)

    older = await parts.make(FlagId("default", "older"))
    expect(older, (await parts.switch(older.id, enabled=True)).revision, DriftKind.OLDER)
    hidden = await parts.make(FlagId("staging", "hidden"), cached=False)
    expect(await parts.plant(Entry.absent(hidden.id, 0)), hidden.revision, DriftKind.OLDER)
    newer = await parts.make(FlagId("default", "newer"))
    assert newer.flag is not None
    expect(await parts.plant(Entry.of(Flag(key="newer", revision=99))), newer.revision, DriftKind.NEWER)
    different = await parts.make(FlagId("default", "different"), name="a")
    parts.edit("UPDATE flags SET document = replace(document, '\"a\"', '\"b\"') WHERE key = 'different'")
    expect(different, different.revision, DriftKind.DIFFERENT)
    deleted = await parts.make(FlagId("default", "deleted"))
    await parts.remove(deleted.id)
    expect(deleted, 0, DriftKind.DELETED)
    dropped = await parts.make(FlagId("default", "dropped"))
    parts.edit("DELETE FROM flags WHERE key = 'dropped'")  # its revision is still the set's newest
    expect(dropped, 0, DriftKind.DELETED)
    return expected


async def test_entries_read_for_a_repair_are_applied_to_the_near_cache(parts: Parts) -> None:
    older = await parts.make(A)
    parts.near.apply_read(older, NEVER, 0.0)
    newer = await parts.switch(A, enabled=True)
    await parts.make(B)
    await parts.switch(B, enabled=True)
    assert (await parts.cache_auditor.verify(repair=True)).repaired == 2
    held = parts.near.get(A)
    assert held is not None
    assert held.entry == newer
    assert len(parts.near) == 1, "flags that it did not hold stay out"


async def test_entries_are_compared_outside_the_event_loop(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare two large definitions takes longer than a turn of the event loop."""
    threads: set[str] = set()

    def noted(cached: Entry, stored: Entry) -> DriftKind | None:
        threads.add(threading.current_thread().name)
        return kind_of(cached, stored)

    monkeypatch.setattr(cache_audit, "kind_of", noted)
    await parts.make(A)
    await parts.plant(Entry.of(Flag(key="b", revision=2)))
    assert (await parts.cache_auditor.verify(repair=False)).drifted == 1
    assert {name.startswith("off-loop") for name in threads} == {True}


async def test_concurrent_changes_are_no_drift(parts: Parts) -> None:
    ids = [FlagId("default", f"flag-{n}") for n in range(20)]
    for flag_id in ids:
        await parts.make(flag_id)
    done = asyncio.Event()

    async def writer(number: int) -> int:
        """Change flags as replicas do, with a pause between store and cache."""
        chance, count = random.Random(number), 0
        while not done.is_set():
            flag_id = chance.choice(ids)
            there = (await parts.store.get(flag_id)).flag is not None
            change = delete(flag_id.key, None, AUTHOR) if there else create(Flag(key=flag_id.key), AUTHOR)
            if there and chance.random() < 0.8:
                change = toggle(flag_id.key, chance.random() < 0.5, None, AUTHOR)
            try:
                entry = await parts.store.write(flag_id, change)
            except FlagsvcError:
                continue  # the other writer was there first
            assert entry is not None
            await asyncio.sleep(chance.uniform(0, 0.02))
            await parts.put(entry)
            count += 1
        return count

    writers = [asyncio.create_task(writer(n)) for n in range(4)]
    found = [await parts.cache_auditor.verify(repair=n % 2 == 0) for n in range(12)]
    done.set()
    assert sum(await asyncio.gather(*writers)) > 100
    assert [each.drifts for each in found] == [[]] * len(found)
    assert parts.cache.forced == 0
    for flag_id in ids:
        assert kind_of(await parts.held(flag_id) or Entry.absent(flag_id), await parts.store.get(flag_id)) is None


async def test_a_change_in_transit_at_the_first_comparison_is_no_drift(parts: Parts) -> None:
    await parts.make(A)
    changed = await parts.switch(A, enabled=True)
    parts.cache.after_scan = lambda: parts.put(changed)
    assert await parts.cache_auditor.verify(repair=False) == AuditReport(checked=1)


async def test_a_change_in_transit_at_the_second_comparison_is_no_drift(parts: Parts) -> None:
    """First the store, read before the cache, looks older; at the second comparison the next change is in transit."""
    await parts.make(A)
    load, late = parts.store.load, await parts.store.load()

    async def loaded() -> object:
        await parts.put(await parts.switch(A, enabled=True))
        parts.cache.after_scan = lambda: parts.switch(A, enabled=False)
        return late

    parts.store.load = loaded  # type: ignore[method-assign,assignment]
    assert await parts.cache_auditor.verify(repair=True) == AuditReport(checked=1)
    parts.store.load = load  # type: ignore[method-assign]
    assert (await parts.cache_auditor.verify(repair=False)).drifted == 1, "it never arrived: now it is drift"


async def test_a_primary_that_was_replaced_does_not_make_the_cache_look_newer(parts: Parts) -> None:
    """It answers plain reads with what it has, until a linearizable read finds the new primary."""
    before = await parts.make(A)
    changed = await parts.put(await parts.switch(A, enabled=True))
    late = await parts.store.load()
    replaced = True

    def noticed() -> None:
        nonlocal replaced
        replaced = False

    parts.store.on_get = lambda _, entry: before if replaced else entry
    parts.store.on_revisions = noticed

    async def loaded() -> object:
        return type(late)([before.flag], {"default": before.revision})

    parts.store.load = loaded  # type: ignore[method-assign,assignment]
    assert await parts.cache_auditor.verify(repair=True) == AuditReport(checked=1)
    assert await parts.held(A) == changed
    assert not replaced


async def test_a_change_made_while_an_entry_is_forced_is_not_undone(parts: Parts) -> None:
    await parts.make(A)
    parts.edit("DELETE FROM flags WHERE key = 'a'")
    created: list[Entry] = []

    async def created_meanwhile() -> None:
        """A creation that reached the cache after the store was read, and was then overwritten by force."""
        created.append(await parts.make(A, cached=False))

    parts.cache.after_force = created_meanwhile
    assert (await parts.cache_auditor.verify(repair=True)).repaired == 1
    assert parts.cache.forced == 1
    assert await parts.held(A) == created[0]


async def test_a_forced_entry_is_not_verified_until_it_was_read_again(parts: Parts) -> None:
    """The auditor may be killed right after: nobody must answer from the entry, although the cache lease is held."""
    await parts.make(A)
    parts.edit("DELETE FROM flags WHERE key = 'a'")
    assert (await parts.cache.acquire_lease(time.monotonic(), 60.0)).state is LeaseState.HELD

    class Killed(BaseException):
        pass

    async def is_killed() -> None:
        assert (await parts.cache.renew_lease(time.monotonic(), 60.0, ())).state is LeaseState.HELD
        raise Killed

    parts.cache.after_force = is_killed
    with pytest.raises(Killed):
        await parts.cache_auditor.verify(repair=True)
    found = await parts.cache.fetch(A, 5.0)
    assert found is not None
    assert (found.entry, found.as_of) == (Entry.absent(A, 1), NEVER)
    assert found.fills, "so the reader asks the store"


async def test_the_first_thousand_are_listed_and_all_are_counted_and_repaired(parts: Parts) -> None:
    ids = [FlagId("default", f"flag-{n}") for n in range(MAX_LISTED + 50)]
    planted = [Entry.of(Flag(key=flag_id.key, revision=1)) for flag_id in ids]
    for start in range(0, len(planted), 100):
        await parts.cache.plant(planted[start : start + 100])
    found = await parts.cache_auditor.verify(repair=True)
    assert (found.checked, found.drifted, found.repaired) == (len(ids), len(ids), len(ids))
    assert len(found.drifts) == MAX_LISTED


async def test_without_a_cache_an_audit_fails(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    auditor = CacheAuditor(NearCache(10, 5.0), store, None, 0.01)
    with pytest.raises(CacheMissing):
        await auditor.verify(repair=False)
    auditor.start()
    await auditor.close()
    assert auditor.checks == 0
    await store.close()


async def test_an_audit_fails_while_redis_cannot_be_asked(tmp_path: Path, redis_server: RedisServer) -> None:
    async with parts_in(tmp_path, redis_server.url) as parts:
        await parts.make(A)
        await parts.switch(A, enabled=True)

        async def pauses() -> None:
            """Between the two comparisons."""
            redis_server.pause()

        parts.cache.before_peek = pauses
        with pytest.raises(CacheUnavailable):
            await parts.cache_auditor.verify(repair=True)
        redis_server.resume()
        await until(lambda: parts.cache.available)
        redis_server.kill()
        with pytest.raises(CacheUnavailable):
            await parts.cache_auditor.verify(repair=True)
    assert parts.cache_auditor.checks == 0


async def test_an_audit_without_the_store_changes_nothing_in_the_cache(parts: Parts) -> None:
    planted = await parts.plant(Entry.of(Flag(key="a", revision=9)))

    def fails() -> None:
        raise StoreUnavailable

    parts.store.on_revisions = fails
    with pytest.raises(StoreUnavailable):
        await parts.cache_auditor.verify(repair=True)
    assert await parts.held(A) == planted
    assert parts.cache_auditor.checks == 0


async def test_the_lease_holder_checks_in_the_background_and_warns(tmp_path: Path, redis_clean_url: str) -> None:
    is_holder = False
    async with parts_in(tmp_path, redis_clean_url, interval_s=0.05, is_holder=lambda: is_holder) as parts:
        with capture_logs() as lines:
            parts.cache_auditor.start()
            await asyncio.sleep(0.3)
            assert parts.cache_auditor.checks == 0, "another replica does"
            await parts.plant(Entry.of(Flag(key="a", revision=9)))
            is_holder = True
            await until(lambda: parts.cache_auditor.checks > 1)
        assert (parts.cache_auditor.drifted, parts.cache_auditor.repaired) == (1, 1)
        warned = [line for line in lines if line["log_level"] == "warning"]
        assert [(line["event"], line["drifted"], line["repaired"]) for line in warned] == [("cache_drifted", 1, 1)]
        assert warned[0]["first"] == ["default/a: DELETED"]
        await parts.cache_auditor.close()
        checks = parts.cache_auditor.checks
        await asyncio.sleep(0.2)
        assert parts.cache_auditor.checks == checks


async def test_background_checks_continue_after_any_failure(tmp_path: Path, redis_clean_url: str) -> None:
    async with parts_in(tmp_path, redis_clean_url, interval_s=0.02) as parts:
        await parts.plant(Entry.of(Flag(key="a", revision=9)))
        failures: list[Exception] = [RuntimeError("unforeseen"), StoreUnavailable()]

        def fails() -> None:
            if failures:
                raise failures.pop()

        parts.store.on_revisions = fails
        with capture_logs() as lines:
            parts.cache_auditor.start()
            await until(lambda: parts.cache_auditor.checks == 1)
        assert [line["log_level"] for line in lines] == ["info", "error", "warning"]


async def test_an_interval_of_zero_starts_no_checks(parts: Parts) -> None:
    parts.cache_auditor.start()
    await asyncio.sleep(0.05)
    assert parts.cache_auditor.checks == 0


async def test_twenty_callers_at_once_share_two_comparisons(parts: Parts) -> None:
    await parts.make(A)
    reports = await asyncio.gather(*(parts.cache_auditor.verify(repair=False) for _ in range(20)))
    assert [report.checked for report in reports] == [1] * 20
    assert parts.cache_auditor.checks == 1
    running = asyncio.create_task(parts.cache_auditor.verify(repair=False))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await parts.make(B)
    later = await asyncio.gather(*(parts.cache_auditor.verify(repair=False) for _ in range(20)))
    await running
    assert {report.checked for report in later} == {2}, "a comparison begins after it was asked for"
    assert parts.cache_auditor.checks <= 3
