"""Liveness (the event loop runs) and readiness (the replica has flags to answer from and is not stopping).

grpc.health.v1 reports readiness as "", `readiness` and under each service's name, liveness as `liveness`, and the
replica's parts as `store`, `cache` and `changes`. The management server reads `ready` and `alive`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CHECK_EVERY_S = 0.1
STUCK_AFTER_S = 10.0
READY_NAMES = (
    *("", "readiness", "flagsvc.v1.FlagService", "flagsvc.v1.TokenService", "flagd.sync.v1.FlagSyncService"),
    *("flagd.evaluation.v1.Service", "flagd.evaluation.v2.Service", "schema.v1.Service"),
)


class Health:
    """Evaluates the checks ten times a second and publishes changes to grpc.health.v1.

    `ready`: whether the replica can answer; `details`: further checks by the name that they are published under.
    """

    def __init__(self, ready: Callable[[], bool], details: Mapping[str, Callable[[], bool]]) -> None:
        self.servicer = HealthServicer()
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

    def start(self) -> None:
        """Publish the first state. Call it before the server listens."""
        self._publish("liveness", True)
        self._publish_checks()

    async def run(self) -> None:
        """Publish changes until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self._publish_checks()

    def stop(self) -> None:
        """Publish that nothing is ready any more. Liveness stays."""
        self._stopping = True
        for name in self._checks:
            self._publish(name, False)

    def _publish_checks(self) -> None:
        self._loop_ran_at = time.monotonic()
        if not self._stopping:
            for name, check in self._checks.items():
                self._publish(name, check())

    def _publish(self, name: str, serving: bool) -> None:
        if self._published.get(name) is not serving:
            self._published[name] = serving
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            self.servicer.set(name, status)


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serves grpc.health.v1. A watcher that does not read delays nobody else: it gets the newest status later."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watchers: set[asyncio.Event] = set()

    def set(self, service: str, status: int) -> None:
        """Set the status of a service, and wake those who watch."""
        self._statuses[service] = status
        for changed in self._watchers:
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """Return a service's status."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self,
        request: health_pb2.HealthListRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        response = health_pb2.HealthListResponse
        return response(statuses={name: {"status": status} for name, status in self._statuses.items()})

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield a service's status, and again when it has changed."""
        changed, sent = asyncio.Event(), None
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != sent:
                    sent = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await changed.wait()
        finally:
            self._watchers.discard(changed)
