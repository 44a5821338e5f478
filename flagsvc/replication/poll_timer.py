"""When the next poll begins: after a pause, or earlier where there is a reason."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from flagsvc.ports import FlagStore
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache


class PollTimer:
    """Waits between polls, and collects reasons to wait less."""

    def __init__(self, near: NearCache, store: FlagStore, timing: Timing) -> None:
        self._near, self._store, self._timing = near, store, timing
        self._wake = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._unless_reached: Mapping[str, int] | None = None

    @property
    def least_s(self) -> float:
        """The pause between two polls where no channel reports changes."""
        return min(self._store.poll_interval_s, self._timing.poll_every_s)

    async def wait(self, pause_s: float) -> None:
        """Wait until the next poll is due, or until there is a reason to poll earlier."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause_s)

    def poll_now(self) -> None:
        """Poll at once."""
        self._wake.set()

    def poll_soon(self, unless_reached: Mapping[str, int] | None = None) -> None:
        """Poll in a moment, unless these revisions are applied by then. Many claims cost one poll."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(self._timing.gap_wait_s, self._wake_up)
            self._unless_reached = unless_reached
        elif unless_reached is None:
            self._unless_reached = None

    def close(self) -> None:
        """Forget the reasons."""
        if self._waking is not None:
            self._waking.cancel()

    def _wake_up(self) -> None:
        self._waking = None
        if self._unless_reached is None or not self._near.changelogs.reach(self._unless_reached):
            self._wake.set()
