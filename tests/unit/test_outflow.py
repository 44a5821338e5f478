"""The account of outstanding bytes: who is sent at once, who waits, who is refused, and that it comes to zero."""

from __future__ import annotations

import asyncio
import random

import pytest

from flagsvc.api.common import outflow as outflows
from flagsvc.api.common.outflow import SMALL_BYTES, Outflow
from flagsvc.core.errors import Overloaded

LIMIT = 1_000_000
LARGE = 100_000


def test_large_messages_leave_a_quarter_to_small_ones() -> None:
    account = Outflow(LIMIT)
    for number in range(7):
        account.take(f"peer {number}", LARGE)
    with pytest.raises(Overloaded, match="700000 bytes wait for clients that do not read, too many to add 100000"):
        account.take("another", LARGE)
    while account.outstanding + SMALL_BYTES <= LIMIT:
        account.take("another", SMALL_BYTES)
    with pytest.raises(Overloaded):
        account.take("another", SMALL_BYTES)


def test_one_connection_has_half_and_one_message_always_goes_to_a_connection_without_any() -> None:
    account = Outflow(LIMIT)
    for _ in range(5):
        account.take("one", LARGE)
    with pytest.raises(Overloaded):
        account.take("one", LARGE)
    account.take("other", LARGE)
    alone = Outflow(LIMIT)
    alone.take("one", 32 * LIMIT)
    assert alone.outstanding == 32 * LIMIT


async def test_a_stream_waits_for_room_and_one_full_connection_stops_no_other() -> None:
    account = Outflow(LIMIT)
    for _ in range(5):
        account.take("full", LARGE)
    account.take("other", LARGE)
    account.take("other", LARGE)
    waiting = [asyncio.ensure_future(account.reserve(peer, LARGE)) for peer in ("full", "other", "other")]
    await asyncio.sleep(0)
    await asyncio.wait_for(account.reserve("other", SMALL_BYTES), 1)  # never waits
    account.release("other", SMALL_BYTES)
    account.release("other", LARGE)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False, True, False]
    account.release("full", LARGE)
    await asyncio.gather(*waiting[:1])
    waiting[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]
    for peer, size in (("full", 5 * LARGE), ("other", 2 * LARGE)):
        account.release(peer, size)
    assert account.outstanding == 0


async def test_a_stream_that_waits_in_vain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflows, "STALL_S", 0.01)
    account = Outflow(LIMIT)
    account.take("one", 8 * LARGE)
    with pytest.raises(Overloaded, match=r"waited 0\.01 s in vain for room to send 100000"):
        await account.reserve("two", LARGE)
    account.release("one", 8 * LARGE)
    assert account.outstanding == 0
    await account.reserve("two", LARGE)


async def test_whatever_is_cancelled_the_account_is_balanced() -> None:
    rng = random.Random(4)
    account = Outflow(LIMIT)

    async def stream(peer: str) -> None:
        for _ in range(20):
            size = rng.choice((10, SMALL_BYTES, LARGE, 3 * LARGE))
            await account.reserve(peer, size)
            try:
                assert account.outstanding <= LIMIT + 40 * SMALL_BYTES
                await asyncio.sleep(0)
            finally:
                account.release(peer, size)

    tasks = [asyncio.ensure_future(stream(f"peer {number % 7}")) for number in range(40)]
    for task in rng.sample(tasks, 20):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task for task in tasks if not task.cancelled() and task.exception()] == []
    assert account.outstanding == 0
    assert not account._by_peer
