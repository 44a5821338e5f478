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
from flagsvc.ports import FlagCache, FlagStore, UnversionedChange
from flagsvc.replication.publish import publish_change
from flagsvc.view.near_cache import NearCache

AFTER_S = 0.3
"""How long others leave it to the keeper."""
RETRY_DELAY_S = 0.25

log = structlog.get_logger(__name__)


class RevisionAssigner:
    """Foreign changes that have no revision yet; while there are any, nothing newer can be confirmed."""

    def __init__(
        self, near: NearCache, store: FlagStore, cache: FlagCache | None, is_holder: Callable[[], bool]
    ) -> None:
        self._near, self._store, self._cache, self._is_holder = near, store, cache, is_holder
        self._tasks: dict[UnversionedChange, asyncio.Task[None]] = {}
        self._again: set[UnversionedChange] = set()
        self.assigned = 0

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Leave the rest to others."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, change: UnversionedChange) -> None:
        """See to it that a foreign change gets a revision.

        Another one with the same words, while the first is seen to, may be one that it does not reach.
        """
        if change in self._tasks:
            self._again.add(change)
        else:
            self._tasks[change] = asyncio.create_task(self._assign(change), name="numbering")

    async def _assign(self, change: UnversionedChange) -> None:
        try:
            if not self._is_holder():
                await asyncio.sleep(AFTER_S * random.uniform(1, 2))  # noqa: S311  jitter is no secret
            while not self._is_known_gone(change):
                self._again.discard(change)
                try:
                    await self._assign_revision(change)
                except StoreUnavailable:
                    await asyncio.sleep(RETRY_DELAY_S)
                except Exception:
                    log.exception("numbering a foreign change failed; it goes on")
                    await asyncio.sleep(RETRY_DELAY_S)
                else:
                    if change not in self._again:
                        return
        finally:
            del self._tasks[change]
            self._again.discard(change)

    def _is_known_gone(self, change: UnversionedChange) -> bool:
        """Whether somebody has numbered this deletion. Of anything else only the store can tell: news may be old."""
        held = self._near.get(change.id)
        return change.gone and held is not None and held.entry.flag is None and held.entry.revision > change.revision

    async def _assign_revision(self, change: UnversionedChange) -> None:
        as_of = time.monotonic()
        try:
            entry = await self._store.assign_revision(change.id, change.revision)
        except WritesUnsupported as error:
            # Then what the store has counts, also where its revision is smaller than what is held.
            self._near.force_replace(change.revision, await self._store.get(change.id), as_of, time.monotonic())
            log.warning("a foreign change has no revision", flag=change.id.key, error=str(error))
            return
        if entry is None:  # somebody else has
            self._near.apply_read(await self._store.get(change.id), as_of, time.monotonic())
            return
        self.assigned += 1
        self._near.apply_change(entry, time.monotonic(), as_of=as_of)
        await publish_change(self._cache, entry, as_of)
