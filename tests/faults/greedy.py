"""A caller that asks every replica for its whole rate, so three times as much as it may have."""

from __future__ import annotations

import asyncio
import time

import grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.faults.callers import FLAG
from tests.faults.load import failure
from tests.faults.record import Record
from tests.faults.replica import Replica

RATE = 30
"""Its token's, in calls a second, where the whole load is applied."""
_DEADLINE_S = 3.0
_LIMITED = "RATE_LIMITED"


def rate_of(share: float) -> int:
    """Return its rate with this share of the load."""
    return max(1, round(RATE * share))


class Greedy:
    """Calls until its tasks are cancelled."""

    def __init__(self, record: Record, replicas: list[Replica], rate: int) -> None:
        self._story, self._replicas = record.story, replicas
        self._story.greedy.rate = rate
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self.tasks = [asyncio.create_task(self._go_on(replica)) for replica in self._replicas]

    async def _go_on(self, replica: Replica) -> None:
        request, found = pb.EvaluateFlagRequest(flag_key=FLAG), self._story.greedy
        due = time.monotonic()
        while True:
            await replica.ready.wait()
            due = max(due + 1 / found.rate, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            incarnation, start = replica.incarnation, time.monotonic()
            try:
                await replica.stub.EvaluateFlag(request, metadata=replica.access.greedy, timeout=_DEADLINE_S)
                found.accepted.append(time.monotonic())
            except grpc.aio.AioRpcError as error:
                failed = failure("evaluate", start, incarnation, error, FLAG)
                if failed.reason == _LIMITED:
                    found.refused += 1
                else:
                    self._story.failures.append(failed)
