"""The channel on which replicas hear of each other's changes, and whose messages count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog
from redis.asyncio.client import PubSub

from flagsvc.adapters.redis import messages, scripts
from flagsvc.adapters.redis.causes import RedisCause, redis_cause
from flagsvc.adapters.redis.client import CONNECT_TIMEOUT_S, BoundedClient
from flagsvc.background import backoff_s
from flagsvc.ports import NEVER, CacheEvent, Subscribed
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S
from flagsvc.turns import off_loop

MALFORMED_LOG_EVERY_S = 60.0
MIN_RECONNECT_S, MAX_RECONNECT_S = 0.05, 2.0

log = structlog.get_logger(__name__)


class Channel:
    """A subscription that is renewed for ever. `refused`: why the server does not permit it, as last seen."""

    def __init__(self, redis: BoundedClient) -> None:
        self._redis = redis
        self._malformed, self._malformed_logged_at = 0, NEVER
        self.refused: RedisCause | None = None

    async def events(self) -> AsyncIterator[CacheEvent]:
        """Deliver the channel's messages for ever; a connection that breaks or falls silent is replaced."""
        failures = 0
        while True:
            try:
                async for event in self._listen():
                    failures = 0
                    yield event
            except Exception as error:  # noqa: BLE001  whatever it is, messages have to be delivered for ever
                self._note_failure(redis_cause(error))
            await asyncio.sleep(backoff_s(failures, MIN_RECONNECT_S, MAX_RECONNECT_S))
            failures += 1

    async def event_in(self, data: bytes) -> messages.Event | None:
        """Read a message; None for a probe, for one of another store, and for one that is malformed."""
        if data == scripts.PROBE_MESSAGE.encode():
            return None
        store_id = self._redis.ownership.store[0]
        try:
            if len(data) > messages.LARGE_BYTES:
                return await off_loop(messages.event_in, data, store_id)
            return messages.event_in(data, store_id)
        except messages.OtherStore as error:
            self._redis.ownership.note_foreign(error.identity)
        except ValueError:
            self._note_malformed()
        return None

    async def _listen(self) -> AsyncIterator[CacheEvent]:
        """Subscribe once and deliver what arrives; ends by an exception, or when nothing arrived for too long."""
        async with self._redis.background.pubsub() as subscription:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await subscription.subscribe(self._redis.keys.channel)
            while True:
                message = await _next_message(subscription)
                if message["type"] == "subscribe":
                    self.refused = None
                    yield Subscribed()
                elif message["type"] == "message" and (event := await self.event_in(message["data"])) is not None:
                    yield event

    def _note_failure(self, cause: RedisCause) -> None:
        """Record a refusal, and log it once; what breaks a connection is the breaker's to log."""
        log.debug("subscription_lost", cause=cause.text)
        if cause.is_refusal:
            if self.refused is None and self._redis.available:
                log.warning("cache_subscription_refused", cause=cause.text, detail=f"Do this: {cause.cure}.")
            self.refused = cause

    def _note_malformed(self) -> None:
        """Log the first message that cannot be read, and then their number once in a while."""
        self._malformed += 1
        if time.monotonic() - self._malformed_logged_at > MALFORMED_LOG_EVERY_S:
            self._malformed_logged_at = time.monotonic()
            log.warning("malformed_message_ignored", count=self._malformed)


async def _next_message(subscription: PubSub) -> dict[str, Any]:
    """Wait for the next message. Raises TimeoutError when none arrives: heartbeats alone come more often."""
    async with asyncio.timeout(SUBSCRIPTION_TIMEOUT_S):
        while True:
            message: dict[str, Any] | None = await subscription.get_message(timeout=None)
            if message is not None:
                return message
