"""Every definition that a store writes has the bucketing that its set had at that revision; both stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flagsvc.core import changes
from flagsvc.core.bucketing import follow_set
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import FlagStore
from tests.conformance.test_store import author, create, read, store

__all__ = ["store"]
SPLIT = '{"fractional":[["on",1],["off",1]]}'
HALF, PLAIN = FlagId("default", "half"), FlagId("default", "plain")


def half(key: str = "half", **fields: object) -> Flag:
    return replace(Flag(key=key, status=Status.ENABLED, targeting=SPLIT), **fields)  # type: ignore[arg-type]


async def bucketing_of(store: FlagStore, flag_id: FlagId = HALF) -> int:
    flag = await read(store, flag_id)
    assert flag is not None
    assert {each.id: each for each in (await store.load()).flags}[flag_id] == flag
    return flag.bucketing


async def test_a_set_has_2_until_it_is_changed_and_each_write_has_the_sets(store: FlagStore) -> None:
    assert await store.bucketing("default") == 2
    assert (await create(store, half(bucketing=3))).flag == await read(store, HALF), "callers do not choose it"
    await create(store, Flag(key="plain"))
    assert await bucketing_of(store) == 2
    await store.set_bucketing("default", 3)
    assert (await store.bucketing("default"), await store.bucketing("other")) == (3, 2)
    assert await bucketing_of(store) == 2, "a definition changes with its revision only"
    await store.write(HALF, changes.toggle("half", False, None, author(1)))
    await store.write(PLAIN, changes.toggle("plain", True, None, author(2)))
    assert (await bucketing_of(store), await bucketing_of(store, PLAIN)) == (3, 2)
    wanted = replace(half("plain"), targeting=SPLIT)
    await store.write(PLAIN, changes.update(wanted, ["targeting"], None, author(3)))
    assert await bucketing_of(store, PLAIN) == 3
    await store.write(PLAIN, changes.update(Flag(key="plain"), ["targeting"], None, author(4)))
    assert await bucketing_of(store, PLAIN) == 2, "no split, no bucketing"
    await create(store, half("other", flag_set="other"))
    assert await bucketing_of(store, FlagId("other", "other")) == 2
    assert (await store.revisions())["default"] == 6, "the version is no change of a flag"


async def test_following_the_set_is_a_change_with_history_and_happens_once(store: FlagStore) -> None:
    await create(store, half())
    await store.set_bucketing("default", 3)
    decide = follow_set(3, author(5, reason="as the new engine"))
    entry = await store.write(HALF, decide)
    assert entry is not None
    assert entry.flag == await read(store, HALF)
    newest = (await store.history(HALF, 5))[0]
    assert (newest.action, newest.previous, newest.new) == ("UPDATED", {"bucketing": 2}, {"bucketing": 3})
    assert (newest.reason, newest.revision) == ("as the new engine", 2)
    assert await store.write(HALF, decide) is None
    await store.set_bucketing("default", 2)
    await store.write(HALF, follow_set(2, author(6)))
    assert await bucketing_of(store) == 2


async def test_an_import_compares_and_writes_no_bucketing(store: FlagStore) -> None:
    await store.set_bucketing("default", 3)
    await store.write(HALF, changes.put(half(bucketing=2), author()))
    assert await bucketing_of(store) == 3
    assert await store.write(HALF, changes.put(half(bucketing=2), author(1))) is None


async def test_a_write_beside_a_change_of_the_set_has_one_of_both_by_its_revision(store: FlagStore) -> None:
    """Whatever is written after the version was stored has it; so one look as of the counter finds all the others."""
    await create(store, half())

    async def toggling() -> None:
        for number in range(12):
            await store.write(HALF, changes.toggle("half", number % 2 == 0, None, author(number)))

    async def changing() -> int:
        await asyncio.sleep(0.01)
        await store.set_bucketing("default", 3)
        return (await store.revisions())["default"]

    _, stored_at = await asyncio.gather(toggling(), changing())
    await store.write(HALF, changes.toggle("half", True, None, author(20)))
    stamped = [e.revision for e in await store.history(HALF, 50) if "bucketing" in (e.new or {})]
    assert len(stamped) == 1
    assert stamped[0] <= stored_at + 1
    assert await bucketing_of(store) == 3


@pytest.mark.parametrize("targeting", ['{"\\u0066ractional":[["on"]]}', '{"if":[true,{"fractional":[["on"]]}]}', "{"])
async def test_what_may_be_a_split_is_one(store: FlagStore, targeting: str) -> None:
    await store.set_bucketing("default", 3)
    await store.write(HALF, changes.put(half(targeting=targeting), author()))
    assert await bucketing_of(store) == (2 if targeting == "{" else 3)
