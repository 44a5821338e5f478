"""Audits the shared cache: compares it with the store flag by flag, and repairs wrong entries.

Changes go on meanwhile, so one comparison proves nothing: the store is read, then the cache, and a suspect entry is
read again, the store first and the cache last. An entry has drifted when the cache held it all the time and it was
wrong in the same way at both reads of the store: no change was in transit that would have repaired it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import structlog

from flagsvc import collector
from flagsvc.background import BackgroundTasks, outliving
from flagsvc.core.errors import CacheMissing, CacheUnavailable, StoreUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Entry, FlagCache, FlagStore, StoreContents
from flagsvc.turns import free_in_turns, in_turns, off_loop
from flagsvc.view.entries import same_entry
from flagsvc.view.near_cache import NearCache

MAX_LISTED = 1_000
"""Wrong entries that an answer lists; more are only counted."""
SETTLE_S = 0.25
"""Between the two comparisons: by then a change that was between store and cache has arrived."""
PAUSE_S = 0.02
"""Pause between two pieces of a comparison in the background."""
BATCH = 50
_MAX_LOGGED = 5

log = structlog.get_logger(__name__)


class DriftKind(StrEnum):
    """How a cached entry is wrong."""

    OLDER = "OLDER"
    """The store has a newer revision."""
    NEWER = "NEWER"
    """The store has an older revision: it was restored from a backup."""
    DIFFERENT = "DIFFERENT"
    """The same revision, another definition."""
    DELETED = "DELETED"
    """The store has no such flag."""


@dataclass(slots=True)
class DriftedEntry:
    """A cache entry that differs from the store. `stored_revision` 0: the store has no such flag."""

    id: FlagId
    stored_revision: int
    cached_revision: int
    kind: DriftKind
    repaired: bool = False


@dataclass(slots=True)
class AuditReport:
    """The result of a comparison: entries compared, how many had drifted, and the first of them in `drifts`.

    `missing`: flags of the store that the cache does not have, which is not a drift.
    """

    checked: int = 0
    drifted: int = 0
    repaired: int = 0
    missing: int = 0
    drifts: list[DriftedEntry] = field(default_factory=list)


class Suspect(NamedTuple):
    """A cache entry that looked wrong, and how."""

    cached: Entry
    kind: DriftKind


class Mismatch(NamedTuple):
    """A cache entry that is wrong, and what the store has."""

    cached: Entry
    stored: Entry
    kind: DriftKind


class CacheAuditor:
    """Audits on demand, and every `interval_s` (0: never) on the holder of the cache lease.

    For metrics: `checks` made, entries that had `drifted` and were `repaired` in all of them, and `last_at`, when the
    last check ended (seconds since 1970; 0: never).
    """

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        interval_s: float,
        is_holder: Callable[[], bool] = lambda: True,
    ) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._interval_s, self._is_holder = interval_s, is_holder
        self._turn = asyncio.Lock()
        self._next: dict[bool, asyncio.Task[AuditReport]] = {}
        self._running: set[asyncio.Task[AuditReport]] = set()
        self._tasks = BackgroundTasks()
        self.checks = 0
        self.drifted = 0
        self.repaired = 0
        self.last_at = 0.0

    def start(self) -> None:
        """Begin the checks in the background, if there are to be any."""
        if self._interval_s > 0 and self._cache is not None:
            self._tasks.start(self._check_forever(), "cache-audit")

    async def close(self) -> None:
        """Stop them, and every comparison that somebody has asked for."""
        asked_for = list(self._running)
        for task in asked_for:
            task.cancel()
        await asyncio.gather(self._tasks.close(), *asked_for, return_exceptions=True)

    async def verify(self, *, repair: bool) -> AuditReport:
        """Compare everything now. Raises CacheMissing, CacheUnavailable and StoreUnavailable.

        Whoever asks while one comparison runs gets the next one, together with all others who ask meanwhile.
        """
        if self._cache is None:
            raise CacheMissing
        task = self._next.get(repair)
        if task is None:
            task = self._next[repair] = asyncio.create_task(self._verify(repair=repair, pause_s=0.0, asked_for=True))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await outliving(task)

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s * random.uniform(0.8, 1.2))  # noqa: S311  jitter is no secret
            if self._is_holder():
                await self._check()

    async def _check(self) -> None:
        try:
            found = await self._verify(repair=True, pause_s=PAUSE_S)
        except (CacheUnavailable, StoreUnavailable) as error:
            log.info("cache_audit_skipped", error=str(error))
        except Exception:
            log.exception("cache_audit_failed", detail="The next audit follows.")
        else:
            if found.drifted:
                flags = [f"{drift.id.flag_set}/{drift.id.key}: {drift.kind}" for drift in found.drifts[:_MAX_LOGGED]]
                log.warning("cache_drifted", drifted=found.drifted, repaired=found.repaired, first=flags)

    async def _verify(self, *, repair: bool, pause_s: float, asked_for: bool = False) -> AuditReport:
        if self._cache is None:
            raise CacheMissing
        async with self._turn:
            if asked_for:
                del self._next[repair]  # who asks from now on needs a comparison that begins later
            found = AuditReport()
            with collector.young_only():
                suspects = await self._suspects(self._cache, found, pause_s)
            if suspects:
                await asyncio.sleep(SETTLE_S)
            for some in _batches(suspects):
                wrong = await self._confirmed(self._cache, some)
                right = await self._repair(self._cache, wrong) if repair and wrong else set()
                self._count(found, wrong, right)
                await asyncio.sleep(pause_s)
            self.checks += 1
            self.last_at = time.time()
            return found

    async def _suspects(self, cache: FlagCache, found: AuditReport, pause_s: float) -> list[Suspect]:
        """Compare the whole cache with the whole store, which is read before it."""
        contents = await self._store.load()
        flags = await _by_id(contents)
        seen: set[FlagId] = set()
        suspects: list[Suspect] = []
        known = 0
        async for piece in cache.entries():
            new = [cached for cached in piece if cached.id not in seen]  # one that moves during a scan may come twice
            stored = [flags.get(cached.id) or _absent(contents, cached.id) for cached in new]
            known += sum(cached.id in flags for cached in new)
            seen.update(cached.id for cached in new)
            suspects += await off_loop(_suspects_among, new, stored)
            await asyncio.sleep(pause_s)
        found.checked = len(seen)
        found.missing = len(flags) - known
        for items in (contents.flags, flags, seen):  # the store made the list for this load
            if isinstance(items, dict | list | set):
                free_in_turns(items)
        return suspects

    async def _confirmed(self, cache: FlagCache, suspects: Sequence[Suspect]) -> list[Mismatch]:
        """Return the suspects that are still wrong in the same way.

        What the cache has is in the store by now, unless the store went back. The counters are read first, which fails
        on a primary that was replaced: it lacks the newest changes, and would make the cache look newer.
        """
        ids = [suspect.cached.id for suspect in suspects]
        await self._store.revisions()
        stored = await asyncio.gather(*map(self._store.get, ids))
        held = await _peek(cache, ids)
        return await off_loop(_still_wrong, suspects, stored, held)

    async def _repair(self, cache: FlagCache, wrong: Sequence[Mismatch]) -> set[FlagId]:
        """Put what the store has; return the flags whose wrong entry is gone.

        Where the cache would keep its entry, the store's overwrites it by force, which could undo a change made since
        the store was read. So a forced entry is not verified (no replica answers from it without asking the store);
        a later read is, which is put without force.
        """
        forced = [each.stored for each in wrong if _kept(each.cached, each.stored)]
        if forced:
            await cache.put(forced, NEVER, force=True)
        as_of = time.monotonic()
        entries = await asyncio.gather(*(self._store.get(each.cached.id) for each in wrong))
        await cache.put(entries, as_of)
        for entry in entries:
            if self._near.get(entry.id) is not None:
                self._near.apply_read(entry, as_of, time.monotonic())
        now = await _peek(cache, [each.cached.id for each in wrong])
        return {
            each.cached.id
            for each, held in zip(wrong, now, strict=True)
            if held is not None and not _same_entry(held, each.cached)
        }

    def _count(self, found: AuditReport, wrong: Sequence[Mismatch], right: set[FlagId]) -> None:
        for each in wrong:
            stored = each.stored.revision if each.stored.flag is not None else 0
            if len(found.drifts) < MAX_LISTED:
                repaired = each.cached.id in right
                found.drifts.append(DriftedEntry(each.cached.id, stored, each.cached.revision, each.kind, repaired))
        found.drifted += len(wrong)
        found.repaired += len(right)
        self.drifted += len(wrong)
        self.repaired += len(right)


def _suspects_among(cached: Sequence[Entry], stored: Sequence[Entry]) -> list[Suspect]:
    """Return what looks wrong of the cache's entries beside the store's. For large flags that takes a while."""
    kinds = map(kind_of, cached, stored)
    return [Suspect(each, kind) for each, kind in zip(cached, kinds, strict=True) if kind is not None]


def _still_wrong(suspects: Sequence[Suspect], stored: Sequence[Entry], held: Sequence[Entry | None]) -> list[Mismatch]:
    return [
        Mismatch(suspect.cached, entry, suspect.kind)
        for suspect, entry, still in zip(suspects, stored, held, strict=True)
        if _same_entry(suspect.cached, still) and kind_of(suspect.cached, entry) is suspect.kind
    ]


def kind_of(cached: Entry, stored: Entry) -> DriftKind | None:
    """Return how a cache entry differs from the store's; None when it is right.

    A flag that exists in neither is right at any older revision: its absence has the set's revision.
    """
    if stored.flag is None:
        if cached.flag is not None:
            return DriftKind.DELETED
        return DriftKind.NEWER if cached.revision > stored.revision else None
    if cached.revision != stored.revision:
        return DriftKind.OLDER if cached.revision < stored.revision else DriftKind.NEWER
    return None if _same_entry(cached, stored) else DriftKind.DIFFERENT


def _kept(cached: Entry, stored: Entry) -> bool:
    """Whether the cache, which never returns to an older revision, keeps its entry when this one is put."""
    return cached.revision > stored.revision or (cached.revision == stored.revision and stored.flag is None)


def _same_entry(cached: Entry, other: Entry | None) -> bool:
    return other is not None and same_entry(cached, other)


async def _by_id(contents: StoreContents) -> dict[FlagId, Entry]:
    return {flag.id: Entry.of(flag) async for flag in in_turns(contents.flags)}


def _absent(contents: StoreContents, flag_id: FlagId) -> Entry:
    return Entry.absent(flag_id, contents.revisions.get(flag_id.flag_set, 0))


async def _peek(cache: FlagCache, ids: Sequence[FlagId]) -> list[Entry | None]:
    """Read entries as they are. Raises CacheUnavailable: an entry that could not be read is not one that is gone."""
    held = await cache.peek(ids)
    if None in held:
        held = [first or second for first, second in zip(held, await cache.peek(ids), strict=True)]
    if not cache.available:
        raise CacheUnavailable
    return held


def _batches(suspects: Sequence[Suspect]) -> Iterator[Sequence[Suspect]]:
    for start in range(0, len(suspects), BATCH):
        yield suspects[start : start + BATCH]
