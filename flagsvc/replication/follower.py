"""Keeps the near cache equal to the store: loads it, applies changes as they are announced, and verifies it by polls.

Changes arrive over two channels, each within milliseconds and each sufficient alone: announcements through the shared
cache, and the store's own change stream, whoever made the change. Either may drop messages, so a periodic poll of the
revision counters verifies the near cache up to the change stream's last checkpoint. If the stream is down, the poll
does a full reload. A replica that cannot reach the store takes the proof from a peer's heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum

import structlog

from flagsvc import collector
from flagsvc.background import BackgroundTasks, cause_of, repeat
from flagsvc.core.errors import StoreForbidden, StoreUnavailable
from flagsvc.ports import (
    NEVER,
    Announced,
    CacheEvent,
    ChangeFeed,
    ChangesUnsupported,
    Checkpoint,
    Entry,
    FlagCache,
    FlagStore,
    Heartbeat,
    IdentityChanged,
    Problem,
    StoreContents,
    StoreEvent,
    StoreIdentity,
    Subscribed,
    UnversionedChange,
)
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.hints import Hint, Hints
from flagsvc.replication.lineage import Lineage
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S, Timing
from flagsvc.turns import emptied, free_in_turns, in_turns, run_in_turns
from flagsvc.view.near_cache import NearCache

STREAM_START_S = 0.3
"""How long the first load waits for the change stream, so that no change falls between the two."""
RESYNCED = "The store's identity is new. Everything was read again; what was held or cached before does not count."
LOAD_SHARE = 5
"""Where the whole store is read again and again, that takes at most one part in this many of the time."""
MAX_LOAD_PAUSE_S = 1.0
"""Longest that a load waits where callers need the whole store again and again: else as long as the last one took."""

log = structlog.get_logger(__name__)


class FeedKind(StrEnum):
    """How this replica learns of changes that another program makes in the store."""

    STREAM = "stream"
    POLLING = "polling"
    NONE = "none"


class Follower:
    """Background work of one replica.

    `loaded` is set once the store was read, `tried` once that was attempted. `loads` counts full loads.
    """

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
        self._heartbeats, self._lease, self._progress, self._timing = heartbeats, lease, progress, timing
        self.hints, self.lineage = Hints(near), Lineage()
        self.revision_assigner = RevisionAssigner(near, store, cache, lease, progress=progress, lineage=self.lineage)
        self._tasks = BackgroundTasks()
        self._wake = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._unless_reached: Mapping[str, int] | None = None
        self._polling = asyncio.Lock()
        self._streaming = asyncio.Event()
        self._opened = False
        self._announcement_at = NEVER
        self._polled_at = NEVER
        self._load_s = 0.0
        self._load_ended_at = NEVER
        self._loading, self._merging = asyncio.Lock(), asyncio.Lock()
        self._compiling: asyncio.Task[None] | None = None
        self.feed_kind = FeedKind.NONE if store.feed is None else FeedKind.STREAM
        self.loaded, self.tried = asyncio.Event(), asyncio.Event()
        self.store_up = True
        self.store_problem: Problem | None = None
        """Why the store could not be asked at the last poll."""
        self.feed_problem: Problem | None = None
        """Why there is no change stream although the store could have one."""
        self._logged_causes: set[str] = set()
        self.loads = 0
        self.announcements_received = 0

    @property
    def subscription_up(self) -> bool:
        """Whether announcements reach this replica now."""
        return time.monotonic() - self._announcement_at < SUBSCRIPTION_TIMEOUT_S

    @property
    def feed_up(self) -> bool:
        """Whether changes of other programs arrive now in the way that `feed_kind` says."""
        if self.feed_kind is FeedKind.STREAM:
            return time.monotonic() - self._progress.checkpoint < SUBSCRIPTION_TIMEOUT_S
        return self.store_up

    @property
    def is_compiled(self) -> bool:
        """Whether everything that was loaded is compiled."""
        return self._compiling is not None and self._compiling.done()

    def start(self) -> None:
        """Begin to follow; waits for nothing."""
        self._tasks.start(repeat(self._poll, self._until_next_poll, "poll_failed"), "follower")
        if self._store.feed is not None:
            self._tasks.start(self._consume_changes(self._store.feed), "change-stream")
        if self._cache is not None:
            self._tasks.start(self._consume_announcements(self._cache), "subscriber")

    def note_claim(self, entry: Entry) -> None:
        """Note an entry of the shared cache that is answered: a poll asks the store where it claims to be newer."""
        self.hints.note_read(entry, time.monotonic())

    async def resync(self) -> None:
        """Read everything again, now, because the store has a new identity. Raises StoreUnavailable."""
        self.lineage.must_resync = True
        async with self._polling:
            if self.lineage.must_resync:
                await self._resync()

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong between what is held and the store."""
        return (*self.lineage.problems(), *self.hints.problems())

    async def close(self) -> None:
        """Stop everything."""
        if self._waking is not None:
            self._waking.cancel()
        await asyncio.gather(self._tasks.close(), self.revision_assigner.close())

    async def load_all(self) -> StoreContents:
        """Read the whole store for a caller, and hold it where there is room. Raises StoreUnavailable.

        After a long load the next one waits, so that callers do not make the replica load all the time.
        """
        pause_s = self._load_ended_at + min(self._load_s, MAX_LOAD_PAUSE_S) - time.monotonic()
        await asyncio.sleep(max(0.0, pause_s))
        return await self._load_now()

    async def _load_now(self) -> StoreContents:
        async with self._loading:  # two loads would be merged into each other
            with collector.paused():
                return await self._load_and_merge()

    async def _load_and_merge(self) -> StoreContents:
        asked_at, held = time.monotonic(), self._held_revisions()
        fills = not self._near.complete or self._near.restored
        contents = await self._store.load()
        self.loads += 1
        if not self._is_continued(contents.revisions, held):
            self._wake.set()
        elif not self._near.partial.is_needed:
            contents = await self._with_missing(contents)
            unversioned: list[UnversionedChange] = []
            async with self._merging:
                await run_in_turns(self._near.merging(contents, asked_at, time.monotonic(), unversioned))
            for change in unversioned:
                if not self.hints.has(change.id):  # what a message claims is no reason to write to the store
                    self._assign_revision(change)
            self._polled_at = max(self._polled_at, asked_at)
            self.loaded.set()
            if fills:
                collector.freeze_load()
            self._compile_soon()
        self._load_ended_at = time.monotonic()
        self._load_s = self._load_ended_at - asked_at
        return contents

    async def restore(self, contents: StoreContents, age_s: float) -> None:
        """Hold a snapshot's contents until the store is read."""
        async with self._merging:
            await run_in_turns(self._near.restoring(contents, age_s, time.monotonic()))

    def _compile_soon(self) -> None:
        """Compile in the background what was loaded, so that evaluations find it compiled."""
        if self._compiling is None or self._compiling.done():
            self._compiling = self._tasks.start(self._compile_all(), "compile")

    async def _compile_all(self) -> None:
        compiled = 0
        async for held in in_turns(self._near.flags()):
            if held.compiled is None and self._near.peek(held.entry.id) is held:
                await held.compile()
                compiled += 1
                if compiled % collector.FREEZE_EVERY == 0:
                    collector.freeze()

    async def _poll(self) -> None:
        """Verify the view once, and record whether the store could be asked."""
        try:
            async with self._polling:
                await self._verify_view()
                if self.lineage.is_other(self._store.identity):
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

    async def _until_next_poll(self) -> None:
        """Wait until the next poll is due, or until there is a reason to poll earlier."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._pause_s())

    async def _verify_view(self) -> None:
        """Compare the store's revision counters with what is applied, or load everything where that is not enough."""
        if not self._opened:
            await self._open()
        asked_at, held = time.monotonic(), self._held_revisions()
        claims = self._due_claims(asked_at)
        if self._must_load(asked_at) and not claims:
            await self._load()
            return
        revisions = await self._store.revisions()
        if claims and not self.lineage.is_other(self._store.identity) and not await self._ask_about(claims):
            await self._load()
            return
        if not self._is_continued(revisions, held):
            return
        if self._must_load(asked_at):
            await self._load()
            return
        others_write = self._store.feed is not None or self._cache is not None
        if others_write and not self._near.changelogs.reach(revisions):
            await asyncio.sleep(self._timing.gap_wait_s)  # the change is probably in transit: then no load is needed
        if not self._near.changelogs.reach(revisions):
            await self._load()
            return
        self._polled_at = asked_at
        self._mark_verified()
        if self._lease.is_holder and self._store.feed is not None:
            await self._store.feed.save_resume_token()

    async def _open(self) -> None:
        await self._store.open()
        await self._belong_to(self._store.identity)
        self._opened = True
        if self._store.feed is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._streaming.wait(), STREAM_START_S)

    async def _belong_to(self, identity: StoreIdentity | None) -> None:
        """Use the shared cache, and what a snapshot restored, only as this store's."""
        is_same = self.lineage.begin(identity)
        if self._cache is not None and identity is not None:
            is_same = await self._cache.identify(identity) and is_same
        if not is_same:
            self._near.drop()
            self.hints.clear()
        if self._cache is not None:
            self._heartbeats.reply_soon()  # the first one that can be sent, or the first under a new identity

    async def _resync(self) -> None:
        """Read everything from the store, which is not the one that was read before, and hold nothing else."""
        self.lineage.must_resync = True
        await self._store.open()
        self._near.changelogs.forget()
        self.hints.clear()
        async with self._loading, self._merging:
            asked_at = time.monotonic()
            contents = await self._store.load()
            self.loads += 1
            self._near.resync(contents, asked_at, time.monotonic())
        self._compile_soon()
        self._polled_at = asked_at
        self.lineage.resynced()
        self.loaded.set()
        await self._belong_to(self._store.identity)  # last: heartbeats under the new identity say that it is done
        log.warning("resynced", store=str(self._store.identity), flags=len(contents.flags), detail=RESYNCED)

    def _held_revisions(self) -> Mapping[str, int]:
        """Return up to which revisions changes are applied now, as far as the store itself has reported them."""
        if not self.loaded.is_set() or self._near.restored:
            return {}
        marks = self._near.changelogs.watermarks()
        return {name: revision for name, revision in marks.items() if not self.hints.has_any(name)}

    def _is_continued(self, revisions: Mapping[str, int], held: Mapping[str, int]) -> bool:
        """Whether the store, whose counters were read later, still is the one that was held, and has not gone back."""
        return not self.lineage.is_other(self._store.identity) and self.lineage.continues(revisions, held)

    def _due_claims(self, asked_at: float) -> list[Hint]:
        """Return claims that the change stream should have confirmed by now."""
        is_streaming = self.feed_kind is FeedKind.STREAM and self.feed_up
        return self.hints.due(asked_at - 2 * self._timing.stream_wait_s if is_streaming else asked_at)

    async def _ask_about(self, claims: Sequence[Hint]) -> bool:
        """Read the claimed flags; return whether all claims are right.

        The counters were read before: that fails on a primary that was replaced, which would have older flags.
        """
        as_of, ids = time.monotonic(), list({claim.entry.id for claim in claims})
        stored = dict(zip(ids, await asyncio.gather(*map(self._store.get, ids)), strict=True))
        return self.hints.settle(claims, stored, as_of)

    def _must_load(self, now: float) -> bool:
        """Whether the counters alone cannot show that nothing was missed."""
        return (
            not (self._near.complete or self._near.partial.is_needed)
            or self._near.restored
            or not self.loaded.is_set()
            or (self._store.feed is not None and self._polled_at < self._progress.unbroken_since < math.inf)
            or now - self._near.changelogs.gap_since() >= self._timing.gap_wait_s
            or now - self._progress.checkpoint > self._timing.silent_stream_s
        )

    async def _load(self) -> None:
        """Read everything; where there is no room for it, only the counters."""
        if not self._near.partial.is_needed:
            contents = await self._load_now()
            if isinstance(contents.flags, list):
                free_in_turns(contents.flags)  # the store made the list for this load
            return
        asked_at, held = time.monotonic(), self._held_revisions()
        revisions = await self._store.revisions()
        if not self._is_continued(revisions, held):
            return
        self._near.mark_gap(revisions, asked_at)
        self._polled_at = asked_at
        self.loaded.set()

    async def _with_missing(self, contents: StoreContents) -> StoreContents:
        """Look up once more what was not found: deleted after the counters were read, it has a later revision."""
        found = {flag.id async for flag in in_turns(contents.flags)}
        held = (entry.entry.id async for entry in in_turns(self._near.flags()))
        missing = [i async for i in held if i not in found and self._near.has_flag(i)]
        await run_in_turns(emptied(found))
        if not missing:
            return contents
        entries = await asyncio.gather(*map(self._store.get, missing))
        absent = {entry.id: entry.revision for entry in entries if entry.flag is None}
        flags = [*contents.flags, *(entry.flag for entry in entries if entry.flag is not None)]
        return StoreContents(flags, contents.revisions, absent)

    def _mark_verified(self) -> None:
        """The view equals the store as of the last poll; of unversioned changes, as far as the stream has delivered."""
        if (
            not self.revision_assigner
            and self.lineage.is_sound
            and (self._store.feed is None or self._polled_at >= self._progress.unbroken_since)
        ):
            self._near.mark_verified(min(self._polled_at, self._progress.checkpoint))

    def _pause_s(self) -> float:
        """Return the seconds until the next poll."""
        if not self.store_up:
            return self._timing.poll_retry_s
        least_s = min(self._store.poll_interval_s, self._timing.poll_every_s)
        if self.feed_kind is FeedKind.POLLING or (self.feed_kind is FeedKind.STREAM and not self.feed_up):
            return max(least_s, LOAD_SHARE * self._load_s)
        return self._timing.poll_every_s if self.subscription_up or self.feed_kind is FeedKind.STREAM else least_s

    async def _consume_announcements(self, cache: FlagCache) -> None:
        async for event in cache.events():
            self._announcement_at = time.monotonic()
            self._handle_cache_event(event)

    def _handle_cache_event(self, event: CacheEvent) -> None:
        if self.lineage.must_resync:
            return  # it belongs to the identity before; the next poll finds what is missed now
        match event:
            case Subscribed():
                self._wake.set()
            case Announced(reply=reply):
                self.announcements_received += 1
                if not self.hints.accept(event, self._announcement_at):
                    self._poll_soon()
                    return
                self._apply_change(event)
                if reply:
                    self._heartbeats.reply_soon()
            case Heartbeat(revisions=revisions):
                proven_as_of = self._heartbeats.receive(event, self._announcement_at)
                if self.lineage.is_sound:
                    self._near.mark_verified(proven_as_of)
                if not self._near.changelogs.reach(revisions):
                    self._poll_soon(unless_reached=revisions)
            case IdentityChanged():
                self._poll_soon()

    def _poll_soon(self, unless_reached: Mapping[str, int] | None = None) -> None:
        """Poll in a moment, unless these revisions are applied by then. Many claims cost one poll."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(self._timing.gap_wait_s, self._wake_up)
            self._unless_reached = unless_reached
        elif unless_reached is None:
            self._unless_reached = None

    def _wake_up(self) -> None:
        self._waking = None
        if self._unless_reached is None or not self._near.changelogs.reach(self._unless_reached):
            self._wake.set()

    async def _consume_changes(self, feed: ChangeFeed) -> None:
        try:
            async for event in feed.changes():
                self._handle_store_event(event)
        except ChangesUnsupported as error:
            self.feed_kind, self.feed_problem = FeedKind.POLLING, error.problem
            self._streaming.set()
            log.warning(
                "change_stream_unsupported",
                load_every_s=min(self._store.poll_interval_s, self._timing.poll_every_s),
                detail="The whole store is read again and again instead.",
            )

    def _handle_store_event(self, event: StoreEvent) -> None:
        match event:
            case Subscribed():
                self._streaming.set()
                self._progress.restart(time.monotonic())
                if self.loaded.is_set():
                    self._wake.set()
            case Announced():
                self._apply_change(event)
                self.hints.confirm(event, time.monotonic())
            case UnversionedChange():
                self._assign_revision(event)
            case Checkpoint(as_of):
                if not self.revision_assigner:  # a change without a revision is not applied yet
                    self._progress.checkpoint = as_of
                    self._mark_verified()

    def _apply_change(self, event: Announced) -> None:
        self.revision_assigner.note_deletion(event.entry)
        self._near.apply_change(event.entry, time.monotonic(), event_revision=event.event_revision)
        if self._near.changelogs.gap_since() != math.inf:
            revision = event.event_revision or event.entry.revision
            self._poll_soon(unless_reached={event.entry.id.flag_set: revision})

    def _assign_revision(self, change: UnversionedChange) -> None:
        if self.feed_kind is FeedKind.STREAM and self._store.feed is not None and self.lineage.is_sound:
            self.revision_assigner.add(change, self._store.feed)  # without a stream there are no transactions either
