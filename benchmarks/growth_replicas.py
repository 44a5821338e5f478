"""What more replicas cost the stores, and how long a toggle takes to reach all: the part `replicas` of growth."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pymongo
import redis

from benchmarks.growth_picture import histogram
from benchmarks.guarded import FLAG, Guarded, guarded, machine
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
REPLICAS = (1, 2, 4, 6)
IDLE_S, TOGGLES = 5.0, 100
LIMITS = {"RATE_LIMITS": "enforce", "RATES": "evaluate=1000000,read=100000,write=100000,admin=100000"}


async def of_replicas() -> dict[str, dict[int, float]]:
    """The stores' load while nothing happens, and when a toggle on one replica is seen on every other."""
    found: dict[str, dict[int, float]] = {}
    waits_ms: dict[str, list[float]] = {}
    for count in REPLICAS:
        async with guarded(count, 1, **LIMITS) as replicas:
            row = await _idle(replicas)
            waits = waits_ms[f"{count} replicas"] = sorted(round(each, 3) for each in await _propagation(replicas))
        row |= {f"toggle seen elsewhere, p{of} ms": float(np.percentile(waits, of)) for of in (50, 99)}
        for name, value in row.items():
            found.setdefault(name, {})[count] = value
    record = {"machine": machine(), "toggles": TOGGLES, "ms from the call to another replica's watch": waits_ms}
    (OUT / "propagation.json").write_text(json.dumps(record) + "\n")
    histogram(waits_ms, OUT / "propagation.png")
    return found


async def _idle(replicas: Guarded) -> dict[str, float]:
    """Return commands per second of Redis, and operations per second of MongoDB, while nobody calls."""

    def counts() -> tuple[int, int]:
        with redis.Redis.from_url(replicas.redis.url) as cache, pymongo.MongoClient(replicas.store_url) as store:
            status = store.admin.command("serverStatus")["opcounters"]
            return int(cache.info("stats")["total_commands_processed"]), sum(map(int, status.values()))

    before = await asyncio.to_thread(counts)
    await asyncio.sleep(IDLE_S)
    after = await asyncio.to_thread(counts)
    rates = [(late - early) / IDLE_S for early, late in zip(before, after, strict=True)]
    return {"idle, Redis commands/s": rates[0], "idle, MongoDB operations/s": rates[1]}


async def _propagation(replicas: Guarded) -> list[float]:
    """Return the times from a toggle's call until a watch of each other replica has it, in ms. One alone is its own."""
    others = range(1, len(replicas.processes)) or range(1)
    seen: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def watch(number: int) -> None:
        request = pb.WatchFlagsRequest()
        async for message in replicas.flags(number).WatchFlags(request, metadata=replicas.root):
            if message.WhichOneof("event") == "change":
                seen.put_nowait((message.change.revision, time.perf_counter()))
            else:
                seen.put_nowait((0, 0.0))

    watches, waits = [asyncio.create_task(watch(number)) for number in others], list[float]()
    for _ in others:
        await asyncio.wait_for(seen.get(), 10)
    for toggle in range(TOGGLES):
        started = time.perf_counter()
        request = pb.ToggleFlagRequest(flag_key=FLAG, enabled=toggle % 2 == 1)
        written = await replicas.flags(0).ToggleFlag(request, metadata=replicas.root, timeout=10)
        left = len(others)
        while left:
            revision, at = await asyncio.wait_for(seen.get(), 10)
            if revision >= written.flag.revision:
                waits.append((at - started) * 1e3)
                left -= 1
        await asyncio.sleep(0.02)
    for each in watches:
        each.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    return waits
