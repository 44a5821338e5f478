"""The near cache's entries, in the order of their use, with the memory that they take: in all and for each flag set."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import structlog

from flagsvc.core.model import FlagId
from flagsvc.core.sizes import MAX_SERVED_BYTES, estimated_memory, is_too_large
from flagsvc.view.entries import CacheEntry

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SetTotals:
    """How many flags of a set are held, and about how many bytes of memory they take."""

    flags: int = 0
    bytes: int = 0


class HeldEntries(OrderedDict[FlagId, CacheEntry]):
    """Entries by flag. Change it only with `[]=` and `del`, which keep the totals."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.too_large: set[FlagId] = set()
        """Flags that are not evaluated because of their size."""
        self._of_sets: dict[str, SetTotals] = {}

    def __setitem__(self, flag_id: FlagId, held: CacheEntry) -> None:
        if flag_id in self:
            self._subtract(flag_id, self[flag_id])
        super().__setitem__(flag_id, held)
        flag = held.entry.flag
        held.size = estimated_memory(flag)
        self.bytes += held.size
        if flag is None:
            return
        totals = self._of_sets.setdefault(flag_id.flag_set, SetTotals())
        totals.flags += 1
        totals.bytes += held.size
        if held.size > MAX_SERVED_BYTES and is_too_large(flag):
            self.too_large.add(flag_id)
            detail = f"The flag is over {MAX_SERVED_BYTES} bytes, so it answers GENERAL. Make its values smaller."
            log.warning("flag_too_large", flag=flag_id.key, flag_set=flag_id.flag_set, detail=detail)

    def __delitem__(self, flag_id: FlagId) -> None:
        self._subtract(flag_id, self[flag_id])
        super().__delitem__(flag_id)

    def of_set(self, flag_set: str) -> SetTotals:
        """Return a set's totals."""
        return self._of_sets.get(flag_set) or SetTotals()

    def _subtract(self, flag_id: FlagId, held: CacheEntry) -> None:
        self.bytes -= held.size
        if held.entry.flag is None:
            return
        self.too_large.discard(flag_id)
        totals = self._of_sets[flag_id.flag_set]
        totals.flags -= 1
        totals.bytes -= held.size
        if not totals.flags:
            del self._of_sets[flag_id.flag_set]
