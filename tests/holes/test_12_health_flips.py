"""Hole 12: health is set once and never again, or changes in one direction only."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2

from tests.faults.proxy import Proxy
from tests.holes.proxies import CACHE, STORE, TAIL, Proxies
from tests.holes.stage import NEAR, NONE, running
from tests.replicas import Client, until, until_serving

ROUNDS = 2
SERVING = health_pb2.HealthCheckResponse.SERVING
FLIPPING = ("store", "cache", "readiness")


class Watched:
    """The states that a health watch reported, in order."""

    def __init__(self, client: Client, service: str) -> None:
        self.reported: list[bool] = []
        self._call = client.health.Watch(health_pb2.HealthCheckRequest(service=service))
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (message := await self._call.read()) is not grpc.aio.EOF:
            self.reported.append(message.status == SERVING)

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_12_health_goes_both_ways_as_often_as_its_stores_do(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    with Proxies(mongo_database_url, redis_clean_url) as between:
        settings = {**between.urls, "staleness_bound_s": 1.0, "store_timeout_s": 0.4, "cache_timeout_s": 0.5}
        async with running(NEAR, NONE, **settings) as (whole, bare):
            for replica in (whole, bare):
                for service in ("store", "cache"):
                    await until_serving(replica.client, service)
            watched = {service: Watched(bare.client, service) for service in FLIPPING}
            steady = [Watched(whole.client, "readiness"), Watched(bare.client, "liveness")]
            await until(lambda: all(each.reported for each in (*watched.values(), *steady)))
            for round_ in range(ROUNDS):
                await flipped(between, [whole.client, bare.client], hangs=round_ % 2 == 0)
            await until(lambda: all(len(each.reported) >= 1 + 2 * ROUNDS for each in watched.values()))
            for service, each in watched.items():
                assert each.reported == [True] + [False, True] * ROUNDS, service
            assert [each.reported for each in steady] == [[True], [True]]
            for each in (*watched.values(), *steady):
                await each.close()


async def flipped(between: Proxies, clients: list[Client], *, hangs: bool) -> None:
    """Redis goes, then MongoDB, then both return; each change is reported; with all flags in memory it stays ready."""
    whole, bare = clients
    gone(between, between.redis, CACHE, hangs=hangs)
    await all_are(clients, "cache", serving=False)
    await all_are(clients, "store", serving=True)
    await all_are(clients, "readiness", serving=True)
    for label in (STORE, TAIL):
        gone(between, between.mongo, label, hangs=hangs)
    await all_are(clients, "store", serving=False)
    await all_are([bare], "readiness", serving=False)
    await all_are([whole], "readiness", serving=True)
    await all_are(clients, "liveness", serving=True)
    between.heal(between.redis, CACHE)
    await all_are(clients, "cache", serving=True)
    await all_are([bare], "readiness", serving=True)
    between.heal(between.mongo, STORE, TAIL)
    await all_are(clients, "store", serving=True)


def gone(between: Proxies, proxy: Proxy, label: str, *, hangs: bool) -> None:
    """Connections hang; or they end, and new ones are refused."""
    if hangs:
        between.do(proxy.stall, label)
    else:
        between.wait_for(proxy.refuse(label))
        between.do(proxy.reset, label)


async def all_are(clients: list[Client], service: str, *, serving: bool) -> None:
    for client in clients:
        await until_serving(client, service, serving=serving)
