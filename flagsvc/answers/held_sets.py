"""Which flag sets are as they were when an answer was made."""

from __future__ import annotations

import time
from itertools import count
from typing import NamedTuple

from flagsvc.ports import Entry
from flagsvc.view.near_cache import NearCache
from flagsvc.view.set_order import Listing


class HeldSet(NamedTuple):
    """A flag set as it was held at one moment. `number`: no other has it."""

    number: int
    listing: Listing


class HeldSets:
    """The flag sets as they are held, each with a number that lasts until any of its flags changes."""

    def __init__(self, near: NearCache) -> None:
        self._near, self._numbers = near, count(1)
        self._sets: dict[str, HeldSet] = {}
        near.when_changed(self._drop)  # else a set that nobody asks for any more would keep its old flags in memory

    def number_of(self, flag_set: str, min_revision: int = 0) -> int | None:
        """Return the number of a set as it is held now; None if nobody may be answered from memory alone.

        `min_revision`: what is answered has to contain every change up to it.
        """
        near = self._near
        if not (near.complete and near.is_fresh(near.verified_at, time.monotonic())):
            return None
        if min_revision and not near.contains(flag_set, min_revision):
            return None
        listing, known = near.of_set(flag_set), self._sets.get(flag_set)
        if known is not None and known.listing.is_same(listing):
            return known.number
        if not len(listing):
            return None  # an empty set may have had flags in between
        known = self._sets[flag_set] = HeldSet(next(self._numbers), listing)
        return known.number

    def age_s(self) -> float:
        """Return how old an answer from memory can be at most."""
        return time.monotonic() - self._near.verified_at

    def _drop(self, entry: Entry) -> None:
        self._sets.pop(entry.id.flag_set, None)
