"""Clients of Redis whose commands are bounded in time and behind a breaker. A replica makes its clients only here.

A dead or hung Redis costs a call one time-out, then nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from flagsvc.adapters.redis import scripts
from flagsvc.adapters.redis.breaker import Breaker
from flagsvc.adapters.redis.causes import redis_cause
from flagsvc.adapters.redis.clock import RedisClock
from flagsvc.adapters.redis.keys import Keys
from flagsvc.adapters.redis.options import checked_options
from flagsvc.adapters.redis.ownership import Ownership
from flagsvc.adapters.redis.timeouts import stall_tolerant_timeout

T = TypeVar("T")

PUT_ALLOWANCE_S = 0.001
"""By how much each further entry of a round trip prolongs its time-out."""
CONNECT_TIMEOUT_S = 1.0
"""For connecting and for what no caller waits for: probes, scans, subscribing."""
BACKGROUND_CONNECTIONS = 4


class BoundedClient:
    """Sends commands as one store. `background` is the client for what no caller waits for."""

    def __init__(self, url: str, prefix: str, ownership: Ownership, *, timeout_s: float, max_connections: int) -> None:
        self.client, self.background = _client(url, max_connections), _client(url, BACKGROUND_CONNECTIONS)
        self.keys = Keys(prefix, self.client.connection_pool.connection_kwargs.get("db", 0))
        self.ownership, self.breaker, self.clock = ownership, Breaker(), RedisClock()
        self.scripts = {text: self.client.register_script(text) for text in scripts.ALL}
        self.errors = 0
        self._timeout_s, self._free = timeout_s, asyncio.Semaphore(max_connections)

    async def close(self) -> None:
        """Release connections."""
        await self.client.aclose()
        await self.background.aclose()

    @property
    def available(self) -> bool:
        """Whether commands are sent now."""
        return not self.breaker.is_open and self.ownership.is_ours

    async def bounded(self, command: Callable[[], Awaitable[T]], otherwise: T, entries: int = 1) -> T:
        """Run a command within the time-out, which is longer for many entries; a failure opens the breaker."""
        if not self.available:
            return otherwise
        sent = False
        try:
            async with stall_tolerant_timeout(self._timeout_s + (entries - 1) * PUT_ALLOWANCE_S), self._free:
                if not self.available:
                    return otherwise
                sent = True
                result = await command()
        except Exception as error:  # noqa: BLE001  whatever the driver raises is an outage, never a caller's error
            if isinstance(error, ResponseError) and self.ownership.is_refused(str(error.args[0])):
                return otherwise
            self.errors += 1
            if sent:
                self.breaker.failed(redis_cause(error))
            return otherwise
        return result

    def register(self, script: str) -> None:
        """Make another script known to `run`; it begins with `scripts.COMMON`."""
        self.scripts[script] = self.client.register_script(script)

    async def run(
        self, script: str, keys: Sequence[str], args: Sequence[Any], client: aioredis.Redis | None = None
    ) -> Any:
        """Run one script as this store, and learn the server's time from its answer. Raises what the driver raises."""
        sent_at = time.monotonic()
        all_keys, all_args = (self.keys.owner, *keys), (*self.ownership.store, *args)
        answer: Any = await self.scripts[script](keys=all_keys, args=all_args, client=client)
        self.clock.observe(answer[0], sent_at, time.monotonic())
        return answer

    async def publish(self, text: str) -> bool:
        """Publish a message on the channel. Return whether the server took it."""
        return await self.bounded(lambda: self.client.publish(self.keys.channel, text), None) is not None

    async def stamp(self, as_of: float) -> int:
        """Return the server's time in ms at a moment; 0 where that is not known."""
        if not self.clock.known:
            await self.bounded(partial(self.read_clock, self.client), None)
        return self.clock.to_server_ms(as_of)

    async def read_clock(self, client: aioredis.Redis) -> None:
        """Read the server's time. Raises what the driver raises."""
        sent_at = time.monotonic()
        seconds, micros = await client.time()
        self.clock.observe(seconds * 1_000_000 + micros, sent_at, time.monotonic())


async def texts_of(client: aioredis.Redis, keys: Sequence[str | bytes]) -> list[bytes | None]:
    """Read what several keys hold. Raises what the driver raises."""
    texts: Any = await client.mget(list(keys))
    return list(texts)


def _client(url: str, max_connections: int) -> aioredis.Redis:
    # No time-out of the driver's own: on Python 3.11 its send swallows a cancellation, and with it our bound.
    return aioredis.Redis.from_url(
        checked_options(url),
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,  # no CLIENT commands: one right less, and two commands less for each connection
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        max_connections=max_connections,
    )
