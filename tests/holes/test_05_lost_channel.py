"""Hole 5: a subscriber is cut off, or receives announcements late, while a flag is toggled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from tests.conftest import FIRST
from tests.holes.proxies import CACHE, STORE, TAIL, Proxies
from tests.holes.stage import NEAR, NONE, Asking, Cached, Gate, Stream, at_once, running, until_lease_held, watch
from tests.replicas import until
from tests.servers import RedisServer

pytestmark = pytest.mark.xdist_group(FIRST)

BOUND_S = 2.0


class Deafened:
    """Subscribers that receive nothing on the channel and do not notice, until they receive it all at once."""

    def __init__(self, between: Proxies, cached: Cached, number: int) -> None:
        self._between = between
        ports = {int(each["addr"].rpartition(":")[2]) for each in cached.redis.client_list(_type="pubsub")}
        self._stalled = [
            connection
            for connection in between.do(between.redis.open, CACHE)
            if connection.upstream.transport.get_extra_info("sockname")[1] in ports
        ]
        assert len(self._stalled) == number
        for connection in self._stalled:
            connection.stalled = True

    def hear(self) -> None:
        for connection in self._stalled:
            connection.stalled = False
            self._between.do(connection.flow)


async def test_05_a_toggle_while_the_channel_is_cut_or_late_is_seen_within_the_bound_and_is_not_reverted(
    new_database_url: Callable[[], str], new_redis: Callable[[], RedisServer]
) -> None:
    """The channel alone; with it the change stream; and with it all of the store. All at once."""
    also = ((), (TAIL,), (STORE, TAIL))
    await at_once(*(seen_and_stays(new_database_url(), new_redis().url, labels) for labels in also))


async def seen_and_stays(mongo_url: str, redis_url: str, also: tuple[str, ...]) -> None:
    """`also`: which other connections of the readers stall at the same time."""
    direct = {"store_url": mongo_url, "cache_url": redis_url, "staleness_bound_s": BOUND_S}
    async with AsyncExitStack() as stack:
        [writer] = await stack.enter_async_context(running(NEAR, **direct, store_timeout_s=5.0))
        await writer.client.create("a")
        await until_lease_held([writer])
        between = stack.enter_context(Proxies(mongo_url, redis_url))
        readers = await stack.enter_async_context(running(NEAR, NONE, **{**direct, **between.urls}))
        cached = stack.enter_context(Cached(redis_url))
        stack.callback(between.heal, between.mongo, *also)
        watched, asking = watch(readers[0].client), [Asking(reader) for reader in readers]
        for each in (watched, *asking):
            stack.push_async_callback(each.close if isinstance(each, Stream) else each.stop)
        await asyncio.sleep(0.1)
        for label in also:
            between.do(between.mongo.stall, label)
        toggled_at: dict[int, float] = {}

        async def toggled(enabled: bool) -> int:
            revision = (await writer.client.toggle("a", enabled)).revision
            toggled_at[revision] = time.monotonic()
            return revision

        gate = Gate(writer.replica.store, "write")
        toggling = asyncio.create_task(toggled(True))
        await gate.until_reached()
        assert cached.unsubscribe_all() == 3
        gate.open()
        first = await toggling
        await until(lambda: all(each.newest >= first for each in asking))
        await until(lambda: len(cached.redis.client_list(_type="pubsub")) == 3)
        deafened = Deafened(between, cached, len(readers))
        await toggled(False)
        last = await toggled(True)
        await until(lambda: all(each.newest >= last for each in asking))
        deafened.hear()
        await asyncio.sleep(0.3)
        for each in asking:
            await each.end()
            for revision, at in toggled_at.items():
                assert each.late_s(revision, at) <= BOUND_S
            assert each.newest == last
        revisions = [change.revision for change in watched.changes]
        assert revisions == sorted(set(revisions)), "a change that was received late is reported as new"
        assert revisions[-1] == last or also
