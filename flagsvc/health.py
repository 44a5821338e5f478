"""Liveness (the event loop runs) and readiness (the replica has flags to answer from and is not stopping).

grpc.health.v1 reports readiness as "", `readiness` and under each service's name, liveness as `liveness`, and the
replica's parts as `store`, `cache` and `changes`. The management server reads `ready` and `alive`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

CHECK_EVERY_S = 0.1
STUCK_AFTER_S = 10.0
READY_NAMES = (
    *("", "readiness", "flagsvc.v1.FlagService", "flagd.sync.v1.FlagSyncService"),
    *("flagd.evaluation.v1.Service", "flagd.evaluation.v2.Service", "schema.v1.Service"),
)


class Health:
    """Evaluates the checks ten times a second and publishes changes to grpc.health.v1.

    `ready`: whether the replica can answer; `details`: further checks by the name that they are published under.
    """

    def __init__(self, ready: Callable[[], bool], details: Mapping[str, Callable[[], bool]]) -> None:
        self.servicer = health_aio.HealthServicer()
        self._checks = {**dict.fromkeys(READY_NAMES, ready), **details}
        self._published: dict[str, bool] = {}
        self._stopping = False
        self._loop_ran_at = time.monotonic()

    @property
    def ready(self) -> bool:
        """Readiness as last published; False during shutdown."""
        return self._published.get("", False) and not self._stopping

    @property
    def alive(self) -> bool:
        """Whether the event loop ran within the last STUCK_AFTER_S seconds."""
        return time.monotonic() - self._loop_ran_at < STUCK_AFTER_S

    async def start(self) -> None:
        """Publish the first state. Call it before the server listens."""
        await self._publish("liveness", True)
        await self._publish_checks()

    async def run(self) -> None:
        """Publish changes until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            await self._publish_checks()

    async def stop(self) -> None:
        """Publish that nothing is ready any more. Liveness stays."""
        self._stopping = True
        for name in self._checks:
            await self._publish(name, False)

    async def _publish_checks(self) -> None:
        self._loop_ran_at = time.monotonic()
        if not self._stopping:
            for name, check in self._checks.items():
                await self._publish(name, check())

    async def _publish(self, name: str, serving: bool) -> None:
        if self._published.get(name) is not serving:
            self._published[name] = serving
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self.servicer.set(name, status)
