"""The near cache: every flag of the store in memory, as full loads and single changes bring it up to date."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

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
        return self.steps.each_of(self._merging(contents, asked_at, now, unversioned))

    def _merging(
        self, contents: StoreContents, asked_at: float, now: float, unversioned: list[UnversionedChange]
    ) -> Iterator[None]:
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
        is_whole, lacks_one = True, False
        with self._noting_evictions() as evicted:
            for diff in reconcile(view, contents, asked_at, found):
                self._apply(diff, asked_at, now)
                unversioned += diff.unversioned
                is_whole, lacks_one = is_whole and diff.is_whole, lacks_one or diff.is_left_out
                yield
        self.partial.is_needed, self.restored = False, False
        self.complete = not lacks_one and self._is_complete_without(evicted, found, contents)
        if self.complete:
            self.rollouts_not_held.clear()
        self.partial.gap_free_since = NEVER
        if is_whole:
            self.mark_verified(asked_at)
        self.changelogs.jump(contents.revisions, asked_at)
        self.is_settled = True
        if becomes_complete:
            for notify in self._when_complete:
                notify()
        yield from self._forget_tombstones(found)
        yield from emptied(found)

    def restoring(self, contents: StoreContents, age_s: float, now: float) -> Iterator[None]:
        """Restore in steps, between which no merge is begun."""
        return self.steps.each_of(self._restoring(contents, age_s, now))

    def _restoring(self, contents: StoreContents, age_s: float, now: float) -> Iterator[None]:
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

    def noting_rollouts(self, flags: Iterable[Flag]) -> Iterator[None]:
        """Remember in steps the rollouts of a load that is not held, or only in part."""
        for flag in flags:
            is_held = flag.id in self._held
            if flag.rollout is not None and not is_held and flag.revision >= self.high_water_mark(flag.id):
                self.rollouts_not_held.note(Entry.of(flag))
            yield

    @contextlib.contextmanager
    def starting_over(self, asked_at: float) -> Iterator[None]:
        """Until the end of this block a change replaces what was held before this moment, whatever its revision."""
        self._starts_over_at = asked_at
        self.is_settled = False  # revisions may go back
        try:
            yield
        finally:
            self._starts_over_at = NEVER

    def resyncing(self, contents: StoreContents, asked_at: float, now: float) -> Iterator[None]:
        """Hold in steps what the store has and nothing else, also where that is older: revisions may start over.

        What was applied since the load was asked for, and is newer than the load, stays. Between steps changes may be
        applied and flags answered, within `starting_over`, but no merge begun.
        """
        return self.steps.each_of(self._resyncing(contents, asked_at, now))

    def _resyncing(self, contents: StoreContents, asked_at: float, now: float) -> Iterator[None]:
        self.partial.high_water_marks.clear()
        self.rollouts_not_held.clear()
        self.partial.gaps += 1  # the cache lease has to be acquired again
        if not (yield from self._fits(contents.flags)):
            dropped, self._held = self._held, HeldEntries()
            self.complete, self.partial.is_needed = False, True
            self.mark_gap(contents.revisions, asked_at)
            yield from emptied(dropped)
            return
        for flag_id in tuple(self._held.deleted):
            if (deleted := self._held.get(flag_id)) is not None and deleted.received_at < asked_at:
                del self._held[flag_id]
            yield
        was_complete, listed, found = self.complete, self._held.order.all(), set[FlagId]()
        if not was_complete:
            yield from self._remember_recent(contents.flags, asked_at)
        with self._noting_evictions() as evicted:
            for flag in contents.flags:
                found.add(flag.id)
                self._start_over_with(Entry.of(flag), asked_at, now)
                yield
            for held in listed:
                flag_id = held.entry.id
                if flag_id not in found and self.has_flag(flag_id):
                    absent_at = contents.revisions.get(flag_id.flag_set, 0)
                    self._start_over_with(Entry.absent(flag_id, absent_at), asked_at, now)
                yield
        self.restored, self.partial.is_needed = False, False
        self.full_loads += not was_complete
        self.complete = self._is_complete_without(evicted, found, contents)
        self.partial.gap_free_since = NEVER
        self.verified_at = asked_at
        self.changelogs.jump(contents.revisions, asked_at)
        self.is_settled = True
        for notify in self._when_complete:
            notify()
        yield from emptied(found)

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

    @contextlib.contextmanager
    def _noting_evictions(self) -> Iterator[dict[FlagId, int]]:
        """Note the flags that are evicted within this block, with their revisions."""
        evicted = self._evicted = {}
        try:
            yield evicted
        finally:
            self._evicted = None

    @staticmethod
    def _is_complete_without(evicted: Mapping[FlagId, int], found: set[FlagId], contents: StoreContents) -> bool:
        """Whether the store has none of the evicted flags, as far as the load, or a later change, says."""
        counters = contents.revisions
        return not any(i in found or revision > counters.get(i.flag_set, 0) for i, revision in evicted.items())

    def _start_over_with(self, entry: Entry, asked_at: float, now: float) -> None:
        """Hold what the store has, unless what is held came later and is newer."""
        held = self._held.get(entry.id)
        if held is None or held.received_at < asked_at or held.entry.revision <= entry.revision:
            if held is None or not same_entry(held.entry, entry):
                self._replace(held, entry, asked_at, now, announced=False)
            else:
                held.verified_at = asked_at

    def _apply(self, diff: Diff, asked_at: float, now: float) -> None:
        for entry in diff.changed:
            self.is_settled = False  # until the load is applied
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
                self.changelogs.of(flag.flag_set).remember(flag.key, ChangeKind.UPDATE, now, is_public=flag.is_public)
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
