"""Each change of another program gets a revision, also one that is made while another of the same flag is pending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import WritesUnsupported
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import NEVER, Entry, StoreContents, StoreEvent, UnversionedChange
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.lineage import Lineage
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge

A = FlagId("default", "a")
TIMING = Timing.of_bound(5.0)


class StoreWithFeed(SqliteStore):
    """The embedded store with a change feed that assigns revisions as MongoDB does; `asked` are those it was given.

    `assigned_elsewhere`: another replica was faster, so nothing is assigned here.
    """

    stream_up, stream_restarts = True, 0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.newest = 60
        self.asked: list[int] = []
        self.assigned_elsewhere: Entry | None = None

    @property
    def feed(self) -> StoreWithFeed:  # type: ignore[override]
        return self

    async def changes(self) -> AsyncIterator[StoreEvent]:
        for event in ():
            yield event

    async def save_resume_token(self) -> None: ...

    def next_entry(self) -> Entry:
        self.newest += 1
        return Entry.of(Flag(key="a", revision=self.newest))

    async def get(self, flag_id: FlagId) -> Entry:
        return self.assigned_elsewhere or await super().get(flag_id)

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        assert flag_id == A
        self.asked.append(revision)
        await asyncio.sleep(0.01)
        return None if self.assigned_elsewhere else self.next_entry()


class StandaloneStore(StoreWithFeed):
    """A store without transactions, which assigns nothing."""

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        raise WritesUnsupported


class HeldLease(CacheLease):
    """The cache lease, as its holder has it."""

    @property
    def is_holder(self) -> bool:
        return True


@pytest.fixture
def near() -> NearCache:
    near = NearCache(10, 5.0)
    merge(near, StoreContents([Flag(key="a", revision=60)], {"default": 60}), 0.0, 0.0)
    return near


@pytest.fixture
def store(tmp_path: Path) -> StoreWithFeed:
    return StoreWithFeed(f"sqlite:///{tmp_path}/flags.db")


def assigner_of(near: NearCache, store: StoreWithFeed, *, is_holder: bool = False) -> RevisionAssigner:
    lease = (HeldLease if is_holder else CacheLease)(near, None, TIMING)
    return RevisionAssigner(near, store, None, lease, progress=StreamProgress.of_store(store), lineage=Lineage())


async def until_done(assigner: RevisionAssigner) -> None:
    async with asyncio.timeout(10):
        while len(assigner):  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0.01)


async def test_a_change_after_an_assigned_revision_gets_its_own_while_the_first_is_pending(
    near: NearCache, store: StoreWithFeed
) -> None:
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 60), store)
    await asyncio.sleep(0.01)
    near.apply_change(store.next_entry(), time.monotonic())  # another replica assigned it
    assigner.add(UnversionedChange(A, 61), store)
    await until_done(assigner)
    assert sorted(store.asked) == [60, 61], "only the store knows which change a revision belongs to"
    found = near.get(A)
    assert found is not None
    assert found.entry.revision > 61


async def test_an_announced_deletion_does_not_stand_for_the_insertion_after_it(
    near: NearCache, store: StoreWithFeed
) -> None:
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 0), store)
    await asyncio.sleep(0.01)
    announce_deletion(near, store, assigner)
    await until_done(assigner)
    assert store.asked == [0]


async def test_a_deletion_that_another_replica_announced_needs_no_revision(
    near: NearCache, store: StoreWithFeed
) -> None:
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 60, gone=True), store)
    await asyncio.sleep(0.01)
    announce_deletion(near, store, assigner)
    await until_done(assigner)
    assert store.asked == []


async def test_a_deletion_that_only_a_read_found_is_not_announced_and_gets_a_revision(
    near: NearCache, store: StoreWithFeed
) -> None:
    """A read finds the flag absent as of the set's counter, which another flag may have raised."""
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 60, gone=True), store)
    await asyncio.sleep(0.01)
    near.apply_read(Entry.absent(A, store.next_entry().revision), time.monotonic(), time.monotonic())
    near.changelogs.jump({"default": store.newest}, time.monotonic())
    await until_done(assigner)
    assert store.asked == [60]


@pytest.mark.parametrize("noted", [Entry.absent(A, 60), Entry.absent(FlagId("default", "b"), 61)])
async def test_an_earlier_deletion_or_one_of_another_flag_counts_for_nothing(
    near: NearCache, store: StoreWithFeed, noted: Entry
) -> None:
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 60, gone=True), store)
    assigner.note_deletion(noted)
    await until_done(assigner)
    assert store.asked == [60]


async def test_a_held_flag_with_a_larger_revision_may_be_deleted_all_the_same(
    near: NearCache, store: StoreWithFeed
) -> None:
    assigner = assigner_of(near, store)
    assigner.add(UnversionedChange(A, 59, gone=True), store)
    await asyncio.sleep(0.01)
    near.apply_change(store.next_entry(), time.monotonic())  # announced before the deletion
    await until_done(assigner)
    assert store.asked == [59]


async def test_an_equal_change_during_the_assignment_is_assigned_too(near: NearCache, store: StoreWithFeed) -> None:
    assigner = assigner_of(near, store, is_holder=True)
    assigner.add(UnversionedChange(A, 0), store)
    while not store.asked:  # noqa: ASYNC110  the first call is under way then
        await asyncio.sleep(0)
    assigner.add(UnversionedChange(A, 0), store)  # deleted and inserted once more meanwhile
    await until_done(assigner)
    assert store.asked == [0, 0]


async def test_two_changes_of_one_revision_share_the_next(near: NearCache, store: StoreWithFeed) -> None:
    assigner = assigner_of(near, store, is_holder=True)
    assigner.add(UnversionedChange(A, 60), store)
    assigner.add(UnversionedChange(A, 60), store)
    assert len(assigner) == 1
    await until_done(assigner)
    assert store.asked == [60]


async def test_a_change_is_pending_until_every_revision_up_to_its_own_is_applied(
    near: NearCache, store: StoreWithFeed
) -> None:
    """Heartbeats demand of other replicas only what the watermark has reached."""
    other, store.assigned_elsewhere = store.next_entry(), store.next_entry()
    assigner = assigner_of(near, store, is_holder=True)
    assigner.add(UnversionedChange(A, 60), store)
    await asyncio.sleep(0.3)
    held = near.get(A)
    assert held is not None
    assert held.entry == store.assigned_elsewhere
    assert (len(assigner), near.changelogs.watermark("default")) == (1, 60)
    near.apply_change(other, time.monotonic())
    near.apply_change(store.assigned_elsewhere, time.monotonic())
    await until_done(assigner)
    assert (near.changelogs.watermark("default"), assigner.assigned) == (62, 0)


async def test_where_no_revision_can_be_assigned_the_stores_flag_wins_and_the_stream_counts_as_restarted(
    near: NearCache, tmp_path: Path
) -> None:
    """As after a restore from a backup. No peer can know of this change by a revision."""
    store = StandaloneStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    stored = await store.write(A, changes.create(Flag(key="a"), Author(at=datetime.now(UTC))))
    progress = StreamProgress(checkpoint=NEVER, unbroken_since=NEVER)
    assigner = RevisionAssigner(near, store, None, HeldLease(near, None, TIMING), progress=progress, lineage=Lineage())
    began = time.monotonic()
    assigner.add(UnversionedChange(A, 60), store)
    await until_done(assigner)
    found = near.get(A)
    assert found is not None
    assert found.entry == stored
    assert began <= progress.unbroken_since <= time.monotonic()
    await store.close()


def announce_deletion(near: NearCache, store: StoreWithFeed, assigner: RevisionAssigner) -> None:
    """Announce a deletion with the next revision, as the follower handles it."""
    store.newest += 1
    assigner.note_deletion(Entry.absent(A, store.newest))
    near.apply_change(Entry.absent(A, store.newest), time.monotonic())
