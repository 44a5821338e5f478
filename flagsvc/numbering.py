"""Gives foreign changes a revision: what another program changed in the store without counting.

The keeper of the shared cache is first, so that not every replica does the same; the others follow when it does not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.near import NearCache
from flagsvc.ports import FlagCache, FlagStore, Unnumbered
from flagsvc.spreading import spread

AFTER_S = 0.3
"""How long others leave it to the keeper."""
AGAIN_S = 0.25

log = structlog.get_logger(__name__)


class Numbering:
    """Foreign changes that have no revision yet; while there are any, nothing newer can be confirmed."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None, keeps: Callable[[], bool]) -> None:
        self._near, self._store, self._cache, self._keeps = near, store, cache, keeps
        self._tasks: dict[Unnumbered, asyncio.Task[None]] = {}
        self._again: set[Unnumbered] = set()
        self.numbered = 0

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Leave the rest to others."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, change: Unnumbered) -> None:
        """See to it that a foreign change gets a revision.

        Another one with the same words, while the first is seen to, may be one that it does not reach.
        """
        if change in self._tasks:
            self._again.add(change)
        else:
            self._tasks[change] = asyncio.create_task(self._see_to(change), name="numbering")

    async def _see_to(self, change: Unnumbered) -> None:
        try:
            if not self._keeps():
                await asyncio.sleep(AFTER_S * random.uniform(1, 2))  # noqa: S311  jitter is no secret
            while not self._is_known_gone(change):
                self._again.discard(change)
                try:
                    await self._renumber(change)
                except StoreUnavailable:
                    await asyncio.sleep(AGAIN_S)
                except Exception:
                    log.exception("numbering a foreign change failed; it goes on")
                    await asyncio.sleep(AGAIN_S)
                else:
                    if change not in self._again:
                        return
        finally:
            del self._tasks[change]
            self._again.discard(change)

    def _is_known_gone(self, change: Unnumbered) -> bool:
        """Whether somebody has numbered this deletion. Of anything else only the store can tell: news may be old."""
        held = self._near.get(change.id)
        return change.gone and held is not None and held.entry.flag is None and held.entry.revision > change.revision

    async def _renumber(self, change: Unnumbered) -> None:
        as_of = time.monotonic()
        try:
            entry = await self._store.renumber(change.id, change.revision)
        except WritesUnsupported as error:
            # Then what the store has counts, also where its revision is smaller than what is held.
            self._near.overrule(change.revision, await self._store.get(change.id), as_of, time.monotonic())
            log.warning("a foreign change has no revision", flag=change.id.key, error=str(error))
            return
        if entry is None:  # somebody else has
            self._near.apply(await self._store.get(change.id), as_of, time.monotonic())
            return
        self.numbered += 1
        self._near.news(entry, time.monotonic(), as_of=as_of)
        await spread(self._cache, entry, as_of)
