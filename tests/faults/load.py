"""Clients that evaluate one flag or many, with and without tokens, on every replica; each call is recorded."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

import grpc
from google.rpc import error_details_pb2, status_pb2

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.faults.record import BATCH, NO_VALUE, TOKEN, UNARY, Failure, Incarnation, Record
from tests.faults.replica import Replica

BATCH_KEYS = 20
UNARY_A_SECOND, BATCHES_A_SECOND, TOKENS_A_SECOND = 170.0, 34.0, 8.0
"""On each replica, where the whole load is applied."""
_CALLERS = {UNARY: 5, BATCH: 3, TOKEN: 3}
_DEADLINE_S = {UNARY: 3.0, BATCH: 3.0, TOKEN: 6.0}
_AFTER_FAILURE_S = 0.05
_FRESH_TOKENS = 20
_WHAT = {UNARY: "evaluate", BATCH: "batch", TOKEN: "token"}


class Load:
    """Evaluates until its tasks are cancelled. `share`: of the load; `tokens`: newest revisions returned by writes."""

    def __init__(self, record: Record, replicas: list[Replica], seed: int, share: float) -> None:
        self.evaluations, self._share = 0, share
        self.tokens: deque[int] = deque(maxlen=_FRESH_TOKENS)
        self._record, self._replicas = record, replicas
        self._random = random.Random(seed)
        self._flags = record.story.flags
        self._places = {flag: place for place, flag in enumerate(self._flags)}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        calls: dict[int, tuple[float, Callable[[Replica], Awaitable[None]]]] = {
            UNARY: (UNARY_A_SECOND, self._one),
            BATCH: (BATCHES_A_SECOND, self._many),
            TOKEN: (TOKENS_A_SECOND, self._read_at_least),
        }
        for replica in self._replicas:
            for kind, (rate, call) in calls.items():
                callers = _CALLERS[kind]
                self.tasks += [
                    asyncio.create_task(self._call(replica, call, callers / rate / self._share)) for _ in range(callers)
                ]

    def check(self) -> None:
        """Raise what ended a client; none ends by itself."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def _call(self, replica: Replica, call: Callable[[Replica], Awaitable[None]], every_s: float) -> None:
        """Call at a steady rate; a call that could not be made in time is left out, not made up for."""
        due = time.monotonic() + self._random.uniform(0, every_s)
        while True:
            await replica.ready.wait()
            if (pause := due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            due = max(due + every_s, time.monotonic())
            await call(replica)

    async def _one(self, replica: Replica) -> None:
        await self._evaluate(replica, UNARY, 0)

    async def _read_at_least(self, replica: Replica) -> None:
        if self.tokens:
            await self._evaluate(replica, TOKEN, self._random.choice(self.tokens))

    async def _evaluate(self, replica: Replica, kind: int, token: int) -> None:
        incarnation, flag = replica.incarnation, self._random.choice(self._flags)
        request = pb.EvaluateFlagRequest(flag_key=flag, min_revision=token)
        start = time.monotonic()
        try:
            answer = await replica.stub.EvaluateFlag(request, metadata=replica.access.caller, timeout=_DEADLINE_S[kind])
        except grpc.aio.AioRpcError as error:
            await self._failed(kind, start, incarnation, error, flag)
        else:
            self._note((start, time.monotonic()), incarnation.number, answer.evaluation, kind, token)

    async def _many(self, replica: Replica) -> None:
        incarnation = replica.incarnation
        request = pb.BatchEvaluateFlagsRequest(flag_keys=self._random.sample(self._flags, BATCH_KEYS))
        start = time.monotonic()
        try:
            answer = await replica.stub.BatchEvaluateFlags(
                request, metadata=replica.access.caller, timeout=_DEADLINE_S[BATCH]
            )
        except grpc.aio.AioRpcError as error:
            await self._failed(BATCH, start, incarnation, error, f"{BATCH_KEYS} flags")
        else:
            times = start, time.monotonic()
            for evaluation in answer.evaluations:
                self._note(times, incarnation.number, evaluation, BATCH)

    def _note(
        self, times: tuple[float, float], incarnation: int, found: pb.FlagEvaluation, kind: int, token: int = 0
    ) -> None:
        value = found.value.integer_value if found.HasField("value") else NO_VALUE
        place = self._places[found.flag_key]
        first = (found.revision, value, token, min(found.age_ms, 2**31 - 1), incarnation, place)
        self._record.evaluated(*times, *first, found.status, found.reason, found.error_code, found.source, kind)
        self.evaluations += 1
        if found.error_message:
            self._record.story.texts[found.error_message] = self._record.story.texts.get(found.error_message, 0) + 1

    async def _failed(
        self, kind: int, start: float, incarnation: Incarnation, error: grpc.aio.AioRpcError, flag: str
    ) -> None:
        self._record.story.failures.append(failure(_WHAT[kind], start, incarnation, error, flag))
        await asyncio.sleep(_AFTER_FAILURE_S)


def failure(what: str, start: float, incarnation: Incarnation, error: grpc.aio.AioRpcError, flag: str) -> Failure:
    """Record a call that failed just now."""
    code, text = error.code().name, error.details() or ""
    return Failure(what, start, time.monotonic(), incarnation.number, code, _reason(error), text, flag)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return the ErrorInfo's reason; empty where the server sent none."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""
