"""Finds a definition: in the near cache, then in the shared cache, then in the store; single-flight for each key.

An entry verified within the staleness bound is returned as is. If no tier can verify it, the last known value is
returned as STALE. No answer is older than an answer before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from flagsvc.core.errors import RevisionUnavailable, StoreUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Entry, FlagCache, FlagStore, Found, StoreContents
from flagsvc.serving.singleflight import SingleFlight
from flagsvc.view.answerable import includes, verified_in_time
from flagsvc.view.entries import CacheEntry, Source
from flagsvc.view.near_cache import NearCache

KNOWN_WAIT_S = 0.05
"""How long an evaluation waits for a fresh entry when an older one is held."""
UNKNOWN_WAIT_S = 4.0
"""How long it waits when none is held; the stores' own time-outs are shorter."""
MAX_CACHE_WRITES = 16
"""Entries that are put into the shared cache at a time: a large batch must not make its own time-outs run out."""
OTHERS_FILL_S = 0.015
"""Time between two reads of the shared cache while another replica fills it."""
MAX_AGE_S = 1e9


@dataclass(slots=True)
class LookupStats:
    """Lookups by the tier that answered, for metrics."""

    near: int = 0
    cache: int = 0
    store: int = 0
    stale: int = 0


class Answer(NamedTuple):
    """A definition as found. `held` None: this replica could find out nothing."""

    held: CacheEntry | None
    source: Source
    age_s: float
    stale: bool = False

    @property
    def entry(self) -> Entry:
        """The entry of an answer that has one, as all answers of a list do."""
        assert self.held is not None  # noqa: S101
        return self.held.entry


class Loader(Protocol):
    """What a lookup needs of the follower."""

    tried: asyncio.Event
    """Set once a load of the store was attempted."""
    store_up: bool
    """Whether the store answered the last poll."""

    def note_claim(self, entry: Entry) -> None:
        """Note an entry of the shared cache that is answered: it is only what somebody put there."""

    async def load_all(self) -> StoreContents:
        """Read the whole store, and hold it where there is room. Raises StoreUnavailable."""


class Lookup:
    """All lookups of one replica."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None, loader: Loader) -> None:
        self._near, self._store, self._cache, self._loader = near, store, cache, loader
        self._reads: SingleFlight[FlagId, Answer] = SingleFlight()
        self._reads_at_least: SingleFlight[tuple[FlagId, int], Answer] = SingleFlight()
        self._cache_writes = asyncio.Semaphore(MAX_CACHE_WRITES)
        self.stats = LookupStats()

    def cached(self, flag_id: FlagId, min_revision: int = 0) -> Answer | None:
        """Return what may be answered without asking anybody."""
        near = self._near
        held, now = near.get(flag_id), time.monotonic()
        verified_at = verified_in_time(near, held, flag_id.flag_set, now, min_revision)
        if verified_at is None:
            return None
        self.stats.near += 1
        return Answer(held or _absent(flag_id, now), Source.NEAR, now - verified_at)

    async def get(self, flag_id: FlagId, min_revision: int = 0) -> Answer:
        """Find one definition. Raises RevisionUnavailable."""
        await self.first_load()
        if (answer := self.cached(flag_id, min_revision)) is not None:
            return answer
        near, high_water_mark = self._near, self._near.high_water_mark(flag_id)
        known = near.complete or near.get(flag_id) is not None
        wait_s = KNOWN_WAIT_S if known else UNKNOWN_WAIT_S
        found = await self._reads.result(flag_id, lambda: self._read(flag_id), wait_s)
        answer = self._or_newer(flag_id, found) if found is not None else self._last_known(flag_id)
        if min_revision and not includes(near, answer.held, flag_id.flag_set, min_revision):
            return await self._read_at_least(flag_id, min_revision)
        if answer.held is not None and answer.held.entry.revision < high_water_mark:
            return await self._read_past(flag_id, high_water_mark)
        return answer

    async def get_many(self, ids: Sequence[FlagId], min_revision: int = 0) -> list[Answer]:
        """Find several definitions, in their order. Raises RevisionUnavailable."""
        near = [self.cached(flag_id, min_revision) for flag_id in ids]
        missing = [i for i, answer in zip(ids, near, strict=True) if answer is None]
        found = iter(await asyncio.gather(*(self.get(flag_id, min_revision) for flag_id in missing)))
        return [answer or next(found) for answer in near]

    async def close(self) -> None:
        """Cancel what is running."""
        await asyncio.gather(self._reads.close(), self._reads_at_least.close())

    async def first_load(self) -> None:
        """Let the load at start-up answer for everybody instead of reading key by key."""
        if not self._loader.tried.is_set() and not self._near.complete:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loader.tried.wait(), UNKNOWN_WAIT_S)

    async def _read(self, flag_id: FlagId) -> Answer:
        """Read the shared cache, then the store; return what was known before when neither can answer."""
        found = await self._read_cache(flag_id)
        if found is not None and found.entry is not None and self._is_fresh(found.as_of):
            self.stats.cache += 1
            self._loader.note_claim(found.entry)
            return self._hold(found.entry, found.as_of, Source.CACHE)
        if self._loader.store_up:
            with contextlib.suppress(StoreUnavailable):
                return await self._read_store(flag_id, fills=found is not None and found.fills)
        old = found.entry if found is not None else None
        if found is not None and old is not None and old.revision >= self._near.high_water_mark(flag_id):
            self.stats.stale += 1
            return self._hold(old, found.as_of, Source.CACHE)
        return self._last_known(flag_id)

    async def _read_cache(self, flag_id: FlagId) -> Found | None:
        """Read the shared cache; while another replica fills it, wait for that."""
        until = time.monotonic() + UNKNOWN_WAIT_S
        while self._cache is not None and self._cache.available:
            found = await self._cache.fetch(flag_id, self._near.staleness_bound_s)
            if found is None or found.fills or not self._loader.store_up or time.monotonic() > until:
                return found
            if found.entry is not None and self._is_fresh(found.as_of):
                return found if found.entry.revision >= self._near.high_water_mark(flag_id) else Found(None, NEVER)
            await asyncio.sleep(OTHERS_FILL_S)
        return None

    async def _read_store(self, flag_id: FlagId, *, fills: bool = False) -> Answer:
        asked_at = time.monotonic()
        entry = await self._store.get(flag_id)
        self.stats.store += 1
        answer = self._hold(entry, asked_at, Source.STORE)
        if self._cache is not None and self._cache.available:
            async with self._cache_writes:
                await self._cache.put([entry], asked_at, fills=fills)
        return answer

    def _or_newer(self, flag_id: FlagId, answer: Answer) -> Answer:
        """Return what is held where that is newer by now: who waited must not answer less than others."""
        near, found = self._near, answer.held
        held = near.get(flag_id) or (_absent(flag_id, near.verified_at) if near.complete else None)
        if held is None or held is found:
            return answer
        if found is None or (
            held.entry != found.entry and (near.complete or held.entry.revision > found.entry.revision)
        ):
            return self.answer(held, Source.NEAR)
        return answer

    async def _read_past(self, flag_id: FlagId, high_water_mark: int) -> Answer:
        """Read once more, alone: a shared read found less than what was answered before this call."""
        with contextlib.suppress(StoreUnavailable):
            answer = await self._read_store(flag_id)
            if answer.held is not None and answer.held.entry.revision >= high_water_mark:
                return answer
        return self._last_known(flag_id)

    async def _read_at_least(self, flag_id: FlagId, min_revision: int) -> Answer:
        """Read the source: once the set's counter has the revision, so has the flag. Raises RevisionUnavailable."""

        async def read() -> Answer:
            revisions = await self._store.revisions()
            if revisions.get(flag_id.flag_set, 0) < min_revision:
                raise StoreUnavailable
            return await self._read_store(flag_id)

        found = await self._reads_at_least.result((flag_id, min_revision), read, UNKNOWN_WAIT_S)
        if found is None:
            raise RevisionUnavailable(flag_id.flag_set, min_revision)
        return self._or_newer(flag_id, found)

    def _is_fresh(self, as_of: float) -> bool:
        return self._near.is_fresh(as_of, time.monotonic())

    def _hold(self, entry: Entry, as_of: float, source: Source) -> Answer:
        held = self._near.apply_read(entry, as_of, time.monotonic())
        return self.answer(held, source if held.entry == entry else Source.NEAR)

    def _last_known(self, flag_id: FlagId) -> Answer:
        self.stats.stale += 1
        held = self._near.get(flag_id)
        if held is None and self._near.complete:
            held = _absent(flag_id, self._near.verified_at)
        if held is None:
            return Answer(None, Source.NEAR, 0.0, stale=True)
        return self.answer(held, held.origin)

    def answer(self, held: CacheEntry, source: Source) -> Answer:
        """Return a held entry with its age."""
        now, verified_at = time.monotonic(), self._near.verified_at_of(held)
        stale = not self._near.is_fresh(verified_at, now)
        return Answer(held, source, min(now - verified_at, MAX_AGE_S), stale)


def _absent(flag_id: FlagId, verified_at: float) -> CacheEntry:
    return CacheEntry(Entry.absent(flag_id), verified_at, verified_at)
