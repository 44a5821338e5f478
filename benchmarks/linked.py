"""What prerequisites and segments cost: the server's CPU of a unary evaluation of a flag that has them.

All flags have the same two conditions. A process answers from its near cache, and the kinds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from contextlib import ExitStack
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import load
from benchmarks.load import Target
from benchmarks.tiers import server
from benchmarks.versions import median_and_interval
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segments
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as segments_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

PLAIN = "two conditions"
CONDITIONS: dict[str, Any] = {"pro": {"==": [{"var": "plan"}, "pro"]}, "eu": {"in": [{"var": "country"}, ["DE", "FR"]]}}
REFERENCES = [{"$ref": f"segment:{name}"} for name in CONDITIONS]
PARENTS = ("parent-a", "parent-b", "parent-c")
KINDS = {
    PLAIN: ([*CONDITIONS.values()], ()),
    "two segments": (REFERENCES, ()),
    "three prerequisites": ([*CONDITIONS.values()], PARENTS),
    "three prerequisites and two segments": (REFERENCES, PARENTS),
}
"""The conditions and the prerequisites of the flag of each kind."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each phase [2]")
    parser.add_argument("--rounds", type=int, default=20, help="rounds [20]")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        target = stack.enter_context(server("flagsvc", "--store", f"sqlite:///{folder}/flags.db"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cpu_us = runner.run(_measure(target, args.seconds, args.rounds))
    table = Table("flag with", "server CPU per evaluation, us", f"more than {PLAIN}, 95 % interval", box=None)
    for kind, found in cpu_us.items():
        more = [own - plain for own, plain in zip(found, cpu_us[PLAIN], strict=True)]
        difference = "" if kind == PLAIN else median_and_interval(more, ".1f")
        table.add_row(kind, f"{statistics.median(found):.1f}", difference)
    Console().print(table)


async def _measure(target: Target, seconds: float, rounds: int) -> dict[str, list[float]]:
    await _fill(target)
    requests = {kind: [_request(number)] for number, kind in enumerate(KINDS)}
    cpu_us: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with Progress(transient=True) as progress:
        bar = progress.add_task("measuring", total=rounds * len(KINDS))
        for number in range(rounds):
            for kind in [*KINDS][:: 1 if number % 2 else -1]:
                progress.update(bar, description=f"round {number + 1}: {kind}")
                measured = await load.saturated(target, seconds, toggles=False, requests=requests[kind])
                cpu_us[kind].append(measured.cpu_us)
                progress.advance(bar)
    return cpu_us


async def _fill(target: Target) -> None:
    """Create the segments, the parents and a flag of each kind, and see that each gives what its rule says."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        await channel.channel_ready()
        of_segments, of_flags = segments_grpc.SegmentServiceStub(channel), pb_grpc.FlagServiceStub(channel)
        for name, rule in CONDITIONS.items():
            segment = segments.Segment(name=name, rule=json.dumps(rule))
            await of_segments.CreateSegment(segments.CreateSegmentRequest(segment=segment))
        flags = [types.Flag(key=key) for key in PARENTS]
        for number, (conditions, parents) in enumerate(KINDS.values()):
            flag = types.Flag(key=_key(number), targeting=json.dumps({"if": [{"and": conditions}, "on", "off"]}))
            flag.prerequisites.extend(types.Prerequisite(flag_key=key, variants=["on"]) for key in parents)
            flags.append(flag)
        for flag in flags:
            flag.status = types.FLAG_STATUS_ENABLED
            await of_flags.CreateFlag(pb.CreateFlagRequest(flag=flag))
        for number in range(len(KINDS)):
            answer = (await of_flags.EvaluateFlag(_request(number))).evaluation
            assert (answer.variant, answer.reason) == ("on", types.REASON_TARGETING_MATCH), answer


def _key(number: int) -> str:
    return f"kind-{number}"


def _request(number: int) -> pb.EvaluateFlagRequest:
    request = pb.EvaluateFlagRequest(flag_key=_key(number))
    request.context.targeting_key = "user-1"
    for name, value in {"plan": "pro", "country": "FR"}.items():
        request.context.attributes[name].string_value = value
    return request


if __name__ == "__main__":
    main()
