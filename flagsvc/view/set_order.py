"""The flags of each set in list order, kept sorted as entries change: a list is never sorted when it is asked for."""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from flagsvc.core.model import list_order
from flagsvc.view.entries import CacheEntry

Position = tuple[int, str]
"""Where a flag stands in its set: its sort order, then its key."""
MAX_PIECE = 512
"""Longest piece of a list: inserting into one long list would move all that follows."""


class Listing:
    """Entries in list order as they were at one moment. It shares its pieces, so making it copies no entry."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Iterable[list[CacheEntry]] = ()) -> None:
        self._pieces = tuple(pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def is_same(self, other: Listing) -> bool:
        """Whether both have the very same entries. A piece is replaced, never changed, so only pieces are compared.

        Between two listings that are the same, and are not empty, the set was not changed: each change of it makes a
        piece that did not exist before, and a piece that was replaced never comes back.
        """
        return len(self._pieces) == len(other._pieces) and all(map(operator.is_, self._pieces, other._pieces))

    def __iter__(self) -> Iterator[CacheEntry]:
        return chain.from_iterable(self._pieces)


class SetOrder:
    """Held flags by set, in list order. Deleted flags are in no list."""

    def __init__(self) -> None:
        self._of_set: dict[str, _Sorted] = {}

    def put(self, held: CacheEntry, old: CacheEntry | None) -> None:
        """List an entry in place of the one that was held before."""
        if old is not None:
            self.drop(old)
        if held.entry.flag is not None:
            self._of_set.setdefault(held.entry.id.flag_set, _Sorted()).add(list_order(held.entry.flag), held)

    def drop(self, held: CacheEntry) -> None:
        """Remove an entry that is no longer held."""
        if held.entry.flag is not None:
            flags = self._of_set[held.entry.id.flag_set]
            flags.remove(list_order(held.entry.flag))
            if not flags.pieces:
                del self._of_set[held.entry.id.flag_set]

    def of(self, flag_set: str) -> Listing:
        """Return a set's flags in list order, as they are at this moment."""
        flags = self._of_set.get(flag_set)
        return Listing() if flags is None else Listing(flags.entries)

    def all(self) -> Listing:
        """Return the flags of all sets, as they are at this moment."""
        return Listing(chain.from_iterable(flags.entries for flags in self._of_set.values()))

    def page(self, flag_set: str, after: Position | None, size: int) -> list[CacheEntry]:
        """Return at most so many flags of a set after a position (None: from the first)."""
        flags = self._of_set.get(flag_set)
        return [] if flags is None else flags.page(after, size)


class _Sorted:
    """Entries by position, in pieces that are never empty; `pieces` has the positions, `entries` what stands there.

    A piece of `entries` is replaced, never changed: listings share it.
    """

    def __init__(self) -> None:
        self.pieces: list[list[Position]] = []
        self.entries: list[list[CacheEntry]] = []

    def add(self, position: Position, held: CacheEntry) -> None:
        if not self.pieces:
            self.pieces.append([position])
            self.entries.append([held])
            return
        index = min(self._piece(position), len(self.pieces) - 1)
        piece, entries = self.pieces[index], self.entries[index]
        place = bisect_left(piece, position)
        piece.insert(place, position)
        entries = self.entries[index] = [*entries[:place], held, *entries[place:]]
        if len(piece) > MAX_PIECE:
            half = len(piece) // 2
            self.pieces[index : index + 1] = [piece[:half], piece[half:]]
            self.entries[index : index + 1] = [entries[:half], entries[half:]]

    def remove(self, position: Position) -> None:
        index = self._piece(position)
        piece, entries = self.pieces[index], self.entries[index]
        place = bisect_left(piece, position)
        del piece[place]
        self.entries[index] = [*entries[:place], *entries[place + 1 :]]
        if not piece:
            del self.pieces[index], self.entries[index]

    def page(self, after: Position | None, size: int) -> list[CacheEntry]:
        if after is None:
            return list(islice(chain.from_iterable(self.entries), size))
        index = self._piece(after)
        if index == len(self.pieces):
            return []
        first = self.entries[index][bisect_right(self.pieces[index], after) :]
        return list(islice(chain(first, chain.from_iterable(islice(self.entries, index + 1, None))), size))

    def _piece(self, position: Position) -> int:
        """Return the index of the first piece that does not end before the position."""
        return bisect_left(self.pieces, position, key=lambda piece: piece[-1])
