"""The near cache's entries in the order of their use, with the memory that they take, and of each set in list order."""

from __future__ import annotations

from collections import OrderedDict

from flagsvc.core.model import FlagId
from flagsvc.view.entries import CacheEntry
from flagsvc.view.held_families import HeldFamilies
from flagsvc.view.held_memory import HeldMemory
from flagsvc.view.set_order import SetOrder


class HeldEntries(OrderedDict[FlagId, CacheEntry]):
    """Entries by flag. Change it only with `[]=` and `del`, which keep the totals, and the lists sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.order = HeldMemory(), SetOrder()
        self.plain: dict[FlagId, CacheEntry] = {}
        """The same entries, for other threads: to move an entry within an ordered one takes it out for a moment."""
        self.families = HeldFamilies(self.plain)
        self.deleted: dict[FlagId, None] = {}
        """The entries of flags that do not exist; all others are in `order`."""
        self.new_rollouts: set[FlagId] = set()
        """Flags with a rollout that were put here since they were last taken (`rollout_steps`)."""

    def __setitem__(self, flag_id: FlagId, held: CacheEntry) -> None:
        old = self.get(flag_id)
        self.memory.put(held, old)
        self.order.put(held, old)
        if held.entry.flag is None:
            self.deleted[flag_id] = None
        else:
            self.deleted.pop(flag_id, None)
            if held.entry.flag.rollout is not None:
                self.new_rollouts.add(flag_id)
        super().__setitem__(flag_id, held)
        self.plain[flag_id] = held
        self.families.put(held, old)

    def __delitem__(self, flag_id: FlagId) -> None:
        held = self[flag_id]
        self.memory.drop(held)
        self.order.drop(held)
        self.deleted.pop(flag_id, None)
        self.new_rollouts.discard(flag_id)
        super().__delitem__(flag_id)
        del self.plain[flag_id]
        self.families.drop(held)
