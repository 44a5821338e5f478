"""Where a definition is looked for: near cache, then the shared cache, then the store; one flight per key.

Only what is known to be young enough is taken without asking further; what nobody can vouch for any more is the last
resort, and is told as stale. Nothing older than what was answered before is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flagsvc.core.errors import RevisionUnavailable, StoreUnavailable
from flagsvc.core.model import FlagId, list_order
from flagsvc.ports import NEVER, Entry, FlagCache, FlagStore, Found, StoreContents
from flagsvc.replication.follower import Follower
from flagsvc.serving.singleflight import SingleFlight
from flagsvc.view.entries import CacheEntry, Source
from flagsvc.view.near_cache import NearCache

KNOWN_WAIT_S = 0.05
"""How long an evaluation waits for news when it already holds an answer."""
UNKNOWN_WAIT_S = 4.0
"""How long it waits when it holds none; the stores' own time-outs are shorter."""
LIST_WAIT_S = 30.0
"""How long a list waits for the whole store when less does not do."""
AT_ONCE = 16
"""How many keys the shared cache is asked at a time: a batch of many must not make its own time-outs run out."""
OTHERS_READ_S = 0.015
"""Time between two looks at the shared cache while another replica reads the store."""
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
        """What is held."""
        assert self.held is not None  # noqa: S101  lists have only what was found
        return self.held.entry


class Lookup:
    """All lookups of one replica."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None, follower: Follower) -> None:
        self._near, self._store, self._cache, self._follower = near, store, cache, follower
        self._flights: SingleFlight[FlagId, Answer] = SingleFlight()
        self._reading_at_least: SingleFlight[tuple[FlagId, int], Answer] = SingleFlight()
        self._loads: SingleFlight[str, StoreContents] = SingleFlight()
        self._room = asyncio.Semaphore(AT_ONCE)
        self.stats = LookupStats()

    def cached(self, flag_id: FlagId, min_revision: int = 0) -> Answer | None:
        """Give what may be answered without asking anybody."""
        near = self._near
        held = near.get(flag_id)
        if held is None and not near.complete:
            return None
        now = time.monotonic()
        verified_at = near.confirmed(held)
        if not near.is_fresh(verified_at, now):
            return None
        if min_revision and not self._has(flag_id.flag_set, held, min_revision):
            return None
        self.stats.near += 1
        return Answer(held or _absent(flag_id, now), Source.NEAR, now - verified_at)

    async def get(self, flag_id: FlagId, min_revision: int = 0) -> Answer:
        """Look for one definition. Raises RevisionUnavailable."""
        await self._first_load()
        if (answer := self.cached(flag_id, min_revision)) is not None:
            return answer
        near, floor = self._near, self._near.high_water_mark(flag_id)
        known = near.complete or near.get(flag_id) is not None
        flight = self._flights.start(flag_id, lambda: self._fetch(flag_id))
        done, _ = await asyncio.wait([flight], timeout=KNOWN_WAIT_S if known else UNKNOWN_WAIT_S)
        if done and not flight.cancelled() and flight.exception() is None:
            answer = self._or_newer(flag_id, flight.result())
        else:
            answer = self._last_known(flag_id)
        if min_revision and not self._has(flag_id.flag_set, answer.held, min_revision):
            return await self._read_at_least(flag_id, min_revision)
        if answer.held is not None and answer.held.entry.revision < floor:
            return await self._read_past_high_water_mark(flag_id, floor)
        return answer

    async def get_many(self, ids: Sequence[FlagId], min_revision: int = 0) -> list[Answer]:
        """Look for several definitions, in their order. Raises RevisionUnavailable."""
        near = [self.cached(flag_id, min_revision) for flag_id in ids]
        missing = [i for i, answer in zip(ids, near, strict=True) if answer is None]
        asked = iter(await asyncio.gather(*(self.get(flag_id, min_revision) for flag_id in missing)))
        return [answer or next(asked) for answer in near]

    async def get_all(self, flag_set: str, min_revision: int = 0) -> list[Answer]:
        """Look for all flags of a set, in list order. Raises StoreUnavailable and RevisionUnavailable."""
        asked_at = time.monotonic()
        await self._first_load()
        near = self._near
        fresh = near.complete and near.is_fresh(near.verified_at, time.monotonic())
        if not (fresh and (not min_revision or near.contains(flag_set, min_revision))):
            wait_s = KNOWN_WAIT_S if near.complete and not min_revision else LIST_WAIT_S
            contents = await self._loaded(flag_set, wait_s) if self._follower.store_up or not near.complete else None
            if contents is not None and not near.complete:
                return self._of_contents(flag_set, contents, min_revision, asked_at)
        if min_revision and not near.contains(flag_set, min_revision):
            raise RevisionUnavailable(flag_set, min_revision)
        answers = [self._answer(held, Source.NEAR) for held in near.of_set(flag_set)]
        self.stats.near += len(answers)
        return answers

    async def close(self) -> None:
        """Cancel lookups under way."""
        await asyncio.gather(self._flights.close(), self._reading_at_least.close(), self._loads.close())

    def _has(self, flag_set: str, held: CacheEntry | None, revision: int) -> bool:
        return (held is not None and held.entry.revision >= revision) or self._near.contains(flag_set, revision)

    async def _first_load(self) -> None:
        """Let the load at start-up answer for everybody instead of asking key by key."""
        if not self._follower.tried.is_set() and not self._near.complete:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._follower.tried.wait(), UNKNOWN_WAIT_S)

    async def _fetch(self, flag_id: FlagId) -> Answer:
        """Ask the shared cache, then the store; give what was known before when neither can say."""
        found = await self._from_cache(flag_id)
        if found is not None and found.entry is not None and self._is_young(found.as_of):
            self.stats.cache += 1
            return self._taken(found.entry, found.as_of, Source.CACHE)
        if self._follower.store_up:
            with contextlib.suppress(StoreUnavailable):
                return await self._from_store(flag_id, found.fence if found is not None else "")
        if (
            found is not None
            and found.entry is not None
            and found.entry.revision >= self._near.high_water_mark(flag_id)
        ):
            self.stats.stale += 1
            return self._taken(found.entry, found.as_of, Source.CACHE)
        return self._last_known(flag_id)

    async def _from_cache(self, flag_id: FlagId) -> Found | None:
        """Ask the shared cache; while another replica reads the store for it, wait for what that finds."""
        until = time.monotonic() + UNKNOWN_WAIT_S
        while self._cache is not None and self._cache.available:
            async with self._room:
                found = await self._cache.fetch(flag_id, self._near.staleness_bound_s)
            if found is None or found.fence or not self._follower.store_up or time.monotonic() > until:
                return found
            if found.entry is not None and self._is_young(found.as_of):
                if found.entry.revision >= self._near.high_water_mark(flag_id):
                    return found
                return Found(None, NEVER)
            await asyncio.sleep(OTHERS_READ_S)
        return None

    async def _from_store(self, flag_id: FlagId, fence: str) -> Answer:
        asked_at = time.monotonic()
        entry = await self._store.get(flag_id)
        self.stats.store += 1
        answer = self._taken(entry, asked_at, Source.STORE)
        if self._cache is not None and self._cache.available:
            async with self._room:
                await self._cache.put([entry], asked_at, fence=fence)
        return answer

    def _or_newer(self, flag_id: FlagId, answer: Answer) -> Answer:
        """Give what is held where that has overtaken what was found: who waited must not answer less than others."""
        near, found = self._near, answer.held
        held = near.get(flag_id) or (_absent(flag_id, near.verified_at) if near.complete else None)
        if held is None or held is found:
            return answer
        if found is None or (
            held.entry != found.entry and (near.complete or held.entry.revision > found.entry.revision)
        ):
            return self._answer(held, Source.NEAR)
        return answer

    async def _read_past_high_water_mark(self, flag_id: FlagId, floor: int) -> Answer:
        """What a shared read found is older than what was answered before this call: read once more, by ourselves."""
        with contextlib.suppress(StoreUnavailable):
            answer = await self._from_store(flag_id, "")
            if answer.held is not None and answer.held.entry.revision >= floor:
                return answer
        return self._last_known(flag_id)

    async def _read_at_least(self, flag_id: FlagId, min_revision: int) -> Answer:
        """Go to the source: after the set's counter has the revision, so has the flag."""

        async def read() -> Answer:
            revisions = await self._store.revisions()
            if revisions.get(flag_id.flag_set, 0) < min_revision:
                raise StoreUnavailable
            return await self._from_store(flag_id, "")

        flight = self._reading_at_least.start((flag_id, min_revision), read)
        done, _ = await asyncio.wait([flight], timeout=UNKNOWN_WAIT_S)
        if done and not flight.cancelled() and flight.exception() is None:
            return self._or_newer(flag_id, flight.result())
        raise RevisionUnavailable(flag_id.flag_set, min_revision)

    async def _loaded(self, flag_set: str, wait_s: float) -> StoreContents | None:
        """Read the store, not by a read that began before this call; None when it takes long and much is held."""
        if (earlier := self._loads.current(flag_set)) is not None:
            await asyncio.wait([earlier], timeout=wait_s)  # it may not have what was written since
        loading = self._loads.start(flag_set, self._follower.read_all)
        await asyncio.wait([loading], timeout=wait_s)
        if loading.done() and not loading.cancelled() and loading.exception() is None:
            return loading.result()
        if self._near.complete:
            return None
        raise StoreUnavailable

    def _of_contents(self, flag_set: str, contents: StoreContents, min_revision: int, asked_at: float) -> list[Answer]:
        """Give what was just read where the near cache cannot hold it all."""
        if contents.revisions.get(flag_set, 0) < min_revision:
            raise RevisionUnavailable(flag_set, min_revision)
        now = time.monotonic()
        flags = sorted((flag for flag in contents.flags if flag.flag_set == flag_set), key=list_order)
        self._near.note_served(flags, asked_at, now)
        return [Answer(CacheEntry(Entry.of(flag), now, now), Source.STORE, 0.0) for flag in flags]

    def _is_young(self, as_of: float) -> bool:
        return self._near.is_fresh(as_of, time.monotonic())

    def _taken(self, entry: Entry, as_of: float, source: Source) -> Answer:
        held = self._near.apply_read(entry, as_of, time.monotonic())
        return self._answer(held, source if held.entry == entry else Source.NEAR)

    def _last_known(self, flag_id: FlagId) -> Answer:
        self.stats.stale += 1
        held = self._near.get(flag_id)
        if held is None and self._near.complete:
            held = _absent(flag_id, self._near.verified_at)
        if held is None:
            return Answer(None, Source.NEAR, 0.0, stale=True)
        return self._answer(held, held.origin)

    def _answer(self, held: CacheEntry, source: Source) -> Answer:
        now, verified_at = time.monotonic(), self._near.confirmed(held)
        stale = not self._near.is_fresh(verified_at, now)
        return Answer(held, source, min(now - verified_at, MAX_AGE_S), stale)


def _absent(flag_id: FlagId, verified_at: float) -> CacheEntry:
    return CacheEntry(Entry.absent(flag_id), verified_at, verified_at)
