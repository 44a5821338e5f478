"""One held entry of the near cache, and where definitions come from."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from flagsvc.core.evaluation import NO_FLAG, Prepared, prepare
from flagsvc.core.model import Flag
from flagsvc.ports import Entry

Prepare = Callable[[Flag], Prepared]


class Source(StrEnum):
    """Where a definition was read from."""

    NEAR = "near"
    CACHE = "cache"
    STORE = "store"
    SNAPSHOT = "snapshot"


class Held:
    """One held entry, prepared for evaluation when it is first asked for: most of a large set never is.

    `confirmed_at`: it is not older than the store was then; `taken_at`: when it came here.
    """

    __slots__ = ("_prepare", "_prepared", "confirmed_at", "entry", "origin", "taken_at")

    def __init__(
        self,
        entry: Entry,
        confirmed_at: float,
        taken_at: float,
        prepare: Prepare = prepare,
        origin: Source = Source.NEAR,
    ) -> None:
        self.entry = entry
        self.confirmed_at, self.taken_at = confirmed_at, taken_at
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
        """Whether an entry is news: a larger revision, or another content of the same one that was read later."""
        if entry.revision != self.entry.revision:
            return entry.revision > self.entry.revision
        return entry.flag != self.entry.flag and as_of > self.confirmed_at
