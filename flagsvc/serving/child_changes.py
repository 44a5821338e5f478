"""Announces changes to those who hold values of flags that depend on what has changed.

Clients that evaluate themselves hold the whole set, and need no announcement: the change itself is enough.
"""

from __future__ import annotations

import asyncio
import time

from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.model import FlagId
from flagsvc.turns import in_turns
from flagsvc.view.near_cache import NearCache


class ChildChanges:
    """The flags, by set, whose children have to be announced. This is done in turns: a flag may have thousands."""

    def __init__(self, near: NearCache) -> None:
        self._near = near
        self._changed: dict[str, set[str]] = {}
        self._wake = asyncio.Event()
        self._tasks = BackgroundTasks()
        self.announced = 0
        near.when_parent_changed(self._note)

    def start(self) -> None:
        """Begin to announce."""
        self._tasks.start(repeat(self.announce, self._woken, "child_changes_failed"), "child-changes")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    async def announce(self) -> None:
        """Announce the children of all that has changed so far, each once."""
        self._wake.clear()
        changed, self._changed = self._changed, {}
        for flag_set, keys in changed.items():
            async for key in in_turns(self._near.descendants(flag_set, keys)):
                held = self._near.peek(FlagId(flag_set, key))
                if held is not None and held.entry.flag is not None:
                    self._near.changelogs.announce_values(held.entry, time.monotonic())
                    self.announced += 1

    def _note(self, flag_id: FlagId) -> None:
        self._changed.setdefault(flag_id.flag_set, set()).add(flag_id.key)
        self._wake.set()

    async def _woken(self) -> None:
        await self._wake.wait()
