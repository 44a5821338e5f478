"""The shared cache and its channel on Redis. The only file that imports redis.

Every command is bounded in time and behind a breaker: a dead or hung Redis costs a call one time-out, then nothing.
An entry only ever replaces an older one; scripts on the server (`redis_scripts`) compare and decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from redis import asyncio as aioredis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from flagsvc.adapters.redis import scripts
from flagsvc.adapters.redis.breaker import Breaker
from flagsvc.adapters.redis.clock import RedisClock, to_ms
from flagsvc.adapters.redis.scripts import CHANNEL, cache_key, lease_key
from flagsvc.adapters.redis.timeouts import heard_timeout
from flagsvc.core.errors import CacheUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Announced, Entry, Event, Found, Heartbeat, Subscribed, Vouched

__all__ = ["CHANNEL", "RedisCache", "cache_key"]
T = TypeVar("T")
log = structlog.get_logger(__name__)

CHUNK = 500
STORE_S = 0.001
SCANNED = 1_000
PROBE_S = 0.5
CONNECT_TIMEOUT_S = 1.0
IDLE_TIMEOUT_S = 3.0
RECONNECT_MAX_S = 2.0
# uvloop says RuntimeError where a connection was closed under a command.
CONNECTION_ERRORS = (RedisError, OSError, TimeoutError, asyncio.TimeoutError, RuntimeError)


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
        self._client, self._background_client = _client(url, max_connections), _client(url, 4)
        self._breaker = Breaker()
        self._free = asyncio.Semaphore(max_connections)
        self._scanning = asyncio.Lock()
        self._scripts = {text: self._client.register_script(text) for text in scripts.ALL}
        self._clock = RedisClock()
        self._holder, self._mark = secrets.token_hex(8), b""
        self._probe: asyncio.Task[None] | None = None
        self._state: dict[str, float] = {}
        self.errors = 0

    async def open(self) -> None:
        """Start watching the server's health and its clock."""
        self._probe = asyncio.create_task(self._probe_forever(), name="redis-probe")

    async def close(self) -> None:
        """Stop and release connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._client.aclose()
        await self._background_client.aclose()

    @property
    def available(self) -> bool:
        """Whether commands are sent now."""
        return not self._breaker.is_open

    def state(self) -> Mapping[str, float]:
        """Give memory_bytes, memory_limit_bytes and errors_total as last seen."""
        return {**self._state, "errors_total": self.errors}

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry; an unreadable one is a miss. A fence is good for a second."""
        return await self._bounded(partial(self._fetch, flag_id, within_s), None)

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are; an unreadable one is a miss."""
        entries: list[Entry | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            nothing: list[bytes | None] = [None] * len(chunk)
            texts = await self._bounded(partial(_texts, self._client, [cache_key(each) for each in chunk]), nothing)
            entries += map(scripts.entry_in, chunk, texts)
        return entries

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Go through everything that is held, in pieces; one that moves meanwhile may come twice."""
        cursor = None
        while cursor != 0:
            try:
                async with self._scanning, asyncio.timeout(CONNECT_TIMEOUT_S):
                    answer: Any = await self._background_client.scan(cursor or 0, scripts.ENTRY_KEYS, SCANNED)
                    cursor, keys = int(answer[0]), list(dict.fromkeys(answer[1]))
                    texts = await _texts(self._background_client, keys) if keys else []
            except CONNECTION_ERRORS:
                self.errors += 1
                raise CacheUnavailable from None
            found = [(scripts.flag_id_at(key), text) for key, text in zip(keys, texts, strict=True)]
            entries = [scripts.entry_in(flag_id, text) for flag_id, text in found if flag_id]
            if piece := [entry for entry in entries if entry]:
                yield piece

    async def put(self, entries: Sequence[Entry], as_of: float, *, fence: str = "", force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then); 5 s after `as_of` is too late."""
        put = partial(self._put, stamp=await self._stamp(as_of), fence=fence, force=force)
        chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
        return all([await self._bounded(partial(put, chunk), False, len(chunk)) for chunk in chunks])

    async def announce(self, event: Announced | Heartbeat) -> bool:
        """Publish to every replica."""
        return await self._bounded(lambda: self._client.publish(CHANNEL, scripts.message_of(event)), None) is not None

    async def vouch(self, as_of: float, lease_s: float, *, anew: bool, entries: Sequence[Entry] = ()) -> Vouched:
        """Replace this replica's mark by a newer one; only if it is the one that was set last, or `anew`."""
        expected, self._mark = self._mark, b""
        stamp = await self._stamp(as_of)
        args = (expected, self._holder, secrets.token_hex(4), stamp, to_ms(lease_s), int(anew))
        answer = await self._bounded(partial(self._put_and_vouch, entries, stamp, args), None, len(entries))
        if answer is None:
            return Vouched.LOST
        self._mark = answer[2]
        return Vouched(answer[1].decode())

    async def report(self, replica: str, text: str, lease_s: float) -> bool:
        """Say how this replica stands, for as long; an empty text takes it back."""
        run = partial(self._run, scripts.REPORT, scripts.REPORT_KEYS, (replica, text, to_ms(lease_s)))
        return await self._bounded(run, None) is not None

    async def reports(self) -> list[tuple[str, float]] | None:
        """Give the reports of live replicas with their age in seconds; None when the cache cannot be asked."""
        answer = await self._bounded(partial(self._run, scripts.REPORTS, scripts.REPORT_KEYS, ()), None)
        if answer is None:
            return None
        told = [report.decode(errors="replace").split(":", 1) for report in answer[1]]
        return [(text, max(answer[0] / 1e6 - int(made_ms) / 1e3, 0.0)) for made_ms, text in told]

    async def events(self) -> AsyncIterator[Event]:
        """Hear the channel for ever; a connection that breaks or falls silent is made anew."""
        pause = 0.05
        while True:
            try:
                async for event in self._listen():
                    pause = 0.05
                    yield event
            except CONNECTION_ERRORS as error:
                log.debug("channel lost", error=type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter is no secret
            pause = min(pause * 2, RECONNECT_MAX_S)

    async def _listen(self) -> AsyncIterator[Event]:
        """Subscribe once and give what comes; ends by an exception, or when nothing came for too long."""
        async with self._background_client.pubsub() as channel:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await channel.subscribe(CHANNEL)
            while True:
                message = await self._next_message(channel)
                if message["type"] == "subscribe":
                    yield Subscribed()
                elif message["type"] == "message" and (event := _event(message["data"])) is not None:
                    yield event

    async def _next_message(self, channel: PubSub) -> dict[str, Any]:
        """Wait for the next message. Raises TimeoutError after a silence that is too long."""
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            while True:
                message: dict[str, Any] | None = await channel.get_message(timeout=None)
                if message is not None:
                    return message

    async def _fetch(self, flag_id: FlagId, within_s: float) -> Found:
        keys, fence = [cache_key(flag_id), lease_key(flag_id), scripts.MARK_KEY], secrets.token_hex(8)
        args, sent_at = (to_ms(within_s), fence, scripts.LEASE_MS), time.monotonic()
        micros, text, stamp, leased = await self._run(scripts.FETCH, keys, args)
        entry = scripts.entry_in(flag_id, text)
        if text is not None and entry is None and not leased and within_s >= 0:
            # The script took it for an entry: now ask for the lease whatever it says.
            return await self._fetch(flag_id, -1)
        as_of = sent_at - (micros / 1e6 - stamp / 1e3) if entry and stamp else NEVER
        return Found(entry, as_of, fence if leased else "")

    async def _put(self, entries: Sequence[Entry], *, stamp: int, fence: str, force: bool) -> bool:
        sent_at = time.monotonic()
        async with self._client.pipeline(transaction=False) as pipe:
            self._add_puts(pipe, entries, stamp, fence, force)
            answers = await pipe.execute()
        self._clock.heard(answers[-1][0], sent_at, time.monotonic())
        return all(accepted for _, accepted in answers)

    def _add_puts(self, pipe: Any, entries: Sequence[Entry], stamp: int, fence: str, force: bool) -> None:
        for number, entry in enumerate(entries):
            keys = (cache_key(entry.id), lease_key(entry.id), scripts.MARK_KEY)
            ttl_ms = int(self._ttl(entry, bool(fence)) * 1000)
            args = (entry.revision, scripts.definition_of(entry), stamp, ttl_ms, fence, int(force))
            # The first one loads the script: no further round trip to see whether the server has it.
            if number == 0:
                pipe.eval(scripts.PUT, len(keys), *keys, *args)
            else:
                pipe.evalsha(self._scripts[scripts.PUT].sha, len(keys), *keys, *args)

    async def _put_and_vouch(self, entries: Sequence[Entry], stamp: int, args: Sequence[Any]) -> Any:
        """Put and vouch in one step, between which nothing can happen; None when an entry was refused."""
        sent_at = time.monotonic()
        async with self._client.pipeline(transaction=True) as pipe:
            self._add_puts(pipe, entries, stamp, "", force=False)
            pipe.eval(scripts.VOUCH, 1, scripts.MARK_KEY, *args)
            *puts, answer = await pipe.execute()
        self._clock.heard(answer[0], sent_at, time.monotonic())
        return answer if all(accepted for _, accepted in puts) else None

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script and learn the server's time from its answer."""
        sent_at = time.monotonic()
        answer: Any = await self._scripts[script](keys=keys, args=args)
        self._clock.heard(answer[0], sent_at, time.monotonic())
        return answer

    async def _stamp(self, as_of: float) -> int:
        if not self._clock.known:
            await self._bounded(partial(self._ask_clock, self._client), None)
        return self._clock.stamp(as_of)

    async def _ask_clock(self, client: aioredis.Redis) -> None:
        sent_at = time.monotonic()
        seconds, micros = await client.time()
        self._clock.heard(seconds * 1_000_000 + micros, sent_at, time.monotonic())

    def _ttl(self, entry: Entry, filled: bool) -> float:
        if entry.flag is None:
            # One that a reader did not find is an unknown key; else it was deleted, and outlives every late fill.
            return self._negative_ttl_s if filled or not entry.revision else self._ttl_s
        return self._ttl_s * random.uniform(1 - self._ttl_jitter, 1 + self._ttl_jitter)  # noqa: S311  as above

    async def _bounded(self, command: Callable[[], Awaitable[T]], otherwise: T, stored: int = 1) -> T:
        """Run a command within the time-out, longer for many to store; trouble opens the breaker, gives `otherwise`."""
        if self._breaker.is_open:
            return otherwise
        sent = False
        try:
            async with heard_timeout(self._timeout_s + (stored - 1) * STORE_S), self._free:
                if self._breaker.is_open:
                    return otherwise
                sent = True
                result = await command()
        except CONNECTION_ERRORS as error:
            self.errors += 1
            if sent and self._breaker.failed():
                log.warning("redis unavailable", error=type(error).__name__)
            return otherwise
        self._breaker.succeeded()
        return result

    async def _probe_forever(self) -> None:
        while True:
            with contextlib.suppress(*CONNECTION_ERRORS):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._ask_clock(self._background_client)
                    info: Any = await self._background_client.info("memory")
                used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
                self._state = {"memory_bytes": used, "memory_limit_bytes": limit}
                if self._breaker.is_open:
                    # Idle connections are of the server that went away: each would open the breaker once more.
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                    self._breaker.close()
                    log.info("redis available again")
            await asyncio.sleep(PROBE_S)


def _client(url: str, max_connections: int) -> aioredis.Redis:
    # No time-out of the driver's own: on Python 3.11 its send swallows a cancellation, and with it our bound.
    return aioredis.Redis.from_url(
        url,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
    )


async def _texts(client: aioredis.Redis, keys: list[Any]) -> list[bytes | None]:
    texts: Any = await client.mget(keys)
    return list(texts)


def _event(data: bytes) -> Event | None:
    try:
        return scripts.event_in(data)
    except ValueError:
        log.warning("malformed announcement ignored")
        return None
