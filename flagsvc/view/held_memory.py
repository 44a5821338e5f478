"""About how much memory the near cache's entries take, in all and for each flag set, and which flags are too large."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from flagsvc.core.model import FlagId, Status
from flagsvc.core.sizes import MAX_SERVED_BYTES, estimated_memory, is_too_large
from flagsvc.view.entries import CacheEntry

_EVALUATED = (Status.ENABLED, Status.BETA)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SetTotals:
    """How many flags of a set are held, and about how many bytes of memory they take."""

    flags: int = 0
    bytes: int = 0


class HeldMemory:
    """The totals of what is held. An entry's size is estimated once, when it is put."""

    def __init__(self) -> None:
        self.bytes = 0
        self.too_large: set[FlagId] = set()
        """Flags that are not evaluated because of their size."""
        self._of_sets: dict[str, SetTotals] = {}

    def of_set(self, flag_set: str) -> SetTotals:
        """Return a set's totals."""
        return self._of_sets.get(flag_set) or SetTotals()

    def put(self, held: CacheEntry, old: CacheEntry | None) -> None:
        """Add an entry in the place of an old one of the same flag, if there is one."""
        if old is not None:
            self.drop(old)
        flag, flag_id = held.entry.flag, held.entry.id
        held.size = estimated_memory(flag)
        self.bytes += held.size
        if flag is None:
            return
        totals = self._of_sets.setdefault(flag_id.flag_set, SetTotals())
        totals.flags += 1
        totals.bytes += held.size
        if held.size > MAX_SERVED_BYTES and flag.status in _EVALUATED and is_too_large(flag):
            self.too_large.add(flag_id)
            detail = f"The flag is over {MAX_SERVED_BYTES} bytes, so it answers GENERAL. Make its values smaller."
            log.warning("flag_too_large", flag=flag_id.key, flag_set=flag_id.flag_set, detail=detail)

    def drop(self, held: CacheEntry) -> None:
        """Subtract an entry."""
        self.bytes -= held.size
        if held.entry.flag is None:
            return
        flag_id = held.entry.id
        self.too_large.discard(flag_id)
        totals = self._of_sets[flag_id.flag_set]
        totals.flags -= 1
        totals.bytes -= held.size
        if not totals.flags:
            del self._of_sets[flag_id.flag_set]
