"""Watches the Redis server in the background: whether it works again, whose the keys are, its clock and its memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import structlog

from flagsvc.adapters.redis import scripts
from flagsvc.adapters.redis.causes import redis_cause
from flagsvc.adapters.redis.client import CONNECT_TIMEOUT_S, BoundedClient, texts_of
from flagsvc.background import BackgroundTasks, repeat

log = structlog.get_logger(__name__)


class Probe:
    """Closes an open breaker once everything that calls do works. `memory`: for metrics, as last seen."""

    def __init__(self, redis: BoundedClient) -> None:
        self._redis = redis
        self._tasks = BackgroundTasks()
        self._may_read_memory = True
        self._was_tried = False
        self.memory: Mapping[str, float] = {}

    def start(self) -> None:
        """Begin; waits for nothing."""
        pause = self._redis.breaker.pause_s
        self._tasks.start(repeat(self._probe, lambda: asyncio.sleep(pause()), "redis_probe_failed"), "redis-probe")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    async def try_use(self) -> None:
        """Read, write and publish by each kind of command that calls use. Raises what the driver raises."""
        client, keys = self._redis.background, self._redis.keys.probed()
        channel = self._redis.keys.channel
        await texts_of(client, keys[:1])
        await client.publish(channel, scripts.PROBE_MESSAGE)
        await self._redis.scripts[scripts.PROBE](keys=keys, args=[channel], client=client)
        async with client.pipeline(transaction=True) as pipe:
            _ = pipe.eval(scripts.PROBE, len(keys), *keys, channel)
            await pipe.execute()

    async def _probe(self) -> None:
        """Read the clock. At the start, and while the breaker is open, also try everything that calls will do."""
        breaker, ownership = self._redis.breaker, self._redis.ownership
        was_open = breaker.is_open
        tries = was_open or not self._was_tried
        self._was_tried = True
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._redis.read_clock(self._redis.background)
                if tries:
                    await self.try_use()
        except Exception as error:  # noqa: BLE001  as in `BoundedClient.bounded`
            if was_open:
                breaker.probe_failed(redis_cause(error))
            elif tries:
                breaker.failed(redis_cause(error))
            return
        if was_open:
            # Idle connections are of the server that went away: each would open the breaker once more.
            await self._redis.client.connection_pool.disconnect(inuse_connections=False)
            self._may_read_memory = True
            breaker.close()
        if ownership.identity is None or ownership.owner is not None:
            await self._read_owner()
        await self._read_memory()

    async def _read_owner(self) -> None:
        """See whether the keys still belong to another store, which may have stopped."""
        ownership = self._redis.ownership
        with contextlib.suppress(Exception):  # as above
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                owner = await self._redis.background.get(self._redis.keys.owner)
                if ownership.identity is None:
                    ownership.assume_owner(owner)
                else:
                    ownership.note_owner(owner)

    async def _read_memory(self) -> None:
        """Read what only metrics show: a user without INFO does without."""
        if not self._may_read_memory:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                info: Any = await self._redis.background.info("memory")
            self.memory = {"memory_bytes": info.get("used_memory", 0), "memory_limit_bytes": info.get("maxmemory", 0)}
        except Exception as error:  # noqa: BLE001  as above
            if (cause := redis_cause(error)).is_refusal:
                self._may_read_memory = False
                log.info("cache_memory_unknown", cause=cause.text, detail="Only two metrics need INFO.")
