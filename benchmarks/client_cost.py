"""What the Python client costs its process: local evaluation, network calls, import."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import flagsvc_client
import flagsvc_client.aio
import grpc
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

from benchmarks.engine import CONTEXT, RULES, VARIANTS
from flagsvc.core.evaluation import ValueType, check_type, prepare
from flagsvc.core.model import Flag, Status

RULE_KEY, SWITCH_KEY = "three-conditions", "kill-switch"
RULE = json.dumps(RULES["three conditions"][0])
NETWORK_CALLS = 300
_IMPORT = """
import time
started = time.perf_counter()
import {module}
print(time.perf_counter() - started)
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmRSS")).split()[1])
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: a value per round, and the budget of the median. Budget None: only for comparison."""

    name: str
    unit: str
    values: list[float]
    budget: float | None = None

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the median is within the budget."""
        return self.budget is None or self.median <= self.budget


def local(target: str, rounds: int = 15, number: int = 5_000) -> list[Figure]:
    """Microseconds per evaluation of a three-condition rule, alternating with the bare engine."""
    flag = Flag(key=RULE_KEY, status=Status.ENABLED, variants=VARIANTS, default_variant="on", targeting=RULE)
    prepared = prepare(flag)
    attributes = {name: value for name, value in CONTEXT.items() if name != "targetingKey"}
    context = flagsvc_client.EvaluationContext("user-1", attributes)
    with flagsvc_client.FlagClient(target, local=True) as client:
        assert client.wait_ready(10), "no flags within 10 s"
        details = client.details(RULE_KEY, CONTEXT, default=False)
        assert (details.value, details.reason, details.source) == (True, "TARGETING_MATCH", "LOCAL"), details
        forms: dict[str, Callable[[], Any]] = {
            "engine": lambda: check_type(prepared.evaluate(CONTEXT, time.time()), ValueType.BOOLEAN),
            "details, mapping": lambda: client.details(RULE_KEY, CONTEXT, default=False),
            "details, EvaluationContext": lambda: client.details(RULE_KEY, context, default=False),
            "is_enabled, mapping": lambda: client.is_enabled(RULE_KEY, CONTEXT),
        }
        found: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(rounds):
            for name, form in forms.items():
                found[name].append(timeit.timeit(form, number=number) / number * 1e6)
    budgets = {name: 5.0 for name in forms if name.startswith("details")}
    return [Figure(f"local {name}", "us", values, budgets.get(name)) for name, values in found.items()]


def network(target: str, rounds: int = 25) -> list[Figure]:
    """CPU microseconds of this process per call: `is_enabled`, compared with a bare stub call of a prebuilt request."""
    request = pb.EvaluateFlagRequest(flag_key=SWITCH_KEY)
    return [*_network_sync(target, request, rounds), *asyncio.run(_network_aio(target, request, rounds))]


def _network_sync(target: str, request: pb.EvaluateFlagRequest, rounds: int) -> list[Figure]:
    with grpc.insecure_channel(target) as channel, flagsvc_client.FlagClient(target) as client:
        bare = pb_grpc.FlagServiceStub(channel).EvaluateFlag

        def bare_call() -> bool:
            return bool(bare(request, timeout=0.5).evaluation.enabled)

        def client_call() -> bool:
            return client.is_enabled(SWITCH_KEY)

        return _compared("sync", [(_cpu_us(bare_call), _cpu_us(client_call)) for _ in range(rounds + 1)][1:])


async def _network_aio(target: str, request: pb.EvaluateFlagRequest, rounds: int) -> list[Figure]:
    async with grpc.aio.insecure_channel(target) as channel, flagsvc_client.aio.AsyncFlagClient(target) as client:
        bare = pb_grpc.FlagServiceStub(channel).EvaluateFlag

        async def bare_call() -> bool:
            return bool((await bare(request, timeout=0.5)).evaluation.enabled)

        async def client_call() -> bool:
            return await client.is_enabled(SWITCH_KEY)

        pairs = [(await _cpu_us_aio(bare_call), await _cpu_us_aio(client_call)) for _ in range(rounds + 1)]
        return _compared("asyncio", pairs[1:])


def _compared(form: str, pairs: list[tuple[float, float]]) -> list[Figure]:
    return [
        Figure(f"bare stub call, {form}", "us CPU", [bare for bare, _ in pairs]),
        Figure(f"is_enabled adds, {form}", "us CPU", [own - bare for bare, own in pairs], 20.0),
    ]


def _cpu_us(call: Callable[[], bool]) -> float:
    started = time.process_time()
    for _ in range(NETWORK_CALLS):
        assert call(), "the flag is on"
    return (time.process_time() - started) / NETWORK_CALLS * 1e6


async def _cpu_us_aio(call: Callable[[], Awaitable[bool]]) -> float:
    started = time.process_time()
    for _ in range(NETWORK_CALLS):
        assert await call(), "the flag is on"
    return (time.process_time() - started) / NETWORK_CALLS * 1e6


def importing(rounds: int = 7) -> list[Figure]:
    """Milliseconds and resident megabytes of an import in a fresh process, compared with `import grpc`."""
    found: dict[str, list[tuple[float, float]]] = {"grpc": [], "flagsvc_client": [], "flagsvc_client.aio": []}
    for _ in range(rounds):
        for module, values in found.items():
            values.append(_imported(module))
    figures = []
    for module, values in found.items():
        time_budget, size_budget = (150.0, 40.0) if module == "flagsvc_client" else (None, None)
        figures.append(Figure(f"import {module}", "ms", [ms for ms, _ in values], time_budget))
        figures.append(Figure(f"memory after import {module}", "MB", [mb for _, mb in values], size_budget))
    return figures


def _imported(module: str) -> tuple[float, float]:
    command = [sys.executable, "-c", _IMPORT.format(module=module)]
    seconds, kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds) * 1e3, int(kilobytes) / 1024
