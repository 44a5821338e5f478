"""The near cache never returns to an older revision, knows how old its answers are, and keeps its limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry
from tests.near_caches import contents, entry, gone, held, merge, near


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


def test_force_replace_takes_a_smaller_revision_unless_the_entry_was_replaced_meanwhile() -> None:
    cache, reported = near(), []
    merge(cache, contents(entry(5), default=5), 0.0, 0.0)
    cache.changelogs.listen("default", lambda e, *_: reported.append(e))
    cache.force_replace(4, entry(3), 1.0, 1.0)
    assert held(cache) == entry(5)
    cache.force_replace(5, entry(3), 1.0, 1.0)
    assert held(cache) == entry(3)
    assert reported == [entry(3)]


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
