"""What the near cache is made of: held entries, where definitions come from, and how old an answer may be at most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

from flagsvc.core.evaluation import NO_FLAG, Prepared, prepare
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry

Prepare = Callable[[Flag], Prepared]
MAX_HIGH_WATER_MARKS = 100_000
"""Revisions remembered of flags that are not held: what is read later must not be older."""


class Source(StrEnum):
    """Where a definition was read from."""

    NEAR = "near"
    CACHE = "cache"
    STORE = "store"
    SNAPSHOT = "snapshot"


class CacheEntry:
    """One held entry, prepared for evaluation when it is first asked for: most of a large set never is.

    `verified_at`: it is not older than the store was then; `received_at`: when it came here.
    """

    __slots__ = ("_prepare", "_prepared", "entry", "origin", "received_at", "verified_at")

    def __init__(
        self,
        entry: Entry,
        verified_at: float,
        received_at: float,
        prepare: Prepare = prepare,
        origin: Source = Source.NEAR,
    ) -> None:
        self.entry = entry
        self.verified_at, self.received_at = verified_at, received_at
        self.origin = origin
        self._prepare = prepare
        self._prepared: Prepared | None = None if entry.flag else NO_FLAG

    @property
    def prepared(self) -> Prepared:
        """The definition, compiled."""
        if self._prepared is None:
            self._prepared = self._prepare(self.entry.flag) if self.entry.flag else NO_FLAG
        return self._prepared

    def yields_to(self, entry: Entry, as_of: float) -> bool:
        """Whether an entry is news: a larger revision, or another content of the same one that surely is newer.

        What was read within the same time may be either: who asked later may have been answered earlier.
        """
        if entry.revision != self.entry.revision:
            return entry.revision > self.entry.revision
        return entry.flag != self.entry.flag and not self.may_be_newer_than(as_of)

    def may_be_newer_than(self, as_of: float) -> bool:
        """Whether it came from a reading that ended after this moment."""
        return as_of <= max(self.received_at, self.verified_at)


class HighWaterMarks:
    """The newest revisions that were answered of flags which are not held; the oldest of too many are forgotten."""

    def __init__(self) -> None:
        self._revisions: OrderedDict[FlagId, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._revisions)

    def of(self, flag_id: FlagId) -> int:
        """Give the floor, 0 without one."""
        return self._revisions.get(flag_id, 0)

    def raise_to(self, flag_id: FlagId, revision: int) -> None:
        """Let nothing older be answered from now on."""
        if revision > self._revisions.get(flag_id, -1):
            self._revisions[flag_id] = revision
            self._revisions.move_to_end(flag_id)
            if len(self._revisions) > MAX_HIGH_WATER_MARKS:
                self._revisions.popitem(last=False)

    def drop(self, flag_id: FlagId) -> None:
        """Forget one that is held again."""
        self._revisions.pop(flag_id, None)
