"""The near cache: every flag that this replica holds in memory. It never returns to an older revision.

`verified_at` is the moment as of which the whole view was known to equal the store's. An entry is answered without
asking anybody only while that moment, or the entry's own, lies within the staleness bound; that a channel seems alive
is never enough. Moments are `time.monotonic()` seconds of the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports import NEVER, Entry, StoreContents, UnversionedChange
from flagsvc.turns import emptied
from flagsvc.view.changelog import RECENT_S, ChangeKind, Changelogs
from flagsvc.view.entries import CacheEntry, Prepare, Source, same_entry
from flagsvc.view.held_entries import HeldEntries
from flagsvc.view.held_memory import SetTotals
from flagsvc.view.partial_view import PartialView
from flagsvc.view.reconcile import Diff, View, reconcile
from flagsvc.view.set_order import Listing, Position

T = TypeVar("T")
TOMBSTONE_S = 60.0
"""How long a deletion is remembered: longer than any read of a store can take (`replication.timing` checks it)."""
LARGE_BYTES = 65_536
"""Memory of a flag, as estimated, that is rendered outside the event loop: it takes more than about 1 ms."""


class NearCache:
    """Held entries of all flag sets, at most `limit` and about `max_bytes`.

    `complete`: it holds every flag of the store.
    """

    def __init__(
        self,
        limit: int,
        staleness_bound_s: float,
        prepare: Prepare = prepare,
        wall_clock: Callable[[], float] = time.time,
        max_bytes: int = 2**62,
    ) -> None:
        self.limit, self.max_bytes = limit, max_bytes
        self._prepare, self._wall_clock = prepare, wall_clock
        self.staleness_bound_s = staleness_bound_s
        self.complete = False
        self.full_loads = 0
        """How often it became complete: more than once when flags had to be evicted in between."""
        self.restored = False
        """What is held comes from a snapshot; the store was not read yet."""
        self.verified_at = NEVER
        self.replacements = 0
        """How often a held entry was replaced."""
        self.changelogs = Changelogs()
        self.partial = PartialView(is_needed=limit == 0)
        self._held = HeldEntries()
        self._evicted: dict[FlagId, int] | None = None
        self._when_complete: list[Callable[[], None]] = []
        self._when_changed: list[Callable[[Entry], None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def get(self, flag_id: FlagId) -> CacheEntry | None:
        """Return what is held of a flag, fresh or not."""
        held = self._held.get(flag_id)
        if held is not None and not self.complete:
            self._held.move_to_end(flag_id)  # the least recently used entry is evicted first
        return held

    def peek(self, flag_id: FlagId) -> CacheEntry | None:
        """Return what is held of a flag, without counting that as a use."""
        return self._held.get(flag_id)

    def high_water_mark(self, flag_id: FlagId) -> int:
        """Return the newest revision that was ever answered of a flag: no later answer may be older."""
        held = self._held.get(flag_id)
        return held.entry.revision if held is not None else self.partial.high_water_marks.of(flag_id)

    def verified_at_of(self, held: CacheEntry | None) -> float:
        """Return when an entry was last known to be the store's; for None, when the flag was known not to exist."""
        if held is None:
            return self.verified_at
        if not self.complete and held.verified_at < self.partial.gap_free_since:
            return held.verified_at
        return max(held.verified_at, self.verified_at)

    def is_fresh(self, verified_at: float, now: float) -> bool:
        """Whether something verified at this moment may be answered without asking."""
        return now - verified_at <= self.staleness_bound_s

    def mark_verified(self, as_of: float) -> None:
        """Record that the whole view equals what the store was at that moment, or is newer."""
        self.verified_at = max(self.verified_at, as_of)

    def contains(self, flag_set: str, revision: int) -> bool:
        """Whether every change of the set up to this revision is held."""
        return self.complete and self.changelogs.watermark(flag_set) >= revision

    def apply_read(self, entry: Entry, as_of: float, now: float) -> CacheEntry:
        """Hold what was read unless a newer entry is held. Return what is held then.

        `as_of`: the entry is not older than the store was at this moment.
        """
        held = self._held.get(entry.id)
        if held is None:
            if self.complete and as_of <= self.verified_at and self._is_past(entry):
                return CacheEntry(Entry.absent(entry.id), self.verified_at, now)  # deleted as of the view
            if entry.revision < self.high_water_mark(entry.id):
                return CacheEntry(entry, NEVER, now, self._prepare)  # not held; the caller compares the mark
        if held is None or held.is_replaced_by(entry, as_of):
            return self._replace(held, entry, as_of, now, announced=False)
        held.verify(entry, as_of)
        return held

    def note_served(self, flag: Flag, as_of: float, now: float) -> None:
        """Record that a flag is answered although there may be no room to hold it."""
        if flag.id in self._held:
            self.apply_read(Entry.of(flag), as_of, now)
        else:
            self.partial.high_water_marks.raise_to(flag.id, flag.revision)

    def apply_change(self, entry: Entry, now: float, *, as_of: float = NEVER, event_revision: int = 0) -> None:
        """Apply an announced change, which moves the set's watermark.

        An announcement does not verify freshness: it may have been delayed in transit. `event_revision`: the revision
        of the announced change where the entry is already newer; 0: the entry's own.
        """
        changelog, held = self.changelogs.of(entry.id.flag_set), self._held.get(entry.id)
        deleted_since = held is None and self._is_past(entry)
        if entry.revision > changelog.watermark:
            as_of = max(as_of, self.partial.gap_free_since)  # newer than everything from before the gap
        if event_revision or entry.revision:
            changelog.advance(event_revision or entry.revision, now)
        if deleted_since:
            return
        if held.is_replaced_by(entry, as_of) if held is not None else entry.revision >= self.high_water_mark(entry.id):
            self._replace(held, entry, as_of, now, announced=True)

    def force_replace(self, revision: int, entry: Entry, as_of: float, now: float) -> None:
        """Hold what was read from the store although its revision is not larger, if `revision` is still held."""
        if self.partial.high_water_marks.of(entry.id) == revision:
            self.partial.high_water_marks.drop(entry.id)
        held = self._held.get(entry.id)
        if held is not None and held.entry.revision == revision >= entry.revision and not same_entry(held.entry, entry):
            self._replace(held, entry, as_of, now, announced=True)

    def resync(self, contents: StoreContents, asked_at: float, now: float) -> None:
        """Hold what the store has and nothing else, also where that is older: revisions may have started over.

        What was applied since the load was asked for, and is newer than the load, stays.
        """
        self.partial.high_water_marks.clear()
        self.partial.gaps += 1  # the cache lease has to be acquired again
        if not _result_of(self._fits(contents.flags)):
            self._held = HeldEntries()
            self.complete, self.partial.is_needed = False, True
            self.mark_gap(contents.revisions, asked_at)
            return
        found = {flag.id: Entry.of(flag) for flag in contents.flags}
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

    def has_flag(self, flag_id: FlagId) -> bool:
        """Whether this flag exists, as far as it is held."""
        held = self._held.get(flag_id)
        return held is not None and held.entry.flag is not None

    def merge(self, contents: StoreContents, asked_at: float, now: float) -> list[UnversionedChange]:
        """Hold everything that the store has, and drop what it no longer has.

        `asked_at`, `now`: when the load began and ended. Return what changed without a new revision, as far as that
        can be seen from what was held before.
        """
        unversioned: list[UnversionedChange] = []
        for _ in self.merging(contents, asked_at, now, unversioned):
            pass
        return unversioned

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

    def restore(self, contents: StoreContents, age_s: float, now: float) -> None:
        """Hold a snapshot's contents until a store can be read. They are never fresh, whatever their age."""
        for _ in self.restoring(contents, age_s, now):
            pass

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

    def drop(self) -> None:
        """Forget everything: it came from another store's snapshot or cache."""
        self._held = HeldEntries()
        self.partial.high_water_marks.clear()
        self.changelogs.forget()
        self.complete = self.restored = False
        self.verified_at = NEVER

    def mark_gap(self, revisions: Mapping[str, int], asked_at: float) -> None:
        """Record that changes up to these revisions may have been missed: older entries count by their own age."""
        self.partial.mark_gap(asked_at)
        self.mark_verified(asked_at)
        self.changelogs.jump(revisions, asked_at)

    def contents(self) -> StoreContents:
        """Return everything that is held, as one moment's state."""
        flags = [held.entry.flag for held in self._held.values() if held.entry.flag is not None]
        return StoreContents(flags, self.changelogs.watermarks())

    @property
    def bytes(self) -> int:
        """About how much memory the held entries take."""
        return self._held.memory.bytes

    @property
    def too_large(self) -> Collection[FlagId]:
        """The held flags that are not evaluated because of their size."""
        return self._held.memory.too_large

    def is_large(self, flag: Flag) -> bool:
        """Whether to render the flag's definition takes longer than a turn of the event loop."""
        held = self._held.get(flag.id)
        size = held.size if held is not None and held.entry.flag is flag else estimated_memory(flag)
        return size > LARGE_BYTES

    def totals_of(self, flag_set: str) -> SetTotals:
        """Return how many flags of a set are held, and the memory they take."""
        return self._held.memory.of_set(flag_set)

    def ids(self) -> Iterator[FlagId]:
        """Yield the ids of everything that is held at this moment, deleted flags too."""
        return chain((held.entry.id for held in self._held.order.all()), tuple(self._held.deleted))

    def flags(self) -> Listing:
        """Return what is held of all flags at this moment."""
        return self._held.order.all()

    def of_set(self, flag_set: str) -> Listing:
        """Return what is held of the flags of a set at this moment, in list order."""
        return self._held.order.of(flag_set)

    def page_of_set(self, flag_set: str, after: Position | None, size: int) -> list[CacheEntry]:
        """Return at most so many of them, those after a position (None: from the first)."""
        return self._held.order.page(flag_set, after, size)

    def when_complete(self, notify: Callable[[], None]) -> None:
        """Call this whenever the cache has become complete: `recent_changes` then knows what changed before."""
        self._when_complete.append(notify)

    def when_changed(self, notify: Callable[[Entry], None]) -> None:
        """Call this with every change of every set that is applied. It must not block or raise."""
        self._when_changed.append(notify)

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

    def _is_past(self, entry: Entry) -> bool:
        return entry.revision <= self.changelogs.watermark(entry.id.flag_set)

    def _apply(self, diff: Diff, asked_at: float, now: float) -> None:
        for entry in diff.changed:
            self._replace(self._held.get(entry.id), entry, asked_at, now, announced=False)
        for entry in diff.confirmed:
            if (held := self._held.get(entry.id)) is not None:
                held.verify(entry, asked_at)

    def _replace(
        self, old: CacheEntry | None, entry: Entry, as_of: float, now: float, *, announced: bool
    ) -> CacheEntry:
        kind = self._kind(old, entry, announced=announced)
        held = CacheEntry(entry, as_of, now, self._prepare)
        if entry.flag is not None or entry.revision or not self.complete:
            self._hold(held)
        elif entry.id in self._held:
            del self._held[entry.id]  # a complete cache knows that what it does not hold does not exist
        if announced or self.complete:
            for notify in self._when_changed:
                notify(entry)
        if kind is not None:
            self.replacements += 1
            self.changelogs.of(entry.id.flag_set).append(entry, kind, now)
        return held

    def _hold(self, held: CacheEntry) -> None:
        self._held[held.entry.id] = held
        self._held.move_to_end(held.entry.id)
        self.partial.high_water_marks.drop(held.entry.id)
        while len(self._held) > self.limit or (self._held.memory.bytes > self.max_bytes and self._held):
            flag_id, evicted = next(iter(self._held.items()))
            del self._held[flag_id]
            if self._evicted is not None and evicted.entry.flag is not None:
                self._evicted[flag_id] = evicted.entry.revision
            self.complete = self.complete and evicted.entry.flag is None
            self.partial.high_water_marks.raise_to(flag_id, evicted.entry.revision)

    def _kind(self, old: CacheEntry | None, entry: Entry, *, announced: bool) -> ChangeKind | None:
        """Return what an entry changes; None for news to this cache alone, such as its first load or a miss."""
        if old is None and not self.complete:
            return (ChangeKind.UPDATE if entry.flag else ChangeKind.DELETE) if announced else None
        existed = old is not None and old.entry.flag is not None
        if entry.flag is None:
            return ChangeKind.DELETE if existed else None
        return ChangeKind.UPDATE if existed else ChangeKind.WRITE

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


def _result_of(steps: Generator[None, None, T]) -> T:
    """Run all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
