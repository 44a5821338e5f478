"""The near cache's entries in the order of their use, and of each set in list order."""

from __future__ import annotations

from collections import OrderedDict

from flagsvc.core.model import FlagId
from flagsvc.view.entries import CacheEntry
from flagsvc.view.set_order import SetOrder


class HeldEntries(OrderedDict[FlagId, CacheEntry]):
    """Entries by flag. Change it only with `[]=` and `del`, which keep the lists sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.order = SetOrder()

    def __setitem__(self, flag_id: FlagId, held: CacheEntry) -> None:
        self.order.put(held, self.get(flag_id))
        super().__setitem__(flag_id, held)

    def __delitem__(self, flag_id: FlagId) -> None:
        self.order.drop(self[flag_id])
        super().__delitem__(flag_id)
