"""Applies the changes that arrive over two channels: announcements through the shared cache, and the change stream.

Each delivers within milliseconds, and each is sufficient alone. Either may drop messages.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import structlog

from flagsvc.background import BackgroundTasks
from flagsvc.ports import (
    NEVER,
    Announced,
    CacheEvent,
    ChangeFeed,
    ChangesUnsupported,
    Checkpoint,
    FlagCache,
    FlagStore,
    Heartbeat,
    IdentityChanged,
    Problem,
    StoreEvent,
    Subscribed,
    TokensChanged,
    UnversionedChange,
)
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.poll_timer import PollTimer
from flagsvc.replication.stream_progress import FeedKind
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S
from flagsvc.replication.view_proof import ViewProof
from flagsvc.view.near_cache import NearCache

log = structlog.get_logger(__name__)


class ChangeChannels:
    """`received` counts announcements. `streaming` is set once the change stream delivers, or it is known not to."""

    def __init__(self, near: NearCache, heartbeats: Heartbeats, proof: ViewProof, timer: PollTimer) -> None:
        self._near, self._heartbeats, self._proof, self._timer = near, heartbeats, proof, timer
        self._tasks = BackgroundTasks()
        self._event_at = NEVER
        self.streaming = asyncio.Event()
        self.received = 0
        self.tokens_changed: Callable[[], None] = _ignore
        """Called with each announcement that tokens have changed."""
        self.feed_problem: Problem | None = None
        """Why there is no change stream although the store could have one."""

    @property
    def subscription_up(self) -> bool:
        """Whether announcements reach this replica now."""
        return time.monotonic() - self._event_at < SUBSCRIPTION_TIMEOUT_S

    def start(self, store: FlagStore, cache: FlagCache | None) -> None:
        """Begin to receive; waits for nothing."""
        if store.feed is not None:
            self._tasks.start(self._consume_changes(store.feed), "change-stream")
        if cache is not None:
            self._tasks.start(self._consume_announcements(cache), "subscriber")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    async def _consume_announcements(self, cache: FlagCache) -> None:
        async for event in cache.events():
            self._event_at = time.monotonic()
            if event.__class__ is TokensChanged:
                self.tokens_changed()
            else:
                self._handle_cache_event(event)

    def _handle_cache_event(self, event: CacheEvent) -> None:
        if self._proof.lineage.must_resync:
            return  # it belongs to the identity before; the next poll finds what is missed now
        match event:
            case Subscribed():
                self._timer.poll_now()
            case Announced(reply=reply):
                self.received += 1
                if not self._proof.hints.accept(event, self._event_at):
                    self._timer.poll_soon()
                    return
                self._apply_change(event)
                if reply:
                    self._heartbeats.reply_soon()
            case Heartbeat(revisions=revisions):
                proven_as_of = self._heartbeats.receive(event, self._event_at)
                if self._proof.lineage.is_sound:
                    self._near.mark_verified(proven_as_of)
                if not self._near.changelogs.reach(revisions):
                    self._timer.poll_soon(unless_reached=revisions)
            case IdentityChanged():
                self._timer.poll_soon()

    async def _consume_changes(self, feed: ChangeFeed) -> None:
        try:
            async for event in feed.changes():
                self._handle_store_event(event)
        except ChangesUnsupported as error:
            self._proof.progress.kind, self.feed_problem = FeedKind.POLLING, error.problem
            self.streaming.set()
            log.warning(
                "change_stream_unsupported",
                load_every_s=self._timer.least_s,
                detail="The whole store is read again and again instead.",
            )

    def _handle_store_event(self, event: StoreEvent) -> None:
        match event:
            case Subscribed():
                self.streaming.set()
                self._proof.progress.restart(time.monotonic())
                if self._proof.loaded.is_set():
                    self._timer.poll_now()
            case Announced():
                self._apply_change(event)
                self._proof.hints.confirm(event, time.monotonic())
            case UnversionedChange():
                self._proof.assign_revision(event)
            case Checkpoint(as_of):
                if not self._proof.revision_assigner:  # a change without a revision is not applied yet
                    self._proof.progress.checkpoint = as_of
                    self._proof.mark_verified()

    def _apply_change(self, event: Announced) -> None:
        self._proof.revision_assigner.note_deletion(event.entry)
        self._near.apply_change(event.entry, time.monotonic(), event_revision=event.event_revision)
        if self._near.changelogs.gap_since() != math.inf:
            revision = event.event_revision or event.entry.revision
            self._timer.poll_soon(unless_reached={event.entry.id.flag_set: revision})


def _ignore() -> None:
    """Callers are not authenticated here."""
