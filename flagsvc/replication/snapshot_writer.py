"""Saves the last good contents: soon after a change, and now and then, so that their time says how good they are.

Only a view that is whole and verified is saved: what may be stale must not pass for the last good contents.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from flagsvc.ports import AccessToSave, Problem, Saved, Snapshot, StoreContents
from flagsvc.turns import in_turns
from flagsvc.view.near_cache import NearCache

CHECK_EVERY_S = 0.5
"""Seconds between two checks whether something is to be saved."""
MIN_SAVE_INTERVAL_S = 5.0
MAX_SAVE_INTERVAL_S = 60.0
"""Seconds after which unchanged contents are saved again."""

State = tuple[int, Mapping[str, int], int]
"""What differs whenever the contents may: the number of replacements, each set's revision, and callers' version."""

log = structlog.get_logger(__name__)


class SnapshotWriter:
    """Background task that saves what the near cache holds.

    `clock` returns aware UTC, `store_id` the identity of the store that is held. `access`: callers, who are saved too.
    """

    def __init__(
        self,
        near: NearCache,
        snapshot: Snapshot,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        store_id: Callable[[], str] = lambda: "",
        access: AccessToSave | None = None,
    ) -> None:
        self._near, self._snapshot, self._store_id, self._clock = near, snapshot, store_id, clock
        self._access = access
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._tried_at = float("-inf")
        self._saved_state: State | None = None
        self._logged: set[object] = set()
        self.saved_at: datetime | None = None
        """As of when this replica saved last; None before that."""
        self.problem: Problem | None = None
        """Why the last save failed."""
        self.writes = 0
        self.failures = 0

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._task = asyncio.create_task(self._run(), name="snapshots")

    async def close(self) -> None:
        """Wait for a running save, and save what has changed since, if the view is still good."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._closing.is_set():
            since = time.monotonic() - self._tried_at
            if since >= (MIN_SAVE_INTERVAL_S if self._has_changed() else MAX_SAVE_INTERVAL_S):
                await self._save()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), CHECK_EVERY_S)
        if self._has_changed():
            await self._save()

    def _has_changed(self) -> bool:
        return self._saved_state != self._state()

    def _state(self) -> State:
        version = self._access.version if self._access is not None else 0
        return self._near.replacements, self._near.changelogs.watermarks(), version

    async def _save(self) -> None:
        """Save the view if it is good. Never raises."""
        now, access = time.monotonic(), self._access
        verified_at = min(self._near.verified_at, access.verified_at if access is not None else math.inf)
        if not self._near.complete or now - verified_at > self._near.staleness_bound_s:
            return
        self._tried_at = now
        state, held, watermarks = self._state(), self._near.flags(), self._near.changelogs.watermarks()
        try:
            as_of = self._clock() - timedelta(seconds=now - verified_at)
            flags = [each.entry.flag async for each in in_turns(held) if each.entry.flag is not None]
            known = access.to_save() if access is not None else None
            saved = Saved(StoreContents(flags, watermarks), as_of, self._store_id(), known)
            written = await asyncio.to_thread(self._snapshot.write, saved)
        except Exception as error:  # noqa: BLE001  logged and counted; whatever it was, the next save is tried
            self._failed(error)
        else:
            self._saved_state = state  # when it was not written, what is there has this and more
            self._succeeded(saved, written=written)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._saved_state = None
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        cure = "make the folder of FLAGSVC_SNAPSHOT_FILE writable for this user, or give another file"
        self.problem = Problem("snapshot_not_saved", f"the snapshot cannot be saved: {why}", cure)
        kind = error.errno if isinstance(error, OSError) else type(error)
        if kind not in self._logged:  # once for each kind of failure, until a save succeeds
            self._logged.add(kind)
            log.warning(
                "snapshot_not_saved",
                cause=str(error),
                last_saved_at=self.saved_at.isoformat() if self.saved_at else None,
                detail="A start without the stores would use the snapshot before.",
                exc_info=None if isinstance(error, OSError) else error,
            )

    def _succeeded(self, saved: Saved, *, written: bool) -> None:
        self.problem = None
        if self._logged:
            self._logged.clear()
            log.info("snapshots_resumed")
        if written:
            self.writes += 1
            self.saved_at = saved.saved_at


async def read(snapshot: Snapshot) -> Saved | None:
    """Read what was saved, in a thread."""
    return await asyncio.to_thread(snapshot.read)
