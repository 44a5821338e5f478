"""The denials that this replica enforces, in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime

import structlog

from flagsvc.core.access.denials import Denial

log = structlog.get_logger(__name__)


class DenialView:
    """Every denial, by name. Of two states of one, the later counts, whatever the store has now.

    So a restored store lifts none. `lost`: names that are refused here, and not by the store.
    """

    def __init__(self) -> None:
        self.all: Mapping[str, Denial] = {}
        self.lost: frozenset[str] = frozenset()
        self._applied_at: dict[str, float] = {}

    def in_force(self, now: datetime) -> frozenset[str]:
        """Return the names of who is refused at a moment."""
        return frozenset(name for name, each in self.all.items() if each.is_in_force(now))

    def hold(self, stored: Iterable[Denial], as_of: float, now: datetime) -> bool:
        """Take what a load that began at `as_of` has read. Return whether anything changed."""
        found = {each.name: each for each in stored}
        # What was written here while the load was under way may not be in it.
        self._applied_at = {name: at for name, at in self._applied_at.items() if at >= as_of}
        kept = {
            name: held
            for name, held in self.all.items()
            if (name not in found and held.is_in_force(now))
            or (name in found and found[name] is not held and found[name].changed_at < held.changed_at)
        }
        merged = found | kept
        self._note_lost({name for name in kept.keys() - self._applied_at.keys() if kept[name].is_in_force(now)})
        has_changed, self.all = merged != self.all, merged
        return has_changed

    def remember(self, saved: Iterable[Denial]) -> None:
        """Take those of a snapshot, unless something later is known."""
        held = self.all
        older = {each.name for each in saved if each.name in held and held[each.name].changed_at >= each.changed_at}
        self.all = {**held, **{each.name: each for each in saved if each.name not in older}}

    def apply(self, denial: Denial) -> None:
        """Take one that was written here."""
        self._applied_at[denial.name] = time.monotonic()
        self.all = {**self.all, denial.name: denial}
        self.lost -= {denial.name}

    def _note_lost(self, lost: set[str]) -> None:
        if lost - self.lost:
            detail = "The store has lost them, as after a restore. They are enforced; deny them again, or allow them."
            log.warning("denials_lost", count=len(lost), detail=detail)
        self.lost = frozenset(lost)
