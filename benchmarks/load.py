"""Load on one server, at capacity or at a steady rate, and what it costs the server and MongoDB."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

FLAGS = 1_000
CALLERS = 64
TOGGLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running server. `headers`: of every call, such as a credential."""

    name: str
    port: int
    pid: int
    management_port: int = 0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """One run against one server."""

    evaluations: int
    seconds: float
    cpu_s: float
    waits_s: np.ndarray

    @property
    def per_second(self) -> float:
        """Evaluations per second."""
        return self.evaluations / self.seconds

    @property
    def cpu_us(self) -> float:
        """Server CPU per evaluation, in microseconds."""
        return self.cpu_s / self.evaluations * 1e6


def key(number: int) -> str:
    """Return a flag's key; all keys have the same length, so that all requests have the same size."""
    return f"flag-{number:04}"


def zipf_keys(count: int, seed: int = 1, exponent: float = 1.1) -> list[str]:
    """Return random keys in which the n-th most popular occurs in proportion to n^-exponent."""
    weights = np.arange(1, FLAGS + 1, dtype=float) ** -exponent
    numbers = np.random.default_rng(seed).choice(FLAGS, size=count, p=weights / weights.sum())
    return [key(int(number)) for number in numbers]


async def saturated(
    target: Target, seconds: float, *, toggles: bool, requests: Sequence[pb.EvaluateFlagRequest] = ()
) -> Measured:
    """Keep 64 calls in flight: of the requests in turn, else of flags as popular as in `zipf_keys`."""
    requests = requests or [pb.EvaluateFlagRequest(flag_key=k) for k in zipf_keys(50_000)]
    waits: list[float] = []
    async with _stub(target) as stub, _toggling(stub, target, on=toggles):
        await _warm(stub, target, requests)
        cpu, started = cpu_s(target.pid), time.perf_counter()

        async def caller(first: int) -> None:
            number = first
            while time.perf_counter() - started < seconds:
                asked = time.perf_counter()
                await stub.EvaluateFlag(requests[number % len(requests)], metadata=target.headers)
                waits.append(time.perf_counter() - asked)
                number += CALLERS

        await asyncio.gather(*map(caller, range(CALLERS)))
        spent = time.perf_counter() - started
        return Measured(len(waits), spent, cpu_s(target.pid) - cpu, np.array(waits))


async def paced(target: Target, seconds: float, rate: float, *, toggles: bool) -> Measured:
    """Send calls at a steady rate; latency counts from when a call was due, so that a stall is not hidden."""
    requests = [pb.EvaluateFlagRequest(flag_key=k) for k in zipf_keys(int(rate * seconds), seed=2)]
    waits: list[float] = []
    async with _stub(target) as stub, _toggling(stub, target, on=toggles):
        await _warm(stub, target, requests)
        cpu, started = cpu_s(target.pid), time.perf_counter()

        async def call(request: pb.EvaluateFlagRequest, due: float) -> None:
            await stub.EvaluateFlag(request, metadata=target.headers)
            waits.append(time.perf_counter() - due)

        tasks = []
        for number, request in enumerate(requests):
            due = started + number / rate
            await _until(due)
            tasks.append(asyncio.create_task(call(request, due)))
        await asyncio.gather(*tasks)
        spent = time.perf_counter() - started
        return Measured(len(waits), spent, cpu_s(target.pid) - cpu, np.array(waits))


async def _until(due: float) -> None:
    """Wait precisely: the loop's timers have a resolution of 1 ms, so the last 2 ms are waited in small steps."""
    if (pause := due - time.perf_counter() - 0.002) > 0:
        await asyncio.sleep(pause)
    while time.perf_counter() < due:  # noqa: ASYNC110  the smallest possible step
        await asyncio.sleep(0)


async def batched(target: Target, seconds: float, size: int = 100) -> Measured:
    """Keep 8 batch calls of `size` keys in flight; each key counts as an evaluation."""
    keys = zipf_keys(50_000)
    requests = [pb.BatchEvaluateFlagsRequest(flag_keys=keys[n : n + size]) for n in range(0, len(keys), size)]
    waits: list[float] = []
    async with _stub(target) as stub:
        cpu, started = cpu_s(target.pid), time.perf_counter()

        async def caller(number: int) -> None:
            while time.perf_counter() - started < seconds:
                asked = time.perf_counter()
                await stub.BatchEvaluateFlags(requests[number % len(requests)], metadata=target.headers)
                waits.append(time.perf_counter() - asked)
                number += 8

        await asyncio.gather(*map(caller, range(8)))
        spent = time.perf_counter() - started
        return Measured(len(waits) * size, spent, cpu_s(target.pid) - cpu, np.array(waits))


def lookups(target: Target) -> dict[str, float]:
    """Read the server's counters of lookups by tier."""
    with urllib.request.urlopen(f"http://127.0.0.1:{target.management_port}/metrics", timeout=5) as page:
        text = page.read().decode()
    return {m[1]: float(m[2]) for m in re.finditer(r'flagsvc_lookups_total\{tier="(\w+)"\} (\S+)', text)}


@asynccontextmanager
async def _stub(target: Target) -> AsyncIterator[pb_grpc.FlagServiceAsyncStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        yield pb_grpc.FlagServiceStub(channel)


async def _warm(stub: pb_grpc.FlagServiceAsyncStub, target: Target, requests: Sequence[pb.EvaluateFlagRequest]) -> None:
    await asyncio.gather(*(stub.EvaluateFlag(request, metadata=target.headers) for request in requests[:CALLERS]))


@asynccontextmanager
async def _toggling(stub: pb_grpc.FlagServiceAsyncStub, target: Target, *, on: bool) -> AsyncIterator[None]:
    """Switch the most popular flag once a second in the background."""

    async def toggle() -> None:
        state = False
        while True:
            await asyncio.sleep(TOGGLE_S)
            await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key=key(0), enabled=state), metadata=target.headers)
            state = not state

    task = asyncio.create_task(toggle()) if on else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
