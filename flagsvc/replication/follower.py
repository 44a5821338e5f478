"""Keeps the near cache equal to the store: loads it, applies changes as they arrive, and verifies it by polls.

Changes arrive over two channels (`change_channels.py`), either of which may drop messages. So a periodic poll of the
revision counters verifies the near cache up to the change stream's last checkpoint. If the stream is down, the poll
does a full reload. A replica that cannot reach the store takes the proof from a peer's heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import structlog

from flagsvc.background import BackgroundTasks, cause_of, repeat
from flagsvc.core.errors import StoreForbidden, StoreUnavailable
from flagsvc.ports import Entry, FlagCache, FlagStore, Problem, StoreContents, StoreIdentity
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.change_channels import ChangeChannels
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.lineage import Lineage
from flagsvc.replication.poll_timer import PollTimer
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.replication.store_loader import StoreLoader
from flagsvc.replication.stream_progress import FeedKind, StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.replication.view_proof import ViewProof
from flagsvc.view.near_cache import NearCache

STREAM_START_S = 0.3
"""How long the first load waits for the change stream, so that no change falls between the two."""
LATE_STREAM_S = 3.0
"""Longest that a resync waits for the change stream."""
RESYNCED = "The store's identity is new. Everything was read again; what was held or cached before does not count."
LOAD_SHARE = 5
"""Where the whole store is read again and again, that takes at most one part in this many of the time."""

log = structlog.get_logger(__name__)


class Follower:
    """Background work of one replica. `tried` is set once a load of the store was attempted."""

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        *,
        heartbeats: Heartbeats,
        lease: CacheLease,
        progress: StreamProgress,
        timing: Timing,
    ) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._heartbeats, self._lease, self._timing = heartbeats, lease, timing
        lineage = Lineage()
        assigner = RevisionAssigner(near, store, cache, lease, progress=progress, lineage=lineage)
        self.proof = ViewProof(near, store, assigner, lineage=lineage, progress=progress, timing=timing)
        self._timer = PollTimer(near, store, timing)
        self.loader = StoreLoader(near, store, self.proof, self._timer)
        self.channels = ChangeChannels(near, heartbeats, self.proof, self._timer)
        self._tasks = BackgroundTasks()
        self._polling = asyncio.Lock()
        self._opened = False
        self.tried = asyncio.Event()
        self.store_up = True
        self.store_problem: Problem | None = None
        """Why the store could not be asked at the last poll."""
        self._logged_causes: set[str] = set()

    @property
    def feed_kind(self) -> FeedKind:
        """How this replica learns of changes of other programs."""
        return self.proof.progress.kind

    @property
    def feed_up(self) -> bool:
        """Whether changes of other programs arrive now in the way that `feed_kind` says."""
        return self.proof.progress.delivers if self.feed_kind is FeedKind.STREAM else self.store_up

    def start(self) -> None:
        """Begin to follow; waits for nothing."""
        self._tasks.start(repeat(self._poll, lambda: self._timer.wait(self._pause_s()), "poll_failed"), "follower")
        self.channels.start(self._store, self._cache)

    async def close(self) -> None:
        """Stop everything."""
        self._timer.close()
        parts = self._tasks, self.channels, self.loader, self.proof.revision_assigner
        await asyncio.gather(*(part.close() for part in parts))

    def note_claim(self, entry: Entry) -> None:
        """Note an entry of the shared cache that is answered: a poll asks the store where it claims to be newer."""
        self.proof.hints.note_read(entry, time.monotonic())

    async def load_all(self) -> StoreContents:
        """Read the whole store for a caller, and hold it where there is room. Raises StoreUnavailable."""
        return await self.loader.load_for_caller()

    async def resync(self) -> None:
        """Read everything again, now, because the store has a new identity. Raises StoreUnavailable."""
        self.proof.lineage.must_resync = True
        async with self._polling:
            if self.proof.lineage.must_resync:
                await self._resync()

    def problems(self) -> Sequence[Problem]:
        """Return what does not work between this replica and the store."""
        problems = self.store_problem, self.channels.feed_problem
        return (*(each for each in problems if each is not None), *self.proof.problems())

    async def _poll(self) -> None:
        """Verify the view once, and record whether the store could be asked."""
        try:
            async with self._polling:
                await self._verify_view()
                if self.proof.lineage.is_other(self._store.identity):
                    await self._resync()
            self.store_up, self.store_problem = True, None
            self._logged_causes.clear()
        except StoreUnavailable as error:
            self._note_outage(error)
        finally:
            self.tried.set()

    def _note_outage(self, error: StoreUnavailable) -> None:
        """Record why the store could not be asked; each cause is logged once in an outage."""
        if error.cause not in self._logged_causes:
            self._logged_causes.add(error.cause)
            log.warning("store_unavailable", error=str(error), cause=cause_of(error), detail=error.cause)
        name = "store_forbidden" if isinstance(error, StoreForbidden) else "store_unavailable"
        detail = f"the store cannot be used: {error.cause or 'it does not answer'}"
        cure = error.cure or "check that the store is running; see the log event store_unavailable"
        self.store_up, self.store_problem = False, Problem(name, detail, cure)

    async def _verify_view(self) -> None:
        """Compare the store's revision counters with what is applied, or load everything where that is not enough."""
        if not self._opened:
            await self._open()
        asked_at, held = time.monotonic(), self.proof.held_revisions()
        claims = self.proof.due_claims(asked_at)
        if self.proof.must_load(asked_at) and not claims:
            await self.loader.load()
            return
        revisions = await self._store.revisions()
        is_known = not self.proof.lineage.is_other(self._store.identity)
        if claims and is_known and not await self.proof.ask_about(claims, revisions):
            await self.loader.load()
            return
        if not self.proof.is_continued(revisions, held):
            return
        if self.proof.must_load(asked_at):
            await self.loader.load()
            return
        others_write = self._store.feed is not None or self._cache is not None
        if others_write and not self._near.changelogs.reach(revisions):
            await asyncio.sleep(self._timing.gap_wait_s)  # the change is probably in transit: then no load is needed
        if not self._near.changelogs.reach(revisions):
            await self.loader.load()
            return
        self.proof.polled_at = asked_at
        self.proof.mark_verified()
        if self._lease.is_holder and self._store.feed is not None:
            await self._store.feed.save_resume_token()

    async def _open(self) -> None:
        await self._store.open()
        await self._belong_to(self._store.identity)
        self._opened = True
        if self._store.feed is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.channels.streaming.wait(), STREAM_START_S)

    async def _belong_to(self, identity: StoreIdentity | None) -> None:
        """Use the shared cache, and what a snapshot restored, only as this store's."""
        is_same = self.proof.lineage.begin(identity)
        if self._cache is not None and identity is not None:
            is_same = await self._cache.identify(identity) and is_same
        if not is_same:
            self._near.drop()
            self.proof.hints.clear()
        if self._cache is not None:
            self._heartbeats.reply_soon()  # the first one that can be sent, or the first under a new identity

    async def _resync(self) -> None:
        """Read everything from the store, which is not the one that was read before, and hold nothing else."""
        self.proof.lineage.must_resync = True
        await self._store.open()
        await self._until_streamed()
        self._near.changelogs.forget()
        self.proof.hints.clear()
        flags = await self.loader.start_over()
        self.proof.lineage.resynced()
        await self._belong_to(self._store.identity)  # last: heartbeats under the new identity say that it is done
        log.warning("resynced", store=str(self._store.identity), flags=flags, detail=RESYNCED)

    async def _until_streamed(self) -> None:
        """Wait until the change stream has delivered what is older than now; later it would count as newer.

        A stream that is broken, or takes too long, is not waited for.
        """
        now, progress = time.monotonic(), self.proof.progress
        while progress.delivers and progress.checkpoint < now and time.monotonic() - now < LATE_STREAM_S:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _pause_s(self) -> float:
        """Return the seconds until the next poll."""
        if not self.store_up:
            return self._timing.poll_retry_s
        if self.feed_kind is FeedKind.POLLING or (self.feed_kind is FeedKind.STREAM and not self.feed_up):
            return max(self._timer.least_s, LOAD_SHARE * self.loader.took_s)
        is_notified = self.channels.subscription_up or self.feed_kind is FeedKind.STREAM
        return self._timing.poll_every_s if is_notified else self._timer.least_s
