"""What shows that the view equals the store's: its identity, its counters, claims that are confirmed, and the stream.

Neither a poll nor the stream is enough alone. A poll shows that no counted change is missing; the stream, up to its
last checkpoint, that no uncounted one is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence

from flagsvc.ports import NEVER, FlagStore, Problem, UnversionedChange
from flagsvc.replication.hints import Hint, Hints
from flagsvc.replication.lineage import Lineage
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.replication.stream_progress import FeedKind, StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache


class ViewProof:
    """`loaded` is set once the store was read. `polled_at`: as of when the last poll or load found all applied."""

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        assigner: RevisionAssigner,
        *,
        lineage: Lineage,
        progress: StreamProgress,
        timing: Timing,
    ) -> None:
        self._near, self._store, self._timing = near, store, timing
        self.revision_assigner, self.lineage, self.progress = assigner, lineage, progress
        self.hints = Hints(near)
        self.loaded = asyncio.Event()
        self.polled_at = NEVER

    def held_revisions(self) -> Mapping[str, int]:
        """Return up to which revisions changes are applied now, as far as the store itself has reported them."""
        if not self.loaded.is_set() or self._near.restored:
            return {}
        marks = self._near.changelogs.watermarks()
        return {name: revision for name, revision in marks.items() if not self.hints.has_any(name)}

    def is_continued(self, revisions: Mapping[str, int], held: Mapping[str, int]) -> bool:
        """Whether the store, whose counters were read later, still is the one that was held, and has not gone back."""
        return not self.lineage.is_other(self._store.identity) and self.lineage.continues(revisions, held)

    def due_claims(self, asked_at: float) -> list[Hint]:
        """Return claims that the change stream should have confirmed by now."""
        return self.hints.due(asked_at - 2 * self._timing.stream_wait_s if self.progress.delivers else asked_at)

    async def ask_about(self, claims: Sequence[Hint], counters: Mapping[str, int]) -> bool:
        """Read the claimed flags; return whether all claims are right.

        The counters were read before: that fails on a primary that was replaced, which would have older flags.
        """
        as_of, ids = time.monotonic(), list({claim.entry.id for claim in claims})
        stored = dict(zip(ids, await asyncio.gather(*map(self._store.get, ids)), strict=True))
        assigns = self.progress.kind is FeedKind.STREAM
        return self.hints.settle(claims, stored, as_of, counters if assigns else {})

    def must_load(self, now: float) -> bool:
        """Whether the counters alone cannot show that nothing was missed."""
        return (
            not (self._near.complete or self._near.partial.is_needed)
            or self._near.restored
            or not self.loaded.is_set()
            or (self._store.feed is not None and self.polled_at < self.progress.unbroken_since < math.inf)
            or now - self._near.changelogs.gap_since() >= self._timing.gap_wait_s
            or now - self.progress.checkpoint > self._timing.silent_stream_s
        )

    def mark_loaded(self, as_of: float) -> None:
        """Record that what the store had at this moment is applied."""
        self.polled_at = max(self.polled_at, as_of)
        self.loaded.set()

    def mark_verified(self) -> None:
        """The view equals the store as of the last poll; of unversioned changes, as far as the stream has delivered."""
        if (
            not self.revision_assigner
            and self.lineage.is_sound
            and (self._store.feed is None or self.polled_at >= self.progress.unbroken_since)
        ):
            self._near.mark_verified(min(self.polled_at, self.progress.checkpoint))

    def assign_revision(self, change: UnversionedChange) -> None:
        """Take care that a change of another program gets a revision, after which it is proven too."""
        if self.progress.kind is FeedKind.STREAM and self._store.feed is not None and self.lineage.is_sound:
            self.revision_assigner.add(change, self._store.feed)  # without a stream there are no transactions either

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong between what is held and the store."""
        return (*self.lineage.problems(), *self.hints.problems())
