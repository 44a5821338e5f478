"""The near cache never returns to an older revision, is complete when it says so, and reports gaps."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.view import changelog
from flagsvc.view.changelog import FORGOTTEN_AT_ONCE, LOG_LENGTH, RECENT_S, ChangeKind
from flagsvc.view.entries import Source
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge, restore, resync


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


def recent(cache: NearCache, flag_set: str, now: float) -> dict[str, ChangeKind]:
    """Return the keys that changed recently, which is the same as whether there are any."""
    found, _ = cache.changelogs.changes_after(flag_set, 0, 1_000, now)
    assert cache.changelogs.has_recent_changes(flag_set, now) == bool(found)
    return found


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30))
def test_what_is_held_never_returns_to_an_older_revision(steps: list[tuple[int, bool, bool]]) -> None:
    cache, newest = near(), 0
    for number, (revision, exists, loaded) in enumerate(steps):
        offered = entry(revision) if exists else gone(revision)
        if loaded:
            merge(cache, contents(*([offered] if exists else []), default=revision), float(number), float(number))
        else:
            cache.apply_change(offered, float(number))
        now = held(cache)
        revision_now = now.revision if now else newest
        assert revision_now >= newest
        newest = revision_now


def test_what_a_list_returned_without_room_to_hold_it_raises_the_high_water_mark() -> None:
    cache = near(limit=1)
    listed = [flag for each in (entry(3), entry(4, "b")) if (flag := each.flag)]
    merge(cache, contents(entry(1), entry(2, "b"), default=2), 0.0, 0.0)
    cache.apply_read(entry(2, "b"), 0.0, 0.0)
    for each in listed:
        cache.note_served(each, 1.0, 1.0)
    assert held(cache, "b") == entry(4, "b")
    assert cache.high_water_mark(FlagId("default", "a")) == 3
    cache.note_served(Flag(key="a", revision=1), 0.5, 2.0)
    assert cache.high_water_mark(FlagId("default", "a")) == 3


def test_a_late_read_does_not_restore_a_deleted_flag() -> None:
    cache = near()
    merge(cache, contents(entry(1), default=1), 0.0, 0.0)
    cache.apply_change(gone(2), 1.0)
    merge(cache, contents(default=2), 2.0, 2.0)
    cache.apply_read(entry(1), 3.0, 3.0)
    assert held(cache) == gone(2)
    merge(cache, contents(default=2), 100.0, 100.0)
    assert held(cache) is None, "tombstones expire"


def test_a_load_that_began_before_a_create_does_not_delete_it() -> None:
    cache = near()
    merge(cache, contents(default=1), 0.0, 0.0)
    cache.apply_change(entry(2, "new"), 1.0)
    merge(cache, contents(default=1), 0.5, 0.5)
    assert held(cache, "new") == entry(2, "new")


def test_what_a_load_no_longer_has_is_deleted_and_listeners_are_notified() -> None:
    cache, reported = near(), []
    merge(cache, contents(entry(1), entry(2, "b"), default=2), 0.0, 0.0)
    cache.changelogs.listen("default", lambda e, *_: reported.append((e.id.key, e.flag is None, e.revision)))
    merge(cache, contents(entry(5), default=6), 1.0, 1.0)
    assert reported == [("a", False, 5), ("b", True, 6)]
    assert cache.changelogs.watermark("default") == 6


def test_a_gap_in_the_revisions_is_noticed_and_closes() -> None:
    cache = near()
    merge(cache, contents(default=3), 0.0, 0.0)
    cache.apply_change(entry(6, "c"), 1.0)
    cache.apply_change(entry(5, "b"), 2.0)
    assert (cache.changelogs.watermark("default"), cache.changelogs.gap_since()) == (3, 1.0)
    cache.apply_change(entry(4, "a"), 3.0)
    assert (cache.changelogs.watermark("default"), cache.changelogs.gap_since()) == (6, math.inf)


def test_since_returns_what_came_after_or_none_where_that_is_unknown() -> None:
    cache = near()
    merge(cache, contents(entry(2), entry(3, "b"), default=3), 0.0, 0.0)
    assert cache.changelogs.since("default", 2) is None, "a deletion at 3 could be missing"
    assert list(cache.changelogs.since("default", 3) or []) == []
    for revision in (5, 4):
        cache.apply_change(entry(revision), float(revision))
    cache.apply_change(gone(6), 6.0)
    assert [e.revision for e in cache.changelogs.since("default", 3) or []] == [5, 6], (
        "4 arrived late and changed nothing"
    )
    for revision in range(7, LOG_LENGTH + 20):
        cache.apply_change(entry(revision), float(revision))
    assert cache.changelogs.since("default", 4) is None
    assert [e.revision for e in cache.changelogs.since("default", LOG_LENGTH + 17) or []] == [
        LOG_LENGTH + 18,
        LOG_LENGTH + 19,
    ]


def test_freshness_depends_on_the_age_of_the_view_alone() -> None:
    cache = near()
    merge(cache, contents(entry(1), default=1), 10.0, 10.0)
    a = cache.get(FlagId("default", "a"))
    assert cache.is_fresh(cache.verified_at_of(a), 15.0)
    assert not cache.is_fresh(cache.verified_at_of(a), 15.1)
    cache.mark_verified(14.0)
    assert cache.verified_at_of(a) == 14.0
    cache.mark_verified(12.0)
    assert cache.verified_at_of(a) == 14.0, "an older proof changes nothing"


def test_an_announcement_does_not_verify_freshness() -> None:
    cache = near()
    merge(cache, contents(entry(1), default=1), 10.0, 10.0)
    cache.apply_change(entry(2), 100.0)
    assert held(cache) == entry(2)
    assert cache.verified_at_of(cache.get(FlagId("default", "a"))) == 10.0, "it may have been delayed in transit"


def test_an_entry_held_before_changes_were_missed_counts_by_its_own_age() -> None:
    cache = near(limit=2)
    for number in range(1, 4):
        cache.apply_read(entry(number, f"k{number}"), 1.0, 1.0)
    merge(cache, contents(*(entry(n, f"k{n}") for n in range(1, 4)), default=3), 2.0, 2.0)
    cache.apply_read(entry(2, "k2"), 3.0, 3.0)
    cache.mark_verified(5.0)
    k2 = cache.get(FlagId("default", "k2"))
    assert cache.verified_at_of(k2) == 5.0, "read after the last gap, and every change since was received"
    cache.mark_gap({"default": 9}, 6.0)
    cache.mark_verified(8.0)
    assert cache.verified_at_of(k2) == 3.0
    cache.apply_change(entry(10, "k3"), 8.5)
    assert cache.verified_at_of(cache.get(FlagId("default", "k3"))) == 8.0, "newer than every missed change"
    cache.apply_change(entry(7, "k1"), 8.6)
    assert held(cache, "k1") is None, "it may be older than a missed change"


def test_an_evicted_flag_does_not_return_with_an_older_revision() -> None:
    cache = near(limit=1)
    cache.apply_read(entry(7), 1.0, 1.0)
    cache.apply_read(entry(8, "b"), 1.0, 1.0)
    assert cache.high_water_mark(FlagId("default", "a")) == 7
    cache.apply_read(entry(6), 2.0, 2.0)
    assert held(cache) is None
    cache.apply_read(entry(9), 2.0, 2.0)
    assert held(cache) == entry(9)


def test_more_flags_than_the_limit_are_not_held_and_the_cache_is_not_complete() -> None:
    cache = near(limit=2)
    merge(cache, contents(*(entry(n, f"k{n}") for n in range(1, 4)), default=3), 0.0, 0.0)
    assert (cache.complete, cache.partial.is_needed, len(cache)) == (False, True, 0)
    for number in range(10):
        cache.apply_read(entry(1, f"k{number}"), 1.0, 1.0)
    assert len(cache) == 2
    assert held(cache, "k9") == entry(1, "k9")


def test_a_flood_of_unknown_keys_takes_no_room_from_a_complete_cache() -> None:
    cache = near(limit=3)
    merge(cache, contents(entry(1), entry(2, "b"), default=2), 0.0, 0.0)
    for number in range(1_000):
        cache.apply_read(Entry.absent(FlagId("default", f"u{number}")), 1.0, 1.0)
    assert cache.complete
    assert len(cache) == 2


def test_flag_sets_are_separate() -> None:
    cache, reported = near(), []
    cache.changelogs.listen("one", lambda e, *_: reported.append(e))
    cache.apply_change(entry(1, flag_set="two"), 0.0)
    assert reported == []
    assert list(cache.of_set("one")) == []
    assert [h.entry.id.key for h in cache.of_set("two")] == ["a"]


def test_a_change_without_a_new_revision_is_applied_and_reported() -> None:
    cache = near()
    assert merge(cache, contents(entry(0), entry(4, "b"), default=4), 0.0, 0.0) == []
    foreign = Entry.of(Flag(key="a", name="changed by the other system"))
    changed = merge(cache, contents(foreign, entry(4, "b"), entry(0, "c"), default=4), 1.0, 1.0)
    assert held(cache) == foreign
    assert changed == [UnversionedChange(FlagId("default", "a"), 0), UnversionedChange(FlagId("default", "c"), 0)]
    assert merge(cache, contents(foreign, entry(0, "c"), default=4), 2.0, 2.0) == [
        UnversionedChange(FlagId("default", "b"), 4, gone=True)
    ]
    assert held(cache, "b") == gone(4, "b")


def test_a_flag_that_was_looked_up_once_more_is_absent_as_of_the_revision_of_that_read() -> None:
    cache = near()
    merge(cache, contents(entry(3), entry(4, "b"), default=4), 0.0, 0.0)
    found = StoreContents([], {"default": 5}, {FlagId("default", "a"): 7})
    assert cache.has_flag(FlagId("default", "a"))
    assert not cache.has_flag(FlagId("default", "c"))
    merge(cache, found, 1.0, 1.0)
    assert (held(cache), held(cache, "b")) == (gone(7), gone(5, "b"))
    assert not cache.has_flag(FlagId("default", "a"))
    assert cache.changelogs.watermark("default") == 5


def test_an_older_read_of_the_same_revision_does_not_win() -> None:
    cache = near()
    old, new = Flag(key="a", name="old", revision=3), Flag(key="a", name="new", revision=3)
    merge(cache, contents(Entry.of(new), default=3), 5.0, 5.0)
    cache.apply_read(Entry.of(old), 4.0, 6.0)
    assert held(cache) == Entry.of(new)


def test_of_two_overlapping_reads_of_one_revision_the_held_one_stays() -> None:
    cache = near()
    merge(cache, contents(entry(3), default=3), 0.0, 0.0)
    old, new = (Entry.of(Flag(key="a", name=name, revision=3)) for name in ("old", "new"))
    cache.apply_read(new, 1.0, 1.5)
    cache.apply_read(old, 1.2, 1.6)
    found = cache.get(FlagId("default", "a"))
    assert found is not None
    assert (found.entry, found.verified_at) == (new, 1.0)
    cache.apply_read(old, 1.7, 1.8)
    assert held(cache) == old, "this read began after the other had ended"


def test_a_load_that_overlapped_another_read_verifies_nothing_until_the_change_has_a_revision() -> None:
    cache = near()
    merge(cache, contents(entry(3), entry(4, "b"), default=4), 0.0, 0.0)
    read = Entry.of(Flag(key="a", name="read", revision=3))
    cache.apply_read(read, 1.0, 1.5)
    again = Entry.of(Flag(key="b", name="read", revision=4))
    cache.apply_read(again, 1.0, 1.5)
    unversioned = [
        UnversionedChange(FlagId("default", "a"), 3),
        UnversionedChange(FlagId("default", "b"), 4, gone=True),
    ]
    assert merge(cache, contents(entry(3), default=4), 1.2, 2.0) == unversioned
    assert (held(cache), held(cache, "b"), cache.verified_at) == (read, again, 0.0)
    merge(cache, contents(entry(3), default=4), 2.1, 2.2)
    assert (held(cache), held(cache, "b"), cache.verified_at) == (entry(3), gone(4, "b"), 2.1)


def test_a_snapshot_is_never_fresh_and_the_store_wins_over_it() -> None:
    cache, reported = near(), []
    restore(cache, contents(entry(7), entry(3, "b"), default=7), 0.0, 100.0)
    found = cache.get(FlagId("default", "a"))
    assert found is not None
    assert (cache.complete, cache.restored, found.origin) == (True, True, Source.SNAPSHOT)
    assert not cache.is_fresh(cache.verified_at_of(found), 100.0), "whatever age it states"
    cache.changelogs.listen("default", lambda e, *_: reported.append(e))
    merge(cache, contents(entry(5), entry(3, "b"), default=5), 101.0, 101.0)
    assert held(cache) == entry(5), "the store was restored from a backup since"
    assert (cache.restored, cache.changelogs.watermark("default"), reported) == (False, 5, [entry(5)])


def test_a_change_without_a_new_revision_to_a_flag_of_a_snapshot_is_reported() -> None:
    cache = near()
    restore(cache, contents(entry(7), default=7), 3600.0, 100.0)
    foreign = Entry.of(Flag(key="a", name="changed while no replica ran", revision=7))
    assert merge(cache, contents(foreign, default=7), 101.0, 101.0) == [UnversionedChange(FlagId("default", "a"), 7)]


def test_a_view_that_may_not_hold_a_flag_of_the_load_is_not_complete() -> None:
    """What was answered of it before is newer than the load: to call it missing would be wrong."""
    cache = near()
    cache.note_served(Flag(key="a", revision=5), 1.0, 1.0)
    assert merge(cache, contents(entry(4), default=4), 2.0, 2.0) == []
    assert (cache.complete, cache.high_water_mark(FlagId("default", "a"))) == (False, 5)
    assert merge(cache, contents(entry(5), default=5), 3.0, 3.0) == []
    assert (cache.complete, held(cache)) == (True, entry(5))


def test_a_flag_inserted_after_an_unseen_deletion_is_reported_and_does_not_replace_the_held_one() -> None:
    """Another program deleted and inserted it while no event arrived: with a loaded view, and with a snapshot."""
    inserted = Entry.of(Flag(key="a", name="by another program"))
    seen, restored = near(), near()
    merge(seen, contents(entry(5), entry(6, "b"), default=6), 100.0, 100.0)
    restore(restored, contents(entry(5), entry(6, "b"), default=6), 3600.0, 100.0)
    for cache in (seen, restored):
        before = cache.verified_at
        assert merge(cache, contents(inserted, entry(6, "b"), default=7), 101.0, 101.0) == [
            UnversionedChange(FlagId("default", "a"), 5)
        ]
        assert (held(cache), cache.verified_at) == (entry(5), before), (
            "never a smaller revision, and nothing is verified"
        )
        versioned = Entry.of(Flag(key="a", name="by another program", revision=8))
        cache.apply_change(versioned, 102.0)
        assert merge(cache, contents(versioned, entry(6, "b"), default=8), 103.0, 103.0) == []
        assert (held(cache), cache.verified_at) == (versioned, 103.0)


def test_a_load_from_before_the_held_entry_changes_nothing() -> None:
    cache = near()
    merge(cache, contents(entry(5), default=5), 0.0, 0.0)
    cache.apply_change(entry(6), 2.0)
    assert merge(cache, contents(entry(5), default=5), 1.0, 1.0) == []
    assert held(cache) == entry(6)


def test_force_replace_takes_a_smaller_revision_unless_the_entry_was_replaced_meanwhile() -> None:
    cache, reported = near(), []
    merge(cache, contents(entry(5), default=5), 0.0, 0.0)
    cache.changelogs.listen("default", lambda e, *_: reported.append(e))
    cache.force_replace(4, entry(3), 1.0, 1.0)
    assert held(cache) == entry(5)
    cache.force_replace(5, entry(3), 1.0, 1.0)
    assert held(cache) == entry(3)
    assert reported == [entry(3)]


def test_an_emptied_store_empties_the_cache() -> None:
    cache = near()
    merge(cache, contents(entry(7), default=7), 0.0, 0.0)
    merge(cache, StoreContents([], {}), 1.0, 1.0)
    found = held(cache)
    assert found is not None
    assert (found.flag, found.revision) == (None, 7)


def test_changes_are_reported_across_sets_also_those_of_flags_that_are_not_held() -> None:
    cache, reported = near(), []
    merge(cache, contents(default=1), 0.0, 0.0)
    cache.when_changed(reported.append)
    cache.apply_change(entry(2, flag_set="other"), 1.0)
    cache.apply_change(gone(3, "never seen"), 1.0)
    assert reported == [entry(2, flag_set="other"), gone(3, "never seen")]


def test_a_recent_change_is_known_until_it_is_old() -> None:
    cache = near()
    merge(cache, contents(default=0), 0.0, 0.0)
    cache.apply_change(entry(1), 1.0)
    cache.apply_change(entry(2, "b"), 2.0)
    cache.apply_change(gone(3), 3.0)
    cache.apply_change(gone(3), 100.0)
    assert recent(cache, "default", 3.0) == {"a": "delete", "b": "write"}
    assert recent(cache, "default", 2.0 + RECENT_S) == {"a": "delete", "b": "write"}
    assert recent(cache, "default", 3.0 + RECENT_S) == {"a": "delete"}
    assert recent(cache, "default", 3.1 + RECENT_S) == {}
    assert recent(cache, "nobody", 3.0) == {}
    cache.apply_change(entry(4, "c"), 4.0 + RECENT_S)
    assert len(cache.changelogs.of("default").recent_changes) == 1, "old changes are dropped"


def test_a_first_load_counts_as_recent_what_changed_shortly_before_it() -> None:
    cache = NearCache(100, 5.0, wall_clock=lambda: 1_000.0)
    times = {"new": 900.0, "old": 800.0}
    flags = [Flag(key=key, updated_at=datetime.fromtimestamp(at, UTC)) for key, at in times.items()]
    reported: list[str] = []
    cache.changelogs.listen("default", lambda e, *_: reported.append(e.id.key))
    merge(cache, StoreContents([*flags, Flag(key="timeless")], {"default": 3}), 10.0, 10.0)
    assert recent(cache, "default", 10.0) == {"new": "update", "timeless": "update"}
    assert recent(cache, "default", 10.1 + RECENT_S) == {}
    assert reported == [], "the first load is a change for nobody"


def test_filling_a_miss_is_no_change() -> None:
    cache, reported = near(limit=1), []
    cache.changelogs.listen("default", lambda e, _, kind: reported.append((e.id.key, kind)))
    merge(cache, contents(entry(1), entry(2, "b"), default=2), 0.0, 0.0)
    cache.apply_read(entry(2, "b"), 1.0, 1.0)
    assert reported == []
    cache.apply_change(entry(3, "c"), 2.0)
    cache.apply_change(gone(4, "d"), 3.0)
    assert reported == [("c", "update"), ("d", "delete")], "an announced change always is one"


def test_a_flag_without_revision_is_gone_when_the_store_no_longer_has_it() -> None:
    cache = near()
    merge(cache, contents(entry(0), default=0), 0.0, 0.0)
    merge(cache, contents(default=0), 1.0, 1.0)
    assert held(cache) is None
    merge(cache, contents(entry(0), default=0), 2.0, 2.0)
    assert held(cache) == entry(0)


def test_announcements_and_reads_from_before_the_view_do_not_restore_a_deleted_flag() -> None:
    cache = near()
    merge(cache, contents(entry(1, "other"), default=3), 10.0, 10.0)
    cache.apply_change(entry(2), 11.0)
    assert held(cache) is None, "deleted at 3, before this replica started"
    cache.apply_read(entry(2), 9.0, 11.0)
    assert held(cache) is None
    foreign = Entry.of(Flag(key="a", name="inserted by another program"))
    cache.apply_read(foreign, 10.5, 11.0)
    assert held(cache) == foreign, "read after the view was verified"


def test_an_insertion_without_revision_over_a_deletion_is_reported_and_nothing_is_verified_before_it_has_one() -> None:
    cache = near()
    merge(cache, contents(entry(5), default=5), 0.0, 0.0)
    cache.apply_change(gone(6), 1.0)
    inserted = Entry.of(Flag(key="a", name="by another program"))
    assert merge(cache, contents(inserted, default=6), 2.0, 2.0) == [UnversionedChange(FlagId("default", "a"), 6)]
    assert (held(cache), cache.verified_at) == (gone(6), 0.0)
    versioned = Entry.of(Flag(key="a", name="by another program", revision=7))
    cache.apply_change(versioned, 3.0)
    assert merge(cache, contents(versioned, default=7), 4.0, 4.0) == []
    assert cache.verified_at == 4.0


def test_changes_applied_between_two_steps_of_a_merge_are_not_undone_by_it() -> None:
    cache = near()
    merge(cache, contents(*(entry(n, f"k{n}") for n in range(1, 6)), default=5), 0.0, 0.0)
    # The load has a change of k4, a new flag, and k5 deleted. All of them change again before they are merged.
    loaded = contents(*(entry(n, f"k{n}") for n in range(1, 4)), entry(6, "k4"), entry(7, "new"), default=8)
    steps = cache.merging(loaded, 1.0, 1.1, [])
    for _ in range(len(loaded.flags) + 1):  # there is room for them all, and the first is compared
        next(steps)
    cache.apply_change(entry(9, "k4"), 1.2)
    cache.apply_change(gone(10, "new"), 1.2)
    cache.apply_change(entry(11, "k5"), 1.2)
    cache.apply_change(entry(12, "newer"), 1.2)
    assert cache.verified_at == 0.0, "nothing is verified before the last step"
    for _ in steps:
        pass
    wanted = [entry(9, "k4"), gone(10, "new"), entry(11, "k5"), entry(12, "newer")]
    assert [held(cache, each.id.key) for each in wanted] == wanted
    assert cache.complete
    assert cache.verified_at == 1.0
    assert cache.changelogs.watermark("default") == 12


def test_a_merge_during_which_a_flag_had_to_be_evicted_does_not_complete_the_view() -> None:
    cache = near(limit=3)
    loaded = contents(*(entry(n, f"k{n}") for n in range(1, 4)), default=3)
    steps = cache.merging(loaded, 1.0, 1.1, [])
    next(steps)
    next(steps)
    for number in range(4, 7):
        cache.apply_change(entry(number, f"new{number}"), 1.2)
    for _ in steps:
        pass
    assert not cache.complete


def test_a_resync_with_more_flags_than_the_limit_holds_none() -> None:
    cache = near(limit=2)
    merge(cache, contents(entry(1)), 0.0, 0.0)
    resync(cache, contents(entry(1), entry(2, "b"), entry(3, "c")), 1.0, 1.0)
    assert (cache.complete, cache.partial.is_needed, len(cache)) == (False, True, 0)
    resync(cache, contents(entry(1), entry(2, "b")), 2.0, 2.0)
    assert (cache.complete, len(cache), cache.full_loads) == (True, 2, 2)
    assert set(recent(cache, "default", 2.0)) == {"a", "b"}, "nobody was notified of what changed before"


def test_a_change_during_a_resync_counts_although_its_revision_is_small() -> None:
    cache = near()
    merge(cache, contents(*(entry(100 + n, f"k{n}") for n in range(6)), default=106), 0.0, 0.0)
    cache.changelogs.forget()
    with cache.starting_over(1.0):
        cache.apply_change(entry(8, "k0"), 1.1)  # while the store is read
        steps = cache.resyncing(contents(*(entry(n, f"k{n}") for n in range(5)), default=7), 1.0, 1.2)
        for _ in range(9):
            next(steps)
        assert held(cache, "k0") == entry(8, "k0")
        cache.apply_change(entry(9, "k4"), 1.3)
        cache.apply_change(entry(10, "new"), 1.3)
        cache.apply_change(gone(11, "k5"), 1.3)
        assert cache.verified_at == 0.0, "nothing is verified before the last step"
        for _ in steps:
            pass
    known = {key: held(cache, key) for key in ("k0", "k1", "k2", "k3", "k4", "new")}
    revisions = {"k0": 8, "k1": 1, "k2": 2, "k3": 3, "k4": 9, "new": 10}
    assert known == {key: entry(revision, key) for key, revision in revisions.items()}
    assert not cache.has_flag(FlagId("default", "k5"))
    assert (cache.complete, cache.verified_at, cache.changelogs.watermark("default")) == (True, 1.0, 11)
    cache.apply_change(entry(5, "k0"), 2.0)
    assert held(cache, "k0") == entry(8, "k0"), "afterwards revisions only grow again"


def test_a_resync_has_a_step_for_each_flag() -> None:
    cache = near(limit=1_000)
    merge(cache, contents(*(entry(n, f"k{n}") for n in range(400)), default=400), 0.0, 0.0)
    steps = sum(1 for _ in cache.resyncing(contents(*(entry(1, f"n{n}") for n in range(300)), default=1), 1.0, 1.0))
    assert (len(cache.flags()), steps >= 400 + 2 * 300) == (300, True)


def test_a_resync_during_which_a_flag_had_to_be_evicted_does_not_complete_the_view() -> None:
    cache = near(limit=3)
    steps = cache.resyncing(contents(*(entry(n, f"k{n}") for n in range(1, 4)), default=3), 1.0, 1.1)
    next(steps)
    for number in range(4, 7):
        cache.apply_change(entry(number, f"new{number}"), 1.2)
    for _ in steps:
        pass
    assert not cache.complete


def test_old_changes_are_forgotten_a_few_at_a_time() -> None:
    cache = near(limit=1_000)
    merge(cache, contents(default=0), 0.0, 0.0)
    for number in range(3 * FORGOTTEN_AT_ONCE):
        cache.changelogs.of("default").remember(f"k{number}", ChangeKind.UPDATE, 1.0)
    left = []
    for number in range(4):
        cache.changelogs.of("default").remember("new", ChangeKind.UPDATE, 2.0 + RECENT_S + number)
        left.append(len(cache.changelogs.of("default").recent_changes))
    assert left == [2 * FORGOTTEN_AT_ONCE + 1, FORGOTTEN_AT_ONCE + 1, 1, 1]


def test_few_of_many_recent_changes_are_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "LOOKED_AT", 10)
    cache = near(limit=1_000)
    merge(cache, contents(default=0), 0.0, 0.0)
    log, looks = cache.changelogs.of("default"), 0
    for number in range(200):
        log.remember(f"k{number % 90}", ChangeKind.UPDATE, 1.0)
    number: int | None = 0
    seen: list[str] = []
    while number is not None:
        found, number = cache.changelogs.changes_after("default", number, 1_000, 1.0)
        assert len(found) <= 10
        seen += found
        looks += 1
    assert seen == [f"k{number % 90}" for number in range(110, 200)]
    assert looks == 9


def test_what_was_missed_is_what_listeners_were_not_notified_of() -> None:
    cache, missed = NearCache(0, 5.0), list[str]()
    cache.when_missed(missed.append)
    cache.apply_change(Entry.of(Flag(key="a", revision=1)), 1.0)
    cache.changelogs.of("default").forget(were_told=True)
    cache.mark_gap({"default": 1}, 2.0)
    assert missed == []
    cache.mark_gap({"default": 2}, 3.0)
    assert missed == ["default"]
    cache.changelogs.of("default").forget()
    cache.mark_gap({"default": 2}, 4.0)
    assert missed == ["default", "default"]
