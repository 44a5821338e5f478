"""The shared cache and its channel on Redis. The only file that imports redis.

Every command is bounded in time and behind a breaker: a dead or hung Redis costs a call one time-out, then nothing.
An entry only ever replaces an older one; a script on the server compares revisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import structlog
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from flagsvc.breaker import Breaker
from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import DEFAULT_SET, FlagId
from flagsvc.ports import Announced, Beat, Entry, Event, Subscribed

T = TypeVar("T")
log = structlog.get_logger(__name__)

CHANNEL = "flagsvc:changes"
SCHEMA = "1"
CHUNK = 500
PROBE_S = 0.5
PATIENCE_S = 1.0
SILENCE_S = 3.0
RECONNECT_MAX_S = 2.0
_TROUBLE = (RedisError, OSError, TimeoutError, asyncio.TimeoutError)

# KEYS[1] the entry; ARGV: its revision, its text, time to live in ms. An equal revision is replaced (the definition
# may have been changed by a writer that knows no revisions), but never by "not found".
_PUT = """
local held = redis.call('GET', KEYS[1])
if held then
  local revision = tonumber(string.match(held, '^1:(%d+):'))
  local new = tonumber(ARGV[1])
  if revision and (revision > new or (revision == new and string.sub(ARGV[2], -1) == ':')) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


def cache_key(flag_id: FlagId) -> str:
    """Where an entry stands: `feature-flag:{key}` in the default set, `feature-flag@{set}:{key}` in others."""
    if flag_id.flag_set == DEFAULT_SET:
        return f"feature-flag:{flag_id.key}"
    return f"feature-flag@{quote(flag_id.flag_set, safe='')}:{flag_id.key}"


class RedisCache:
    """A FlagCache on one Redis. Times are seconds."""

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float = 300.0,
        ttl_jitter: float = 0.1,
        negative_ttl_s: float = 5.0,
        timeout_s: float = 0.05,
        max_connections: int = 64,
    ) -> None:
        self._ttl_s, self._ttl_jitter, self._negative_ttl_s = ttl_s, ttl_jitter, negative_ttl_s
        self._timeout_s = timeout_s
        # No time-out of the driver's own here: on Python 3.11 its send swallows a cancellation, and with it our bound.
        self._client = _client(url, None, max_connections)
        self._patient = _client(url, PATIENCE_S, 4)
        self._breaker = Breaker()
        self._free = asyncio.Semaphore(max_connections)
        self._script = self._client.register_script(_PUT)
        self._probe: asyncio.Task[None] | None = None
        self._state: dict[str, float] = {}
        self.errors = 0

    async def open(self) -> None:
        """Start watching the server's health."""
        self._probe = asyncio.create_task(self._probe_forever(), name="redis-probe")

    async def close(self) -> None:
        """Stop and release connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._client.aclose()
        await self._patient.aclose()

    @property
    def available(self) -> bool:
        """Whether commands are sent now."""
        return not self._breaker.is_open

    def state(self) -> Mapping[str, float]:
        """Give memory_bytes, memory_limit_bytes and errors_total as last seen."""
        return {**self._state, "errors_total": self.errors}

    async def get(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries; an unreadable one is a miss."""
        entries: list[Entry | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            nothing: list[bytes | None] = [None] * len(chunk)
            texts = await self._bounded(partial(self._read, chunk), nothing)
            entries += map(_entry, chunk, texts)
        return entries

    async def put(self, entries: Sequence[Entry]) -> bool:
        """Store each entry unless a newer one is there."""
        for start in range(0, len(entries), CHUNK):
            if not await self._bounded(partial(self._put, entries[start : start + CHUNK]), False):
                return False
        return True

    async def announce(self, event: Announced | Beat) -> bool:
        """Publish to every replica."""
        return await self._bounded(lambda: self._client.publish(CHANNEL, _message(event)), None) is not None

    async def events(self) -> AsyncIterator[Event]:
        """Hear the channel for ever; a connection that breaks or falls silent is made anew."""
        pause = 0.05
        while True:
            try:
                async for event in self._listen():
                    pause = 0.05
                    yield event
            except _TROUBLE as error:
                log.debug("channel lost", error=type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter is no secret
            pause = min(pause * 2, RECONNECT_MAX_S)

    async def _listen(self) -> AsyncIterator[Event]:
        """Subscribe once and give what comes; ends by an exception, or when nothing came for too long."""
        async with self._patient.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            heard_at = time.monotonic()
            while time.monotonic() - heard_at < SILENCE_S:
                message = await channel.get_message(timeout=1.0)
                if message is None:
                    continue
                heard_at = time.monotonic()
                if message["type"] == "subscribe":
                    yield Subscribed()
                elif message["type"] == "message" and (event := _event(message["data"])) is not None:
                    yield event

    async def _read(self, ids: Sequence[FlagId]) -> list[bytes | None]:
        found: list[Any] = await self._client.mget([cache_key(flag_id) for flag_id in ids])
        return found

    async def _put(self, entries: Sequence[Entry]) -> bool:
        async with self._client.pipeline(transaction=False) as pipe:
            for entry in entries:
                body = dumps(entry.flag) if entry.flag else ""
                ttl_ms = int(self._ttl(entry) * 1000)
                args = (entry.revision, f"{SCHEMA}:{entry.revision}:{body}", ttl_ms)
                await self._script(keys=[cache_key(entry.id)], args=args, client=pipe)
            await pipe.execute()
        return True

    def _ttl(self, entry: Entry) -> float:
        if entry.flag is None:
            return self._ttl_s if entry.revision else self._negative_ttl_s
        return self._ttl_s * random.uniform(1 - self._ttl_jitter, 1 + self._ttl_jitter)  # noqa: S311  as above

    async def _bounded(self, command: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Run a command within the time-out; trouble opens the breaker and gives `otherwise`."""
        if self._breaker.is_open:
            return otherwise
        sent = False
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._free:
                    if self._breaker.is_open:
                        return otherwise
                    sent = True
                    result = await command()
        except _TROUBLE as error:
            self.errors += 1
            if sent and self._breaker.failed():
                log.warning("redis unavailable", error=type(error).__name__)
            return otherwise
        self._breaker.succeeded()
        return result

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(*_TROUBLE):
                async with asyncio.timeout(PATIENCE_S):
                    memory: Any = await self._patient.info("memory")
                self._state = {
                    "memory_bytes": memory.get("used_memory", 0),
                    "memory_limit_bytes": memory.get("maxmemory", 0),
                }
                if self._breaker.is_open:
                    # Idle connections are of the server that went away: each would open the breaker once more.
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                    self._breaker.close()
                    log.info("redis available again")


def _client(url: str, timeout_s: float | None, max_connections: int) -> aioredis.Redis:
    return aioredis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
    )


def _entry(flag_id: FlagId, text: bytes | None) -> Entry | None:
    if text is None:
        return None
    try:
        schema, revision, body = text.split(b":", 2)
        if schema.decode() != SCHEMA:
            return None
        return Entry(flag_id, int(revision), loads(body) if body else None)
    except (ValueError, TypeError, AttributeError):
        return None


def _message(event: Announced | Beat) -> str:
    if isinstance(event, Beat):
        return json.dumps({"beat": dict(event.revisions)})
    entry = event.entry
    document = json.loads(dumps(entry.flag)) if entry.flag else None
    told = {"set": entry.id.flag_set, "key": entry.id.key, "revision": entry.revision, "flag": document}
    return json.dumps(told, ensure_ascii=False)


def _event(data: bytes) -> Event | None:
    try:
        told = json.loads(data)
        if "beat" in told:
            return Beat({str(name): int(revision) for name, revision in told["beat"].items()})
        flag = loads(json.dumps(told["flag"])) if told["flag"] is not None else None
        return Announced(Entry(FlagId(str(told["set"]), str(told["key"])), int(told["revision"]), flag))
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("malformed announcement ignored")
        return None
