"""A caller that sends more than its rate, as a process of its own: its CPU and its loop are not the others'.

Run as a program, it reads one line of JSON from its standard input (targets, headers, calls a second, seconds), and
writes one with what became of its calls.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import uvloop

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

TICK_S = 0.005
MAX_UNDER_WAY = 500


@dataclass(slots=True)
class Calls:
    """What became of calls. `accepted`: seconds from the first call to each answer; `waits_s`: of accepted calls."""

    offered: int = 0
    accepted: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def per_second(self, since_s: float) -> float:
        """Return the calls accepted a second after the first ones."""
        return sum(at >= since_s for at in self.accepted) / (self.seconds - since_s)


async def offer(calls: Sequence[Callable[[], Awaitable[Any]]], rate: float, seconds: float) -> Calls:
    """Make calls at a steady rate, each one of several at random; a wait counts from when its call was due."""
    found, under_way, began = Calls(), set[asyncio.Task[None]](), time.monotonic()

    async def one(call: Callable[[], Awaitable[Any]], due: float) -> None:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            name = error.code().name
            found.refused[name] = found.refused.get(name, 0) + 1
        else:
            now = time.monotonic()
            found.accepted.append(now - began)
            found.waits_s.append(now - due)

    while (elapsed := time.monotonic() - began) < seconds:
        while found.offered < rate * elapsed and len(under_way) < MAX_UNDER_WAY:
            task = asyncio.create_task(one(random.choice(calls), began + found.offered / rate))
            found.offered += 1
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*under_way)
    found.seconds = seconds
    return found


async def _run(wanted: dict[str, Any]) -> Calls:
    headers = tuple(tuple(each) for each in wanted["headers"])
    channels = [grpc.aio.insecure_channel(target) for target in wanted["targets"]]
    stubs = [pb_grpc.FlagServiceStub(channel) for channel in channels]
    request = pb.EvaluateFlagRequest(flag_key=wanted["flag"])
    for stub in stubs:  # connected before anything counts; an unknown flag is an answer, too
        await stub.EvaluateFlag(request, metadata=headers, timeout=10, wait_for_ready=True)
    calls = [lambda stub=stub: stub.EvaluateFlag(request, metadata=headers, timeout=5) for stub in stubs]
    try:
        return await offer(calls, wanted["rate"], wanted["seconds"])
    finally:
        for channel in channels:
            await channel.close()


def main() -> None:
    """Read what is wanted, call, and write what was found."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_run(json.loads(sys.stdin.readline())))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
