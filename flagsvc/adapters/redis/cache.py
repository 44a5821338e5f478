"""The shared cache on Redis: its entries, the cache lease, heartbeats, and what is announced on its channel.

An entry only ever replaces an older one; scripts on the server (`scripts.py`) compare and decide.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from flagsvc.adapters.batch_loader import BatchLoader
from flagsvc.adapters.redis import messages, scripts
from flagsvc.adapters.redis.causes import redis_cause
from flagsvc.adapters.redis.channel import Channel
from flagsvc.adapters.redis.client import CONNECT_TIMEOUT_S, BoundedClient, texts_of
from flagsvc.adapters.redis.clock import to_ms
from flagsvc.adapters.redis.ownership import Ownership
from flagsvc.adapters.redis.probe import Probe
from flagsvc.core.errors import CacheUnavailable
from flagsvc.core.model import FlagId
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
)
from flagsvc.turns import in_turns, off_loop

log = structlog.get_logger(__name__)

CHUNK = 100
"""Most entries that one round trip puts or reads: the driver packs and unpacks all of it in one go."""
FETCHES, FETCHED_AT_ONCE = 4, 16
"""Round trips that read entries at a time, and the most entries of each: many large ones take a while to arrive."""
SCAN_COUNT = 200


_Packed = tuple[Entry, str]
"""An entry with its definition as JSON."""


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
        self._ownership = Ownership(identity, store_name)
        self._redis = BoundedClient(url, prefix, self._ownership, timeout_s=timeout_s, max_connections=max_connections)
        self._keys = self._redis.keys
        self._probe, self._channel = Probe(self._redis), Channel(self._redis)
        self._fetches = BatchLoader(self._fetch_many, max_reads=FETCHES, max_keys=FETCHED_AT_ONCE)
        self._scanning = asyncio.Lock()
        self._holder, self._nonce, self._lease_record = secrets.token_hex(8), "", b""

    async def open(self) -> None:
        """Start watching the server's health and its clock."""
        self._probe.start()

    async def close(self) -> None:
        """Stop and release connections."""
        await self._probe.close()
        await self._fetches.close()
        await self._redis.close()

    @property
    def available(self) -> bool:
        """Whether commands are sent now."""
        return self._redis.available

    @property
    def client(self) -> BoundedClient:
        """The client, for other parts that keep something in the same Redis under the same prefix."""
        return self._redis

    def problems(self) -> Sequence[Problem]:
        """Return why the breaker is open, whose the keys are, or why the channel is refused, as last seen."""
        if (cause := self._redis.breaker.cause) is not None:
            return (Problem(cause.problem, f"the shared cache cannot be used: {cause.text}", cause.cure),)
        if problems := self._ownership.problems():
            return problems
        if (cause := self._channel.refused) is not None:
            detail = f"the channel of the shared cache cannot be subscribed to: {cause.text}"
            return (Problem("cache_subscription_refused", detail, cause.cure),)
        return ()

    def state(self) -> Mapping[str, float]:
        """Return memory_bytes, memory_limit_bytes and errors_total as last seen."""
        return {**self._probe.memory, "errors_total": self._redis.errors}

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
            args = (before.id, *self._ownership.store, scripts.OWNER_MS)
            hand_over = partial(self._redis.scripts[scripts.HAND_OVER], keys=[self._keys.owner], args=args)
            await self._redis.bounded(hand_over, None)
        return is_same

    async def announce_tokens(self) -> bool:
        """Publish that tokens have changed."""
        identity = self._ownership.identity
        return identity is not None and await self._redis.publish(messages.tokens_changed_text(identity))

    async def announce_identity(self) -> bool:
        """Announce a new identity under the one before it, for that is the one that other replicas listen to."""
        before = self._ownership.before
        return before is not None and await self._redis.publish(messages.identity_changed_text(before))

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry, with others that are wanted now; an unreadable one is a miss. A fill may take a second."""
        if not self._redis.available:
            return None
        return await self._fetches.get((within_s, flag_id))

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are; an unreadable one is a miss."""
        entries: list[Entry | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            nothing: list[bytes | None] = [None] * len(chunk)
            read = partial(texts_of, self._redis.client, [self._keys.entry(each) for each in chunk])
            found = zip(chunk, await self._redis.bounded(read, nothing), strict=True)
            entries += [await self._entry_in(each, text) async for each, text in in_turns(found)]
        return entries

    async def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Return everything that is held, in pieces; an entry that moves meanwhile may come twice."""
        cursor = None
        while cursor != 0:
            if not self._ownership.is_ours:
                raise CacheUnavailable
            try:
                async with self._scanning, asyncio.timeout(CONNECT_TIMEOUT_S):
                    answer: Any = await self._redis.background.scan(cursor or 0, self._keys.entry_pattern, SCAN_COUNT)
                    cursor, keys = int(answer[0]), list(dict.fromkeys(answer[1]))
                    texts = await texts_of(self._redis.background, keys) if keys else []
            except Exception as error:  # noqa: BLE001  as in `BoundedClient.bounded`
                self._redis.errors += 1
                log.debug("cache_scan_failed", cause=redis_cause(error).text)
                raise CacheUnavailable from None
            piece = []
            async for key, text in in_turns(zip(keys, texts, strict=True)):
                flag_id = self._keys.flag_id_at(key)
                if flag_id and (entry := await self._entry_in(flag_id, text)):
                    piece.append(entry)
            if piece:
                yield piece

    async def put(self, entries: Sequence[Entry], as_of: float, *, fills: bool = False, force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then)."""
        put = partial(self._put, stamp=await self._redis.stamp(as_of), fills=fills, force=force)
        done = True
        for start in range(0, len(entries), CHUNK):
            chunk = await self._packed(entries[start : start + CHUNK])
            # The server may be busy with the pieces before, so each has the time of all.
            done = await self._redis.bounded(partial(put, chunk), False, len(entries)) and done
        return done

    async def announce(self, change: Announced) -> bool:
        """Publish a change to every replica."""
        if self._ownership.identity is None:
            return False
        definition = await messages.definition_of(change.entry)
        return await self._redis.publish(messages.announcement_text(change, definition, self._ownership.identity))

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
        ask = partial(self._redis.run, scripts.HEARTBEATS, self._keys.heartbeats, ())
        answer = await self._redis.bounded(ask, None)
        if answer is None:
            return None
        found = []
        for kept in answer[1]:
            sent_ms, _, text = kept.partition(b":")
            heartbeat = await self._channel.event_in(text)
            if isinstance(heartbeat, Heartbeat):
                found.append((heartbeat, max(answer[0] / 1e6 - int(sent_ms) / 1e3, 0.0)))
        return found

    def events(self) -> AsyncIterator[CacheEvent]:
        """Deliver the channel's messages for ever."""
        return self._channel.events()

    async def _fetch_many(self, wanted: Sequence[tuple[float, FlagId]]) -> Mapping[tuple[float, FlagId], Found | None]:
        """Read entries in one round trip; None for all of them when the cache cannot be asked."""
        found: dict[tuple[float, FlagId], Found | None] = dict.fromkeys(wanted)
        for within_s in {within_s for within_s, _ in wanted}:  # one: it is a setting
            ids = [flag_id for within, flag_id in wanted if within == within_s]
            fetched = await self._redis.bounded(partial(self._fetch, ids, within_s), None, len(ids))
            found |= {(within_s, flag_id): each for flag_id, each in (fetched or {}).items()}
        return found

    async def _fetch(self, ids: Sequence[FlagId], within_s: float) -> dict[FlagId, Found]:
        keys, sent_at = [self._keys.lease], time.monotonic()
        for flag_id in ids:
            keys += self._keys.entry(flag_id), self._keys.fill(flag_id)
        micros, *answers = await self._redis.run(scripts.FETCH, keys, (to_ms(within_s), scripts.FILL_MS))
        found, unreadable = {}, []
        triples = zip(ids, answers[0::3], answers[1::3], answers[2::3], strict=True)
        async for flag_id, text, stamp, fills in in_turns(triples):
            entry = await self._entry_in(flag_id, text)
            if text is not None and entry is None and not fills and within_s >= 0:
                unreadable.append(flag_id)
            as_of = sent_at - (micros / 1e6 - stamp / 1e3) if entry and stamp else NEVER
            found[flag_id] = Found(entry, as_of, bool(fills))
        # The script took them for entries: now ask to fill them whatever they look like.
        return found | await self._fetch(unreadable, -1) if unreadable else found

    async def _packed(self, entries: Sequence[Entry]) -> list[_Packed]:
        """Return the entries with their definitions, which are written in turns."""
        return [(entry, await messages.definition_of(entry)) async for entry in in_turns(entries)]

    async def _put(self, entries: Sequence[_Packed], *, stamp: int, fills: bool, force: bool) -> bool:
        sent_at = time.monotonic()
        async with self._redis.client.pipeline(transaction=False) as pipe:
            self._add_puts(pipe, entries, stamp, fills, force)
            answers = await pipe.execute()
        self._redis.clock.observe(answers[-1][0], sent_at, time.monotonic())
        return True

    def _add_puts(self, pipe: Any, entries: Sequence[_Packed], stamp: int, fills: bool, force: bool) -> None:
        for number, (entry, definition) in enumerate(entries):
            keys = (self._keys.owner, *self._keys_of(entry.id))
            ttl_ms = to_ms(self._ttl(entry, fills))
            args = (*self._ownership.store, entry.revision, definition, stamp, ttl_ms, int(fills), int(force))
            # The first one loads the script: no further round trip to see whether the server has it.
            if number == 0:
                pipe.eval(scripts.PUT, len(keys), *keys, *args)
            else:
                pipe.evalsha(self._redis.scripts[scripts.PUT].sha, len(keys), *keys, *args)

    async def _write_lease(self, as_of: float, lease_s: float, entries: Sequence[Entry]) -> LeaseAnswer:
        expected, self._lease_record = self._lease_record, b""
        packed = await self._packed(entries)
        stamp, sent_at = await self._redis.stamp(as_of), time.monotonic()
        args = (expected, self._holder, self._nonce, stamp, to_ms(lease_s))
        answer = await self._redis.bounded(partial(self._put_and_write_lease, packed, stamp, args), None, len(packed))
        if answer is None:
            return LeaseAnswer(LeaseState.UNREACHABLE)
        _, state, self._lease_record, left_ms = answer
        return LeaseAnswer(LeaseState(state.decode()), sent_at + left_ms / 1000)

    async def _put_and_write_lease(self, entries: Sequence[_Packed], stamp: int, args: Sequence[Any]) -> Any:
        """Put and renew in one transaction, so that nothing happens in between."""
        sent_at = time.monotonic()
        async with self._redis.client.pipeline(transaction=True) as pipe:
            self._add_puts(pipe, entries, stamp, fills=False, force=False)
            _ = pipe.eval(scripts.LEASE, 2, self._keys.owner, self._keys.lease, *self._ownership.store, *args)
            answer = (await pipe.execute())[-1]
        self._redis.clock.observe(answer[0], sent_at, time.monotonic())
        return answer

    async def _keep_heartbeat(self, replica: str, text: str, expires_s: float) -> bool:
        args = (replica, text, to_ms(expires_s), self._keys.channel)
        keep = partial(self._redis.run, scripts.HEARTBEAT, self._keys.heartbeats, args)
        return await self._redis.bounded(keep, None) is not None

    async def _entry_in(self, flag_id: FlagId, text: bytes | None) -> Entry | None:
        if text is not None and len(text) > messages.LARGE_BYTES:
            return await off_loop(messages.entry_in, flag_id, text, self._ownership.store[0])
        return messages.entry_in(flag_id, text, self._ownership.store[0])

    def _keys_of(self, flag_id: FlagId) -> tuple[str, str, str]:
        return self._keys.entry(flag_id), self._keys.fill(flag_id), self._keys.lease

    def _ttl(self, entry: Entry, fills: bool) -> float:
        if entry.flag is None:
            # What a reader did not find is an unknown key. Anything else is a deletion, which outlives every late fill.
            return self._negative_ttl_s if fills or not entry.revision else self._ttl_s
        return self._ttl_s * random.uniform(1 - self._ttl_jitter, 1 + self._ttl_jitter)  # noqa: S311  as above
