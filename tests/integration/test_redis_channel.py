"""What the channel of a real Redis delivers: announcements and heartbeats, complete, and nothing malformed."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.adapters.redis.messages import heartbeat_text
from flagsvc.ports import (
    Announced,
    CacheEvent,
    Heartbeat,
    Problem,
    ReplicaStatus,
    Subscribed,
)
from tests.redis_caches import absent, cache_on, entry, heartbeat
from tests.replicas import until
from tests.servers import RedisServer
from tests.stores import CHANNEL, STORE


async def test_close_ends_at_any_moment_of_the_start(redis_clean_url: str) -> None:
    for step in range(60):
        async with asyncio.timeout(5), cache_on(redis_clean_url) as cache:
            subscriber = Subscriber(cache)
            await asyncio.sleep(step * 0.0001)
            await subscriber.close()


class Subscriber:
    """Everything that the channel delivered."""

    def __init__(self, cache: RedisCache) -> None:
        self.received: list[CacheEvent] = []
        self._task = asyncio.create_task(self._listen(cache))

    async def _listen(self, cache: RedisCache) -> None:
        async for event in cache.events():
            self.received.append(event)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.received)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_announcements_and_heartbeats_arrive_complete_and_in_order(cache: RedisCache) -> None:
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    announced = [
        Announced(entry(1, name="señal")),
        Announced(absent(2), reply=True),
        Announced(entry(9), event_revision=7),
    ]
    heartbeats = [
        Heartbeat(
            replica="one",
            number=3,
            revisions={"default": 2, "x:y": 7},
            age_s=0.25,
            stream_age_s=60.5,
            last_seen={"two": (8, 0.125), "three": (1, math.inf)},
            status=STATUS,
        ),
        Heartbeat(replica="ñ", number=1, revisions={}, age_s=math.inf, stream_age_s=math.inf),
    ]
    for change in announced:
        assert await cache.announce(change)
    for sent in heartbeats:
        assert await cache.send_heartbeat(sent, 5)
    await cache.remove_heartbeat("one")
    await cache.announce(announced[0])
    await until(lambda: len(subscriber.received) == 7)
    assert subscriber.received[1:] == [*announced, *heartbeats, announced[0]], "a removal is not published"
    await subscriber.close()


STATUS = ReplicaStatus(
    version="1.2.3",
    started_at=datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    view_age_s=None,
    staleness_bound_s=5.0,
    ready=True,
    store_up=True,
    cache_up=True,
    subscription_up=False,
    change_feed="stream",
    change_feed_up=True,
    lease_left_s=3.5,
    flags=7,
    problems=(Problem("cache_unavailable", "it does not answer", "look at its log"),),
)
HEARTBEAT = {"heartbeat": 1, "replica": "a", "revisions": {}, "ageS": None, "streamAgeS": 0.0, "lastSeen": {}}
HEARTBEAT |= {"store": [STORE.id, STORE.name]}
OURS = f'"store":["{STORE.id}","{STORE.name}"]'
ANNOUNCEMENT = {"set": "default", "key": "b", "revision": 1, "flag": None, "store": [STORE.id, STORE.name]}
FLAG = {"needs": [], "key": "b", "revision": 1}
MALFORMED = [
    *("", "{", "[]", "7", f"{{{OURS}}}", f'{{"heartbeat": 7,{OURS}}}', f'{{"key": 1,{OURS}}}'),
    *(json.dumps({**ANNOUNCEMENT, "revision": value}) for value in ("x", 2**53 + 1, 2**70, -1, 1.0, True, math.nan)),
    *(json.dumps({**ANNOUNCEMENT, "eventRevision": value}) for value in (2**63 - 4, -1, "7")),
    *(
        json.dumps({**ANNOUNCEMENT, "flag": {**FLAG, **wrong}})
        for wrong in ({"key": "c"}, {"revision": 2}, {"flagSet": "x"})
    ),
    *(json.dumps({**ANNOUNCEMENT, name: value}) for name in ("set", "key") for value in ("", "x" * 2_000, 7, "\ud800")),
    *(json.dumps({**ANNOUNCEMENT, "store": value}) for value in (7, ["a"], ["a", "b\n"], ["", ""], ["a" * 500, "b"])),
    pytest.param(json.dumps({**ANNOUNCEMENT, "revision": 1})[:-1] + ',"x":' + "9" * 5_000 + "}", id="long number"),
    *(
        json.dumps({**HEARTBEAT, name: value})
        for name, value in [
            *(("revisions", {"a": 2**70}), ("lastSeen", {"a": [2**70, 1]}), ("replica", "x" * 2_000)),
            *(("ageS", 2**70), ("revisions", {"x" * 2_000: 1}), ("lastSeen", {str(n): [1, 1] for n in range(1_001)})),
            *(("heartbeat", "x"), ("heartbeat", math.inf), ("revisions", 7), ("revisions", {"a": "x"})),
            *(("lastSeen", {"a": None}), ("lastSeen", {"a": 7}), ("lastSeen", {"a": [1, -1]})),
            *((age, value) for age in ("ageS", "streamAgeS") for value in ("old", -1, math.nan, [])),
        ]
    ),
    *(
        json.dumps({name: value for name, value in HEARTBEAT.items() if name != left_out})
        for left_out in list(HEARTBEAT)[:-1]
    ),
    pytest.param(f'{{{OURS},"set":"a","key":"b","revision":1,"flag":' + "[" * 50_000 + "]" * 50_000 + "}", id="deep"),
]


def test_the_text_of_a_heartbeat() -> None:
    assert json.loads(heartbeat_text(heartbeat("a"), STORE), parse_constant=pytest.fail) == HEARTBEAT
    full = Heartbeat(
        replica="a", number=2, revisions={"default": 3}, age_s=0.5, stream_age_s=9.5, last_seen={"b": (4, 0.25)}
    )
    expected = {"heartbeat": 2, "replica": "a", "revisions": {"default": 3}, "ageS": 0.5, "streamAgeS": 9.5}
    expected |= {"lastSeen": {"b": [4, 0.25]}, "store": [STORE.id, STORE.name]}
    assert json.loads(heartbeat_text(full, STORE)) == expected


@pytest.mark.parametrize("message", MALFORMED)
async def test_a_malformed_message_is_logged_and_ignored(cache: RedisCache, redis_clean_url: str, message: str) -> None:
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    with redis.Redis.from_url(redis_clean_url) as direct, capture_logs() as logs:
        direct.publish(CHANNEL, message)
        await cache.announce(Announced(entry(1)))
        await until(lambda: len(subscriber.received) == 2)
    assert subscriber.received[1] == Announced(entry(1))
    assert [line["event"] for line in logs] == ["malformed_message_ignored"]
    await subscriber.close()


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "many"},
        {"ready": 1},
        {"started_at": 7},
        {"version": None},
        {"lease_left_s": None},
        {"field_of_a_later_version": True},
    ],
    ids=str,
)
async def test_a_heartbeat_with_the_status_of_another_version_still_counts(
    cache: RedisCache, redis_clean_url: str, change: dict[str, Any]
) -> None:
    sent = Heartbeat(replica="other", number=7, revisions={"default": 3}, last_seen={"a": (1, 0.5)}, status=STATUS)
    text = json.loads(heartbeat_text(sent, STORE))
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.publish(CHANNEL, json.dumps(text))
        direct.publish(CHANNEL, json.dumps({**text, "status": {**text["status"], **change}}))
    await until(lambda: subscriber.count(Heartbeat) == 2)
    assert subscriber.received[1:] == [sent, replace(sent, status=None)]
    await subscriber.close()


async def test_a_broken_channel_is_subscribed_again_and_reported(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        subscriber = Subscriber(cache)
        await until(lambda: subscriber.count(Subscribed) == 1)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: subscriber.count(Subscribed) == 2)
        await asyncio.to_thread(redis_server.kill)
        assert not await cache.announce(Announced(entry(1)))
        await asyncio.to_thread(redis_server.start)
        await until(lambda: subscriber.count(Subscribed) == 3)
        assert subscriber.count(Announced) == 0, "announcements made meanwhile are lost"
        await subscriber.close()


async def test_a_silent_channel_is_replaced(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        subscriber = Subscriber(cache)
        await until(lambda: subscriber.count(Subscribed) == 1)
        await until(lambda: subscriber.count(Subscribed) >= 2, 8)
        await subscriber.close()
