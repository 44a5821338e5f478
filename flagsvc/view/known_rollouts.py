"""Rollouts of flags that are not held, so that their steps are announced to clients that hold values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from flagsvc.core.model import FlagId
from flagsvc.ports import Entry

MAX_NOT_HELD = 1_000
"""Most flags that are known and not held; those that were noted first are forgotten first."""


class KnownRollouts:
    """Of each flag with a rollout that is not held, what decides its steps and who may see it.

    It may be older than the store where changes were missed: clients then ask once too often, or are not asked to.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[FlagId, Entry] = OrderedDict()
        self.new: set[FlagId] = set()
        """Those that were noted since they were last taken."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, flag_id: FlagId) -> Entry | None:
        """Return what is known of a flag."""
        return self._entries.get(flag_id)

    def note(self, entry: Entry) -> None:
        """Remember a flag that is not held, if it has a rollout and no newer one is known."""
        known = self._entries.get(entry.id)
        if known is not None and known.revision >= entry.revision:
            return
        if entry.flag is None or entry.flag.rollout is None:
            self.drop((entry.id,))
            return
        self._entries[entry.id] = _reduced(entry)
        self.new.add(entry.id)
        if len(self._entries) > MAX_NOT_HELD:
            self.drop((next(iter(self._entries)),))

    def drop(self, flag_ids: Iterable[FlagId]) -> None:
        """Forget flags: they are held, or have no rollout any more."""
        for flag_id in flag_ids:
            self._entries.pop(flag_id, None)
            self.new.discard(flag_id)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.new.clear()


def _reduced(entry: Entry) -> Entry:
    """Return an entry without what is large in a flag, and does not matter here."""
    flag = entry.flag
    assert flag is not None  # noqa: S101  it has a rollout
    variants = dict.fromkeys(flag.variants)
    bare = replace(flag, variants=variants, name="", description=None, config=None, icon=None, badge=None)
    return replace(entry, flag=replace(bare, targeting=None, evaluators={}, metadata={}))
