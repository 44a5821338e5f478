"""Clients that change flags: through replicas, and straight in MongoDB as the existing service does."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import duration_pb2, field_mask_pb2
from pymongo.errors import PyMongoError

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.faults.history import reason
from tests.faults.load import Load, failure
from tests.faults.record import NO_VALUE, ForeignWrite, Record, Write
from tests.faults.replica import Replica
from tests.faults.stores import Mongods
from tests.faults.timeline import FOREIGN_ONLY

PLAIN = [f"plain-{n:02}" for n in range(18)]
MIXED = [f"mixed-{n:02}" for n in range(8)]
PASSING = [f"passing-{n:02}" for n in range(4)]
FOREIGN = [f"{FOREIGN_ONLY}{n:02}" for n in range(4)]
PLANNED = [f"planned-{n:02}" for n in range(4)]
"""Flags that only planned changes change."""
FLAGS = [*PLAIN, *MIXED, *PASSING, *FOREIGN, *PLANNED]
WRITES_A_SECOND = 5.0
FOREIGN_A_SECOND = 2.0
_WRITERS = 6
_DEADLINE_S = 10.0
_WAIT_S = 2.0
_LEVELS = (pb.WRITE_LEVEL_STORED, pb.WRITE_LEVEL_CACHED, pb.WRITE_LEVEL_CACHED, pb.WRITE_LEVEL_APPLIED)
_ENABLED_SHARE = 0.7
_RESOLVE_S = 30.0


class Values:
    """Returns a value for each write that no other write has."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def __call__(self) -> int:
        return next(self._next)


class Writer:
    """Changes flags through replicas."""

    def __init__(self, record: Record, replicas: list[Replica], load: Load, values: Values, seed: int) -> None:
        self._story, self._replicas, self._load, self._values = record.story, replicas, load, values
        self._random = random.Random(seed)
        self._stopping = False
        self.tasks: list[asyncio.Task[None]] = []

    async def seed(self) -> None:
        """Create the initial flags, all on one replica."""
        for flag in (*PLAIN, *MIXED, *PLANNED):
            await self._write("create", flag, self._replicas[0], pb.WRITE_LEVEL_CACHED)

    def start(self) -> None:
        """Begin."""
        self.tasks = [asyncio.create_task(self._go_on()) for _ in range(_WRITERS)]

    async def stop(self) -> None:
        """Begin no more writes, and wait for those in progress."""
        self._stopping = True
        await asyncio.gather(*self.tasks)

    async def one(self, replica: Replica) -> None:
        """Change some flag through this replica."""
        flag = self._random.choice((*PLAIN, *MIXED, *PASSING))
        if flag in PASSING:
            kind = self._random.choice(("create", "create", "update", "delete"))
        else:
            kind = self._random.choice(("toggle", "update"))
        await self._write(kind, flag, replica, self._random.choice(_LEVELS))

    async def _go_on(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * _WRITERS / WRITES_A_SECOND)
            ready = [replica for replica in self._replicas if replica.ready.is_set()]
            if ready and not self._stopping:
                await self.one(self._random.choice(ready))

    async def _write(self, kind: str, flag: str, replica: Replica, wait_for: int) -> None:
        incarnation, number = replica.incarnation, len(self._story.writes) + 1
        write = Write(number, kind, flag, incarnation.number, wait_for, time.monotonic())
        self._story.writes.append(write)
        try:
            answer = await self._send(write, replica)
        except grpc.aio.AioRpcError as error:
            self._story.failures.append(failure(kind, write.start, incarnation, error, flag))
            return
        write.end, write.acknowledged = time.monotonic(), True
        write.revision = answer.revision if kind == "delete" else answer.flag.revision
        write.status = 0 if kind == "delete" else answer.flag.status
        write.reached = answer.spread.reached
        write.applied_by, write.lagging = list(answer.spread.applied_by), list(answer.spread.lagging)
        self._load.tokens.append(write.revision)

    async def _send(self, write: Write, replica: Replica) -> Any:
        stub, key = replica.stub, write.flag
        common: dict[str, Any] = {
            "reason": reason(write.number),
            "wait_for": write.wait_for,
            "wait_timeout": duration_pb2.Duration(seconds=int(_WAIT_S)),
        }
        how: dict[str, Any] = {"metadata": replica.access.root, "timeout": _DEADLINE_S}
        if write.kind == "toggle":
            write.enabled = self._random.random() < _ENABLED_SHARE
            toggle = pb.ToggleFlagRequest(flag_key=key, enabled=write.enabled, **common)
            return await stub.ToggleFlag(toggle, **how)
        if write.kind == "delete":
            return await stub.DeleteFlag(pb.DeleteFlagRequest(flag_key=key, **common), **how)
        write.value = self._values()
        variants = {"v": types.Value(integer_value=write.value)}
        if write.kind == "update":
            mask = field_mask_pb2.FieldMask(paths=["variants"])
            update = pb.UpdateFlagRequest(flag=types.Flag(key=key, variants=variants), update_mask=mask, **common)
            return await stub.UpdateFlag(update, **how)
        flag = types.Flag(key=key, status=types.FLAG_STATUS_ENABLED, variants=variants, default_variant="v")
        return await stub.CreateFlag(pb.CreateFlagRequest(flag=flag, **common), **how)


class ForeignWriter:
    """Changes documents with a plain driver, each only if it still is what was read: a late change does no harm."""

    def __init__(self, record: Record, mongods: Mongods, values: Values, seed: int) -> None:
        self._story, self._mongods, self._values = record.story, mongods, values
        self._random = random.Random(seed)
        self._unsure: dict[str, list[ForeignWrite]] = {}
        self._stopping = False
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self.tasks = [asyncio.create_task(self._go_on())]

    async def stop(self) -> None:
        """Begin no more writes, and find the outcome of each change whose answer was lost."""
        self._stopping = True
        await asyncio.gather(*self.tasks)
        async with asyncio.timeout(_RESOLVE_S):
            while unsure := [flag for flag in self._unsure if flag in FOREIGN and self._unsure[flag]]:
                await self._one(unsure[0])

    async def _go_on(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / FOREIGN_A_SECOND)
            await self._one(self._random.choice((*MIXED, *FOREIGN)))

    async def _one(self, flag: str) -> None:
        write: ForeignWrite | None = None
        try:
            flags = (await self._mongods.database())["feature_flags"]
            found = await flags.find_one({"key": flag})
            self._recognise(flag, found)
            write = self._planned(flag, found)
            write.start = time.monotonic()
            before = await self._made(flags, write, found)
        except (PyMongoError, RuntimeError):
            if write is not None:
                self._story.foreign.append(write)
                self._unsure.setdefault(flag, []).append(write)
            return
        write.done = before is not None
        write.end = time.monotonic()
        self._story.foreign.append(write)
        if write.done and before is not None:
            write.base = int(before.get("revision") or 0)
            self._give_up(flag)

    def _planned(self, flag: str, found: dict[str, Any] | None) -> ForeignWrite:
        number = len(self._story.foreign) + 1
        if found is None:
            kind = "insert" if flag in FOREIGN else "update"
        else:
            kind = "delete" if flag in FOREIGN and self._random.random() < 0.3 else "update"
        return ForeignWrite(number, kind, flag, 0.0, NO_VALUE if kind == "delete" else self._values())

    async def _made(self, flags: Any, write: ForeignWrite, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """Change it; return what was there before ({}: nothing), None when that was not what had been read."""
        now = datetime.now(UTC)
        if write.kind == "insert":
            await flags.insert_one(_as_the_old_service(write, now))
            return {}
        same = {"key": write.flag, "variants.v": found["variants"]["v"] if found else NO_VALUE}
        if write.kind == "delete":
            return await flags.find_one_and_delete(same)  # type: ignore[no-any-return]
        edit = {"status": "ENABLED", "variants.v": write.value, "enabledAt": now, "updatedAt": now}
        return await flags.find_one_and_update(same, {"$set": edit})  # type: ignore[no-any-return]

    def _recognise(self, flag: str, found: dict[str, Any] | None) -> None:
        """Recognise from the present state that a change whose answer was lost has happened."""
        value = int(found["variants"]["v"]) if found else NO_VALUE
        for write in self._unsure.get(flag, []):
            if flag in FOREIGN and write.value == value:
                write.done = True
                self._unsure[flag].remove(write)
                return

    def _give_up(self, flag: str) -> None:
        """The state has changed: none of the earlier attempts can succeed any more."""
        for write in self._unsure.pop(flag, []):
            if flag in FOREIGN:
                write.done = False


def _as_the_old_service(write: ForeignWrite, now: datetime) -> dict[str, Any]:
    named = {"key": write.flag, "name": write.flag, "description": None, "category": "addon", "status": "ENABLED"}
    shown = {"config": {"n": write.value}, "icon": None, "badge": None, "sortOrder": 0}
    times = {"createdAt": now, "updatedAt": now, "enabledAt": now, "disabledAt": None}
    return named | shown | times | {"variants": {"v": write.value}, "defaultVariant": "v"}
