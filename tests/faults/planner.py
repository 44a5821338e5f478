"""Clients that plan changes and roll flags out while everything else goes on, and callers of those flags."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import grpc
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as rollouts
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as rollouts_grpc
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as plans_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.faults.cluster import SKEWED
from tests.faults.history import reason
from tests.faults.load import failure
from tests.faults.record import NO_VALUE, Record, Write
from tests.faults.replica import Replica
from tests.faults.timed import Moved, Plan
from tests.faults.writers import PASSING, PLANNED, Values

BURSTS_A_SECOND = 1.5
"""Times at which changes of one flag are planned, one to four at once."""
AHEAD_S = 0.7, 6.0
STRICT_S, PATIENT_S = 1.0, 600.0
"""How late a plan may be: some become MISSED, the others are late."""
ROLLOUT_S = 10
SHARES, AGAIN = ((1, 20.0), (5, 50.0), (ROLLOUT_S, 100.0)), ((0, 5.0), (6, 100.0))
"""Shares of a rollout after so many seconds, and those of an edit, which begins again with few."""
EDITS = ("pause", "resume", "edit")
USERS = 16
_ASKED_EVERY_S = 0.6
_AFTER_FAILURE_S = 0.3
_DEADLINE_S = 5.0


class Planner:
    """Goes on until it is stopped. `share`: of the load."""

    def __init__(self, record: Record, replicas: list[Replica], values: Values, seed: int, share: float) -> None:
        self._story, self._replicas, self._values, self._share = record.story, replicas, values, share
        self._random = random.Random(seed)
        self._stopping = False
        self._rolled_out: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        asking = [self._ask(replica, user) for replica in self._replicas for user in range(USERS)]
        self.tasks = [asyncio.create_task(each) for each in (self._plan(), self._roll_out(), *asking)]

    async def stop(self) -> None:
        """Plan and change no more, and wait for what is in progress."""
        self._stopping = True
        await asyncio.gather(*self.tasks)

    async def _plan(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / BURSTS_A_SECOND)
            flag = self._random.choice((*PLANNED, *PLANNED, *PLANNED, *PASSING))
            due = time.time() + self._random.uniform(*AHEAD_S)
            if due > self._story.began + self._story.clock + self._story.seconds - AHEAD_S[0]:
                continue  # all are due within the run
            many = [due + self._random.choice((0.0, 0.0, 0.001, 0.05)) for _ in range(self._random.randint(1, 4))]
            await asyncio.gather(*(self._planned(flag, each) for each in many))

    async def _planned(self, flag: str, due: float) -> None:
        replica = self._ready()
        if replica is None:
            return
        lateness_s = STRICT_S if self._random.random() < 0.2 else PATIENT_S
        write = self._written("plan", flag, replica)
        write.value = self._values()
        due = round(due, 3)
        plan = Plan(write.number, flag, write.incarnation, due, lateness_s, write.start)
        self._story.plans.append(plan)
        schedule = plans.Schedule(
            flag_key=flag,
            execute_time=_moment(due),
            patch=types.Flag(variants={"v": types.Value(integer_value=write.value)}),
            update_mask=field_mask_pb2.FieldMask(paths=["variants"]),
            on_conflict=plans.ON_CONFLICT_HOLD if flag in PLANNED else plans.ON_CONFLICT_APPLY,
            max_lateness=duration_pb2.Duration(seconds=int(lateness_s)),
        )
        request = plans.CreateScheduleRequest(schedule=schedule, reason=reason(write.number))
        stub: Any = plans_grpc.ScheduleServiceStub(replica.channel)
        try:
            answer = await stub.CreateSchedule(request, metadata=replica.access.root, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            self._failed("plan", write.start, replica, error, flag)
        else:
            plan.end, plan.id = time.monotonic(), answer.schedule.id

    async def _roll_out(self) -> None:
        """Begin a rollout of a new flag, and edit it on its way, through replicas of which the clock is right."""
        while not self._stopping:
            replica = self._ready(with_right_clock=True)
            if replica is None:
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            flag = f"rollout-{len(self._rolled_out):03}"
            self._rolled_out.append(flag)
            if await self._create(flag, replica):
                for kind in EDITS:
                    await asyncio.sleep(self._random.uniform(0.5, 1.0) * ROLLOUT_S / 4)
                    replica = self._ready(with_right_clock=True)
                    if replica is not None and not self._stopping:
                        await self._edit(kind, flag, replica)

    async def _create(self, flag: str, replica: Replica) -> bool:
        variants = {"old": types.Value(integer_value=0), "new": types.Value(integer_value=1)}
        made = types.Flag(key=flag, status=types.FLAG_STATUS_ENABLED, variants=variants, default_variant="old")
        made.rollout.CopyFrom(self._rollout(*SHARES))
        write = self._written("create", flag, replica)
        request = pb.CreateFlagRequest(flag=made, reason=reason(write.number))
        return await self._answered(write, replica, replica.stub.CreateFlag(request, **self._how(replica)))

    async def _edit(self, kind: str, flag: str, replica: Replica) -> None:
        stub: Any = rollouts_grpc.RolloutServiceStub(replica.channel)
        write = self._written(kind, flag, replica)
        common: dict[str, Any] = {"flag_key": flag, "reason": reason(write.number)}
        how = self._how(replica)
        if kind == "pause":
            await self._answered(write, replica, stub.PauseRollout(rollouts.PauseRolloutRequest(**common), **how))
        elif kind == "resume":
            await self._answered(write, replica, stub.ResumeRollout(rollouts.ResumeRolloutRequest(**common), **how))
        else:
            again = types.Flag(key=flag, rollout=self._rollout(*AGAIN))
            mask = field_mask_pb2.FieldMask(paths=["rollout"])
            update = pb.UpdateFlagRequest(flag=again, update_mask=mask, reason=reason(write.number))
            await self._answered(write, replica, replica.stub.UpdateFlag(update, **how))

    def _rollout(self, *shares: tuple[int, float]) -> types.Rollout:
        now = int(time.time())
        points = [types.RolloutPoint(time=_moment(now + after), share=share) for after, share in shares]
        return types.Rollout(from_variant="old", to_variant="new", points=points, linear=self._random.random() < 0.5)

    async def _answered(self, write: Write, replica: Replica, call: Any) -> bool:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self._failed(write.kind, write.start, replica, error, write.flag)
            return False
        write.end, write.acknowledged, write.revision = time.monotonic(), True, answer.flag.revision
        return True

    async def _ask(self, replica: Replica, user: int) -> None:
        """Ask for the flags whose rollouts are the newest, again and again as the same caller."""
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * _ASKED_EVERY_S / self._share)
            keys = self._rolled_out[-2:]
            if not keys or not replica.ready.is_set():
                continue
            incarnation, start = replica.incarnation, time.monotonic()
            context = types.EvaluationContext(targeting_key=f"user-{user}")
            request = pb.BatchEvaluateFlagsRequest(flag_keys=keys, context=context)
            how: dict[str, Any] = {"metadata": replica.access.caller, "timeout": _DEADLINE_S}
            try:
                answer = await replica.stub.BatchEvaluateFlags(request, **how)
            except grpc.aio.AioRpcError as error:
                self._story.failures.append(failure("batch", start, incarnation, error, ", ".join(keys)))
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            end = time.monotonic()
            for each in answer.evaluations:
                if each.HasField("value"):
                    moved = each.value.integer_value == 1
                    found = Moved(each.flag_key, user, incarnation.number, start, end, each.revision, moved)
                    self._story.moved.append(found)

    def _written(self, kind: str, flag: str, replica: Replica) -> Write:
        number = len(self._story.writes) + 1
        write = Write(number, kind, flag, replica.incarnation.number, pb.WRITE_LEVEL_CACHED, time.monotonic(), NO_VALUE)
        self._story.writes.append(write)
        return write

    def _ready(self, *, with_right_clock: bool = False) -> Replica | None:
        ready = [each for each in self._replicas if each.ready.is_set()]
        ready = [each for each in ready if not with_right_clock or each.number != SKEWED]
        return self._random.choice(ready) if ready else None

    def _failed(self, what: str, start: float, replica: Replica, error: grpc.aio.AioRpcError, flag: str) -> None:
        self._story.failures.append(failure(what, start, replica.incarnation, error, flag))

    def _how(self, replica: Replica) -> dict[str, Any]:
        return {"metadata": replica.access.root, "timeout": _DEADLINE_S}


def _moment(seconds: float) -> timestamp_pb2.Timestamp:
    moment = timestamp_pb2.Timestamp()
    moment.FromMilliseconds(round(seconds * 1000))
    return moment
