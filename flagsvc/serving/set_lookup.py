"""Finds the flags of a whole set as of one moment: in the near cache, or by a load of the store that callers share."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from flagsvc.core.errors import RevisionUnavailable, StoreUnavailable
from flagsvc.core.model import list_order
from flagsvc.ports import Entry, FlagStore, StoreContents
from flagsvc.serving.lookup import KNOWN_WAIT_S, UNKNOWN_WAIT_S, Answer, Loader, Lookup
from flagsvc.serving.singleflight import SingleFlight
from flagsvc.turns import drained_in_turns, in_turns, sorted_in_turns
from flagsvc.view.entries import CacheEntry, Source
from flagsvc.view.held_families import Moment
from flagsvc.view.near_cache import NearCache
from flagsvc.view.set_order import Listing, Position

LIST_WAIT_S = 30.0
"""How long a list waits for the whole store where nothing less will do."""


class SetFound(NamedTuple):
    """The flags of a set as of one moment, in list order and in turns, in which the caller works too.

    `moment`: the same moment's flags that depend on others, and these others; `source`: where both are from.
    """

    answers: AsyncIterator[Answer]
    moment: Moment
    source: Source


class SetLookup:
    """All lookups of whole sets of one replica. `lookup` finds single flags, and counts."""

    def __init__(self, near: NearCache, store: FlagStore, loader: Loader, lookup: Lookup) -> None:
        self._near, self._store, self._loader, self._lookup = near, store, loader, lookup
        self._loads: SingleFlight[str, StoreContents] = SingleFlight()
        self._counters: SingleFlight[str, Mapping[str, int]] = SingleFlight()

    async def close(self) -> None:
        """Cancel what is running."""
        await asyncio.gather(self._loads.close(), self._counters.close())

    async def get_all(self, flag_set: str, min_revision: int = 0) -> SetFound:
        """Find all flags of a set. Raises StoreUnavailable and RevisionUnavailable."""
        loaded = await self._loaded(flag_set, min_revision)
        if loaded is not None:
            return SetFound(_drained(loaded.flags), await _moment(loaded), Source.STORE)
        flags, moment = self._near.of_set(flag_set), self._near.moment_of(flag_set)
        self._lookup.stats.near += len(flags)
        return SetFound(self._held(flags), moment, Source.NEAR)

    async def _held(self, flags: Listing) -> AsyncIterator[Answer]:
        async for held in in_turns(flags):
            yield self._lookup.answer(held, Source.NEAR)

    async def get_set(self, flag_set: str) -> Listing:
        """Find all flags of a set as `get_all` does, without saying how fresh each is."""
        loaded = await self._loaded(flag_set, 0)
        if loaded is not None:
            return Listing((loaded.flags,))
        flags = self._near.of_set(flag_set)
        self._lookup.stats.near += len(flags)
        return flags

    async def get_page(self, flag_set: str, after: Position | None, size: int) -> list[CacheEntry]:
        """Find at most so many flags of a set after a position in list order (None: from the first)."""
        loaded = await self._loaded(flag_set, 0)
        if loaded is not None:
            first = bisect_right(loaded.flags, after, key=_position) if after is not None else 0
            return loaded.flags[first : first + size]
        page = self._near.page_of_set(flag_set, after, size)
        self._lookup.stats.near += len(page)
        return page

    async def _loaded(self, flag_set: str, min_revision: int) -> _Loaded | None:
        """Make sure that the near cache can list a set, or return the set as it was just loaded where it cannot."""
        asked_at = time.monotonic()
        await self._lookup.first_load()
        near = self._near
        fresh = near.complete and near.is_fresh(near.verified_at, time.monotonic())
        if not (fresh and (not min_revision or near.contains(flag_set, min_revision))):
            if min_revision:
                await self._check_exists(flag_set, min_revision)
            wait_s = KNOWN_WAIT_S if near.complete and not min_revision else LIST_WAIT_S
            contents = await self._load(wait_s) if self._loader.store_up or not near.complete else None
            if contents is not None and not near.complete:
                return await self._of_contents(flag_set, contents, min_revision, asked_at)
        if min_revision and not near.contains(flag_set, min_revision):
            raise RevisionUnavailable(flag_set, min_revision)
        return None

    async def _check_exists(self, flag_set: str, revision: int) -> None:
        """Compare a revision with the store's counter before anything is loaded for it. Raises RevisionUnavailable."""
        revisions = await self._counters.result("", self._store.revisions, UNKNOWN_WAIT_S)
        if revisions is not None and revisions.get(flag_set, 0) < revision:
            await self._counters.current_done("", UNKNOWN_WAIT_S)
            revisions = await self._counters.result("", self._store.revisions, UNKNOWN_WAIT_S)
        if revisions is None or revisions.get(flag_set, 0) < revision:
            raise RevisionUnavailable(flag_set, revision)

    async def _load(self, wait_s: float) -> StoreContents | None:
        """Load the store once for all who ask; None when that takes long and every flag is held.

        Raises StoreUnavailable.
        """
        await self._loads.current_done("", wait_s)  # it may have begun before what the caller has written
        contents = await self._loads.result("", self._loader.load_all, wait_s)
        if contents is None and not self._near.complete:
            raise StoreUnavailable
        return contents

    async def _of_contents(self, flag_set: str, contents: StoreContents, min_revision: int, asked_at: float) -> _Loaded:
        """Return what was just loaded where the near cache cannot hold it all."""
        revision = contents.revisions.get(flag_set, 0)
        if revision < min_revision:
            raise RevisionUnavailable(flag_set, min_revision)
        now = time.monotonic()
        flags = [flag async for flag in in_turns(contents.flags) if flag.flag_set == flag_set]
        flags = [flag async for flag in in_turns(await sorted_in_turns(flags, list_order))]
        async for flag in in_turns(flags):
            self._near.note_served(flag, asked_at, now)
        return _Loaded([CacheEntry(Entry.of(flag), now, now) async for flag in in_turns(flags)], revision, asked_at)


class _Loaded(NamedTuple):
    """A set as the store had it: every change up to the revision, and later ones perhaps."""

    flags: list[CacheEntry]
    revision: int
    as_of: float


async def _drained(flags: list[CacheEntry]) -> AsyncIterator[Answer]:
    async for held in drained_in_turns(flags):
        yield Answer(held, Source.STORE, 0.0)


async def _moment(loaded: _Loaded) -> Moment:
    """Return the flags that depend on others, and these others: all, where there are any."""
    has_families = False
    async for held in in_turns(loaded.flags):
        has_families = has_families or (held.entry.flag is not None and bool(held.entry.flag.prerequisites))
    members = {h.entry.id.key: h async for h in in_turns(loaded.flags)} if has_families else {}
    return Moment(members, loaded.revision, loaded.as_of)


def _position(held: CacheEntry) -> Position:
    flag = held.entry.flag
    return list_order(flag) if flag is not None else (0, "")
