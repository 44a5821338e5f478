"""Starts over after the store was restored, cloned or replaced: every replica reads everything again.

The store gets a new identity. What the shared cache, heartbeats in transit and snapshots hold carries the one before,
so none of it is believed any more; each replica that sees the new identity drops what it holds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from flagsvc.ports import FlagCache, FlagStore
from flagsvc.replication.follower import Follower
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.view.near_cache import NearCache

WAIT_S = 10.0
"""How long a resync waits for the other replicas."""
CHECK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class ResyncReport:
    """`done`: whether it was made, or only described. `flags`: held before, or after it was made.

    `resynced`, `waiting`: replicas by whether they have read everything again.
    """

    done: bool
    store: str
    flags: int
    resynced: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Resync:
    """Makes a resync that an operator asked for; one at a time."""

    def __init__(
        self, near: NearCache, store: FlagStore, cache: FlagCache | None, follower: Follower, heartbeats: Heartbeats
    ) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._follower, self._heartbeats = follower, heartbeats
        self._turn = asyncio.Lock()

    async def run(self, *, confirm: bool) -> ResyncReport:
        """Resync every replica; without `confirm` only say what that means. Raises StoreUnavailable, WritesUnsupported.

        Replicas that cannot be reached now do it once they see the store's new identity.
        """
        async with self._turn:
            names = await self._replicas()
            if not confirm:
                return ResyncReport(
                    False, str(self._store.identity), len(self._near.flags()), waiting=tuple(sorted(names))
                )
            await self._store.renew_identity()
            await self._follower.resync()
            if self._cache is not None:
                await self._cache.announce_identity()
            resynced = await self._wait_for(names)
            waiting = tuple(sorted(names - resynced))
            return ResyncReport(
                True, str(self._store.identity), len(self._near.flags()), tuple(sorted(resynced)), waiting
            )

    async def _replicas(self) -> set[str]:
        heartbeats, _ = await self._heartbeats.statuses()
        return {heartbeat.replica for heartbeat, _ in heartbeats}

    async def _wait_for(self, names: set[str]) -> set[str]:
        """Wait for the replicas' heartbeats, which carry the new identity once a replica has it."""
        until = time.monotonic() + WAIT_S
        while not names <= (found := await self._replicas()) and time.monotonic() < until:  # noqa: ASYNC110  elsewhere
            await asyncio.sleep(CHECK_EVERY_S)
        return found
