"""The shared cache and its channel on Redis. Of what a replica runs, only this file has a client of Redis.

Every command is bounded in time and behind a breaker: a dead or hung Redis costs a call one time-out, then nothing.
An entry only ever replaces an older one; scripts on the server (`scripts.py`) compare and decide.
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
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from flagsvc.adapters.redis import messages, scripts
from flagsvc.adapters.redis.breaker import Breaker
from flagsvc.adapters.redis.causes import RedisCause, redis_cause
from flagsvc.adapters.redis.clock import RedisClock, to_ms
from flagsvc.adapters.redis.keys import Keys
from flagsvc.adapters.redis.options import checked_options
from flagsvc.adapters.redis.ownership import Ownership
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
    StoreIdentity,
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
MALFORMED_LOG_EVERY_S = 60.0
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
        prefix: str = "",
        identity: StoreIdentity | None = None,
        store_name: str = "",
    ) -> None:
        """`prefix` keeps deployments apart in one database. `identity` saves a call of `identify`.

        `store_name`: the store's URL without credentials.
        """
        self._ttl_s, self._ttl_jitter, self._negative_ttl_s = ttl_s, ttl_jitter, negative_ttl_s
        self._timeout_s = timeout_s
        self._client, self._background_client = _client(url, max_connections), _client(url, 4)
        database = self._client.connection_pool.connection_kwargs.get("db", 0)
        self._keys, self._ownership = Keys(prefix, database), Ownership(identity, store_name)
        self._breaker = Breaker()
        self._free = asyncio.Semaphore(max_connections)
        self._scanning = asyncio.Lock()
        self._scripts = {text: self._client.register_script(text) for text in scripts.ALL}
        self._clock = RedisClock()
        self._holder, self._nonce, self._lease_record = secrets.token_hex(8), "", b""
        self._tasks = BackgroundTasks()
        self._state: dict[str, float] = {}
        self._malformed, self._malformed_logged_at = 0, NEVER
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
        return not self._breaker.is_open and self._ownership.is_ours

    def problems(self) -> Sequence[Problem]:
        """Return why the breaker is open, whose the keys are, or why the channel is refused, as last seen."""
        if (cause := self._breaker.cause) is not None:
            return (Problem(cause.problem, f"the shared cache cannot be used: {cause.text}", cause.cure),)
        if problems := self._ownership.problems():
            return problems
        if (cause := self._subscription_refused) is not None:
            detail = f"the channel of the shared cache cannot be subscribed to: {cause.text}"
            return (Problem("cache_subscription_refused", detail, cause.cure),)
        return ()

    def state(self) -> Mapping[str, float]:
        """Return memory_bytes, memory_limit_bytes and errors_total as last seen."""
        return {**self._state, "errors_total": self.errors}

    @property
    def foreign_messages(self) -> int:
        """How many messages of other stores arrived, and were ignored."""
        return self._ownership.foreign_messages

    def assume(self, identity: StoreIdentity) -> None:
        """Belong to this store until `identify` says which it is."""
        self._ownership.assume(identity)

    async def identify(self, identity: StoreIdentity) -> bool:
        """Belong to this store from now on, and take over what belonged to its identity before."""
        before, is_same = self._ownership.become(identity)
        if before is not None:
            self._lease_record = b""
            args = (before.id, *self._store, scripts.OWNER_MS)
            hand_over = partial(self._scripts[scripts.HAND_OVER], keys=[self._keys.owner], args=args)
            await self._bounded(hand_over, None)
        return is_same

    async def announce_identity(self) -> bool:
        """Announce a new identity under the one before it, for that is the one that other replicas listen to."""
        before = self._ownership.before
        if before is None:
            return False
        text = messages.identity_changed_text(before)
        return await self._bounded(lambda: self._client.publish(self._keys.channel, text), None) is not None

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry; an unreadable one is a miss. A fill may take a second."""
        return await self._bounded(partial(self._fetch, flag_id, within_s), None)

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are; an unreadable one is a miss."""
        entries: list[Entry | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            nothing: list[bytes | None] = [None] * len(chunk)
            texts = await self._bounded(
                partial(_texts, self._client, [self._keys.entry(each) for each in chunk]), nothing
            )
            entries += [messages.entry_in(each, text, self._store[0]) for each, text in zip(chunk, texts, strict=True)]
        return entries

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Return everything that is held, in pieces; an entry that moves meanwhile may come twice."""
        cursor = None
        while cursor != 0:
            if not self._ownership.is_ours:
                raise CacheUnavailable
            try:
                async with self._scanning, asyncio.timeout(CONNECT_TIMEOUT_S):
                    answer: Any = await self._background_client.scan(cursor or 0, self._keys.entry_pattern, SCAN_COUNT)
                    cursor, keys = int(answer[0]), list(dict.fromkeys(answer[1]))
                    texts = await _texts(self._background_client, keys) if keys else []
            except Exception as error:  # noqa: BLE001  as in `_bounded`
                self.errors += 1
                log.debug("cache_scan_failed", cause=redis_cause(error).text)
                raise CacheUnavailable from None
            found = [(self._keys.flag_id_at(key), text) for key, text in zip(keys, texts, strict=True)]
            entries = [messages.entry_in(flag_id, text, self._store[0]) for flag_id, text in found if flag_id]
            if piece := [entry for entry in entries if entry]:
                yield piece

    async def put(self, entries: Sequence[Entry], as_of: float, *, fills: bool = False, force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then)."""
        put = partial(self._put, stamp=await self._stamp(as_of), fills=fills, force=force)
        chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
        return all([await self._bounded(partial(put, chunk), False, len(chunk)) for chunk in chunks])

    async def announce(self, change: Announced) -> bool:
        """Publish a change to every replica."""
        if self._ownership.identity is None:
            return False
        text = messages.announcement_text(change, self._ownership.identity)
        return await self._bounded(lambda: self._client.publish(self._keys.channel, text), None) is not None

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
        if self._ownership.identity is None:
            return False
        text = messages.heartbeat_text(heartbeat, self._ownership.identity)
        return await self._keep_heartbeat(heartbeat.replica, text, expires_s)

    async def remove_heartbeat(self, replica: str) -> None:
        """Forget a replica's heartbeat."""
        await self._keep_heartbeat(replica, "", 0.0)

    async def heartbeats(self) -> list[tuple[Heartbeat, float]] | None:
        """Return the live replicas' heartbeats with their age in seconds; None when the cache cannot be asked."""
        answer = await self._bounded(partial(self._run, scripts.HEARTBEATS, self._keys.heartbeats, ()), None)
        if answer is None:
            return None
        found = []
        for kept in answer[1]:
            sent_ms, _, text = kept.partition(b":")
            heartbeat = self._event(text)
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
                await channel.subscribe(self._keys.channel)
            while True:
                message = await self._next_message(channel)
                if message["type"] == "subscribe":
                    self._subscription_refused = None
                    yield Subscribed()
                elif message["type"] == "message" and (event := self._event(message["data"])) is not None:
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
        sent_at = time.monotonic()
        args = (to_ms(within_s), scripts.FILL_MS)
        micros, text, stamp, fills = await self._run(scripts.FETCH, self._keys_of(flag_id), args)
        entry = messages.entry_in(flag_id, text, self._store[0])
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
            keys = (self._keys.owner, *self._keys_of(entry.id))
            ttl_ms = to_ms(self._ttl(entry, fills))
            definition = messages.definition_of(entry)
            args = (*self._store, entry.revision, definition, stamp, ttl_ms, int(fills), int(force))
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
            pipe.eval(scripts.LEASE, 2, self._keys.owner, self._keys.lease, *self._store, *args)
            answer = (await pipe.execute())[-1]
        self._clock.observe(answer[0], sent_at, time.monotonic())
        return answer

    async def _keep_heartbeat(self, replica: str, text: str, expires_s: float) -> bool:
        args = (replica, text, to_ms(expires_s), self._keys.channel)
        keep = partial(self._run, scripts.HEARTBEAT, self._keys.heartbeats, args)
        return await self._bounded(keep, None) is not None

    def _keys_of(self, flag_id: FlagId) -> tuple[str, str, str]:
        return self._keys.entry(flag_id), self._keys.fill(flag_id), self._keys.lease

    @property
    def _store(self) -> tuple[str, str]:
        return self._ownership.store

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script as this store, and learn the server's time from its answer."""
        sent_at = time.monotonic()
        answer: Any = await self._scripts[script](keys=(self._keys.owner, *keys), args=(*self._store, *args))
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
            if isinstance(error, ResponseError) and self._ownership.is_refused(str(error.args[0])):
                return otherwise
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
        if self._ownership.identity is None or self._ownership.owner is not None:
            await self._ask_owner()
        await self._read_memory()

    async def _try_use(self, client: aioredis.Redis) -> None:
        """Read, write and publish by each kind of command that calls use. Raises what the driver raises."""
        keys = self._keys.probed(NO_FLAG)
        await _texts(client, list(keys[:1]))
        await client.publish(self._keys.channel, scripts.PROBE_MESSAGE)
        await self._scripts[scripts.PROBE](keys=keys, args=[self._keys.channel], client=client)
        async with client.pipeline(transaction=True) as pipe:
            pipe.eval(scripts.PROBE, len(keys), *keys, self._keys.channel)
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

    def _note_malformed(self) -> None:
        """Log the first message that cannot be read, and then their number once in a while."""
        self._malformed += 1
        if time.monotonic() - self._malformed_logged_at > MALFORMED_LOG_EVERY_S:
            self._malformed_logged_at = time.monotonic()
            log.warning("malformed_message_ignored", count=self._malformed)

    async def _ask_owner(self) -> None:
        """See whether the keys still belong to another store, which may have stopped."""
        with contextlib.suppress(Exception):  # as above
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                owner = await self._background_client.get(self._keys.owner)
                if self._ownership.identity is None:
                    self._ownership.assume_owner(owner)
                else:
                    self._ownership.note_owner(owner)

    def _event(self, data: bytes) -> messages.Event | None:
        """Read a message; None for a probe, for one of another store, and for one that is malformed."""
        if data == scripts.PROBE_MESSAGE.encode():
            return None
        try:
            return messages.event_in(data, self._store[0])
        except messages.OtherStore as error:
            self._ownership.note_foreign(error.identity)
        except ValueError:
            self._note_malformed()
        return None


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


async def _texts(client: aioredis.Redis, keys: list[Any]) -> list[bytes | None]:
    texts: Any = await client.mget(keys)
    return list(texts)
