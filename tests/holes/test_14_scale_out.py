"""Hole 14: a replica that is added gets no load, since every client keeps its connection."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from tests.faults.proxy import Proxy
from tests.replicas import replica, until, until_serving
from tests.servers import free_port
from tests.stopwatch import Stopwatch

AGE_S = 1.0
WITHIN_S = AGE_S * 1.1 + 0.5
"""gRPC varies the age by a tenth; and connecting takes a moment."""
CLIENTS = 8
ROUND_ROBIN = (
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Caller:
    """Calls all the time. `answers` has time and revision; each replica has a different revision, which names it."""

    def __init__(self, target: str, *options: tuple[str, object]) -> None:
        self._channel = grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1), *options])
        self.answers: list[tuple[float, int]] = []
        self.failures: list[str] = []
        self._task = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        stub = pb_grpc.FlagServiceStub(self._channel)
        while True:
            try:
                answer = await stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), timeout=5)
                self.answers.append((time.monotonic(), answer.evaluation.revision))
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")
            await asyncio.sleep(0.03)

    def has_reached(self, revision: int) -> bool:
        """Whether the replica with this revision has answered."""
        return any(answered == revision for _, answered in self.answers)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()


async def test_14_a_replica_that_is_added_gets_calls_within_the_age_of_a_connection(tmp_path: Path) -> None:
    """Clients that know both addresses, and clients behind a balancer of connections."""
    ports = free_port(), free_port()
    balancer = Proxy(ports[0], label="balanced")
    await balancer.start()
    async with replica(store_url=f"sqlite:///{tmp_path}/1.db", connection_age_s=AGE_S, port=ports[0]) as (first, _):
        await until_serving(first)
        old = (await first.create("a")).revision
        spread = Caller(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", *ROUND_ROBIN)
        balanced = [Caller(f"127.0.0.1:{balancer.port}") for _ in range(CLIENTS)]
        await asyncio.sleep(0.4)
        async with replica(store_url=f"sqlite:///{tmp_path}/2.db", connection_age_s=AGE_S, port=ports[1]) as (
            second,
            _,
        ):
            await until_serving(second)
            await second.create("a")
            new = (await second.toggle("a", True)).revision
            balancer.upstream_port = ports[1]
            since = Stopwatch()
            await until(lambda: all(caller.has_reached(new) for caller in (spread, *balanced)), 60)
            assert not since.is_past(WITHIN_S), "connections live longer than their age"
            reached_at = time.monotonic()
            await until(lambda: {old, new} <= {answered for at, answered in spread.answers if at > reached_at})
            for caller in (spread, *balanced):
                await caller.close()
    await balancer.close()
    for caller in (spread, *balanced):
        assert caller.answers[0][1] == old
        assert caller.failures == []
