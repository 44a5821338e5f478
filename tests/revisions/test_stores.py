"""What stores keep of every change: definitions, moments, retention, rollbacks of sets and remembered requests."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import FlagNotFound, InvalidRequest, NotRestorable, RevisionConflict, RevisionOutOfRange
from flagsvc.core.model import Action, Flag, FlagId, Status
from flagsvc.core.requests import WriteRequest
from flagsvc.core.revisions.model import RECORDED, AsOf, Moment, via_revision
from flagsvc.ports import Entry, FlagStore
from flagsvc.ports.revisions import RolledBack
from flagsvc.serving.rollbacks import set_rollback

AUTHOR = Author(at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC), actor="ann", reason="why")
SET = "default"
A, B = FlagId(SET, "a"), FlagId(SET, "b")
RULE = '{"if":[{"==":[{"var":"plan"},"pro"]},"on","off"]}'


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.mongod)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FlagStore]:
    made: FlagStore
    if request.param == "sqlite":
        made = importlib.import_module("flagsvc.adapters.sqlite").SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    else:
        mongo = importlib.import_module("flagsvc.adapters.mongo.store").MongoStore
        made = mongo(request.getfixturevalue("mongo_database_url"))
    await made.open()
    yield made
    await made.close()


def kept(store: FlagStore) -> Any:
    assert store.definitions is not None
    return store.definitions


async def create(store: FlagStore, key: str = "a", **fields: Any) -> Entry:
    entry = await store.write(FlagId(SET, key), changes.create(Flag(key=key, **fields), AUTHOR))
    assert entry is not None
    return entry


async def toggle(store: FlagStore, enabled: bool, key: str = "a", request: WriteRequest | None = None) -> Entry:
    entry = await store.write(FlagId(SET, key), changes.toggle(key, enabled, None, AUTHOR), request)
    assert entry is not None
    return entry


async def status_at(store: FlagStore, revision: int, key: str = "a") -> Status | None:
    moment = await kept(store).moment(SET, AsOf(revision))
    found = (await kept(store).newest(SET, [key], moment)).get(key)
    return found.flag.status if found is not None and found.flag is not None else None


async def forget(store: FlagStore) -> None:
    """Make the store one of a release that kept no revisions."""
    if hasattr(store, "_database"):
        database: Any = store._database
        await database["flagsvc_definitions"].delete_many({})
        await database["flagsvc_revisions"].update_many({}, {"$unset": {"at": "", "horizon": "", "before": ""}})
    else:
        await store._run(lambda db: db.executescript("DELETE FROM definitions; DELETE FROM horizons"))  # type: ignore[attr-defined]


async def test_each_change_keeps_the_whole_definition(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store, targeting=RULE, metadata={"n": 1, "x": 1.5}, config={"big": 2**62})
    await toggle(store, True)
    await store.write(A, changes.delete("a", None, AUTHOR))
    await create(store, name="again")
    assert [await status_at(store, revision) for revision in (1, 2, 3, 4)] == [
        Status.DISABLED,
        Status.ENABLED,
        None,
        Status.DISABLED,
    ]
    found = (await kept(store).newest(SET, ["a", "b"], await kept(store).moment(SET, AsOf(2))))["a"]
    assert found.flag is not None
    assert (found.flag.targeting, found.flag.metadata, found.flag.config) == (
        RULE,
        {"n": 1, "x": 1.5},
        {"big": 2**62},
    )
    assert (found.revision, found.flag.revision, found.about.action, found.about.actor) == (2, 2, "ENABLED", "ann")
    page = await kept(store).page(A, 0, 10)
    assert [(each.revision, each.about.action, each.gone) for each in page] == [
        (4, "CREATED", False),
        (3, "DELETED", True),
        (2, "ENABLED", False),
        (1, "CREATED", False),
    ]
    assert [each.revision for each in await kept(store).page(A, 3, 1)] == [2]
    assert [await kept(store).keys(SET, Moment(n, AUTHOR.at)) for n in (2, 3)] == [["a"], []]


async def test_times_are_in_the_order_of_revisions_and_name_them(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store)
    for enabled in (True, False, True):
        await asyncio.sleep(0.003)
        await toggle(store, enabled)
    rows = list(reversed(await kept(store).page(A, 0, 10)))
    assert [row.revision for row in rows] == [1, 2, 3, 4]
    assert all(one.at <= two.at for one, two in itertools.pairwise(rows))
    for row in rows[1:]:
        at = await kept(store).moment(SET, AsOf(time=row.at))
        assert at.revision == row.revision
        assert (await kept(store).moment(SET, AsOf(time=row.at - timedelta(milliseconds=1)))).revision < row.revision
        assert (await kept(store).moment(SET, AsOf(row.revision))).at == row.at


async def test_a_clock_that_goes_back_does_not_reorder(store: FlagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept(store).sweep(0)
    await create(store)
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    if hasattr(store, "_database"):
        await store._database["flagsvc_revisions"].update_one({"_id": SET}, {"$set": {"at": ahead}})
    else:
        ms = int(ahead.timestamp() * 1000)
        await store._run(lambda db: db.execute("UPDATE definitions SET at = ?", (ms,)))  # type: ignore[attr-defined]
    await toggle(store, True)
    assert (await kept(store).page(A, 0, 1))[0].at == ahead


async def test_moments_that_are_not_kept_or_not_made_are_out_of_range(store: FlagStore) -> None:
    await create(store)
    await forget(store)
    with pytest.raises(RevisionOutOfRange, match="recording of revisions begins now"):
        await kept(store).moment(SET, AsOf(1))
    await toggle(store, True)
    await forget(store)
    swept = await kept(store).sweep(0)
    assert swept.recorded == 1
    assert await status_at(store, 2) is Status.ENABLED
    assert (await kept(store).page(A, 0, 9))[0].about.action == RECORDED
    with pytest.raises(RevisionOutOfRange, match="revision 1 is not kept any more: the oldest that is kept is"):
        await kept(store).moment(SET, AsOf(1))
    with pytest.raises(RevisionOutOfRange, match="is not kept any more"):
        await kept(store).moment(SET, AsOf(time=AUTHOR.at))
    with pytest.raises(RevisionOutOfRange, match="revision 3 is not made yet: the newest is revision 2"):
        await kept(store).moment(SET, AsOf(3))
    assert (await kept(store).sweep(0)).recorded == 0, "a second sweep finds nothing"


async def test_what_a_release_without_revisions_has_changed_makes_earlier_moments_unreadable(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store)
    await create(store, "b")
    assert await status_at(store, 1) is Status.DISABLED
    await toggle(store, True)
    if hasattr(store, "_database"):
        await store._database["flagsvc_definitions"].delete_one({"revision": 3})
        await store._database["feature_flags"].delete_one({"key": "b"})
    else:
        await store._run(lambda db: db.execute("DELETE FROM definitions WHERE revision = 3"))  # type: ignore[attr-defined]
        await store._run(lambda db: db.execute("DELETE FROM flags WHERE key = 'b'"))  # type: ignore[attr-defined]
    assert (await kept(store).sweep(0)).recorded == 2
    with pytest.raises(RevisionOutOfRange):
        await status_at(store, 2)
    assert await status_at(store, 3) is Status.ENABLED
    assert await status_at(store, 3, "b") is None


async def age(store: FlagStore, revisions: Mapping[int, float]) -> None:
    """Make rows so many seconds older."""
    for revision, seconds in revisions.items():
        if hasattr(store, "_database"):
            rows: Any = store._database["flagsvc_definitions"]
            row = await rows.find_one({"revision": revision})
            await rows.update_one({"_id": row["_id"]}, {"$set": {"at": row["at"] - timedelta(seconds=seconds)}})
        else:
            edit = f"UPDATE definitions SET at = at - {int(seconds * 1000)} WHERE revision = {revision}"
            await store._run(lambda db, edit=edit: db.execute(edit))  # type: ignore[attr-defined]


async def test_retention_keeps_each_flags_newest_definition_at_the_horizon(store: FlagStore) -> None:
    await create(store, "b", name="old and never changed")
    await create(store)
    await kept(store).sweep(0)
    for enabled in (True, False, True, False):
        await toggle(store, enabled)
    await create(store, "c")
    await store.write(FlagId(SET, "c"), changes.delete("c", None, AUTHOR))
    await age(store, {1: 9_000, 2: 8_000, 3: 7_000, 4: 6_000, 7: 5_000, 8: 4_000})
    swept = await kept(store).sweep(5_500)
    assert swept.removed == 2, "revisions 2 and 3 of a; b's only one stays"
    assert [row.revision for row in await kept(store).page(A, 0, 9)] == [6, 5, 4]
    assert await status_at(store, 4) is Status.DISABLED
    assert await status_at(store, 4, "b") is Status.DISABLED
    with pytest.raises(RevisionOutOfRange, match="the oldest that is kept is revision 4 of"):
        await status_at(store, 3)
    assert (await kept(store).sweep(5_500)).removed == 0


async def test_a_restored_flag_is_a_new_revision_that_says_what_it_restored(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store, targeting=RULE, name="One", status=Status.ENABLED)
    wanted = Flag(key="a", name="Two", targeting=None)
    await store.write(A, changes.update(wanted, ["name", "targeting"], None, AUTHOR))
    past = (await kept(store).newest(SET, ["a"], await kept(store).moment(SET, AsOf(1))))["a"].flag
    by = replace(AUTHOR, via=via_revision(1))
    with pytest.raises(RevisionConflict):
        await store.write(A, changes.restore(past, 1, by))
    entry = await store.write(A, changes.restore(past, 2, by))
    assert entry is not None
    assert entry.flag is not None
    assert (entry.revision, entry.flag.name, entry.flag.targeting) == (3, "One", RULE)
    [last, *_] = await store.history(A, 5)
    assert (last.action, last.via, sorted(last.new)) == ("UPDATED", "revision/1", ["name", "targeting"])
    await store.write(A, changes.delete("a", None, AUTHOR))
    with pytest.raises(FlagNotFound):
        await store.write(A, changes.restore(past, 4, by))
    entry = await store.write(A, changes.restore(past, None, by))
    assert entry is not None
    assert entry.flag is not None
    assert (entry.revision, entry.flag.name, entry.flag.created_at) == (5, "One", past.created_at)


async def test_a_set_returns_to_a_revision_in_one_step(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store, targeting=RULE)
    await create(store, "b")
    await create(store, "same")
    await create(store, "other")
    await toggle(store, True)
    await store.write(B, changes.delete("b", None, AUTHOR))
    await create(store, "new")
    await toggle(store, True, "same")
    await toggle(store, False, "same")
    decide = set_rollback(4, AUTHOR)
    planned = await store.roll_back(SET, 4, decide, AUTHOR, dry_run=True)
    said = [(each.key, each.action) for each in planned.flags]
    assert said == [("a", Action.UPDATED), ("b", Action.CREATED), ("new", Action.DELETED)]
    assert not planned.entries
    assert (await store.revisions())[SET] == 9, "nothing was written"
    done = await store.roll_back(SET, 4, decide, AUTHOR, dry_run=False)
    assert [(entry.id.key, entry.revision) for entry in done.entries] == [("a", 10), ("b", 11), ("new", 12)]
    assert (await store.revisions())[SET] == 12
    flags = {flag.key: flag for flag in (await store.load()).flags}
    assert {key: flag.status for key, flag in flags.items()} == dict.fromkeys(
        ["a", "b", "same", "other"], Status.DISABLED
    )
    assert [flags[key].revision for key in ("a", "b")] == [10, 11]
    assert [(await store.history(FlagId(SET, key), 1))[0].via for key in ("a", "b", "new")] == ["revision/4"] * 3
    assert await status_at(store, 11, "b") is Status.DISABLED
    assert await status_at(store, 12, "new") is None
    again = await store.roll_back(SET, 4, decide, AUTHOR, dry_run=False)
    assert not again.flags
    assert (await store.revisions())[SET] == 12, "a rollback that changes nothing takes no revision"
    with pytest.raises(RevisionOutOfRange, match="not made yet"):
        await store.roll_back(SET, 13, decide, AUTHOR, dry_run=False)


async def test_a_rollback_that_is_refused_changes_nothing(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store)
    await toggle(store, True)

    def refuse(*_: object) -> list[Any]:
        raise NotRestorable("no")

    with pytest.raises(NotRestorable):
        await store.roll_back(SET, 1, refuse, AUTHOR, dry_run=False)
    assert (await store.revisions())[SET] == 2


def request(name: str = "r-1", digest: bytes = b"d", caller: str = "") -> WriteRequest:
    return WriteRequest(caller, name, digest)


async def test_a_write_with_a_request_id_is_made_once(store: FlagStore) -> None:
    await create(store)
    first = await toggle(store, True, request=request())
    await toggle(store, False)
    repeated = request()
    again = await toggle(store, True, request=repeated)
    assert (again.revision, again.flag, repeated.previous) == (first.revision, first.flag, "DISABLED")
    assert (await store.revisions())[SET] == 3
    assert (await store.get(A)).flag.status is Status.DISABLED  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="request_id is 'r-1'; it must be a new id"):
        await toggle(store, True, request=request(digest=b"other"))
    assert (await toggle(store, True, request=request(caller="token:x", digest=b"o"))).revision == 4, (
        "ids are a caller's"
    )


async def test_a_rollback_of_a_set_with_a_request_id_is_made_once(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store)
    await create(store, "b")
    await toggle(store, True)

    async def rolled(sent: WriteRequest) -> RolledBack:
        return await store.roll_back(SET, 2, set_rollback(2, AUTHOR), AUTHOR, dry_run=False, request=sent)

    first = await rolled(request())
    assert ([entry.revision for entry in first.entries], first.flags[0].fields) == ([4], ["status"])
    await toggle(store, True)
    assert await rolled(request()) == replace(first, entries=())
    with pytest.raises(InvalidRequest, match="a new id"):
        await rolled(request(digest=b"other"))
    found = await asyncio.gather(*(rolled(request("r-2")) for _ in range(4)))
    assert [len(each.entries) for each in sorted(found, key=lambda each: -len(each.entries))] == [1, 0, 0, 0]
    assert (await store.revisions())[SET] == 6
    unneeded = await rolled(request("r-3"))
    await toggle(store, True)
    again = await rolled(request("r-3"))
    assert (unneeded.flags, again.flags) == ([], []), "that it changed nothing is remembered too"
    assert (await store.revisions())[SET] == 7


async def test_a_request_id_stands_for_another_write_after_a_day(store: FlagStore) -> None:
    await kept(store).sweep(0)
    await create(store)
    await toggle(store, True, request=request())
    await store.roll_back(SET, 1, set_rollback(1, AUTHOR), AUTHOR, dry_run=False, request=request("r-2"))
    for hours, is_remembered in ((23, True), (2, False)):
        await age_requests(store, timedelta(hours=hours))
        for name in ("r-1", "r-2"):
            if is_remembered:
                with pytest.raises(InvalidRequest, match="within the last 24 hours"):
                    await toggle(store, True, request=request(name, b"other"))
            else:
                assert (await toggle(store, True, request=request(name, b"other"))).revision > 3


async def age_requests(store: FlagStore, by: timedelta) -> None:
    if isinstance(store, MongoStore):
        older = {"$dateSubtract": {"startDate": "$at", "unit": "second", "amount": int(by.total_seconds())}}
        await store._database["flagsvc_requests"].update_many({}, [{"$set": {"at": older}}])
    else:
        await store._run(lambda db: db.execute("UPDATE requests SET at = at - ?", (by.total_seconds(),)))  # type: ignore[attr-defined]


async def test_equal_writes_at_a_time_are_made_once(store: FlagStore) -> None:
    await create(store)
    found = await asyncio.gather(*(toggle(store, True, request=request()) for _ in range(6)))
    assert {entry.revision for entry in found} == {2}
    assert (await store.revisions())[SET] == 2


async def test_a_write_that_failed_is_not_remembered(store: FlagStore) -> None:
    with pytest.raises(FlagNotFound):
        await toggle(store, True, request=request())
    await create(store)
    assert (await toggle(store, True, request=request())).revision == 2


async def set_at(store: FlagStore, revision: int) -> dict[str, Flag]:
    """Return the whole set as of a revision."""
    moment = await kept(store).moment(SET, AsOf(revision))
    found = await kept(store).newest(SET, await kept(store).keys(SET, moment), moment)
    return {key: each.flag for key, each in found.items() if each.flag is not None}


async def test_every_revision_is_the_set_as_it_was(store: FlagStore) -> None:
    """Random changes, also of other programs; then every revision is compared with what was loaded then."""
    await kept(store).sweep(0)
    dice, states = random.Random(7), [dict[str, Flag]()]
    for _ in range(40):
        key = dice.choice("abcde")
        there = key in states[-1]
        change = dice.choice(["toggle", "name", "delete", "elsewhere"]) if there else "create"
        if change == "create":
            await create(store, key, name=f"n{dice.random()}")
        elif change == "toggle":
            await toggle(store, dice.random() < 0.5, key)
        elif change == "name":
            wanted = Flag(key=key, name=f"n{dice.random()}")
            await store.write(FlagId(SET, key), changes.update(wanted, ["name"], None, AUTHOR))
        elif change == "delete":
            await store.write(FlagId(SET, key), changes.delete(key, None, AUTHOR))
        elif store.feed is not None:
            flags: Any = store._database["feature_flags"]  # type: ignore[attr-defined]
            await flags.update_one({"key": key}, {"$set": {"name": f"n{dice.random()}"}})
            await store.feed.assign_revision(FlagId(SET, key), states[-1][key].revision)
        else:
            continue
        states.append({flag.key: flag for flag in (await store.load()).flags})
    assert len(states) == (await store.revisions())[SET] + 1
    for revision, state in enumerate(states[1:], 1):
        assert await set_at(store, revision) == state
    for target in dice.sample(range(1, len(states)), 3):
        await store.roll_back(SET, target, set_rollback(target, AUTHOR), AUTHOR, dry_run=False)
        now = {flag.key: flag for flag in (await store.load()).flags}
        assert {key: (flag.status, flag.name) for key, flag in now.items()} == {
            key: (flag.status, flag.name) for key, flag in states[target].items()
        }


async def test_no_write_comes_between_the_changes_of_a_rollback(store: FlagStore) -> None:
    await kept(store).sweep(0)
    for key in "abcdef":
        await create(store, key)
    for key in "abcdef":
        await toggle(store, True, key)
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            for key in "abcdef":
                await toggle(store, True, key)

    writers = [asyncio.create_task(write()) for _ in range(2)]
    rolled = await store.roll_back(SET, 6, set_rollback(6, AUTHOR), AUTHOR, dry_run=False)
    done.set()
    await asyncio.gather(*writers)
    first, last = rolled.entries[0].revision, rolled.entries[-1].revision
    assert last - first == len(rolled.entries) - 1
    assert {flag.status for flag in (await set_at(store, last)).values()} == {Status.DISABLED}
