"""Carries out a schedule: makes each fault, heals it, and records when it really began and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.faults.cluster import Cluster
from tests.faults.poison import poison
from tests.faults.proxy import Proxy
from tests.faults.record import FaultWindow, Story
from tests.faults.replica import Replica
from tests.faults.schedule import Fault
from tests.faults.stores import REFUSALS
from tests.faults.writers import Writer

_DELAY_S = (0.005, 0.8)
_KILL_AFTER_S = 0.04
_READY_S = 30.0
_DUMP_EVERY_S = 4.0


class Injector:
    """Plays a schedule on a cluster. `active`: the names of the faults that are active now."""

    def __init__(self, cluster: Cluster, story: Story, writer: Writer) -> None:
        self._cluster, self._story, self._writer = cluster, story, writer
        self._ways = {
            "link": self._on_link,
            "replica": self._on_replica,
            "redis": self._on_redis,
            "mongod": self._on_mongod,
        }
        self._redis_turn, self._mongod_turn = asyncio.Lock(), asyncio.Lock()
        self._replica_turns = [asyncio.Lock() for _ in cluster.replicas]
        self.tasks: set[asyncio.Task[None]] = set()
        self.active: list[str] = []

    async def play(self, faults: Sequence[Fault]) -> None:
        """Make every fault at its time; return when all are healed."""
        async with asyncio.TaskGroup() as tasks:
            dumps = tasks.create_task(self._keep_dumps())
            playing = [tasks.create_task(self._at_its_time(fault)) for fault in faults]
            await asyncio.gather(*playing)
            dumps.cancel()
        await asyncio.gather(*self.tasks)

    async def _at_its_time(self, fault: Fault) -> None:
        await asyncio.sleep(self._story.began + fault.begin - time.monotonic())
        window = FaultWindow(fault.number, fault.name, fault.where, time.monotonic())
        self._story.faults.append(window)
        self.active.append(fault.name)
        try:
            await self._ways[fault.group](fault)
        finally:
            window.end = time.monotonic()
            self.active.remove(fault.name)

    async def _on_link(self, fault: Fault) -> None:
        for proxy, label in self._cluster.links(fault.link, fault.target):
            await _spoil(proxy, label, fault)
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
            for proxy, label in self._cluster.links(fault.link, fault.target):
                await proxy.heal(label)

    async def _on_replica(self, fault: Fault) -> None:
        replica = self._cluster.replicas[fault.target]
        async with self._replica_turns[fault.target]:
            if fault.kind == "pause":
                replica.pause()
                await asyncio.sleep(fault.seconds)
                replica.resume()
                return
            if fault.kind == "restart":
                await replica.stop()
            elif fault.kind == "kill while writing" and replica.ready.is_set():
                task = asyncio.create_task(self._writer.one(replica))
                self.tasks.add(task)
                await asyncio.sleep(fault.dice * _KILL_AFTER_S)
                await replica.kill()
            else:
                await replica.kill()
            await asyncio.sleep(fault.seconds)
            await _started(replica)

    async def _on_redis(self, fault: Fault) -> None:
        redis = self._cluster.redis
        async with self._redis_turn:
            if fault.kind == "flush":
                await asyncio.to_thread(redis.flush)
                return
            if fault.kind == "poison":
                await asyncio.to_thread(poison, redis.port, self._story.flags, fault.dice)
                return
            if fault.kind == "pause":
                await _paused(redis.pause, redis.resume, fault.seconds)
                return
            if fault.kind == "refuses":
                begin, end = REFUSALS[int(fault.dice * len(REFUSALS)) % len(REFUSALS)]
                await asyncio.to_thread(redis.configure, *begin)
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    await asyncio.to_thread(redis.configure, *end)
                return
            if fault.kind == "slow start":
                await asyncio.to_thread(redis.start_slowly, fault.seconds)
                return
            await asyncio.to_thread(redis.kill)
            if fault.kind == "empty restart":
                redis.forget()
            elif fault.kind == "old dump":
                redis.put_back(fault.dice)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(redis.start)

    async def _on_mongod(self, fault: Fault) -> None:
        mongods = self._cluster.mongods
        async with self._mongod_turn:
            number = fault.target if fault.target >= 0 else await mongods.find_primary()
            member = mongods.members[number]
            if fault.kind == "stepdown":
                await mongods.give_way(number)
            elif fault.kind == "pause":
                await _paused(member.pause, member.resume, fault.seconds)
            else:
                await asyncio.to_thread(member.kill)
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(member.start)
            await mongods.find_primary()

    async def _keep_dumps(self) -> None:
        while True:
            await asyncio.sleep(_DUMP_EVERY_S)
            self._cluster.redis.keep_dump()


async def _spoil(proxy: Proxy, label: str, fault: Fault) -> None:
    if fault.kind == "delay":
        seconds = _DELAY_S[0] * (_DELAY_S[1] / _DELAY_S[0]) ** fault.dice
        proxy.delay(label, seconds, seconds / 3)
    elif fault.kind == "refuse":
        await proxy.refuse(label)
    elif fault.kind == "stall one":
        if open_now := proxy.open(label):
            open_now[int(fault.dice * len(open_now))].stalled = True
    else:
        acts = {"stall": proxy.stall, "black hole": proxy.black_hole, "cut": proxy.cut, "reset": proxy.reset}
        acts["half-close there"] = partial(proxy.half_close, to_upstream=True)
        acts["half-close back"] = partial(proxy.half_close, to_upstream=False)
        acts[fault.kind](label)


async def _paused(pause: Callable[[], None], resume: Callable[[], None], seconds: float) -> None:
    pause()
    try:
        await asyncio.sleep(seconds)
    finally:
        resume()


async def _started(replica: Replica) -> None:
    """Start it; its fault lasts until it is ready, or until the time for that is over."""
    replica.start()
    try:
        async with asyncio.timeout(_READY_S):
            await replica.ready.wait()
    except TimeoutError:
        return
