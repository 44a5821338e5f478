"""The shared cache and its channel on Redis. Of what a replica runs, only this file has a client of Redis.

Every command is bounded in time and behind a breaker: a dead or hung Redis costs a call one time-out, then nothing.
An entry only ever replaces an older one; scripts on the server (`scripts.py`) compare and decide.
"""

from __future__ import annotations

import asyncio
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

from flagsvc.adapters.redis import messages, scripts
from flagsvc.adapters.redis.breaker import Breaker
from flagsvc.adapters.redis.causes import RedisCause, redis_cause
from flagsvc.adapters.redis.clock import RedisClock, to_ms
from flagsvc.adapters.redis.options import checked_options
from flagsvc.adapters.redis.scripts import CHANNEL, cache_key, fill_key
from flagsvc.adapters.redis.timeouts import stall_tolerant_timeout
from flagsvc.background import BackgroundTasks, backoff_s, repeat
from flagsvc.core.errors import CacheUnavailable
from flagsvc.core.model import DEFAULT_SET, FlagId
from flagsvc.ports import (
    NEVER,
    Announced,
    CacheEvent,
    Entry,
    Found,
    Heartbeat,
    LeaseAnswer,
    LeaseState,
    Problem,
    Subscribed,
)
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S

T = TypeVar("T")
log = structlog.get_logger(__name__)

CHUNK = 500
"""Most entries that one round trip puts or reads."""
PUT_ALLOWANCE_S = 0.001
"""By how much each further entry of a round trip prolongs its time-out."""
SCAN_COUNT = 1_000
CONNECT_TIMEOUT_S = 1.0
"""For connecting and for what no caller waits for: probes, scans, subscribing."""
MIN_RECONNECT_S, MAX_RECONNECT_S = 0.05, 2.0
NO_FLAG = FlagId(DEFAULT_SET, "")
"""Its entry is what a probe writes and removes: no flag has an empty key."""


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
        self._holder, self._nonce, self._lease_record = secrets.token_hex(8), "", b""
        self._tasks = BackgroundTasks()
        self._state: dict[str, float] = {}
        self._may_read_memory = True
        self._subscription_refused: RedisCause | None = None
        self.errors = 0

    async def open(self) -> None:
        """Start watching the server's health and its clock."""
        self._tasks.start(
            repeat(self._probe, lambda: asyncio.sleep(self._breaker.pause_s()), "redis_probe_failed"), "redis-probe"
        )

    async def close(self) -> None:
        """Stop and release connections."""
        await self._tasks.close()
        await self._client.aclose()
        await self._background_client.aclose()

    @property
    def available(self) -> bool:
        """Whether commands are sent now."""
        return not self._breaker.is_open

    def problems(self) -> Sequence[Problem]:
        """Return why the breaker is open, or else why the channel is refused, as last seen."""
        if (cause := self._breaker.cause) is not None:
            return (Problem(cause.problem, f"the shared cache cannot be used: {cause.text}", cause.cure),)
        if (cause := self._subscription_refused) is not None:
            detail = f"the channel of the shared cache cannot be subscribed to: {cause.text}"
            return (Problem("cache_subscription_refused", detail, cause.cure),)
        return ()

    def state(self) -> Mapping[str, float]:
        """Return memory_bytes, memory_limit_bytes and errors_total as last seen."""
        return {**self._state, "errors_total": self.errors}

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry; an unreadable one is a miss. A fill may take a second."""
        return await self._bounded(partial(self._fetch, flag_id, within_s), None)

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are; an unreadable one is a miss."""
        entries: list[Entry | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            nothing: list[bytes | None] = [None] * len(chunk)
            texts = await self._bounded(partial(_texts, self._client, [cache_key(each) for each in chunk]), nothing)
            entries += map(messages.entry_in, chunk, texts)
        return entries

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Return everything that is held, in pieces; an entry that moves meanwhile may come twice."""
        cursor = None
        while cursor != 0:
            try:
                async with self._scanning, asyncio.timeout(CONNECT_TIMEOUT_S):
                    answer: Any = await self._background_client.scan(cursor or 0, scripts.ENTRY_KEYS, SCAN_COUNT)
                    cursor, keys = int(answer[0]), list(dict.fromkeys(answer[1]))
                    texts = await _texts(self._background_client, keys) if keys else []
            except Exception as error:  # noqa: BLE001  as in `_bounded`
                self.errors += 1
                log.debug("cache_scan_failed", cause=redis_cause(error).text)
                raise CacheUnavailable from None
            found = [(scripts.flag_id_at(key), text) for key, text in zip(keys, texts, strict=True)]
            entries = [messages.entry_in(flag_id, text) for flag_id, text in found if flag_id]
            if piece := [entry for entry in entries if entry]:
                yield piece

    async def put(self, entries: Sequence[Entry], as_of: float, *, fills: bool = False, force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then)."""
        put = partial(self._put, stamp=await self._stamp(as_of), fills=fills, force=force)
        chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
        return all([await self._bounded(partial(put, chunk), False, len(chunk)) for chunk in chunks])

    async def announce(self, change: Announced) -> bool:
        """Publish a change to every replica."""
        text = messages.announcement_text(change)
        return await self._bounded(lambda: self._client.publish(CHANNEL, text), None) is not None

    async def acquire_lease(self, as_of: float, lease_s: float) -> LeaseAnswer:
        """Write this replica's lease record, unless another replica's is there."""
        self._nonce, self._lease_record = secrets.token_hex(4), b""
        return await self._write_lease(as_of, lease_s, ())

    async def renew_lease(self, as_of: float, lease_s: float, entries: Sequence[Entry]) -> LeaseAnswer:
        """Put the entries and replace the lease record, if it is the one that this replica wrote last."""
        if not self._lease_record:
            return LeaseAnswer(LeaseState.EXPIRED)
        return await self._write_lease(as_of, lease_s, entries)

    async def send_heartbeat(self, heartbeat: Heartbeat, expires_s: float) -> bool:
        """Publish a heartbeat, and keep it until it expires or is replaced."""
        return await self._keep_heartbeat(heartbeat.replica, messages.heartbeat_text(heartbeat), expires_s)

    async def remove_heartbeat(self, replica: str) -> None:
        """Forget a replica's heartbeat."""
        await self._keep_heartbeat(replica, "", 0.0)

    async def heartbeats(self) -> list[tuple[Heartbeat, float]] | None:
        """Return the live replicas' heartbeats with their age in seconds; None when the cache cannot be asked."""
        answer = await self._bounded(partial(self._run, scripts.HEARTBEATS, scripts.HEARTBEAT_KEYS, ()), None)
        if answer is None:
            return None
        found = []
        for kept in answer[1]:
            sent_ms, _, text = kept.partition(b":")
            heartbeat = _event(text)
            if isinstance(heartbeat, Heartbeat):
                found.append((heartbeat, max(answer[0] / 1e6 - int(sent_ms) / 1e3, 0.0)))
        return found

    async def events(self) -> AsyncIterator[CacheEvent]:
        """Deliver the channel's messages for ever; a connection that breaks or falls silent is replaced."""
        failures = 0
        while True:
            try:
                async for event in self._listen():
                    failures = 0
                    yield event
            except Exception as error:  # noqa: BLE001  whatever it is, messages have to be delivered for ever
                self._note_subscription(redis_cause(error))
            await asyncio.sleep(backoff_s(failures, MIN_RECONNECT_S, MAX_RECONNECT_S))
            failures += 1

    async def _listen(self) -> AsyncIterator[CacheEvent]:
        """Subscribe once and deliver what arrives; ends by an exception, or when nothing arrived for too long."""
        async with self._background_client.pubsub() as channel:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await channel.subscribe(CHANNEL)
            while True:
                message = await self._next_message(channel)
                if message["type"] == "subscribe":
                    self._subscription_refused = None
                    yield Subscribed()
                elif message["type"] == "message" and (event := _event(message["data"])) is not None:
                    yield event

    def _note_subscription(self, cause: RedisCause) -> None:
        """Record a refusal, and log it once; what breaks a connection is the breaker's to log."""
        log.debug("subscription_lost", cause=cause.text)
        if cause.is_refusal:
            if self._subscription_refused is None and self.available:
                log.warning("cache_subscription_refused", cause=cause.text, detail=f"Do this: {cause.cure}.")
            self._subscription_refused = cause

    async def _next_message(self, channel: PubSub) -> dict[str, Any]:
        """Wait for the next message. Raises TimeoutError when none arrives: heartbeats alone come more often."""
        async with asyncio.timeout(SUBSCRIPTION_TIMEOUT_S):
            while True:
                message: dict[str, Any] | None = await channel.get_message(timeout=None)
                if message is not None:
                    return message

    async def _fetch(self, flag_id: FlagId, within_s: float) -> Found:
        keys = [cache_key(flag_id), fill_key(flag_id), scripts.LEASE_KEY]
        sent_at = time.monotonic()
        micros, text, stamp, fills = await self._run(scripts.FETCH, keys, (to_ms(within_s), scripts.FILL_MS))
        entry = messages.entry_in(flag_id, text)
        if text is not None and entry is None and not fills and within_s >= 0:
            # The script took it for an entry: now ask to fill it whatever it looks like.
            return await self._fetch(flag_id, -1)
        as_of = sent_at - (micros / 1e6 - stamp / 1e3) if entry and stamp else NEVER
        return Found(entry, as_of, bool(fills))

    async def _put(self, entries: Sequence[Entry], *, stamp: int, fills: bool, force: bool) -> bool:
        sent_at = time.monotonic()
        async with self._client.pipeline(transaction=False) as pipe:
            self._add_puts(pipe, entries, stamp, fills, force)
            answers = await pipe.execute()
        self._clock.observe(answers[-1][0], sent_at, time.monotonic())
        return True

    def _add_puts(self, pipe: Any, entries: Sequence[Entry], stamp: int, fills: bool, force: bool) -> None:
        for number, entry in enumerate(entries):
            keys = (cache_key(entry.id), fill_key(entry.id), scripts.LEASE_KEY)
            ttl_ms = to_ms(self._ttl(entry, fills))
            args = (entry.revision, messages.definition_of(entry), stamp, ttl_ms, int(fills), int(force))
            # The first one loads the script: no further round trip to see whether the server has it.
            if number == 0:
                pipe.eval(scripts.PUT, len(keys), *keys, *args)
            else:
                pipe.evalsha(self._scripts[scripts.PUT].sha, len(keys), *keys, *args)

    async def _write_lease(self, as_of: float, lease_s: float, entries: Sequence[Entry]) -> LeaseAnswer:
        expected, self._lease_record = self._lease_record, b""
        stamp, sent_at = await self._stamp(as_of), time.monotonic()
        args = (expected, self._holder, self._nonce, stamp, to_ms(lease_s))
        answer = await self._bounded(partial(self._put_and_write_lease, entries, stamp, args), None, len(entries))
        if answer is None:
            return LeaseAnswer(LeaseState.UNREACHABLE)
        _, state, self._lease_record, left_ms = answer
        return LeaseAnswer(LeaseState(state.decode()), sent_at + left_ms / 1000)

    async def _put_and_write_lease(self, entries: Sequence[Entry], stamp: int, args: Sequence[Any]) -> Any:
        """Put and renew in one transaction, so that nothing happens in between."""
        sent_at = time.monotonic()
        async with self._client.pipeline(transaction=True) as pipe:
            self._add_puts(pipe, entries, stamp, fills=False, force=False)
            pipe.eval(scripts.LEASE, 1, scripts.LEASE_KEY, *args)
            answer = (await pipe.execute())[-1]
        self._clock.observe(answer[0], sent_at, time.monotonic())
        return answer

    async def _keep_heartbeat(self, replica: str, text: str, expires_s: float) -> bool:
        args = (replica, text, to_ms(expires_s), CHANNEL)
        return (
            await self._bounded(partial(self._run, scripts.HEARTBEAT, scripts.HEARTBEAT_KEYS, args), None) is not None
        )

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script, and learn the server's time from its answer."""
        sent_at = time.monotonic()
        answer: Any = await self._scripts[script](keys=keys, args=args)
        self._clock.observe(answer[0], sent_at, time.monotonic())
        return answer

    async def _stamp(self, as_of: float) -> int:
        if not self._clock.known:
            await self._bounded(partial(self._ask_clock, self._client), None)
        return self._clock.to_server_ms(as_of)

    async def _ask_clock(self, client: aioredis.Redis) -> None:
        sent_at = time.monotonic()
        seconds, micros = await client.time()
        self._clock.observe(seconds * 1_000_000 + micros, sent_at, time.monotonic())

    def _ttl(self, entry: Entry, fills: bool) -> float:
        if entry.flag is None:
            # What a reader did not find is an unknown key. Anything else is a deletion, which outlives every late fill.
            return self._negative_ttl_s if fills or not entry.revision else self._ttl_s
        return self._ttl_s * random.uniform(1 - self._ttl_jitter, 1 + self._ttl_jitter)  # noqa: S311  as above

    async def _bounded(self, command: Callable[[], Awaitable[T]], otherwise: T, entries: int = 1) -> T:
        """Run a command within the time-out, which is longer for many entries; a failure opens the breaker."""
        if self._breaker.is_open:
            return otherwise
        sent = False
        try:
            async with stall_tolerant_timeout(self._timeout_s + (entries - 1) * PUT_ALLOWANCE_S), self._free:
                if self._breaker.is_open:
                    return otherwise
                sent = True
                result = await command()
        except Exception as error:  # noqa: BLE001  whatever the driver raises is an outage, never a caller's error
            self.errors += 1
            if sent:
                self._breaker.failed(redis_cause(error))
            return otherwise
        return result

    async def _probe(self) -> None:
        """Read the clock; of an open breaker's server, also try everything that calls will do."""
        was_open = self._breaker.is_open
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._ask_clock(self._background_client)
                if was_open:
                    await self._try_use(self._background_client)
        except Exception as error:  # noqa: BLE001  as above
            if was_open:
                self._breaker.probe_failed(redis_cause(error))
            return
        if was_open:
            # Idle connections are of the server that went away: each would open the breaker once more.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            self._may_read_memory = True
            self._breaker.close()
        await self._read_memory()

    async def _try_use(self, client: aioredis.Redis) -> None:
        """Read, write and publish by each kind of command that calls use. Raises what the driver raises."""
        entry, fill = cache_key(NO_FLAG), fill_key(NO_FLAG)
        await self._scripts[scripts.FETCH](keys=[entry, fill, scripts.LEASE_KEY], args=[0, 1], client=client)
        await _texts(client, [entry])
        await client.publish(CHANNEL, scripts.PROBE_MESSAGE)
        async with client.pipeline(transaction=True) as pipe:
            keys = (entry, fill, scripts.LEASE_KEY, *scripts.HEARTBEAT_KEYS)
            pipe.eval(scripts.PROBE, len(keys), *keys, CHANNEL)
            await pipe.execute()

    async def _read_memory(self) -> None:
        """Read what only metrics show: a user without INFO does without."""
        if not self._may_read_memory:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                info: Any = await self._background_client.info("memory")
            self._state = {"memory_bytes": info.get("used_memory", 0), "memory_limit_bytes": info.get("maxmemory", 0)}
        except Exception as error:  # noqa: BLE001  as above
            if (cause := redis_cause(error)).is_refusal:
                self._may_read_memory = False
                log.info("cache_memory_unknown", cause=cause.text, detail="Only two metrics need INFO.")


def _client(url: str, max_connections: int) -> aioredis.Redis:
    # No time-out of the driver's own: on Python 3.11 its send swallows a cancellation, and with it our bound.
    return aioredis.Redis.from_url(
        checked_options(url),
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
    )


async def _texts(client: aioredis.Redis, keys: list[Any]) -> list[bytes | None]:
    texts: Any = await client.mget(keys)
    return list(texts)


def _event(data: bytes) -> Announced | Heartbeat | None:
    if data == scripts.PROBE_MESSAGE.encode():
        return None
    try:
        return messages.event_in(data)
    except ValueError:
        log.warning("malformed_message_ignored")
        return None
