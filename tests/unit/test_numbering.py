"""Foreign changes get a revision each: one that comes while another of the same flag is seen to is not lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.model import Flag, FlagId
from flagsvc.near import NearCache
from flagsvc.numbering import Numbering
from flagsvc.ports import Entry, StoreContents, Unnumbered

A = FlagId("default", "a")


class Counting(SqliteStore):
    """A store that numbers what it is asked to, as MongoDB does; the embedded one has no foreign changes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.newest = 61
        self.asked: list[int] = []

    async def renumber(self, flag_id: FlagId, revision: int) -> Entry | None:
        self.asked.append(revision)
        self.newest += 1
        return Entry.of(Flag(key=flag_id.key, revision=self.newest))


@pytest.fixture
def near() -> NearCache:
    near = NearCache(10, 5.0)
    near.merge(StoreContents([Flag(key="a", revision=60)], {"default": 60}), 0.0)
    return near


async def until_done(numbering: Numbering) -> None:
    while len(numbering):  # noqa: ASYNC110  bounded by the test's time-out
        await asyncio.sleep(0.01)


async def test_a_change_after_a_new_number_gets_one_of_its_own_though_the_first_is_waited_for(
    near: NearCache, tmp_path: Path
) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = Numbering(near, store, None, lambda: False)
    numbering.add(Unnumbered(A, 60))
    await asyncio.sleep(0.01)
    near.news(Entry.of(Flag(key="a", revision=61)), asyncio.get_running_loop().time())  # another replica numbered it
    numbering.add(Unnumbered(A, 61))
    await until_done(numbering)
    assert store.asked == [61]
    found = near.get(A)
    assert found is not None
    assert found.entry.revision == 62


async def test_two_changes_of_one_revision_share_the_next(near: NearCache, tmp_path: Path) -> None:
    store = Counting(f"sqlite:///{tmp_path}/flags.db")
    numbering = Numbering(near, store, None, lambda: True)
    numbering.add(Unnumbered(A, 60))
    numbering.add(Unnumbered(A, 60))
    assert len(numbering) == 1
    await until_done(numbering)
    assert store.asked == [60]
