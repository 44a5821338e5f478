"""Assigns a revision to each change that another program made in the store without counting.

The holder of the cache lease is first, so that not every replica does the same work; the others follow when it does
not.
"""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from flagsvc.background import BackgroundTasks, backoff_s
from flagsvc.core.errors import ChangeRefused, StoreForbidden, StoreUnavailable, WritesUnsupported
from flagsvc.core.model import FlagId
from flagsvc.ports import ChangeFeed, Entry, FlagCache, FlagStore, UnversionedChange
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.lineage import Lineage
from flagsvc.replication.publish import publish_change
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.view.near_cache import NearCache

LEAVE_TO_HOLDER_S = 0.3
"""How long the other replicas leave a change to the holder of the cache lease."""
RETRY_DELAY_S, MAX_RETRY_DELAY_S = 0.25, 5.0
MAX_FAILURES = 3
"""Failures of another kind than an unreachable store after which a change is given up."""

log = structlog.get_logger(__name__)


class RevisionAssigner:
    """Changes of other programs that have no revision yet. While there are any, no later moment can be verified.

    `len()` is how many are pending; `assigned` counts the revisions given here.
    """

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        lease: CacheLease,
        *,
        progress: StreamProgress,
        lineage: Lineage,
    ) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._lease, self._progress, self._lineage = lease, progress, lineage
        self._pending: dict[UnversionedChange, asyncio.Task[None]] = {}
        self._repeat: set[UnversionedChange] = set()
        self._deletions: dict[FlagId, int] = {}
        self._logged_refusals: set[str] = set()
        self._tasks = BackgroundTasks()
        self.assigned = 0

    def __len__(self) -> int:
        return len(self._pending)

    async def close(self) -> None:
        """Stop, and leave what is pending to other replicas."""
        await self._tasks.close()

    def add(self, change: UnversionedChange, feed: ChangeFeed) -> None:
        """Take care that a change of another program gets a revision.

        An equal one that arrives meanwhile may be a second change, so the first is then looked at once more.
        """
        if change in self._pending:
            self._repeat.add(change)
        else:
            self._pending[change] = self._tasks.begin(self._assign(change, feed), "assign-revision")

    def note_deletion(self, entry: Entry) -> None:
        """Record an announced deletion. What only a read found missing may have been deleted without a revision."""
        if entry.flag is None and any(change.id == entry.id for change in self._pending):
            self._deletions[entry.id] = max(entry.revision, self._deletions.get(entry.id, 0))

    async def _assign(self, change: UnversionedChange, feed: ChangeFeed) -> None:
        try:
            if not self._lease.is_holder:
                await asyncio.sleep(LEAVE_TO_HOLDER_S * random.uniform(1, 2))  # noqa: S311  jitter is no secret
            failures = unexpected = 0
            while not self._is_deletion_announced(change):
                self._repeat.discard(change)
                try:
                    await self._assign_once(change, feed)
                except StoreUnavailable:
                    await asyncio.sleep(backoff_s(failures, RETRY_DELAY_S, MAX_RETRY_DELAY_S))
                    failures += 1
                except Exception:
                    unexpected += 1
                    if unexpected == MAX_FAILURES:
                        log.exception("assign_revision_failed", flag_key=change.id.key, detail="It is given up.")
                        await self._take_unassigned(change, time.monotonic())
                        return
                    await asyncio.sleep(RETRY_DELAY_S)
                else:
                    failures = 0
                    if change not in self._repeat:
                        return
        finally:
            del self._pending[change]
            self._repeat.discard(change)
            if all(other.id != change.id for other in self._pending):
                self._deletions.pop(change.id, None)

    async def _take_unassigned(self, change: UnversionedChange, as_of: float) -> None:
        """Hold what the store has although its revision may be smaller.

        No peer can know of this change by a revision, so peers' heartbeats prove nothing from before it.
        """
        self._near.force_replace(change.revision, await self._store.get(change.id), as_of, time.monotonic())
        self._progress.restart(time.monotonic())

    def _is_deletion_announced(self, change: UnversionedChange) -> bool:
        """Whether another replica gave this deletion a revision. Of other changes only the store can tell."""
        return change.gone and self._deletions.get(change.id, 0) > change.revision

    async def _assign_once(self, change: UnversionedChange, feed: ChangeFeed) -> None:
        as_of = time.monotonic()
        try:
            entry = await feed.assign_revision(change.id, change.revision)
        except (WritesUnsupported, StoreForbidden, ChangeRefused) as error:
            await self._take_unassigned(change, as_of)
            if str(error) not in self._logged_refusals:  # the cause is the same for every flag
                self._logged_refusals.add(str(error))
                detail = "Changes of other programs are served without a revision while the store refuses this."
                log.warning("foreign_change_without_revision", flag_key=change.id.key, error=str(error), detail=detail)
            return
        if entry is not None:
            self.assigned += 1
            flag_set = entry.id.flag_set
            if not self._lineage.continues({flag_set: entry.revision - 1}, {flag_set: change.revision}):
                return  # the store had this revision before, and now counts from an older one: it was restored
            self._near.apply_change(entry, time.monotonic(), as_of=as_of)
            await publish_change(self._cache, entry, as_of)
        else:  # another replica has assigned one
            entry = await self._store.get(change.id)
            self._near.apply_read(entry, as_of, time.monotonic())
        # Only from then on do this replica's heartbeats demand the revision of those who rely on its view.
        while self._near.changelogs.watermark(entry.id.flag_set) < entry.revision:  # noqa: ASYNC110  moved elsewhere
            await asyncio.sleep(RETRY_DELAY_S / 5)
