"""Finds a flag that has prerequisites together with all flags that it depends on, as of one moment.

From the near cache where what it holds is exactly one state of the store, else by one read of the store: never piece by
piece, unless the store cannot be read; then the answer is STALE. No answer is older than an answer before it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flagsvc.core.errors import RevisionUnavailable
from flagsvc.core.evaluation import Outcome, Prepared
from flagsvc.core.family import MAX_MEMBERS
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.prerequisites import keys_in
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports import Entry, Family, FlagStore
from flagsvc.serving.lookup import KNOWN_WAIT_S, MAX_AGE_S, UNKNOWN_WAIT_S, Loader, Lookup
from flagsvc.serving.singleflight import SingleFlight
from flagsvc.turns import in_turns
from flagsvc.view.entries import CacheEntry, Source
from flagsvc.view.held_families import Moment
from flagsvc.view.near_cache import NearCache

MAX_KEPT, MAX_KEPT_BYTES = 1_000, 16_777_216
"""Families that were read from the store and are kept, and about how much memory they take at most."""
MAX_KEPT_FAMILY_BYTES = 2_097_152


class Members(NamedTuple):
    """A flag and those that it depends on, by key, as of one moment; a key without an entry is no flag.

    `revision`: every change of the set up to it is in them. `as_of`: they are not older than the store was then.
    """

    entries: Mapping[str, CacheEntry]
    revision: int
    as_of: float
    source: Source
    stale: bool = False

    @property
    def age_s(self) -> float:
        """How old they are at most."""
        return min(time.monotonic() - self.as_of, MAX_AGE_S)

    def prepared(self, key: str) -> Prepared | None:
        """Return a definition, compiled; None for no flag."""
        held = self.entries.get(key)
        return held.prepared if held is not None else None

    def flags(self) -> dict[str, Flag]:
        """Return the definitions by key."""
        return {key: held.entry.flag for key, held in self.entries.items() if held.entry.flag is not None}

    def replies(self, key: str, outcome: Outcome) -> dict[Any, tuple[bytes, ...]] | None:
        """Return the answers that are kept of a flag, for this outcome; None where it depends on more than on these."""
        held = self.entries.get(key)
        if held is None or self.source is not Source.NEAR or self.stale:
            return None
        if any(each.own.reads_clock for each in self.entries.values()):
            return None
        return held.replies_of(outcome.failed_prerequisite)

    async def compile(self) -> None:
        """Compile what is not compiled yet."""
        missing = [held for held in self.entries.values() if not held.is_compiled]
        if missing:
            async for held in in_turns(missing):
                await held.compile()


class SetMoment(NamedTuple):
    """The moment of which several flags of a set are evaluated, what is known of it, and where that is from."""

    moment: Moment
    source: Source
    min_revision: int = 0


class Families:
    """All lookups of families of one replica. `lookup` finds single flags, and counts."""

    def __init__(self, near: NearCache, store: FlagStore, loader: Loader, lookup: Lookup) -> None:
        self._near, self._store, self._loader, self._lookup = near, store, loader, lookup
        self._reads: SingleFlight[FlagId, Members] = SingleFlight()
        self._kept = _Kept(near)

    async def find(self, flag_id: FlagId, min_revision: int = 0) -> Members | None:
        """Find a flag's family; None where this replica can find out nothing. Raises RevisionUnavailable."""
        found = self._held(flag_id, min_revision) or self._kept.get(flag_id, min_revision)
        if found is not None:
            return found
        is_known = self._last_known(flag_id) is not None and not min_revision
        until = time.monotonic() + (KNOWN_WAIT_S if is_known else UNKNOWN_WAIT_S)
        for _ in range(2):  # a read that was under way may have begun before what was answered, or written, since
            if not (self._loader.store_up or min_revision):
                break
            wait_s = max(0.0, until - time.monotonic())
            found = await self._reads.result(flag_id, lambda: self._read(flag_id), wait_s)
            if found is not None and found.revision >= min_revision and is_newest(self._near, flag_id, found):
                return found
            if (held := self._held(flag_id, min_revision)) is not None:  # the gap has closed
                return held
            if found is None:
                break
        if min_revision:
            raise RevisionUnavailable(flag_id.flag_set, min_revision)
        self._lookup.stats.stale += 1
        return self._last_known(flag_id) or await self._in_pieces(flag_id)

    async def find_at(self, at: SetMoment, flag_id: FlagId) -> Members | None:
        """Find a family as it was at a moment, or as it is now if it was not, for sure, one state of the store then."""
        moment = at.moment
        entries = family_in(moment.members.get, flag_id.key)
        is_whole = flag_id.key in entries and all(e.entry.revision <= moment.up_to for e in entries.values())
        if not is_whole or moment.up_to < at.min_revision:
            return await self.find(flag_id, at.min_revision)
        is_stale = not self._near.is_fresh(moment.as_of, time.monotonic())
        return Members(entries, moment.up_to, moment.as_of, at.source, is_stale)

    async def close(self) -> None:
        """Cancel what is running."""
        await self._reads.close()

    def _held(self, flag_id: FlagId, min_revision: int) -> Members | None:
        """Return a family of the near cache; None where that is too old, or not for sure one state of the store.

        Every change up to the set's watermark is applied. So flags whose revisions are all at or below it are as the
        store had them when its counter was there.
        """
        near, flag_set = self._near, flag_id.flag_set
        up_to, as_of = near.whole_up_to(flag_set), near.verified_at
        if up_to < min_revision or not near.is_fresh(as_of, time.monotonic()):
            return None
        entries = self._entries(flag_id)
        if any(held.entry.revision > up_to for held in entries.values()):
            return None
        return Members(entries, up_to, as_of, Source.NEAR)

    async def _read(self, flag_id: FlagId) -> Members:
        """Read a family, and hold it unless something newer is held: no later answer may be older than this one."""
        near, asked_at = self._near, time.monotonic()
        family = await self._store.get_family(flag_id)
        if flag_id.key not in family.entries and (absent := await self._store.get(flag_id)).flag is None:
            family = Family(absent.revision, {})  # says as of when there is no such flag
        self._lookup.stats.store += 1
        entries: dict[str, CacheEntry] = {}
        now = time.monotonic()
        async for key, entry in in_turns(family.entries.items()):
            held = near.apply_read(entry, asked_at, now)
            entries[key] = held if held.entry == entry else near.unheld(entry, asked_at, now)
        members = Members(entries, family.revision, asked_at, Source.STORE)
        async for key in in_turns(_missing(flag_id.key, entries)):
            near.apply_read(Entry.absent(FlagId(flag_id.flag_set, key), family.revision), asked_at, now)
        self._kept.put(flag_id, members)
        return members

    def _last_known(self, flag_id: FlagId) -> Members | None:
        """Return the last state of the store that is held, or was read, unless something newer was answered."""
        near, flag_set = self._near, flag_id.flag_set
        if not near.complete:
            last = self._kept.last(flag_id)
            return last if last is not None and is_newest(near, flag_id, last) else None
        up_to, entries = near.whole_up_to(flag_set), self._entries(flag_id)
        if any(held.entry.revision > up_to for held in entries.values()):
            return None
        return Members(entries, up_to, near.verified_at, Source.NEAR, stale=True)

    async def _in_pieces(self, flag_id: FlagId) -> Members | None:
        """Return the last that is known of each flag, of different moments perhaps: the answer is STALE."""
        near = self._near
        if near.complete:
            return Members(self._entries(flag_id), 0, near.verified_at, Source.NEAR, stale=True)
        found: dict[str, CacheEntry] = {}
        named, pending = {flag_id.key}, [flag_id.key]
        while pending and len(named) <= MAX_MEMBERS:
            answers = await self._lookup.get_many([FlagId(flag_id.flag_set, key) for key in pending])
            pieces = [answer.held for answer in answers if answer.held is not None]
            if len(pieces) < len(answers):
                return None
            found |= {held.entry.id.key: held for held in pieces}
            parents = dict.fromkeys(key for held in pieces for key in parents_of(held))
            pending = [key for key in parents if key not in named]
            named.update(pending)
        return Members(found, 0, min(map(near.verified_at_of, found.values())), Source.CACHE, stale=True)

    def _entries(self, flag_id: FlagId) -> dict[str, CacheEntry]:
        near, flag_set = self._near, flag_id.flag_set
        return family_in(lambda key: near.peek(FlagId(flag_set, key)), flag_id.key)


class _Kept:
    """Families that were read from the store, for as long as they may be answered, those used last at the end.

    A near cache that does not hold every flag would else read the store for every evaluation of such a flag.
    """

    def __init__(self, near: NearCache) -> None:
        self._near = near
        self._families: OrderedDict[FlagId, tuple[Members, int, int]] = OrderedDict()
        """Each with its size, and how many gaps there were before it was read."""
        self._bytes = 0

    def get(self, flag_id: FlagId, min_revision: int) -> Members | None:
        """Return a family that is young enough, and of whose flags none was announced to have changed since."""
        found = self._families.get(flag_id)
        if found is None:
            return None
        members, _, gaps = found
        is_young = self._near.is_fresh(members.as_of, time.monotonic()) and gaps == self._near.partial.gaps
        if not is_young or members.revision < min_revision or not is_newest(self._near, flag_id, members):
            return None
        self._families.move_to_end(flag_id)
        return members

    def last(self, flag_id: FlagId) -> Members | None:
        """Return a family as it was last read."""
        found = self._families.get(flag_id)
        return found[0]._replace(stale=True) if found is not None else None

    def put(self, flag_id: FlagId, members: Members) -> None:
        """Keep a family in the place of what was kept of it, unless it is large."""
        self._drop(flag_id)
        size = sum(held.size or estimated_memory(held.entry.flag) for held in members.entries.values())
        if size > MAX_KEPT_FAMILY_BYTES:
            return
        self._families[flag_id] = members, size, self._near.partial.gaps
        self._bytes += size
        while len(self._families) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            self._drop(next(iter(self._families)))

    def _drop(self, flag_id: FlagId) -> None:
        if (old := self._families.pop(flag_id, None)) is not None:
            self._bytes -= old[1]


def family_in(held_of: Callable[[str], CacheEntry | None], key: str) -> dict[str, CacheEntry]:
    """Return what is held of a flag and of those that it depends on. More than can be evaluated are cut off."""
    found: dict[str, CacheEntry] = {}
    named, pending = {key}, [key]
    while pending and len(found) <= MAX_MEMBERS:
        held = held_of(key := pending.pop())
        if held is None:
            continue
        found[key] = held
        for parent in parents_of(held):
            if parent not in named:
                named.add(parent)
                pending.append(parent)
    return found


def parents_of(held: CacheEntry) -> tuple[str, ...]:
    """Return the keys of the flags that a flag depends on."""
    if held.dependent is not None:
        return held.dependent.parents
    flag = held.entry.flag
    if held.compiled is not None or flag is None or not flag.prerequisites:
        return ()
    return keys_in(flag.prerequisites)


def is_newest(near: NearCache, flag_id: FlagId, members: Members) -> bool:
    """Whether nothing newer of these flags, or of those among them that do not exist, was answered here."""
    for held in members.entries.values():
        entry, now = held.entry, near.peek(held.entry.id)
        if now is not held and now is not None and now.entry.flag != entry.flag:
            return False
        if near.high_water_mark(entry.id) > entry.revision:
            return False
    missing = _missing(flag_id.key, members.entries)
    return all(near.high_water_mark(FlagId(flag_id.flag_set, key)) <= members.revision for key in missing)


def _missing(key: str, entries: Mapping[str, CacheEntry]) -> list[str]:
    """Return the keys of the flag and of those that others name, as far as there are no such flags."""
    named = dict.fromkeys((key, *(parent for held in entries.values() for parent in parents_of(held))))
    return [each for each in named if each not in entries]
