"""The flags that this replica holds in memory, and how fresh they are. No entry returns to an older revision.

`verified_at` is the moment as of which the whole view was known to equal the store's. An entry is answered without
asking anybody only while that moment, or the entry's own, lies within the staleness bound; that a channel seems alive
is never enough. Moments are `time.monotonic()` seconds of the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain

from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports import NEVER, Entry, StoreContents
from flagsvc.view.changelog import ChangeKind, Changelogs
from flagsvc.view.entries import CacheEntry, Prepare, same_entry
from flagsvc.view.held_entries import HeldEntries
from flagsvc.view.held_families import Moment
from flagsvc.view.held_memory import SetTotals
from flagsvc.view.known_rollouts import KnownRollouts
from flagsvc.view.partial_view import PartialView
from flagsvc.view.published import Steps, in_a_step
from flagsvc.view.set_order import Listing, Position

LARGE_BYTES = 65_536
"""Memory of a flag, as estimated, that is rendered outside the event loop: it takes more than about 1 ms."""


class HeldView:
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
        self.is_settled = True
        """What is held up to a set's watermark is one state of the store: no load is half applied."""
        self.replacements = 0
        """How often a held entry was replaced."""
        self.changelogs = Changelogs()
        self.partial = PartialView(is_needed=limit == 0)
        self.rollouts_not_held = KnownRollouts()
        self._held = HeldEntries()
        self.steps = Steps()
        """Around every change of what is answered: see `published`."""
        self._evicted: dict[FlagId, int] | None = None
        self._starts_over_at = NEVER
        self._when_complete: list[Callable[[], None]] = []
        self._when_changed: list[Callable[[Entry], None]] = []
        self._when_missed: list[Callable[[str], None]] = []
        self._when_parent_changed: list[Callable[[FlagId], None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def get(self, flag_id: FlagId) -> CacheEntry | None:
        """Return what is held of a flag, fresh or not."""
        held = self._held.get(flag_id)
        if held is not None and not self.complete:
            self._held.move_to_end(flag_id)  # the least recently used entry is evicted first
        return held

    def peek(self, flag_id: FlagId) -> CacheEntry | None:
        """Return what is held of a flag, without counting that as a use. Other threads may call it (`published`)."""
        return self._held.plain.get(flag_id)

    def has_flag(self, flag_id: FlagId) -> bool:
        """Whether this flag exists, as far as it is held."""
        held = self._held.get(flag_id)
        return held is not None and held.entry.flag is not None

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

    @in_a_step
    def mark_verified(self, as_of: float) -> None:
        """Record that the whole view equals what the store was at that moment, or is newer."""
        self.verified_at = max(self.verified_at, as_of)

    def contains(self, flag_set: str, revision: int) -> bool:
        """Whether every change of the set up to this revision is held."""
        return self.complete and self.changelogs.watermark(flag_set) >= revision

    @in_a_step
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

    @in_a_step
    def note_served(self, flag: Flag, as_of: float, now: float) -> None:
        """Record that a flag is answered although there may be no room to hold it."""
        if flag.id in self._held:
            self.apply_read(Entry.of(flag), as_of, now)
        else:
            self.partial.high_water_marks.raise_to(flag.id, flag.revision)
            self.rollouts_not_held.note(Entry.of(flag))

    @in_a_step
    def apply_change(self, entry: Entry, now: float, *, as_of: float = NEVER, event_revision: int = 0) -> None:
        """Apply an announced change, which moves the set's watermark.

        An announcement does not verify freshness: it may have been delayed in transit. `event_revision`: the revision
        of the announced change where the entry is already newer; 0: the entry's own.
        """
        changelog, held = self.changelogs.of(entry.id.flag_set), self._held.get(entry.id)
        deleted_since = held is None and self._is_past(entry)
        is_news = not changelog.is_applied(event_revision or entry.revision)
        if entry.revision > changelog.watermark:
            as_of = max(as_of, self.partial.gap_free_since)  # newer than everything from before the gap
        if event_revision or entry.revision:
            changelog.advance(event_revision or entry.revision, now)
        if deleted_since:
            return
        if held is None:
            is_newer = entry.revision >= self.high_water_mark(entry.id)
        else:
            is_newer = held.received_at < self._starts_over_at or held.is_replaced_by(entry, as_of)
        if is_newer:
            self._replace(held, entry, as_of, now, announced=True)
        elif is_news:
            self._tell_what_was_read(held, entry, now)

    def _tell_what_was_read(self, held: CacheEntry | None, entry: Entry, now: float) -> None:
        """Notify of an announced change that a read had already brought to a view without every flag.

        The read was no news then: it was not known that the flag had changed.
        """
        if held is not None and held.is_untold:
            self._note_change(ChangeKind.UPDATE if held.entry.flag else ChangeKind.DELETE, held, now, was_public=True)
        elif held is None and entry.flag is None:
            # A read may have found the flag deleted, or made again since: it is not held any more, so nobody knows.
            for notify in self._when_missed:
                notify(entry.id.flag_set)

    @in_a_step
    def force_replace(self, revision: int, entry: Entry, as_of: float, now: float) -> None:
        """Hold what was read from the store although its revision is not larger, if `revision` is still held."""
        if self.partial.high_water_marks.of(entry.id) == revision:
            self.partial.high_water_marks.drop(entry.id)
        held = self._held.get(entry.id)
        if held is not None and held.entry.revision == revision >= entry.revision and not same_entry(held.entry, entry):
            self._replace(held, entry, as_of, now, announced=True)

    @in_a_step
    def drop(self) -> None:
        """Forget everything: it came from another store's snapshot or cache."""
        self._held = HeldEntries()
        self.partial.high_water_marks.clear()
        self.rollouts_not_held.clear()
        self.changelogs.forget()
        self.complete = self.restored = False
        self.verified_at = NEVER

    @in_a_step
    def mark_gap(self, revisions: Mapping[str, int], asked_at: float) -> None:
        """Record that changes up to these revisions may have been missed: older entries count by their own age."""
        missed = [name for name, revision in revisions.items() if not self.changelogs.of(name).has_told(revision)]
        self.partial.mark_gap(asked_at)
        self.mark_verified(asked_at)
        self.changelogs.jump(revisions, asked_at)
        for notify in self._when_missed:
            for flag_set in missed:
                notify(flag_set)

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

    def take_new_rollouts(self) -> set[FlagId]:
        """Return the flags with a rollout that came, or changed, since the last call."""
        taken = self._held.new_rollouts | self.rollouts_not_held.new
        self._held.new_rollouts, self.rollouts_not_held.new = set(), set()
        return taken

    def rollout_entry(self, flag_id: FlagId) -> Entry | None:
        """Return the entry of a flag with a rollout, held or not; one that is not held has only what matters for it."""
        held = self.peek(flag_id)
        return held.entry if held is not None else self.rollouts_not_held.get(flag_id)

    def when_missed(self, notify: Callable[[str], None]) -> None:
        """Call this with the name of each set of which changes were missed: nobody was notified of them."""
        self._when_missed.append(notify)

    def when_changed(self, notify: Callable[[Entry], None]) -> None:
        """Call this with every change of every set that is applied. It must not block or raise."""
        self._when_changed.append(notify)

    def when_parent_changed(self, notify: Callable[[FlagId], None]) -> None:
        """Call this with every flag that has changed, or evaluates otherwise, while others depend on it."""
        self._when_parent_changed.append(notify)

    def announce_values(self, entry: Entry, now: float) -> None:
        """Notify those whose clients hold values that a flag evaluates otherwise from now on, unchanged as it is."""
        self.changelogs.announce_values(entry, now)
        self._note_children(entry.id)

    def descendants(self, flag_set: str, keys: Iterable[str]) -> Iterator[str]:
        """Yield the keys of a set's held flags that depend on these, directly or through others."""
        return self._held.families.descendants(flag_set, keys)

    def has_families(self, flag_set: str) -> bool:
        """Whether a held flag of this set has prerequisites."""
        return self._held.families.has(flag_set)

    def moment_of(self, flag_set: str) -> Moment:
        """Return what is held at this moment of the flags that depend on others, and of those others."""
        return Moment(self._held.families.members(flag_set), self.whole_up_to(flag_set), self.verified_at)

    def unheld(self, entry: Entry, as_of: float, now: float) -> CacheEntry:
        """Return an entry that can be evaluated, without holding it."""
        return CacheEntry(entry, as_of, now, self._prepare)

    def whole_up_to(self, flag_set: str) -> int:
        """Return the revision up to which all that is held of a set is one state of the store; -1 if there is none."""
        return self.changelogs.watermark(flag_set) if self.complete and self.is_settled else -1

    def _note_children(self, flag_id: FlagId) -> None:
        if self._held.families.has(flag_id.flag_set):
            for notify in self._when_parent_changed:
                notify(flag_id)

    def _is_past(self, entry: Entry) -> bool:
        return entry.revision <= self.changelogs.watermark(entry.id.flag_set)

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
        if kind is None:
            held.is_untold = not self.complete
        else:
            self.replacements += 1
            was_public = old.entry.is_public if old is not None else not self.complete
            self._note_change(kind, held, now, was_public=was_public)
        return held

    def _note_change(self, kind: ChangeKind, held: CacheEntry, now: float, *, was_public: bool) -> None:
        held.is_untold = False
        self.changelogs.of(held.entry.id.flag_set).append(held.entry, held.size, kind, now, was_public=was_public)
        self._note_children(held.entry.id)

    def _hold(self, held: CacheEntry) -> None:
        self._held[held.entry.id] = held
        self._held.move_to_end(held.entry.id)
        self.partial.high_water_marks.drop(held.entry.id)
        self.rollouts_not_held.drop((held.entry.id,))
        while len(self._held) > self.limit or (self._held.memory.bytes > self.max_bytes and self._held):
            flag_id, evicted = next(iter(self._held.items()))
            del self._held[flag_id]
            if self._evicted is not None and evicted.entry.flag is not None:
                self._evicted[flag_id] = evicted.entry.revision
            self.complete = self.complete and evicted.entry.flag is None
            self.partial.high_water_marks.raise_to(flag_id, evicted.entry.revision)
            self.rollouts_not_held.note(evicted.entry)

    def _kind(self, old: CacheEntry | None, entry: Entry, *, announced: bool) -> ChangeKind | None:
        """Return what an entry changes; None for news to this cache alone, such as its first load or a miss."""
        if old is None and not self.complete:
            return (ChangeKind.UPDATE if entry.flag else ChangeKind.DELETE) if announced else None
        existed = old is not None and old.entry.flag is not None
        if entry.flag is None:
            return ChangeKind.DELETE if existed else None
        return ChangeKind.UPDATE if existed else ChangeKind.WRITE
