"""Hole 9: a service whose stores are down or hang at its start does not start, or gives wrong answers for ever."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flagsvc.adapters.build import snapshot_for
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Saved, StoreContents
from flagsvc.settings import Settings
from tests.conftest import FIRST
from tests.holes.proxies import CACHE, STORE, TAIL, Proxies
from tests.holes.stage import CALM, ENABLED, KINDS, NEAR, NONE, at_once, running, until_lease_held
from tests.replicas import Client, replica, until_serving
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.xdist_group(FIRST)

KEYS = ("a", "b", "c")
READY_S = 1.5
ANSWERED_S = 4.5
BACK_S = 8.0
BOUND_S = 15.0
"""Long enough that the cache lease is renewed while a dozen replicas start in this process."""


class Fault(NamedTuple):
    """The condition at a start: which of the two stores answer, and whether the others hang or refuse connections."""

    store: bool
    cache: bool
    hangs: bool = False


FAULTS = {
    "Redis down": Fault(store=True, cache=False),
    "MongoDB down": Fault(store=False, cache=True),
    "both down": Fault(store=False, cache=False),
    "both hung": Fault(store=False, cache=False, hangs=True),
}


async def test_09_a_cold_start_without_its_stores_serves_what_it_can_and_all_when_they_are_back(
    mongo_database_url: str, redis_clean_url: str, tmp_path: Path
) -> None:
    """Each fault, all at once; each with one replica without near cache, one with it, and one with a snapshot too."""
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with running(NEAR, **urls, staleness_bound_s=BOUND_S) as (alive,):
        for key in KEYS:
            await alive.client.create(key, status=ENABLED)
        await until_lease_held([alive])
        contents = alive.replica.near.contents()
        with ExitStack() as stack:
            scenes = []
            for name, fault in FAULTS.items():
                between = stack.enter_context(Proxies(mongo_database_url, redis_clean_url))
                scenes.append(started_cold(name, between, fault, tmp_path / name, contents))
            await at_once(*scenes)


async def started_cold(name: str, between: Proxies, fault: Fault, path: Path, saved: StoreContents) -> None:
    """Start replicas, check their answers, heal the fault, and check that everything recovers."""
    settings: dict[str, Any] = {**CALM, **between.urls, "store_timeout_s": 0.7, "staleness_bound_s": BOUND_S}
    with_snapshot = {**settings, "snapshot_file": str(path)}
    snapshot = snapshot_for(Settings(**with_snapshot))
    assert snapshot is not None
    assert snapshot.write(Saved(saved, datetime.now(UTC)))
    spoil(between, fault)
    start = Stopwatch()
    async with AsyncExitStack() as stack:
        started = []
        for options in (settings | KINDS[NONE], settings, with_snapshot):
            client, _ = await stack.enter_async_context(replica(**options))
            started.append((client, options is with_snapshot))
        await at_once(*(answers_cold(name, client, fault, start, saved=saved) for client, saved in started))
        between.heal(between.mongo, STORE, TAIL)
        between.heal(between.redis, CACHE)
        await at_once(*(answers_all(name, client) for client, _ in started))


def spoil(between: Proxies, fault: Fault) -> None:
    spoilt = [(between.mongo, label) for label in (STORE, TAIL) if not fault.store]
    spoilt += [(between.redis, CACHE)] if not fault.cache else []
    for proxy, label in spoilt:
        if fault.hangs:
            between.do(proxy.black_hole, label)
        else:
            between.wait_for(proxy.refuse(label))


async def answers_cold(name: str, client: Client, fault: Fault, start: Stopwatch, *, saved: bool) -> None:
    """The replica lives, and is ready if it has any flags; no call fails, and unknown flags are reported as such.

    `start`: since before the replica started. Time without a CPU in it may have opened the breaker of Redis.
    """
    began = time.monotonic()
    assert await client.serving("liveness"), name
    if fault.store or saved:
        await until_serving(client, seconds=2 * READY_S)
    for key in (*KEYS, "unknown"):
        since = Stopwatch()
        found = await client.evaluate(key)
        assert not since.is_past(ANSWERED_S), (name, key)
        while fault.store and saved and found.reason == types.REASON_STALE:  # of the snapshot, until the store was read
            assert not since.is_past(ANSWERED_S), (name, found)
            found = await client.evaluate(key)
        while key != "unknown" and fault.cache and found.reason != types.REASON_STATIC:  # Redis was slow, or its lease
            assert start.starved_s > CALM["cache_timeout_s"], (name, found)
            assert not since.is_past(ANSWERED_S), (name, found)
            found = await client.evaluate(key)
        if key == "unknown":
            wanted = types.ERROR_CODE_FLAG_NOT_FOUND if fault.store or saved else types.ERROR_CODE_PROVIDER_NOT_READY
            assert found.error_code == wanted, (name, found)
        elif fault.store or fault.cache:
            assert (found.enabled, found.reason) == (True, types.REASON_STATIC), (name, found)
        elif saved:
            assert (found.enabled, found.reason) == (True, types.REASON_STALE), (name, found)
        else:
            assert found.error_code == types.ERROR_CODE_PROVIDER_NOT_READY, (name, found)
    while time.monotonic() < began + READY_S:
        assert await client.serving() is (fault.store or saved), name
        await asyncio.sleep(0.2)


async def answers_all(name: str, client: Client) -> None:
    healed = Stopwatch()
    for service in ("", "store", "cache"):
        while not await client.serving(service):
            assert not healed.is_past(BACK_S), (name, service)
            await asyncio.sleep(0.05)
    for key in KEYS:
        while (found := await client.evaluate(key)).reason != types.REASON_STATIC:
            assert not healed.is_past(BACK_S), (name, key, found)
            await asyncio.sleep(0.05)
        assert found.enabled, (name, found)
    assert (await client.evaluate("unknown")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND, name
