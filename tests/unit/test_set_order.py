"""Lists of sets stay sorted through any changes, and pages are parts of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.model import Flag, FlagId, list_order
from flagsvc.ports import Entry
from flagsvc.view import set_order
from flagsvc.view.entries import CacheEntry
from flagsvc.view.held_entries import HeldEntries

KEYS = st.sampled_from([f"k{i}" for i in range(30)])
ORDERS = st.one_of(st.none(), st.integers(-2, 2))
CHANGES = st.lists(st.tuples(st.sampled_from(["one", "two"]), KEYS, ORDERS), max_size=80)


@given(CHANGES, st.integers(1, 5), st.integers(1, 9))
def test_a_list_is_what_sorting_everything_held_would_give(
    changes: list[tuple[str, str, int | None]], longest_piece: int, size: int
) -> None:
    held = HeldEntries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_order, "MAX_PIECE", longest_piece)
        for number, (flag_set, key, order) in enumerate(changes):
            flag_id = FlagId(flag_set, key)
            flag = None if order is None else Flag(key=key, flag_set=flag_set, sort_order=order, revision=number)
            if flag is None and number % 2 and flag_id in held:
                del held[flag_id]
            else:
                held[flag_id] = CacheEntry(Entry(flag_id, number, flag), 0.0, 0.0)
    for flag_set in ("one", "two", "three"):
        flags = [each.entry.flag for each in held.values() if each.entry.flag and each.entry.id.flag_set == flag_set]
        wanted = sorted(flags, key=list_order)
        assert [each.entry.flag for each in held.order.of(flag_set)] == wanted
        paged, after = [], None
        while page := held.order.page(flag_set, after, size):
            paged += [each.entry.flag for each in page]
            assert paged[-1] is not None
            after = list_order(paged[-1])
        assert paged == wanted


def test_a_listing_copies_no_entry_and_stays_as_it_was() -> None:
    held = HeldEntries()
    for number in range(2_000):
        flag = Flag(key=f"k{number:04}", revision=number)
        held[flag.id] = CacheEntry(Entry.of(flag), 0.0, 0.0)
    listing = held.order.of("default")
    assert len(listing) == 2_000
    assert len(listing._pieces) < 20, "what making it takes"
    before = list(listing)
    for number in range(0, 2_000, 11):
        first = Flag(key=f"k{number:04}y", revision=3_000)
        held[first.id] = CacheEntry(Entry.of(first), 0.0, 0.0)
    assert list(listing) == before
    for number in range(0, 2_000, 7):
        flag_id = FlagId("default", f"k{number:04}")
        held[flag_id] = CacheEntry(Entry(flag_id, 5_000, None), 0.0, 0.0)
    added = Flag(key="k0000x", revision=5_001)
    held[added.id] = CacheEntry(Entry.of(added), 0.0, 0.0)
    assert list(listing) == before
    assert len(held.order.of("default")) == 2_000 + 182 - 286 + 1
    assert set(held.deleted) == {FlagId("default", f"k{number:04}") for number in range(0, 2_000, 7)}
