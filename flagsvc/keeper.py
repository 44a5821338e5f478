"""Vouches for the shared cache: one replica of all says, again and again, how old what is there can be at most.

What a writer left undone, what was lost with Redis, an old dump put in its place: all of it ends here. Changes that
this replica has applied are put once more before each renewal; where the cache is not the one it was, vouching begins
anew, and what was there before counts for nothing.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from flagsvc.core.model import FlagId
from flagsvc.near import NearCache
from flagsvc.ports import Entry, FlagCache, Vouched

KEEP_S = 1.0
LASTS_S = 4.0
"""How long a word holds: when its giver dies, another replica gives it after that."""

log = structlog.get_logger(__name__)


class Keeper:
    """The part of one replica that vouches, or waits to. `keeps` while it is this one that does."""

    def __init__(self, near: NearCache, cache: FlagCache) -> None:
        self._near, self._cache = near, cache
        self._changed: dict[FlagId, tuple[float, Entry]] = {}
        self._losses = 0
        self._task: asyncio.Task[None] | None = None
        self.keeps = False
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
                await self._keep(min(LASTS_S, bound * 0.8))
            except Exception:
                log.exception("keeping the shared cache failed; it goes on")
            await asyncio.sleep(min(KEEP_S, bound / 5))

    async def _keep(self, lasts_s: float) -> None:
        """Give one word: about the view as it is at this moment, with everything that was applied until now."""
        as_of, changed = self._near.confirmed_at, self._changed
        if not self._cache.available or time.monotonic() - as_of > lasts_s * 0.6:
            return
        self._changed = {}
        if not self.keeps or self._losses != self._near.losses:
            # What was committed after `as_of` was heard after it, and is to be put before the first renewal.
            self._changed = {flag_id: noted for flag_id, noted in changed.items() if noted[0] > as_of}
            await self._begin(as_of, lasts_s)
        elif await self._cache.put([entry for _, entry in changed.values()], as_of):
            verdict = await self._cache.vouch(as_of, lasts_s, anew=False)
            self.keeps = verdict is Vouched.KEPT
            if verdict is Vouched.LOST:
                log.warning("the shared cache is not what it was; it is filled anew")
        else:
            self._changed = {**changed, **self._changed}

    async def _begin(self, as_of: float, lasts_s: float) -> None:
        """Vouch for nothing but what is put from now on; then put everything that is held."""
        self._losses = self._near.losses
        self.keeps = await self._cache.vouch(as_of, lasts_s, anew=True) is Vouched.KEPT
        if self.keeps:
            self.begun += 1
            log.info("keeping the shared cache", entries=len(self._near) if self._near.complete else 0)
            if self._near.complete:
                await self._cache.put(self._near.entries(), as_of)
