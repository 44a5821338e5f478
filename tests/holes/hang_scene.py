"""MongoDB hangs at the moment of a change while sixty callers ask: python -m tests.holes.hang_scene REPORT

Replicas and stores are separate processes, and this one does nothing else, so that it measures only them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pymongo

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.stage import CALM_PROCESS, ENABLED, NEAR, NONE
from tests.replicas import Client, Process, until, until_serving
from tests.servers import Mongod, RedisServer

HANGS_S = float(os.environ.get("TEST_HANG_S", "10"))
CALLERS, PAUSE_S = 20, 0.25
"""For each replica; together they make about 240 calls a second."""
KEYS = [f"flag-{number}" for number in range(10)]
ALONE = "near cache and no Redis"
FRESH = {types.REASON_STATIC, types.REASON_DISABLED}


class Callers:
    """Many callers of one replica at a steady rate. `answers`: when, how long it took, key, enabled, reason, source."""

    def __init__(self, address: str) -> None:
        self.client = Client(address)
        self.answers: list[tuple[float, float, str, bool, int, int]] = []
        self.failures: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(CALLERS)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.channel.close()

    async def _call(self, number: int) -> None:
        await asyncio.sleep(PAUSE_S * number / CALLERS)
        key = KEYS[number % len(KEYS)]
        while True:
            began = time.monotonic()
            try:
                found = await self.client.evaluate(key)
                took = time.monotonic() - began
                self.answers.append((began, took, key, found.enabled, found.reason, found.source))
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")
            await asyncio.sleep(max(0.0, began + PAUSE_S - time.monotonic()))

    @property
    def well(self) -> bool:
        """Whether every caller's last answer was fresh."""
        return {answer[4] for answer in self.answers[-CALLERS:]} <= FRESH


async def scene(mongod: Mongod, redis_url: str) -> dict[str, Any]:
    url = mongod.database_url("hang")
    async with AsyncExitStack() as stack:
        asked: dict[str, Callers] = {}
        for kind in (NEAR, NONE, ALONE):
            options = {**CALM_PROCESS, "FLAGSVC_NEAR_CACHE_ENTRIES": "0" if kind == NONE else "1000"}
            cache = "none" if kind == ALONE else redis_url
            process = stack.enter_context(Process("--store", url, "--cache", cache, **options))
            asked[kind] = Callers(process.address)
            stack.push_async_callback(asked[kind].stop)
        for callers in asked.values():
            await until_serving(callers.client, seconds=30)
        writer = asked[NEAR].client
        for key in KEYS:
            await writer.create(key, status=ENABLED)
        for callers in asked.values():
            callers.start()
        await asyncio.sleep(2.5)  # by then the lease covers everything in Redis
        changing = asyncio.create_task(writer.toggle(KEYS[0], False))
        await asyncio.sleep(0.002)
        mongod.pause()
        stack.callback(mongod.resume)
        paused_at = time.monotonic()
        await asyncio.sleep(HANGS_S)
        mongod.resume()
        resumed_at = time.monotonic()
        with suppress(grpc.aio.AioRpcError):
            await changing
        await until(lambda: all(callers.well for callers in asked.values()), 30)
        with pymongo.MongoClient(url) as direct:
            stored = direct.get_default_database()["feature_flags"].find_one({"key": KEYS[0]})
        last = {kind: (await callers.client.evaluate(KEYS[0])).enabled for kind, callers in asked.items()}
        return {
            "paused_at": paused_at,
            "resumed_at": resumed_at,
            "stored": stored is not None and stored["status"] == "ENABLED",
            "last": last,
            "answers": {kind: callers.answers for kind, callers in asked.items()},
            "failures": {kind: callers.failures for kind, callers in asked.items()},
        }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes started here end too
    with Mongod() as own_mongod, RedisServer() as own_redis:
        report = asyncio.run(scene(own_mongod, own_redis.url))
    Path(sys.argv[1]).write_text(json.dumps(report))
