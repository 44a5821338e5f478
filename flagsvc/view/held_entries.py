"""The near cache's entries in the order of their use, with the memory that they take."""

from __future__ import annotations

from collections import OrderedDict

from flagsvc.core.model import FlagId
from flagsvc.view.entries import CacheEntry
from flagsvc.view.held_memory import HeldMemory


class HeldEntries(OrderedDict[FlagId, CacheEntry]):
    """Entries by flag. Change it only with `[]=` and `del`, which keep the totals."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = HeldMemory()

    def __setitem__(self, flag_id: FlagId, held: CacheEntry) -> None:
        self.memory.put(held, self.get(flag_id))
        super().__setitem__(flag_id, held)

    def __delitem__(self, flag_id: FlagId) -> None:
        self.memory.drop(self[flag_id])
        super().__delitem__(flag_id)
