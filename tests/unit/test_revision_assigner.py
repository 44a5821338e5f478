"""Foreign changes get a revision each: one that comes while another of the same flag is seen to is not lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.view.near_cache import NearCache

A = FlagId("default", "a")


class Counting(SqliteStore):
    """A store that numbers what it is asked to, as MongoDB does; the embedded one has no foreign changes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.newest = 61
        self.asked: list[int] = []

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        self.asked.append(revision)
        await asyncio.sleep(0.01)
        self.newest += 1
        return Entry.of(Flag(key=flag_id.key, revision=self.newest))


@pytest.fixture
def near() -> NearCache:
    near = NearCache(10, 5.0)
    near.merge(StoreContents([Flag(key="a", revision=60)], {"default": 60}), 0.0, 0.0)
    return near


async def until_done(numbering: RevisionAssigner) -> None:
    while len(numbering):  # noqa: ASYNC110  bounded by the test's time-out
        await asyncio.sleep(0.01)


async def test_a_change_after_a_new_number_gets_one_of_its_own_though_the_first_is_waited_for(
    near: NearCache, tmp_path: Path
) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: False)
    numbering.add(UnversionedChange(A, 60))
    await asyncio.sleep(0.01)
    near.apply_change(
        Entry.of(Flag(key="a", revision=61)), asyncio.get_running_loop().time()
    )  # another replica numbered it
    numbering.add(UnversionedChange(A, 61))
    await until_done(numbering)
    assert sorted(store.asked) == [60, 61], "only the store knows which change a number was for"
    found = near.get(A)
    assert found is not None
    assert found.entry.revision > 61


async def test_an_insertion_is_not_taken_for_numbered_because_the_deletion_before_it_was(
    near: NearCache, tmp_path: Path
) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: False)
    numbering.add(UnversionedChange(A, 0))
    await asyncio.sleep(0.01)
    near.apply_change(Entry.absent(A, 61), asyncio.get_running_loop().time())
    await until_done(numbering)
    assert store.asked == [0]


async def test_a_deletion_that_another_replica_numbered_is_left(near: NearCache, tmp_path: Path) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: False)
    numbering.add(UnversionedChange(A, 60, gone=True))
    await asyncio.sleep(0.01)
    near.apply_change(Entry.absent(A, 61), asyncio.get_running_loop().time())
    await until_done(numbering)
    assert store.asked == []


async def test_a_flag_that_is_held_with_a_larger_number_may_be_gone_all_the_same(
    near: NearCache, tmp_path: Path
) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: False)
    numbering.add(UnversionedChange(A, 59, gone=True))
    await asyncio.sleep(0.01)
    near.apply_change(
        Entry.of(Flag(key="a", revision=61)), asyncio.get_running_loop().time()
    )  # told before the deletion
    await until_done(numbering)
    assert store.asked == [59]


async def test_a_change_with_the_same_words_during_the_numbering_is_asked_for_again(
    near: NearCache, tmp_path: Path
) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: True)
    numbering.add(UnversionedChange(A, 0))
    await asyncio.sleep(0)
    while not store.asked:  # noqa: ASYNC110  the numbering is on its way now
        await asyncio.sleep(0)
    numbering.add(UnversionedChange(A, 0))  # deleted and inserted once more meanwhile
    await until_done(numbering)
    assert store.asked == [0, 0]


async def test_two_changes_of_one_revision_share_the_next(near: NearCache, tmp_path: Path) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = RevisionAssigner(near, store, None, lambda: True)
    numbering.add(UnversionedChange(A, 60))
    numbering.add(UnversionedChange(A, 60))
    assert len(numbering) == 1
    await until_done(numbering)
    assert store.asked == [60]


async def test_where_nobody_can_give_a_number_what_the_store_has_counts(near: NearCache, tmp_path: Path) -> None:
    """As after a restore from a backup."""
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    stored = await store.write(A, changes.create(Flag(key="a"), Author(at=datetime.now(UTC))))
    numbering = RevisionAssigner(near, store, None, lambda: True)
    numbering.add(UnversionedChange(A, 60))
    await until_done(numbering)
    found = near.get(A)
    assert found is not None
    assert found.entry == stored
    await store.close()
