"""Loads of the near cache: whole reads of the store, snapshots, and starting over after a restore."""

from __future__ import annotations

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.view.entries import Source
from tests.near_caches import contents, entry, gone, held, merge, near, recent, restore, resync


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


def test_an_emptied_store_empties_the_cache() -> None:
    cache = near()
    merge(cache, contents(entry(7), default=7), 0.0, 0.0)
    merge(cache, StoreContents([], {}), 1.0, 1.0)
    found = held(cache)
    assert found is not None
    assert (found.flag, found.revision) == (None, 7)


def test_a_flag_without_revision_is_gone_when_the_store_no_longer_has_it() -> None:
    cache = near()
    merge(cache, contents(entry(0), default=0), 0.0, 0.0)
    merge(cache, contents(default=0), 1.0, 1.0)
    assert held(cache) is None
    merge(cache, contents(entry(0), default=0), 2.0, 2.0)
    assert held(cache) == entry(0)


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
