"""The near cache: every flag of the store in memory, as full loads and single changes bring it up to date."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from flagsvc.core.model import Flag, FlagId
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports import NEVER, Entry, StoreContents, UnversionedChange
from flagsvc.turns import emptied
from flagsvc.view.changelog import RECENT_S, ChangeKind
from flagsvc.view.entries import CacheEntry, Source, same_entry
from flagsvc.view.held_entries import HeldEntries
from flagsvc.view.held_view import HeldView
from flagsvc.view.reconcile import Diff, View, reconcile

TOMBSTONE_S = 60.0
"""How long a deletion is remembered: longer than any read of a store can take (`replication.timing` checks it)."""


class NearCache(HeldView):
    """A view that is filled by full loads, between which single changes and reads are applied."""

    def merging(
        self, contents: StoreContents, asked_at: float, now: float, unversioned: list[UnversionedChange]
    ) -> Iterator[None]:
        """Merge in steps, between which changes may be applied and flags answered, but no other merge begun.

        The view counts as complete, and as verified, from the last step on.
        """
        if not (yield from self._fits(contents.flags)):
            self.complete, self.partial.is_needed = False, True
            self.mark_gap(contents.revisions, asked_at)
            return
        watermarks = self.changelogs.watermarks() if self.complete else None
        becomes_complete = not self.complete or self.restored
        if becomes_complete:
            yield from self._prepare_full_load(contents, asked_at)
        view = View(self._held, self._held.order.all, watermarks, self.verified_at, self.restored, self.high_water_mark)
        found: set[FlagId] = set()
        is_whole = True
        evicted: dict[FlagId, int] = {}
        self._evicted = evicted
        try:
            for diff in reconcile(view, contents, asked_at, found):
                self._apply(diff, asked_at, now)
                unversioned += diff.unversioned
                is_whole = is_whole and diff.is_whole
                yield
        finally:
            self._evicted = None
        self.partial.is_needed, self.restored = False, False
        counters = contents.revisions
        self.complete = not any(i in found or revision > counters.get(i.flag_set, 0) for i, revision in evicted.items())
        self.partial.gap_free_since = NEVER
        if is_whole:
            self.mark_verified(asked_at)
        self.changelogs.jump(contents.revisions, asked_at)
        if becomes_complete:
            for notify in self._when_complete:
                notify()
        yield from self._forget_tombstones(found)
        for _ in emptied(found):
            yield

    def restoring(self, contents: StoreContents, age_s: float, now: float) -> Iterator[None]:
        """Restore in steps, between which no merge is begun."""
        if self.complete or not (yield from self._fits(contents.flags)):
            return
        as_of = now - max(age_s, self.staleness_bound_s + 1.0)
        for flag in contents.flags:
            if flag.id not in self._held:
                self._held[flag.id] = CacheEntry(Entry.of(flag), as_of, as_of, self._prepare, Source.SNAPSHOT)
            yield
        self.changelogs.jump(contents.revisions, as_of)
        self.complete = self.restored = True
        self.mark_verified(as_of)

    def resync(self, contents: StoreContents, asked_at: float, now: float) -> None:
        """Hold what the store has and nothing else, also where that is older: revisions may have started over.

        What was applied since the load was asked for, and is newer than the load, stays.
        """
        self.partial.high_water_marks.clear()
        self.partial.gaps += 1  # the cache lease has to be acquired again
        flags = contents.flags
        if len(flags) > self.limit or sum(map(estimated_memory, flags)) > self.max_bytes:
            self._held = HeldEntries()
            self.complete, self.partial.is_needed = False, True
            self.mark_gap(contents.revisions, asked_at)
            return
        found = {flag.id: Entry.of(flag) for flag in flags}
        absent = [i for i, held in self._held.items() if i not in found and held.entry.flag is not None]
        entries = [*found.values(), *(Entry.absent(i, contents.revisions.get(i.flag_set, 0)) for i in absent)]
        for flag_id in [i for i, h in self._held.items() if h.entry.flag is None and h.received_at < asked_at]:
            del self._held[flag_id]
        self.complete, self.restored, self.partial.is_needed = True, False, False
        for entry in entries:
            held = self._held.get(entry.id)
            if held is None or held.received_at < asked_at or held.entry.revision <= entry.revision:
                if held is None or not same_entry(held.entry, entry):
                    self._replace(held, entry, asked_at, now, announced=False)
                else:
                    held.verified_at = asked_at
        self.partial.gap_free_since = NEVER
        self.verified_at = asked_at
        self.changelogs.jump(contents.revisions, asked_at)
        for notify in self._when_complete:
            notify()

    def when_complete(self, notify: Callable[[], None]) -> None:
        """Call this whenever the cache has become complete: `recent_changes` then knows what changed before."""
        self._when_complete.append(notify)

    def _fits(self, flags: Sequence[Flag]) -> Generator[None, None, bool]:
        """Whether all flags of a load can be held, found in steps."""
        if len(flags) > self.limit:
            return False
        size = 0
        for flag in flags:
            held = self._held.get(flag.id)
            is_held = held is not None and held.entry.revision == flag.revision
            size += held.size if held is not None and is_held else estimated_memory(flag)
            yield
        return size <= self.max_bytes

    def _apply(self, diff: Diff, asked_at: float, now: float) -> None:
        for entry in diff.changed:
            self._replace(self._held.get(entry.id), entry, asked_at, now, announced=False)
        for entry in diff.confirmed:
            if (held := self._held.get(entry.id)) is not None:
                held.verify(entry, asked_at)

    def _prepare_full_load(self, contents: StoreContents, asked_at: float) -> Iterator[None]:
        """Make room for a load that completes the view: what was known before may be of another time, or partial."""
        yield from self._remember_recent(contents.flags, asked_at)
        if self.restored:
            yield from self._drop_newer_than_store(contents)
        self.partial.gaps += self.full_loads > 0  # nobody was notified of what changed while a flag was not held
        self.full_loads += 1

    def _remember_recent(self, flags: Iterable[Flag], now: float) -> Iterator[None]:
        """Remember what changed shortly before the load: clients may have missed it. So may flags without a time."""
        horizon = self._wall_clock() - RECENT_S
        for flag in flags:
            if flag.updated_at is None or flag.updated_at.timestamp() >= horizon:
                self.changelogs.of(flag.flag_set).remember(flag.key, ChangeKind.UPDATE, now)
            yield

    def _drop_newer_than_store(self, contents: StoreContents) -> Iterator[None]:
        """Let the store win over a snapshot that is newer: the store was restored from a backup since."""
        for flag in contents.flags:
            held, counter = self._held.get(flag.id), contents.revisions.get(flag.flag_set, 0)
            snapshot_revision = held.entry.revision if held is not None and held.origin is Source.SNAPSHOT else 0
            if snapshot_revision > max(flag.revision, counter):
                del self._held[flag.id]
            yield
        self.changelogs.forget()

    def _forget_tombstones(self, found: set[FlagId]) -> Iterator[None]:
        """Forget deletions that no late reader can undo any more: a complete cache answers unknown keys by itself."""
        for flag_id in tuple(self._held.deleted):
            held = self._held.get(flag_id)
            if (
                held is not None
                and held.entry.flag is None
                and flag_id not in found
                and (held.entry.revision == 0 or held.received_at < self.verified_at - TOMBSTONE_S)
            ):
                del self._held[flag_id]
            yield
