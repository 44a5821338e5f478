"""What remembered answers save: calls for 100 flags with 1,000 contexts in turn, with and without toggles.

Servers with and without remembered answers are measured in turns, with authentication and rate limits on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf import struct_pb2
from rich.console import Console
from rich.table import Table

from benchmarks.guarded import machine
from benchmarks.load import cpu_s
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import Headers, bearer, made, stored
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import Process

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
FLAGS, CONTEXTS, CALLERS = 100, 1_000, 16
RULE = '{"if":[{"and":[{"==":[{"var":"plan"},"pro"]},{"in":[{"var":"country"},["DE","FR","IT"]]}]},"on","off"]}'
LIMITS = {"FLAGSVC_RATE_LIMITS": "enforce", "FLAGSVC_RATES": "evaluate=1000000,read=100000,write=100000,admin=100000"}
Call = Callable[[int], Coroutine[Any, Any, object]]


def context(number: int) -> dict[str, str]:
    """Return one of the contexts; a third of them match the rules."""
    return {"targetingKey": f"user-{number:04}", "plan": "pro" if number % 3 else "basic", "country": "FR"}


class Asking:
    """Calls of one server, by protocol."""

    def __init__(self, process: Process, headers: Headers, channel: grpc.aio.Channel, http: httpx.AsyncClient) -> None:
        self.process, self.headers, self._http = process, headers, http
        self.stub = pb_grpc.FlagServiceStub(channel)
        serialize, parse = v1.ResolveAllRequest.SerializeToString, bytes
        self._all = channel.unary_unary("/flagd.evaluation.v1.Service/ResolveAll", serialize, parse)

    async def resolve_all(self, number: int) -> object:
        """Call flagd's ResolveAll for one of the contexts."""
        fields = struct_pb2.Struct()
        fields.update(context(number))
        return await self._all(v1.ResolveAllRequest(context=fields), metadata=self.headers)

    async def batch(self, number: int) -> object:
        """Call BatchEvaluateFlags for all flags by key."""
        given = {name: types.Value(string_value=value) for name, value in context(number).items()}
        keys = [f"flag-{each:03}" for each in range(FLAGS)]
        request = pb.BatchEvaluateFlagsRequest(flag_keys=keys, context=types.EvaluationContext(attributes=given))
        return await self.stub.BatchEvaluateFlags(request, metadata=self.headers)

    async def ofrep(self, number: int) -> object:
        """Call OFREP for all flags."""
        answer = await self._http.post(FLAGS_PATH, json={"context": context(number)}, headers=dict(self.headers))
        return answer.raise_for_status()

    def hits(self) -> tuple[float, float]:
        """Return how many calls were answered from memory, and how many were not."""
        url = f"http://127.0.0.1:{self.process.management_port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(self.headers)), timeout=5) as page:
            lines = page.read().decode().splitlines()
        names = [f'flagsvc_answer_cache_calls_total{{result="{result}"}}' for result in ("hit", "miss")]
        found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
        return found[names[0]], found[names[1]]


async def measured(asking: Asking, call: Call, seconds: float, *, toggles: bool) -> dict[str, float]:
    """Keep calls in flight, over all contexts in turn, with a toggle a second or without."""
    assert asking.process.process is not None
    pid, number, waits = asking.process.process.pid, 0, list[float]()
    before, cpu, started = asking.hits(), cpu_s(pid), time.perf_counter()

    async def caller() -> None:
        nonlocal number
        while time.perf_counter() - started < seconds:
            number += 1
            asked = time.perf_counter()
            await call(number % CONTEXTS)
            waits.append(time.perf_counter() - asked)

    async def toggling() -> None:
        for state in range(int(seconds) if toggles else 0):
            request = pb.ToggleFlagRequest(flag_key="flag-000", enabled=state % 2 == 1)
            await asking.stub.ToggleFlag(request, metadata=asking.headers)
            await asyncio.sleep(1.0)

    await asyncio.gather(toggling(), *(caller() for _ in range(CALLERS)))
    spent, cost = time.perf_counter() - started, cpu_s(pid) - cpu
    hit, miss = (after - earlier for after, earlier in zip(asking.hits(), before, strict=True))
    return {
        "calls/s": len(waits) / spent,
        "CPU us": cost / len(waits) * 1e6,
        "p50 ms": statistics.median(waits) * 1e3,
        "hit %": 100 * hit / max(1.0, hit + miss),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement [3]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the table shows medians [3]")
    args = parser.parse_args()
    (token, text), figures = made("admin"), dict[str, dict[str, list[float]]]()
    ways = {"remembered": "33554432", "evaluated each time": "0"}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/flags.db"
        await stored(url, token)
        for number in range(args.rounds):
            for way, size in list(ways.items())[:: 1 if number % 2 else -1]:
                settings = {
                    "FLAGSVC_ANSWER_CACHE_BYTES": size,
                    "FLAGSVC_AUTH": "required",
                    "FLAGSVC_LOG_LEVEL": "error",
                }
                with Process("--store", url, **settings, **LIMITS) as process:
                    for protocol, found in (await _one(process, bearer(text), args.seconds)).items():
                        row = figures.setdefault(f"{protocol}, {way}", {})
                        for name, value in found.items():
                            row.setdefault(name, []).append(value)
    medians = {name: {key: statistics.median(values) for key, values in row.items()} for name, row in figures.items()}
    table = Table(
        "", "calls/s", "CPU us", "p50 ms", "hit %", title=f"{FLAGS} flags, {CONTEXTS:,} contexts; {machine()}"
    )
    for name, row in sorted(medians.items()):
        table.add_row(name, *(f"{row[key]:,.1f}" for key in ("calls/s", "CPU us", "p50 ms", "hit %")))
    Console(width=120).print(table)
    command = f"python -m benchmarks.answers --seconds {args.seconds:g} --rounds {args.rounds}"
    record = {"command": command, "machine": machine(), "medians": medians, "figures": figures}
    (OUT / "answers.json").write_text(json.dumps(record, indent=1) + "\n")


async def asked_of_all(call: Call, times: int = 2) -> None:
    """Ask for each context so often: the second time its answer is remembered."""
    numbers = iter(range(times * CONTEXTS))

    async def caller() -> None:
        for number in numbers:
            await call(number % CONTEXTS)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def _one(process: Process, headers: Headers, seconds: float) -> dict[str, dict[str, float]]:
    base = f"http://127.0.0.1:{process.ofrep_port}"
    async with (
        grpc.aio.insecure_channel(process.address) as channel,
        httpx.AsyncClient(base_url=base, timeout=30, limits=httpx.Limits(max_connections=CALLERS)) as http,
    ):
        asking = Asking(process, headers, channel, http)
        for number in range(FLAGS):
            rule = {"targeting": RULE} if number % 2 else {}
            flag = types.Flag(key=f"flag-{number:03}", status=types.FLAG_STATUS_ENABLED, **rule)
            try:
                request = pb.CreateFlagRequest(flag=flag)
                await asking.stub.CreateFlag(request, metadata=headers, wait_for_ready=True, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
        calls = {"ResolveAll": asking.resolve_all, "BatchEvaluateFlags": asking.batch, "OFREP": asking.ofrep}
        found = {}
        for name, call in calls.items():
            await asked_of_all(call)
            for toggled in ("no toggle", "a toggle a second"):
                found[f"{name}, {toggled}"] = await measured(asking, call, seconds, toggles=toggled != "no toggle")
        return found


if __name__ == "__main__":
    asyncio.run(main())
