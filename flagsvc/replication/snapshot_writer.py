"""When the last good contents are saved: soon after a change, and now and then, so that their time tells how good.

Only a view that is whole and confirmed is saved: what may be old must not pass for the last good.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from flagsvc.ports import Saved, Snapshot
from flagsvc.view.near_cache import NearCache

LOOK_S = 0.5
"""Seconds between two looks whether something is to be saved."""
CHANGED_S = 5.0
"""Least seconds between two saves."""
UNCHANGED_S = 60.0
"""Seconds after which what has not changed is saved again."""

State = tuple[int, Mapping[str, int]]
"""What differs whenever the contents may: the count of changes, and each set's revision."""

log = structlog.get_logger(__name__)


class Snapshots:
    """Background task that saves what the near cache holds. `clock` gives aware UTC."""

    def __init__(
        self, near: NearCache, snapshot: Snapshot, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._near, self._snapshot, self._clock = near, snapshot, clock
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._tried_at = float("-inf")
        self._kept: State | None = None
        self._told: set[object] = set()
        self.saved_at: datetime | None = None
        """As of when this replica saved last; None before that."""
        self.writes = 0
        self.failures = 0

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._task = asyncio.create_task(self._run(), name="snapshots")

    async def close(self) -> None:
        """Wait for a save under way, and save what changed since, if that is good still."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._closing.is_set():
            since = time.monotonic() - self._tried_at
            if since >= (CHANGED_S if self._changed() else UNCHANGED_S):
                await self._save()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), LOOK_S)
        if self._changed():
            await self._save()

    def _changed(self) -> bool:
        return self._kept != self._state()

    def _state(self) -> State:
        return self._near.changes, self._near.revisions()

    async def _save(self) -> None:
        """Save the view if it is good. Never raises."""
        now, verified_at = time.monotonic(), self._near.verified_at
        if not self._near.complete or now - verified_at > self._near.staleness_bound_s:
            return
        self._tried_at = now
        state = self._state()
        try:
            saved = Saved(self._near.contents(), self._clock() - timedelta(seconds=now - verified_at))
            written = await asyncio.to_thread(self._snapshot.write, saved)
        except Exception as error:  # noqa: BLE001  told and counted; whatever it was, the next save is tried
            self._failed(error)
        else:
            self._kept = state  # when it was not written, what is there has this and more
            self._succeeded(saved, written=written)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._kept = None
        expected = isinstance(error, OSError)
        kind = error.errno if isinstance(error, OSError) else type(error)
        if kind not in self._told:
            self._told.add(kind)
            last = self.saved_at.isoformat() if self.saved_at else "none by this replica"
            text = "snapshot not saved; a start without the stores would have the one before"
            log.warning(text, why=str(error), last=last, exc_info=None if expected else error)

    def _succeeded(self, saved: Saved, *, written: bool) -> None:
        if self._told:
            self._told.clear()
            log.info("snapshots are saved again")
        if written:
            self.writes += 1
            self.saved_at = saved.saved_at


async def read(snapshot: Snapshot) -> Saved | None:
    """Read what was saved, away from the loop."""
    return await asyncio.to_thread(snapshot.read)
