"""How cost grows: with the flags, the open streams, the replicas, the size of rules and of contexts.

Each curve has its slope: the exponent with which the figure grows (0: not at all, 1: in proportion), fitted over the
curve's second half. Servers authenticate their callers and limit their rates. `--only flags` measures one part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.growth_picture import draw
from benchmarks.growth_replicas import of_replicas
from benchmarks.guarded import OWN_CONNECTION, machine
from benchmarks.load import cpu_s, rss_mb
from flagsvc.core.documents import dumps
from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Attributes, Flag, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import Headers, bearer, made, stored
from tests.replicas import Process

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
FLAGS, STREAMS = (100, 1_000, 10_000, 100_000), (10, 100, 1_000, 5_000)
CONDITIONS, FIELDS = (1, 10, 100, 1_000), (1, 10, 100, 1_000)
CALLS, IN_FLIGHT, TOGGLES, STREAMS_PER_CONNECTION = 4_000, 32, 5, 200
RULE = '{"if":[{"ends_with":[{"var":"email"},"@flagsvc.example"]},"on",{"fractional":[["on",10],["off",90]]}]}'
GUARDED = {
    "FLAGSVC_AUTH": "required",
    "FLAGSVC_RATE_LIMITS": "enforce",
    "FLAGSVC_RATES": "evaluate=1000000,read=100000,write=100000,admin=100000",
    "FLAGSVC_LOG_LEVEL": "error",
    "FLAGSVC_MAX_STREAMS": "10000",
    "FLAGSVC_MAX_STREAMS_PER_PEER": "10000",
}
Curve = dict[int, float]
Curves = dict[str, Curve]


class Served:
    """One server with flags, its process id, and calls with its admin's credential."""

    def __init__(self, process: Process, channel: grpc.aio.Channel, headers: Headers) -> None:
        assert process.process is not None
        self.pid, self.address, self.headers = process.process.pid, process.address, headers
        self.stub = pb_grpc.FlagServiceStub(channel)

    async def evaluate(self, context: types.EvaluationContext, calls: int = CALLS) -> float:
        """Return the CPU time of the server for an evaluation, in microseconds."""
        request, before = pb.EvaluateFlagRequest(flag_key="flag-000001", context=context), cpu_s(self.pid)

        async def caller() -> None:
            for _ in range(calls // IN_FLIGHT):
                await self.stub.EvaluateFlag(request, metadata=self.headers)

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        return (cpu_s(self.pid) - before) / calls * 1e6

    async def snapshot(self) -> int:
        """Read a whole watch snapshot; return how many flags it has."""
        call, flags = self.stub.WatchFlags(pb.WatchFlagsRequest(paged_snapshots=True), metadata=self.headers), 0
        async for message in call:
            flags += len(message.snapshot.flags)
            if message.WhichOneof("event") == "snapshot" and not message.snapshot.more:
                break
        call.cancel()
        return flags


@asynccontextmanager
async def serving(flags: int) -> AsyncIterator[tuple[Served, float]]:
    """Run a server with so many flags; yield it, with the seconds from its start until it is ready."""
    with tempfile.TemporaryDirectory() as folder:
        url, (token, text) = f"sqlite:///{folder}/flags.db", made("admin")
        await stored(url, token)
        fill(Path(folder, "flags.db"), flags)
        started, headers = time.perf_counter(), bearer(text)
        with Process("--store", url, **GUARDED) as process:
            async with grpc.aio.insecure_channel(process.address, options=OWN_CONNECTION) as channel:
                served, request = Served(process, channel, headers), pb.GetFlagRequest(flag_key=f"flag-{flags:06}")
                await _answered(served, request)
                yield served, time.perf_counter() - started


async def _answered(served: Served, request: pb.GetFlagRequest) -> None:
    """Ask until flags and tokens are read."""
    async with asyncio.timeout(120):
        while True:
            try:
                await served.stub.GetFlag(request, metadata=served.headers, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)
            else:
                return


def fill(path: Path, count: int) -> None:
    """Write flags into a SQLite store."""
    flags = (Flag(key=f"flag-{n:06}", status=Status.ENABLED, targeting=RULE, revision=n) for n in range(1, count + 1))
    with sqlite3.connect(path) as db:
        rows = ((flag.flag_set, flag.key, flag.revision, dumps(flag)) for flag in flags)
        db.executemany("INSERT INTO flags VALUES (?, ?, ?, ?)", rows)
        db.execute("INSERT OR REPLACE INTO revisions (flag_set, revision) VALUES ('default', ?)", (count,))


async def _idle(pid: int) -> None:
    """Wait until a process has nothing to do."""
    while True:
        before = cpu_s(pid)
        await asyncio.sleep(0.5)
        if cpu_s(pid) - before < 0.05:
            return


async def timed_ms(call: Awaitable[object]) -> float:
    started = time.perf_counter()
    await call
    return (time.perf_counter() - started) * 1e3


async def of_flags() -> Curves:
    """Start, memory, evaluation, reload, a page of a list and a watch's snapshot, by the number of flags."""
    found: Curves = {}
    context = types.EvaluationContext(targeting_key="user-1")
    for flags in FLAGS:
        async with serving(flags) as (served, start_s):
            row = {"start, ms": start_s * 1e3}
            page = pb.ListFlagsRequest(page_size=100)
            row["watch snapshot, ms"] = await timed_ms(served.snapshot())
            row["page of 100, ms"] = min(
                [await timed_ms(served.stub.ListFlags(page, metadata=served.headers)) for _ in range(5)]
            )
            await _idle(served.pid)  # the rules of a load are compiled after it
            row["evaluation, CPU us"] = await served.evaluate(context)
            row["resident, MB"] = rss_mb(served.pid)
            resync = served.stub.Resync(pb.ResyncRequest(confirm=True), metadata=served.headers, timeout=120)
            row["reload, ms"] = await timed_ms(resync)
        _add(found, flags, row)
    return found


async def of_streams() -> Curves:
    """What a toggle costs the server, and when it has reached the last stream, by the number of open streams."""
    found: Curves = {}
    for count in STREAMS:
        async with serving(10) as (served, _), AsyncExitStack() as stack:
            arrived, moments = asyncio.Event(), list[float]()

            async def follow(stub: pb_grpc.FlagServiceAsyncStub) -> None:
                request = pb.WatchFlagsRequest()
                async for _ in stub.WatchFlags(request, metadata=served.headers):
                    moments.append(time.perf_counter())  # noqa: B023
                    if len(moments) == count:  # noqa: B023
                        arrived.set()  # noqa: B023

            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(served.address, options=OWN_CONNECTION))
                for _ in range(-(-count // STREAMS_PER_CONNECTION))
            ]
            stubs = [pb_grpc.FlagServiceStub(channel) for channel in channels]
            tasks = [asyncio.create_task(follow(stubs[number % len(stubs)])) for number in range(count)]
            await asyncio.wait_for(arrived.wait(), 120)
            rows = []
            for toggle in range(TOGGLES):
                moments.clear()
                arrived.clear()
                cpu, started = cpu_s(served.pid), time.perf_counter()
                request = pb.ToggleFlagRequest(flag_key="flag-000001", enabled=toggle % 2 == 1)
                await served.stub.ToggleFlag(request, metadata=served.headers)
                await asyncio.wait_for(arrived.wait(), 60)
                last_ms = (max(moments) - started) * 1e3
                await asyncio.sleep(0.3)
                rows.append((last_ms, (cpu_s(served.pid) - cpu) * 1e3))
            for task in tasks:
                task.cancel()
            last_ms, cpu_ms = np.median(rows, axis=0)
        _add(found, count, {"to the last stream, ms": float(last_ms), "a toggle, CPU ms": float(cpu_ms)})
    return found


async def of_rules() -> Curves:
    """Compiling and evaluating a rule in this process, by its conditions; the last one decides."""
    found: Curves = {}
    for count in CONDITIONS:
        chain = [part for n in range(count) for part in ({"==": [{"var": "plan"}, f"plan-{n}"]}, "on")]
        flag = Flag(key="f", status=Status.ENABLED, targeting=json.dumps({"if": [*chain, "off"]}))
        context: Attributes = {"plan": f"plan-{count - 1}", "targetingKey": "user-1"}
        row = {
            "compiling, us": _each_us(partial(prepare, flag)),
            "rule, us": _each_us(partial(prepare(flag).evaluate, context, 0)),
        }
        _add(found, count, row)
    return found


async def of_contexts() -> Curves:
    """An evaluation of a rule that reads one field, by the fields of the context."""
    found: Curves = {}
    async with serving(10) as (served, _):
        for count in FIELDS:
            fields = {f"field-{number}": types.Value(string_value="x" * 20) for number in range(count)}
            context = types.EvaluationContext(targeting_key="user-1", attributes=fields)
            _add(found, count, {"evaluation, CPU us": await served.evaluate(context)})
    return found


def _each_us(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Return the time of one run in microseconds: the best of several rounds."""
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        runs, started = 20, time.perf_counter()
        for _ in range(runs):
            work()
        best = min(best, (time.perf_counter() - started) / runs)
    return best * 1e6


def _add(found: Curves, at: int, row: dict[str, float]) -> None:
    for name, value in row.items():
        found.setdefault(name, {})[at] = value


def slope(curve: Curve) -> float:
    """Return the exponent of the growth over the second half of a curve."""
    points = sorted(curve.items())[-max(2, -(-len(curve) // 2)) :]
    at, values = np.log([each for each, _ in points]), np.log([max(value, 1e-6) for _, value in points])
    return float(np.polyfit(at, values, 1)[0])


PARTS: dict[str, Callable[[], Awaitable[Curves]]] = {
    "flags": of_flags,
    "streams": of_streams,
    "replicas": of_replicas,
    "conditions of a rule": of_rules,
    "fields of a context": of_contexts,
}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="parts to measure; the others stay as they are")
    args = parser.parse_args()
    path = OUT / "growth.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in args.only or PARTS:
        curves = await PARTS[name]()
        record[name] = {
            "machine": machine(),
            "curves": {label: {str(at): value for at, value in curve.items()} for label, curve in curves.items()},
            "slopes": {label: slope(curve) for label, curve in curves.items()},
        }
        Console(width=140).print(_table(name, curves))
        path.write_text(json.dumps(record, indent=1) + "\n")
    draw({name: part["curves"] for name, part in record.items()}, OUT / "growth.png")


def _table(name: str, curves: Curves) -> Table:
    sizes: Sequence[int] = sorted({at for curve in curves.values() for at in curve})
    table = Table(name, *(f"{at:,}" for at in sizes), "slope")
    for label, curve in curves.items():
        table.add_row(label, *(f"{curve[at]:,.2f}" if at in curve else "" for at in sizes), f"{slope(curve):.2f}")
    return table


if __name__ == "__main__":
    asyncio.run(main())
