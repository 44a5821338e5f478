"""The near cache: never backwards, whole when it says so, and honest about gaps."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.model import Flag, FlagId
from flagsvc.near import LATELY_S, LOG_LENGTH, NearCache
from flagsvc.ports import Entry, StoreContents


def entry(revision: int, key: str = "a", flag_set: str = "default") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, name=f"at {revision}", revision=revision))


def gone(revision: int, key: str = "a") -> Entry:
    return Entry(FlagId("default", key), revision, None)


def contents(*entries: Entry, **revisions: int) -> StoreContents:
    return StoreContents([e.flag for e in entries if e.flag], revisions or {"default": 9})


def near(limit: int = 100) -> NearCache:
    return NearCache(limit, 5.0)


def held(cache: NearCache, key: str = "a") -> Entry | None:
    found = cache.get(FlagId("default", key))
    return found.entry if found else None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30))
def test_what_is_held_never_goes_back(steps: list[tuple[int, bool, bool]]) -> None:
    cache, newest = near(), 0
    for number, (revision, exists, loaded) in enumerate(steps):
        offered = entry(revision) if exists else gone(revision)
        if loaded:
            cache.merge(contents(*([offered] if exists else []), default=revision), float(number))
        else:
            cache.apply(offered, float(number))
        now = held(cache)
        revision_now = now.revision if now else newest
        assert revision_now >= newest
        newest = revision_now


def test_a_late_reader_does_not_bring_back_what_was_deleted() -> None:
    cache = near()
    cache.merge(contents(entry(1), default=1), 0.0)
    cache.apply(gone(2), 1.0)
    cache.merge(contents(default=2), 2.0)
    cache.apply(entry(1), 3.0, in_order=False)
    assert held(cache) == gone(2)
    cache.merge(contents(default=2), 100.0)
    assert held(cache) is None, "tombstones do not stay for ever"


def test_a_load_that_began_before_a_create_does_not_delete_it() -> None:
    cache = near()
    cache.merge(contents(default=1), 0.0)
    cache.apply(entry(2, "new"), 1.0)
    cache.merge(contents(default=1), 0.5)
    assert held(cache, "new") == entry(2, "new")


def test_what_a_load_no_longer_has_is_gone_and_listeners_are_told() -> None:
    cache, told = near(), []
    cache.merge(contents(entry(1), entry(2, "b"), default=2), 0.0)
    cache.listen("default", lambda e, *_: told.append((e.id.key, e.flag is None, e.revision)))
    cache.merge(contents(entry(5), default=6), 1.0)
    assert told == [("a", False, 5), ("b", True, 6)]
    assert cache.watermark("default") == 6


def test_a_gap_is_seen_and_closes() -> None:
    cache = near()
    cache.merge(contents(default=3), 0.0)
    cache.apply(entry(6, "c"), 1.0)
    cache.apply(entry(5, "b"), 2.0)
    assert (cache.watermark("default"), cache.gap_since()) == (3, 1.0)
    cache.apply(entry(4, "a"), 3.0)
    assert (cache.watermark("default"), cache.gap_since()) == (6, math.inf)


def test_since_gives_what_came_after_or_admits_that_it_cannot() -> None:
    cache = near()
    cache.merge(contents(entry(2), entry(3, "b"), default=3), 0.0)
    assert cache.since("default", 2) is None, "a deletion at 3 could be missing"
    assert list(cache.since("default", 3) or []) == []
    for revision in (5, 4):
        cache.apply(entry(revision), float(revision))
    cache.apply(gone(6), 6.0)
    assert [e.revision for e in cache.since("default", 3) or []] == [5, 6], "4 came late and changed nothing"
    for revision in range(7, LOG_LENGTH + 20):
        cache.apply(entry(revision), float(revision))
    assert cache.since("default", 4) is None
    assert [e.revision for e in cache.since("default", LOG_LENGTH + 17) or []] == [LOG_LENGTH + 18, LOG_LENGTH + 19]


def test_freshness_is_by_channel_or_by_age() -> None:
    cache = near()
    cache.merge(contents(entry(1), default=1), 10.0)
    at = cache.confirmed(cache.get(FlagId("default", "a")))
    assert cache.is_fresh(at, 15.0)
    assert not cache.is_fresh(at, 15.1)
    cache.heard_since = 9.0
    assert cache.is_fresh(at, 1e6)
    cache.heard_since = 11.0
    assert not cache.is_fresh(at, 1e6), "the channel was cut in between"


def test_more_than_the_limit_is_not_held_and_not_called_complete() -> None:
    cache = near(limit=2)
    cache.merge(contents(*(entry(n, f"k{n}") for n in range(1, 4)), default=3), 0.0)
    assert (cache.complete, cache.overfull, len(cache)) == (False, True, 0)
    for number in range(10):
        cache.apply(entry(1, f"k{number}"), 1.0, in_order=False)
    assert len(cache) == 2
    assert held(cache, "k9") == entry(1, "k9")


def test_a_flood_of_unknown_keys_takes_no_room_from_a_complete_cache() -> None:
    cache = near(limit=3)
    cache.merge(contents(entry(1), entry(2, "b"), default=2), 0.0)
    for number in range(1_000):
        cache.apply(Entry.absent(FlagId("default", f"u{number}")), 1.0, in_order=False)
    assert cache.complete
    assert len(cache) == 2


def test_sets_are_apart() -> None:
    cache, told = near(), []
    cache.listen("one", lambda e, *_: told.append(e))
    cache.apply(entry(1, flag_set="two"), 0.0)
    assert told == []
    assert cache.flags("one") == []
    assert [f.key for f in cache.flags("two")] == ["a"]


def test_a_change_without_a_new_revision_is_taken_from_the_store() -> None:
    cache = near()
    cache.merge(contents(entry(0), default=0), 0.0)
    foreign = Entry.of(Flag(key="a", name="changed by the other system"))
    cache.merge(contents(foreign, default=0), 1.0)
    assert held(cache) == foreign


def test_what_changed_lately_is_known_until_it_is_old() -> None:
    cache = near()
    cache.merge(contents(default=0), 0.0)
    cache.apply(entry(1), 1.0)
    cache.apply(entry(2, "b"), 2.0)
    cache.apply(gone(3), 3.0)
    cache.apply(gone(3), 100.0)
    assert cache.lately("default", 3.0) == {"a": "delete", "b": "write"}
    assert cache.lately("default", 2.0 + LATELY_S) == {"a": "delete", "b": "write"}
    assert cache.lately("default", 3.0 + LATELY_S) == {"a": "delete"}
    assert cache.lately("default", 3.1 + LATELY_S) == {}
    assert cache.lately("nobody", 3.0) == {}
    cache.apply(entry(4, "c"), 4.0 + LATELY_S)
    assert len(cache._sets["default"].lately) == 1, "what is old is not kept"


def test_a_first_load_counts_as_lately_what_changed_shortly_before_it() -> None:
    cache = NearCache(100, 5.0, wall_clock=lambda: 1_000.0)
    times = {"new": 900.0, "old": 800.0}
    flags = [Flag(key=key, updated_at=datetime.fromtimestamp(at, UTC)) for key, at in times.items()]
    told: list[str] = []
    cache.listen("default", lambda e, *_: told.append(e.id.key))
    cache.merge(StoreContents([*flags, Flag(key="timeless")], {"default": 3}), 10.0)
    assert cache.lately("default", 10.0) == {"new": "update", "timeless": "update"}
    assert cache.lately("default", 10.1 + LATELY_S) == {}
    assert told == [], "what is loaded first changed for nobody"


def test_a_miss_that_is_filled_is_no_change() -> None:
    cache, told = near(limit=1), []
    cache.listen("default", lambda e, _, kind: told.append((e.id.key, kind)))
    cache.merge(contents(entry(1), entry(2, "b"), default=2), 0.0)
    cache.apply(entry(2, "b"), 1.0, in_order=False)
    assert told == []
    cache.apply(entry(3, "c"), 2.0)
    cache.apply(gone(4, "d"), 3.0)
    assert told == [("c", "update"), ("d", "delete")], "an announced change is one, whatever is held"
