"""The near cache: what this replica holds of every flag set, never going back to an older revision.

`verified_at` is the moment as of which the whole view was known to be the store's; only that, and never that a channel
seemed alive, lets something be served without asking. Moments are `time.monotonic` of the caller.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping

from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Flag, FlagId, list_order
from flagsvc.ports import NEVER, Entry, StoreContents, UnversionedChange
from flagsvc.view.changelog import RECENT_S, ChangeKind, Changelog, Listener
from flagsvc.view.entries import CacheEntry, HighWaterMarks, Prepare, Source

TOMBSTONE_S = 60.0
"""Longer than any read of a store can take."""


class NearCache:
    """Held entries of all sets, at most `limit`; `complete` while it holds every flag of the store."""

    def __init__(
        self,
        limit: int,
        staleness_bound_s: float,
        prepare: Prepare = prepare,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._prepare, self._wall_clock = prepare, wall_clock
        self.staleness_bound_s = staleness_bound_s
        self.complete = False
        self.full_loads = 0
        """How often it became complete: more than once when it had to let go of flags in between."""
        self.overfull = limit == 0
        """The store has more flags than may be held: each is read when it is asked for."""
        self.restored = False
        """What is held comes from a snapshot; the store was not read yet."""
        self.verified_at = NEVER
        self.gap_free_since = NEVER
        """Changes before this moment may have been missed: what was held before is not covered by `verified_at`."""
        self.gaps = 0
        """How often changes may have been missed that could not be made up for."""
        self.changes = 0
        """How often something held was replaced."""
        self._held: OrderedDict[FlagId, CacheEntry] = OrderedDict()
        self._high_water_marks = HighWaterMarks()
        self._sets: dict[str, Changelog] = {}
        self._when_complete: list[Callable[[], None]] = []
        self._when_changed: list[Callable[[Entry], None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def get(self, flag_id: FlagId) -> CacheEntry | None:
        """Give what is held, fresh or not."""
        held = self._held.get(flag_id)
        if held is not None and not self.complete:
            self._held.move_to_end(flag_id)
        return held

    def high_water_mark(self, flag_id: FlagId) -> int:
        """Give the newest revision that was ever answered of a flag: nothing older may be."""
        held = self._held.get(flag_id)
        return held.entry.revision if held is not None else self._high_water_marks.of(flag_id)

    def confirmed(self, held: CacheEntry | None) -> float:
        """When this was last known to be the store's; for None, that there is no such flag."""
        if held is None:
            return self.verified_at
        at = held.verified_at
        return self.verified_at if self.verified_at > at >= self.gap_free_since else at

    def is_fresh(self, verified_at: float, now: float) -> bool:
        """Whether something confirmed then may be served without asking."""
        return now - verified_at <= self.staleness_bound_s

    def confirm(self, as_of: float) -> None:
        """Note that the whole view is what the store was at that moment, or newer."""
        self.verified_at = max(self.verified_at, as_of)

    def contains(self, flag_set: str, revision: int) -> bool:
        """Whether every change of the set up to this revision is held."""
        return self.complete and self.watermark(flag_set) >= revision

    def apply_read(self, entry: Entry, as_of: float, now: float) -> CacheEntry:
        """Take what was read unless a newer entry is held; gives what is held then.

        `as_of`: the entry is not older than the store was then.
        """
        held = self._held.get(entry.id)
        if held is None and self.complete and as_of <= self.verified_at and self._is_past(entry):
            return CacheEntry(Entry.absent(entry.id), self.verified_at, now)  # it was not there as of the view
        if held is None and entry.revision < self.high_water_mark(entry.id):
            return CacheEntry(entry, NEVER, now, self._prepare)  # the caller looks at the floor
        if held is None or held.yields_to(entry, as_of):
            return self._take(held, entry, as_of, now, announced=False)
        same = entry.revision == held.entry.revision and (
            not held.may_be_newer_than(as_of) or entry.flag == held.entry.flag
        )
        if same and as_of >= held.verified_at:
            held.verified_at, held.origin = as_of, Source.NEAR
        return held

    def note_served(self, flags: Iterable[Flag], as_of: float, now: float) -> None:
        """Take note of what is answered although there is no room to hold it all."""
        for flag in flags:
            if flag.id in self._held:
                self.apply_read(Entry.of(flag), as_of, now)
            else:
                self._high_water_marks.raise_to(flag.id, flag.revision)

    def apply_change(self, entry: Entry, now: float, *, as_of: float = NEVER, passed: int = 0) -> None:
        """Take an announced change, which moves the set's watermark.

        It says nothing of how old it is, for it may have been long on its way. `passed`: the revision of the change,
        where the entry is of a newer one already.
        """
        log, held = self._log(entry.id.flag_set), self._held.get(entry.id)
        past = held is None and self._is_past(entry)
        if entry.revision > log.watermark:
            as_of = max(as_of, self.gap_free_since)  # newer than everything that was when changes were missed
        if passed or entry.revision:
            log.advance(passed or entry.revision, now)
        if past:
            return  # all that was until then is known: it has been deleted since
        if held.yields_to(entry, as_of) if held is not None else entry.revision >= self.high_water_mark(entry.id):
            self._take(held, entry, as_of, now, announced=True)

    def force_replace(self, revision: int, entry: Entry, as_of: float, now: float) -> None:
        """Take what was read from the store although its revision is smaller, if this one is still held."""
        held = self._held.get(entry.id)
        if held is not None and held.entry.revision == revision > entry.revision:
            self._take(held, entry, as_of, now, announced=True)

    def missing(self, found: set[FlagId]) -> list[FlagId]:
        """Name the flags that are held and are not among these."""
        return [i for i, held in self._held.items() if i not in found and held.entry.flag is not None]

    def merge(self, contents: StoreContents, asked_at: float, now: float | None = None) -> list[UnversionedChange]:
        """Take everything that the store held; what it no longer has is gone.

        `asked_at`: when it was asked; `now`: when it had answered, by default the same. Gives what changed without a
        new revision, as far as that can be told from what was held before.
        """
        now = asked_at if now is None else now
        if len(contents.flags) > self.limit:
            self.complete, self.overfull = False, True
            self.mark_gap(contents.revisions, asked_at)
            return []
        known, completed, before = self.complete, not self.complete or self.restored, self.revisions()
        if completed:
            self._remember_recent(contents.flags, asked_at)
            self._yield_to(contents)
            self.gaps += self.full_loads > 0  # what the load changed was not told while something was not held
            self.full_loads += 1
        found = {flag.id for flag in contents.flags}
        lacking = self._lacking(contents.flags, asked_at)
        changed = self._changed(contents.flags, asked_at, now, before if known else None)
        changed += self._gone(found, contents, asked_at, now)
        kept = {change.id for change in changed if change.gone}.intersection(self.missing(found))
        self.complete, self.overfull, self.restored = True, False, False
        self.gap_free_since = NEVER
        if not lacking and not kept:
            self.confirm(asked_at)
        for name, revision in contents.revisions.items():
            self._log(name).jump(revision, asked_at)
        self._forget_absent(found)
        if completed:
            for heard in self._when_complete:
                heard()
        return [*lacking, *changed]

    def restore(self, contents: StoreContents, age_s: float, now: float) -> None:
        """Hold what a snapshot has until a store can be read: never fresh, however young it says it is."""
        if self.complete or len(contents.flags) > self.limit:
            return
        as_of = now - max(age_s, self.staleness_bound_s + 1.0)
        for flag in contents.flags:
            if flag.id not in self._held:
                self._held[flag.id] = CacheEntry(Entry.of(flag), as_of, as_of, self._prepare, Source.SNAPSHOT)
        for name, revision in contents.revisions.items():
            self._log(name).jump(revision, as_of)
        self.complete = self.restored = True
        self.verified_at = max(self.verified_at, as_of)

    def mark_gap(self, revisions: Mapping[str, int], asked_at: float) -> None:
        """Changes up to these revisions may have been missed: what was held before counts only by its own age."""
        self.gap_free_since = max(self.gap_free_since, asked_at)
        self.gaps += 1
        self.confirm(asked_at)
        for name, revision in revisions.items():
            self._log(name).jump(revision, asked_at)

    def contents(self) -> StoreContents:
        """Give everything that is held, as one moment's state."""
        flags = [held.entry.flag for held in self._held.values() if held.entry.flag is not None]
        return StoreContents(flags, self.revisions())

    def ids(self) -> list[FlagId]:
        """Name everything that is held, deleted flags too."""
        return list(self._held)

    def of_set(self, flag_set: str) -> list[CacheEntry]:
        """Give what is held of the flags of a set, in list order."""
        held = [(list_order(h.entry.flag), h) for i, h in self._held.items() if i.flag_set == flag_set and h.entry.flag]
        return [each for _, each in sorted(held, key=lambda pair: pair[0])]

    def revisions(self) -> dict[str, int]:
        """Give each set's newest applied revision without a gap before it."""
        return {name: log.watermark for name, log in self._sets.items()}

    def has_all(self, revisions: Mapping[str, int]) -> bool:
        """Whether every change up to these revisions is applied."""
        return all(self.watermark(name) >= revision for name, revision in revisions.items())

    def gap_since(self) -> float:
        """When the oldest gap in any set's revisions was seen; infinite without one."""
        return min((log.gap_since for log in self._sets.values()), default=math.inf)

    def when_complete(self, told: Callable[[], None]) -> None:
        """Call this whenever the cache has become complete: `lately` then knows what changed before."""
        self._when_complete.append(told)

    def when_changed(self, told: Callable[[Entry], None]) -> None:
        """Call this with every change of every set that is applied. Must not block or raise."""
        self._when_changed.append(told)

    def listen(self, flag_set: str, listener: Listener) -> None:
        """Tell the listener of every change of the set from now on."""
        self._log(flag_set).listeners.add(listener)

    def unlisten(self, flag_set: str, listener: Listener) -> None:
        """Stop telling it."""
        log = self._log(flag_set)
        log.listeners.discard(listener)
        if log.idle:
            del self._sets[flag_set]

    def since(self, flag_set: str, revision: int) -> Iterator[Entry] | None:
        """Give the changes after a revision, in order; None when they are no longer known."""
        return self._log(flag_set).since(revision)

    def recent_changes(self, flag_set: str, now: float) -> dict[str, ChangeKind]:
        """Give the keys of a set that changed lately, or may have before this replica knew of the set."""
        log = self._sets.get(flag_set)
        return {key: kind for key, (at, kind) in log.recent_changes.items() if now - at <= RECENT_S} if log else {}

    def watermark(self, flag_set: str) -> int:
        """Give the revision to resume from."""
        log = self._sets.get(flag_set)
        return log.watermark if log else 0

    def _is_past(self, entry: Entry) -> bool:
        return entry.revision <= self.watermark(entry.id.flag_set)

    def _log(self, flag_set: str) -> Changelog:
        return self._sets.setdefault(flag_set, Changelog())

    def _take(self, old: CacheEntry | None, entry: Entry, as_of: float, now: float, *, announced: bool) -> CacheEntry:
        kind = self._kind(old, entry, announced=announced)
        held = CacheEntry(entry, as_of, now, self._prepare)
        if entry.flag is not None or entry.revision or not self.complete:
            self._hold(held)
        else:
            self._held.pop(entry.id, None)  # what a complete cache does not hold is not there
        if announced or self.complete:
            for told in self._when_changed:
                told(entry)
        if kind is not None:
            self.changes += 1
            self._log(entry.id.flag_set).tell(entry, kind, now)
        return held

    def _hold(self, held: CacheEntry) -> None:
        self._held[held.entry.id] = held
        self._held.move_to_end(held.entry.id)
        self._high_water_marks.drop(held.entry.id)
        while len(self._held) > self.limit:
            flag_id, gone = self._held.popitem(last=False)
            self.complete = self.complete and gone.entry.flag is None
            self._high_water_marks.raise_to(flag_id, gone.entry.revision)

    def _lacking(self, flags: Iterable[Flag], asked_at: float) -> list[UnversionedChange]:
        """Give what cannot be held until it has a larger revision than what is.

        With a smaller one, another program inserted it where a flag was deleted before, which may have been missed;
        with the same one, another program changed it, and it is unknown which of the two came first.
        """
        held = ((flag, self._held.get(flag.id)) for flag in flags)
        return [
            UnversionedChange(flag.id, old.entry.revision)
            for flag, old in held
            if old is not None
            if (old.entry.revision > flag.revision and (old.received_at < asked_at or old.origin is Source.SNAPSHOT))
            or (old.entry.revision == flag.revision and old.may_be_newer_than(asked_at) and old.entry.flag != flag)
        ]

    def _changed(
        self, flags: Iterable[Flag], asked_at: float, now: float, before: Mapping[str, int] | None
    ) -> list[UnversionedChange]:
        """Take flags; give those that changed without a new revision. `before`: how far all was known, if it was."""
        changed = []
        for flag in sorted(flags, key=lambda f: f.revision):
            old = self._held.get(flag.id)
            held = self.apply_read(Entry.of(flag), asked_at, now)
            same_number = old.entry.revision == flag.revision if old is not None else not self.restored
            counted = before is None or not same_number or flag.revision > before.get(flag.flag_set, 0)
            if held is not old and held.entry.flag is flag and not counted:
                changed.append(UnversionedChange(flag.id, flag.revision))
        return changed

    def _gone(
        self, found: set[FlagId], contents: StoreContents, asked_at: float, now: float
    ) -> list[UnversionedChange]:
        """Let go of what the store no longer has; give it, for it may be that nobody counted that."""
        changed = []
        for flag_id in self.missing(found):
            held = self._held[flag_id]
            revision = contents.absent.get(flag_id, contents.revisions.get(flag_id.flag_set, 0))
            if held.entry.revision <= revision or held.received_at < asked_at:
                changed.append(UnversionedChange(flag_id, held.entry.revision, gone=True))
                self.apply_read(Entry.absent(flag_id, max(revision, held.entry.revision)), asked_at, now)
        return changed

    def _yield_to(self, contents: StoreContents) -> None:
        """A snapshot may be of a store that was put back since: what that says counts, although it is older."""
        if self.restored:
            for flag in contents.flags:
                held, counter = self._held.get(flag.id), contents.revisions.get(flag.flag_set, 0)
                known = held.entry.revision if held is not None and held.origin is Source.SNAPSHOT else 0
                if known > max(flag.revision, counter):
                    del self._held[flag.id]
            for log in self._sets.values():
                log.forget()

    def _forget_absent(self, found: set[FlagId]) -> None:
        """A complete cache answers unknown keys by itself; tombstones stay while a late reader could come back."""
        for flag_id in [i for i, h in self._held.items() if i not in found and h.entry.flag is None]:
            held = self._held[flag_id]
            if held.entry.revision == 0 or held.received_at < self.verified_at - TOMBSTONE_S:
                del self._held[flag_id]

    def _kind(self, held: CacheEntry | None, entry: Entry, *, announced: bool) -> ChangeKind | None:
        """Say what an entry changes; None for news to this cache alone, such as its first load or a miss."""
        if held is None and not self.complete:
            return (ChangeKind.UPDATE if entry.flag else ChangeKind.DELETE) if announced else None
        there = held is not None and held.entry.flag is not None
        if entry.flag is None:
            return ChangeKind.DELETE if there else None
        return ChangeKind.UPDATE if there else ChangeKind.WRITE

    def _remember_recent(self, flags: Iterable[Flag], now: float) -> None:
        """What changed shortly before it was first loaded, others may have missed; also what has no time."""
        horizon = self._wall_clock() - RECENT_S
        for flag in flags:
            if flag.updated_at is None or flag.updated_at.timestamp() >= horizon:
                self._log(flag.flag_set).remember(flag.key, ChangeKind.UPDATE, now)
