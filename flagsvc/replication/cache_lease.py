"""Vouches for the shared cache: one replica of all says, again and again, how old what is there can be at most.

What a writer left undone, what was lost with Redis, an old dump put in its place: all of it ends here. Changes that
this replica has applied are put once more before each renewal; where the cache is not the one it was, vouching begins
anew, and what was there before counts for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from flagsvc.core.model import FlagId
from flagsvc.ports import Entry, FlagCache, Vouched
from flagsvc.view.near_cache import NearCache

RENEW_EVERY_S = 1.0
LEASE_S = 4.0
"""How long a word holds: when its giver dies, another replica gives it after that."""

CHUNK = 500

log = structlog.get_logger(__name__)


class CacheLease:
    """The part of one replica that vouches, or waits to. `is_holder` while it is this one that does."""

    def __init__(self, near: NearCache, cache: FlagCache) -> None:
        self._near, self._cache = near, cache
        self._changed: dict[FlagId, tuple[float, Entry]] = {}
        self._gaps = 0
        self._task: asyncio.Task[None] | None = None
        self.is_holder = False
        self.begun = 0
        near.when_changed(self._note)

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._task = asyncio.create_task(self._keep_forever(), name="keeper")

    async def close(self) -> None:
        """Stop. The word runs out by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _note(self, entry: Entry) -> None:
        self._changed[entry.id] = time.monotonic(), entry

    async def _keep_forever(self) -> None:
        bound = self._near.staleness_bound_s
        while True:
            try:
                await self._keep(min(LEASE_S, bound * 0.8))
            except Exception:
                log.exception("keeping the shared cache failed; it goes on")
            await asyncio.sleep(min(RENEW_EVERY_S, bound / 5))

    async def _keep(self, lease_s: float) -> None:
        """Give one word: about the view as it is at this moment, with everything that was applied until now."""
        as_of, changed = self._near.verified_at, self._changed
        if not self._cache.available or time.monotonic() - as_of > lease_s * 0.6:
            return
        entries = self._current(changed)
        if not self.is_holder or self._gaps != self._near.gaps or entries is None or len(entries) > CHUNK:
            # What was committed after `as_of` was heard after it: the beginning says nothing of that.
            self._changed = {flag_id: noted for flag_id, noted in changed.items() if noted[0] > as_of}
            await self._begin(as_of, lease_s)
            return
        self._changed = {}
        verdict = await self._cache.vouch(as_of, lease_s, anew=False, entries=entries)
        self.is_holder = verdict is Vouched.KEPT
        # What this word does not reach is put with the next one again: it may have been evicted by then.
        left = {flag_id: noted for flag_id, noted in changed.items() if not self.is_holder or noted[0] > as_of}
        self._changed = {**left, **self._changed}
        if verdict is Vouched.LOST:
            log.warning("the shared cache is not what it was; it is filled anew")

    def _current(self, changed: Mapping[FlagId, tuple[float, Entry]]) -> list[Entry] | None:
        """Give what is known now of flags that changed: what was noted may have been overtaken by a reading.

        None when something newer was known that is not held any more.
        """
        entries = []
        for flag_id, (_, entry) in changed.items():
            held = self._near.get(flag_id)
            if held is None and self._near.high_water_mark(flag_id) > entry.revision:
                return None
            entries.append(held.entry if held is not None else entry)
        return entries

    async def _begin(self, as_of: float, lease_s: float) -> None:
        """Vouch for nothing but what is put from now on; then put everything that is held."""
        self._gaps = self._near.gaps
        self.is_holder = await self._cache.vouch(as_of, lease_s, anew=True) is Vouched.KEPT
        if not self.is_holder:
            return
        self.begun += 1
        log.info("keeping the shared cache", entries=len(self._near) if self._near.complete else 0)
        ids = list(self._near.ids()) if self._near.complete else []
        for start in range(0, len(ids), CHUNK):
            held = [self._near.get(flag_id) for flag_id in ids[start : start + CHUNK]]
            await self._cache.put([each.entry for each in held if each is not None], self._near.verified_at)
