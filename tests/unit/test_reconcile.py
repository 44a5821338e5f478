"""A load compared with what is held: a table of the cases, each a flag as held, as loaded, and what is to change."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.view.entries import CacheEntry, Source
from flagsvc.view.reconcile import Diff, View, reconcile

A, B = FlagId("default", "a"), FlagId("default", "b")
VERIFIED_AT, ASKED_AT = 10.0, 20.0
BEFORE, DURING = 10.0, 20.5
"""When a held entry arrived: before the load was asked for, or while it ran."""
WATERMARK, COUNTER = 6, 9
"""The revision up to which everything is applied, and the one that the load read from the store's counter."""


def flag(revision: int, name: str = "", key: str = "a") -> Entry:
    return Entry.of(Flag(key=key, name=name, revision=revision))


def gone(revision: int) -> Entry:
    return Entry.absent(A, revision)


def held(entry: Entry, received_at: float = BEFORE, origin: Source = Source.NEAR) -> CacheEntry:
    return CacheEntry(entry, received_at, received_at, origin=origin)


def view(
    *entries: CacheEntry,
    watermarks: Mapping[str, int] | None = {"default": WATERMARK},
    verified_at: float = VERIFIED_AT,
    restored: bool = False,
    high_water_mark: int = 0,
) -> View:
    found = {each.entry.id: each for each in entries}
    return View(found, found.values, watermarks, verified_at, restored, lambda _: high_water_mark)


def load(*entries: Entry, absent: Mapping[FlagId, int] | None = None) -> StoreContents:
    return StoreContents([each.flag for each in entries if each.flag], {"default": COUNTER}, absent or {})


def diff_of(before: View, contents: StoreContents) -> Diff:
    whole = Diff()
    for diff in reconcile(before, contents, ASKED_AT, set()):
        whole.changed += diff.changed
        whole.confirmed += diff.confirmed
        whole.unversioned += diff.unversioned
        whole.is_whole &= diff.is_whole
        whole.is_left_out |= diff.is_left_out
    return whole


def test_a_flag_found_as_it_is_held_is_confirmed() -> None:
    assert diff_of(view(held(flag(5))), load(flag(5))) == Diff(confirmed=[flag(5)])


def test_a_newer_revision_replaces_the_held_one() -> None:
    assert diff_of(view(held(flag(5))), load(flag(7))) == Diff(changed=[flag(7)])


def test_an_older_revision_than_one_that_arrived_during_the_load_and_is_beyond_its_counter_changes_nothing() -> None:
    diff = diff_of(view(held(flag(COUNTER + 1), DURING)), load(flag(5)))
    assert (diff.changed, diff.unversioned, diff.is_whole) == ([], [], True)


@pytest.mark.parametrize("read", [gone(COUNTER), flag(COUNTER, "before")], ids=["no such flag", "a flag"])
def test_a_flag_without_a_revision_is_newer_than_what_was_read_elsewhere_during_the_load(read: Entry) -> None:
    """The load has every change up to its counter. So another program inserted the flag after what the cache had."""
    diff = diff_of(view(held(read, DURING)), load(flag(0, "inserted")))
    assert (diff.changed, diff.unversioned, diff.is_whole) == ([], [UnversionedChange(A, COUNTER)], False)


@pytest.mark.parametrize(("answered", "is_contained"), [(COUNTER + 1, False), (COUNTER, True)])
def test_a_flag_of_which_something_newer_was_answered_is_left_out(answered: int, is_contained: bool) -> None:
    diff = diff_of(view(watermarks=None, high_water_mark=answered), load(flag(0, "inserted")))
    assert (diff.changed, diff.is_left_out) == ([], True)
    assert diff.unversioned == ([UnversionedChange(A, answered)] if is_contained else [])


def test_an_older_revision_than_one_held_before_needs_a_revision_and_verifies_nothing() -> None:
    """Another program inserted it without a revision, after a deletion that may have been missed."""
    diff = diff_of(view(held(flag(5))), load(flag(0, "inserted")))
    assert (diff.changed, diff.unversioned, diff.is_whole) == ([], [UnversionedChange(A, 5)], False)


def test_an_equal_revision_with_another_content_replaces_it_and_needs_a_revision() -> None:
    diff = diff_of(view(held(flag(5))), load(flag(5, "foreign")))
    assert diff == Diff(changed=[flag(5, "foreign")], unversioned=[UnversionedChange(A, 5)])


def test_of_an_equal_revision_that_was_read_during_the_load_it_is_unknown_which_content_is_newer() -> None:
    diff = diff_of(view(held(flag(5, "read"), DURING)), load(flag(5, "loaded")))
    assert (diff.changed, diff.unversioned, diff.is_whole) == ([], [UnversionedChange(A, 5)], False)


@pytest.mark.parametrize(
    ("revision", "is_unversioned"), [(WATERMARK + 1, False), (WATERMARK, True), (0, True)], ids=["new", "old", "none"]
)
def test_a_flag_that_was_not_held_needs_a_revision_if_its_own_was_already_applied(
    revision: int, is_unversioned: bool
) -> None:
    diff = diff_of(view(), load(flag(revision)))
    assert diff.changed == [flag(revision)]
    assert diff.unversioned == ([UnversionedChange(A, revision)] if is_unversioned else [])
    assert diff.is_whole


def test_a_flag_that_was_deleted_since_the_load_does_not_return() -> None:
    """The view is newer than the load, and holds no such flag."""
    assert diff_of(view(verified_at=ASKED_AT), load(flag(5))) == Diff()
    assert diff_of(view(verified_at=ASKED_AT), load(flag(WATERMARK + 1))).changed == [flag(WATERMARK + 1)]


def test_a_missing_flag_is_deleted_as_of_the_counter_and_needs_a_revision() -> None:
    diff = diff_of(view(held(flag(5))), load())
    assert diff == Diff(changed=[gone(COUNTER)], unversioned=[UnversionedChange(A, 5, gone=True)])


def test_a_missing_flag_that_was_looked_up_again_is_deleted_as_of_that_revision() -> None:
    diff = diff_of(view(held(flag(11))), load(absent={A: 12}))
    assert diff == Diff(changed=[gone(12)], unversioned=[UnversionedChange(A, 11, gone=True)])


def test_a_missing_flag_with_a_larger_revision_than_the_counter_is_deleted_as_of_its_own() -> None:
    """As after the store was emptied, counters included."""
    diff = diff_of(view(held(flag(COUNTER + 2))), load())
    assert diff == Diff(changed=[gone(COUNTER + 2)], unversioned=[UnversionedChange(A, COUNTER + 2, gone=True)])


def test_a_missing_flag_that_was_made_after_the_load_stays() -> None:
    assert diff_of(view(held(flag(COUNTER + 1), DURING)), load()) == Diff()


def test_a_missing_flag_that_was_read_during_the_load_verifies_nothing_until_it_has_a_revision() -> None:
    diff = diff_of(view(held(flag(COUNTER), DURING)), load())
    assert diff == Diff(unversioned=[UnversionedChange(A, COUNTER, gone=True)], is_whole=False)


def test_a_flag_known_as_deleted_is_not_missing() -> None:
    assert diff_of(view(held(gone(5))), load()) == Diff()
    two = view(held(gone(5)), held(flag(3, key="b")))
    assert [change.id for change in diff_of(two, load()).unversioned] == [B]
    assert diff_of(two, load(flag(3, key="b"))).unversioned == []


def test_a_snapshot_yields_to_the_store_also_where_it_seems_to_have_arrived_later() -> None:
    newer = held(flag(7, "snapshot"), DURING, Source.SNAPSHOT)
    diff = diff_of(view(newer, restored=True), load(flag(5)))
    assert (diff.changed, diff.unversioned, diff.is_whole) == ([], [UnversionedChange(A, 7)], False)
    changed = diff_of(view(held(flag(5), BEFORE, Source.SNAPSHOT), restored=True), load(flag(5, "foreign")))
    assert changed == Diff(changed=[flag(5, "foreign")], unversioned=[UnversionedChange(A, 5)])


def test_a_flag_that_a_snapshot_does_not_have_needs_no_revision() -> None:
    """It may have been made, with a revision, since the snapshot was saved."""
    assert diff_of(view(restored=True), load(flag(5))) == Diff(changed=[flag(5)])


def test_of_a_partial_view_no_change_is_known_to_be_without_revision() -> None:
    assert diff_of(view(watermarks=None), load(flag(5))) == Diff(changed=[flag(5)])
    replaced = diff_of(view(held(flag(5)), watermarks=None), load(flag(5, "foreign")))
    assert replaced == Diff(changed=[flag(5, "foreign")])


def test_a_flag_at_its_high_water_mark_is_held() -> None:
    assert diff_of(view(watermarks=None, high_water_mark=5), load(flag(5))) == Diff(changed=[flag(5)])


def test_changes_are_in_the_order_of_their_revisions_and_deletions_last() -> None:
    diff = diff_of(view(held(flag(1))), load(flag(8, key="c"), flag(7, key="b")))
    assert [entry.id.key for entry in diff.changed] == ["b", "c", "a"]
