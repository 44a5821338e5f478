"""Replicas that share one caller's rate over a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.errors import RateLimited
from flagsvc.limits import table as tables
from flagsvc.limits.gcra import Limit, Wish, settle
from flagsvc.limits.leasing import Leasing
from flagsvc.limits.rate_limits import Mode, RateLimits
from flagsvc.limits.redis_lender import RedisLender
from flagsvc.limits.share import BURST_S, CAPACITY_S, Share
from flagsvc.limits.table import Table
from tests.replicas import until
from tests.servers import RedisServer
from tests.stores import STORE

RATE = 2_000.0
Call = Callable[[], bool]


@asynccontextmanager
async def lender_on(url: str, prefix: str = "") -> AsyncIterator[RedisLender]:
    cache = RedisCache(url, timeout_s=1.0, identity=STORE, prefix=prefix)
    await cache.open()
    try:
        yield RedisLender(cache.client)
    finally:
        await cache.close()


class Replica:
    """The limits of one replica, and their background task."""

    def __init__(self, lender: RedisLender, count: int = 3) -> None:
        self.lender = lender
        self.table = Table("evaluate", RATE, time.monotonic)
        self.leasing = Leasing([self.table], lender, lambda: count)
        self.accepted = self.asked = 0

    def call(self, caller: str = "a") -> bool:
        share = self.table.of_caller(caller)
        self.asked += 1
        if share.left < share.low:
            self.leasing.wants(share)
        if share.left < 1:
            share.refused += 1
            return False
        share.left -= 1
        self.accepted += 1
        return True


@asynccontextmanager
async def sharing(url: str) -> AsyncIterator[list[Replica]]:
    async with contextlib.AsyncExitStack() as stack:
        replicas = [Replica(await stack.enter_async_context(lender_on(url))) for _ in range(3)]
        running = [asyncio.create_task(each.leasing.run()) for each in replicas]
        try:
            yield replicas
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def load(calls: Sequence[Call], per_s: float, seconds: float) -> None:
    """Make calls for a while, at random ones of several replicas."""
    began, made = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(per_s * elapsed)
        for _ in range(due - made):
            random.choice(calls)()
        made = due
        await asyncio.sleep(0.004)


async def seconds_accepted(replicas: Sequence[Replica], used: Sequence[Replica], seconds: float) -> tuple[float, float]:
    """Send ten times a caller's rate to some replicas. Return for how many seconds, and how many its calls took."""
    before, began = sum(each.accepted for each in replicas), time.monotonic()
    await load([each.call for each in used], 10 * RATE, seconds)
    return time.monotonic() - began, (sum(each.accepted for each in replicas) - before) / RATE


@pytest.mark.parametrize("used", [1, 3])
async def test_ten_times_the_rate_gets_the_rate_and_at_most_one_burst(redis_clean_url: str, used: int) -> None:
    """How close to the rate it is: `test_gcra.py`, with a clock that no busy machine delays."""
    async with sharing(redis_clean_url) as replicas:
        elapsed, accepted = await seconds_accepted(replicas, replicas[:used], 2.0)
        assert 0.95 * elapsed <= accepted <= elapsed + BURST_S
        calls, asked = sum(each.lender.calls for each in replicas), sum(each.asked for each in replicas)
        assert calls <= 20 * 3 * (elapsed + 1), "a few times a second"
        assert 1_000 * calls / asked < 5


async def test_without_redis_the_rate_is_kept_by_its_parts(redis_server: RedisServer) -> None:
    async with sharing(redis_server.url) as replicas:
        await seconds_accepted(replicas, replicas, 1.0)
        redis_server.kill()
        await until(lambda: [each.call() for each in replicas] and all(each.leasing.is_divided for each in replicas))
        assert all(each.leasing.replicas == 3 for each in replicas)
        elapsed, accepted = await seconds_accepted(replicas, replicas, 2.0)
        assert 0.6 * elapsed <= accepted <= elapsed + CAPACITY_S
        assert replicas[0].call("somebody else")
        redis_server.start()
        await until(lambda: not any(each.leasing.is_divided for each in replicas))


async def test_a_missing_right_is_a_problem_of_the_limits_and_no_outage_of_redis(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "old", "on", ">p", "+@all", "~flagsvc:store", "&*")
        async with lender_on(redis_server.url.replace("//", "//old:p@")) as lender:
            limits = RateLimits(Mode.ENFORCE, {"evaluate": 10.0}, lender, lambda: 2)
            await limits.leasing.step()
            [problem] = limits.problems()
            assert problem.name == "rate_limits_divided"
            assert "NOPERM" in problem.detail
            assert "docs/operating.md" in problem.cure
            assert lender._redis.available
            admin.execute_command("ACL", "SETUSER", "old", "~flagsvc:limit:*")
            await limits.leasing.step()
            assert list(limits.problems()) == []
            assert limits.leasing.replicas == 2


async def test_redis_and_python_lend_alike(redis_clean_url: str) -> None:
    """Within moments, in which next to nothing is regained."""
    choose, limit = random.Random(1), Limit(0.001, 40)
    share: Any = SimpleNamespace(name="x", limit=limit)
    async with lender_on(redis_clean_url) as lender:
        due, now = 0.0, 1e6
        for _ in range(60):
            wish = Wish(*(choose.choice([0, 0, choose.uniform(0, 30)]) for _ in range(3)))
            due, expected = settle(due, now, limit, wish)
            answer = await lender.settle([share], [wish])
            assert answer is not None
            assert answer[0] == pytest.approx(expected, abs=2e-3)


async def test_keys_have_the_prefix_and_end_and_name_nobody(redis_clean_url: str) -> None:
    async with lender_on(redis_clean_url, "staging") as lender:
        table = Table("evaluate", 100, time.monotonic)
        shares = [table.of_caller(name) for name in ("token:abc", "ipv4:10.0.0.1")]
        assert await lender.settle(shares, [Wish(0, 0, 50)] * 2) is not None
    with redis.Redis.from_url(redis_clean_url) as direct:
        keys = sorted(key.decode() for key in direct.keys("staging:flagsvc:limit:*"))
        assert keys == sorted(f"staging:flagsvc:limit:{share.name}" for share in shares)
        assert not any("abc" in key or "10.0" in key for key in keys)
        assert all(0 < direct.pttl(key) <= 1_500 for key in keys)


async def test_a_share_in_redis_that_another_program_wrote_counts_as_empty(redis_clean_url: str) -> None:
    share = Share("evaluate:x", "", 100, 1, 0)
    async with lender_on(redis_clean_url) as lender:
        with redis.Redis.from_url(redis_clean_url) as direct:
            for other in ("text", "-1", "nan", "1e400"):
                direct.set("flagsvc:limit:evaluate:x", other)
                answer = await lender.settle([share], [Wish(0, 0, 50)])
                assert answer is not None
                assert 0 <= answer[0].granted <= 50
            direct.delete("flagsvc:limit:evaluate:x")
            direct.rpush("flagsvc:limit:evaluate:x", "a")
            answer = await lender.settle([share], [Wish(0, 0, 50)])
            assert answer is not None


def test_callers_past_the_table_share_one_bucket_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_SHARES", 3)
    table = Table("evaluate", 10, lambda: 0.0)
    own = [table.of_address(f"ipv4:10.0.0.{n}:1", f"ipv4:10.0.0.{n}") for n in range(3)]
    beyond = [table.of_caller(f"other {n}") for n in range(5)]
    assert len({id(each) for each in (*own, *beyond)}) == 4
    own[0].left -= 1
    table.sweep()
    own[1].left -= 1
    table.sweep()
    assert len(table) == 1, "the one that was used since, and of the others none"
    assert not table.by_address
    assert table.of_caller("other 1") is not beyond[0]


def test_a_caller_with_a_rate_of_its_own() -> None:
    table = Table("evaluate", 10, lambda: 0.0)
    share = table.of_caller("token:a", 500)
    assert (share.rate, table.of_caller("token:a").rate) == (500, 10)
    assert share.name == table.of_caller("token:a").name, "what it has used counts on when its rate changes"


def test_shadow_counts_and_lets_through() -> None:
    for mode, refused in ((Mode.SHADOW, 0), (Mode.ENFORCE, 30)):
        limits = RateLimits(mode, {"evaluate": 10.0}, None, lambda: 1)
        table, texts = limits.tables["evaluate"], []
        share = table.of_caller("ipv4:1.2.3.4")
        with capture_logs() as logs:
            for _ in range(40):
                try:
                    limits.take(table, share, 1)
                except RateLimited as error:
                    texts.append(str(error))
        assert (len(texts), table.refused) == (refused, 30)
        assert not any("1.2.3.4" in text for text in texts)
        assert [line["caller"] for line in logs if line["event"] == "rate_limited"] == ["ipv4:1.2.3.4"]
        assert share.left == 0
