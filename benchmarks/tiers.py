"""The same Zipf load over 1,000 flags with MongoDB only, with Redis before it, and with the near cache.

All servers run at once and take turns in every round, so that changes of the machine affect all alike.
One flag is toggled every second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pymongo
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import load
from benchmarks.load import FLAGS, Measured, Target
from benchmarks.tiers_picture import draw
from tests.servers import Mongod, RedisServer, free_port, versions

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
ECHO, MONGO, REDIS, NEAR = "bare echo", "MongoDB only", "Redis before MongoDB", "near cache"
PYMONGO = "MongoDB only, PyMongo's client"
FLAGSVC = (str(Path(sys.executable).with_name("flagsvc")),)
PACE = 300.0
Figures = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each phase [4]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the table shows median (min to max) [5]")
    args = parser.parse_args()
    console = Console()
    console.print(f"{versions()}, grpcio {grpc.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    with ExitStack() as stack:
        mongod, redis = stack.enter_context(Mongod()), stack.enter_context(RedisServer())
        targets = [stack.enter_context(target) for target in _targets(mongod, redis)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_measure(targets, mongod, args.seconds, args.rounds))
    console.print(_table(figures))
    verdicts = _verdicts(figures)
    for line in verdicts:
        console.print(line)
    OUT.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.tiers --seconds {args.seconds:g} --rounds {args.rounds}"
    record = {"command": command, "versions": versions(), "cpus": os.cpu_count(), "figures": figures}
    (OUT / "tiers.json").write_text(json.dumps({**record, "verdicts": verdicts}, indent=1) + "\n")
    draw(figures, OUT / "tiers.png")
    console.print(f"picture: {(OUT / 'tiers.png').relative_to(Path.cwd())}")


def _targets(mongod: Mongod, redis: RedisServer) -> Iterator[Any]:
    store = ("--store", mongod.database_url("bench"))
    yield server(MONGO, *store, FLAGSVC_NEAR_CACHE_ENTRIES="0")
    own = (sys.executable, "-m", "benchmarks.pymongo_server")
    yield server(PYMONGO, *store, program=own, FLAGSVC_NEAR_CACHE_ENTRIES="0")
    yield server(REDIS, *store, "--cache", redis.url, FLAGSVC_NEAR_CACHE_ENTRIES="0")
    yield server(NEAR, *store, "--cache", redis.url)
    yield _echo()


@contextmanager
def server(name: str, *arguments: str, program: tuple[str, ...] = FLAGSVC, **environment: str) -> Iterator[Target]:
    """Run flagsvc with gRPC and management ports of its own, and no others."""
    port, management = free_port(), free_port()
    command = [*program, "serve", *arguments, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--management-port", str(management), "--sync-port", "-1", "--ofrep-port", "-1"]
    command += ["--log-level", "error"]
    # gRPC alone, as in the echo: benchmarks.front measures what HTTP/1.1 on the same port costs.
    with process(command, {**os.environ, "FLAGSVC_HTTP_ON_GRPC_PORT": "false", **environment}) as pid:
        yield Target(name, port, pid, management)


@contextmanager
def _echo() -> Iterator[Target]:
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.echo", str(port)], dict(os.environ)) as pid:
        yield Target(ECHO, port, pid)


@contextmanager
def process(command: list[Any], environment: dict[str, str]) -> Iterator[int]:
    """Run a command; yield its process id."""
    process = subprocess.Popen(command, env=environment)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def _measure(targets: list[Target], mongod: Mongod, seconds: float, rounds: int) -> Figures:
    await fill(next(target for target in targets if target.name == NEAR))
    figures: Figures = {target.name: {} for target in targets}
    with Progress(transient=True) as progress:
        bar = progress.add_task("measuring", total=rounds * len(targets))
        for number in range(rounds):
            for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                progress.update(bar, description=f"round {number + 1}: {target.name}")
                for name, value in (await _one(target, mongod, seconds)).items():
                    figures[target.name].setdefault(name, []).append(value)
                progress.advance(bar)
    return figures


async def fill(near: Target) -> None:
    """Create the flags through a server."""
    async with load._stub(near) as stub:  # noqa: SLF001  the same package
        await _until_serving(stub, near)
        for number in range(FLAGS):
            await stub.CreateFlag(_flag(number), metadata=near.headers)


def _flag(number: int) -> Any:
    from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb  # noqa: PLC0415
    from flagsvc.generated.flagsvc.v1 import types_pb2 as types  # noqa: PLC0415

    flag = types.Flag(key=load.key(number), status=types.FLAG_STATUS_ENABLED, description="a flag like many " * 8)
    return pb.CreateFlagRequest(flag=flag)


async def _until_serving(stub: Any, target: Target) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            await stub.CreateFlag(_flag(FLAGS), metadata=target.headers)
        except grpc.aio.AioRpcError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def _one(target: Target, mongod: Mongod, seconds: float) -> dict[str, float]:
    """Measure both phases against one server."""
    toggles = target.name != ECHO
    before, finds = (load.lookups(target) if toggles else {}), _finds(mongod)
    full = await load.saturated(target, seconds, toggles=toggles)
    calm = await load.paced(target, seconds, PACE, toggles=toggles)
    asked = full.evaluations + calm.evaluations
    result = {
        "evaluations/s": full.per_second,
        "CPU us": full.cpu_us,
        "p50 ms": _quantile(calm, 50),
        "p99 ms": _quantile(calm, 99),
        "mean ms": float(calm.waits_s.mean()) * 1e3,
    }
    if toggles:
        tiers = {tier: count - before.get(tier, 0) for tier, count in load.lookups(target).items()}
        result["MongoDB finds/1,000"] = (_finds(mongod) - finds) / asked * 1_000
        result["hit ratio %"] = (tiers["near"] + tiers["cache"]) / sum(tiers.values()) * 100
    if target.name == NEAR:
        batch = await load.batched(target, seconds / 2)
        result["batch evaluations/s"] = batch.per_second
    return result


def _quantile(measured: Measured, percent: float) -> float:
    return float(np.percentile(measured.waits_s, percent)) * 1e3


def _finds(mongod: Mongod) -> int:
    with pymongo.MongoClient(mongod.url) as client:
        return int(client.admin.command("serverStatus")["opcounters"]["query"])


def _table(figures: Figures) -> Table:
    table = Table(title=f"{FLAGS:,} flags, Zipf 1.1, one toggle a second; latency at {PACE:g} calls a second")
    columns = ("evaluations/s", "CPU us", "p50 ms", "p99 ms", "mean ms", "MongoDB finds/1,000", "hit ratio %")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("CPU relative to echo", justify="right")
    for name, found in figures.items():
        cells = [_cell(found.get(column)) for column in columns]
        table.add_row(name, *cells, f"{_echo_share(figures, name):.2f}")
    return table


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    digits = 0 if max(values) >= 1_000 else 2
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:,.{digits}f}\n({low:,.{digits}f} to {high:,.{digits}f})"


def _echo_share(figures: Figures, name: str) -> float:
    """Evaluations per CPU-second relative to the echo, median of the rounds' ratios."""
    pairs = zip(figures[ECHO]["CPU us"], figures[name]["CPU us"], strict=True)
    return statistics.median(echo / own for echo, own in pairs)


def _verdicts(figures: Figures) -> list[str]:
    near, plain = figures[NEAR], figures[MONGO]
    hits, mean = statistics.median(near["hit ratio %"]), statistics.median(near["mean ms"])
    finds, finds_before = (statistics.median(f["MongoDB finds/1,000"]) for f in (near, plain))
    down = (1 - finds / finds_before) * 100
    batch = statistics.median(near["batch evaluations/s"]) / statistics.median(near["evaluations/s"])
    share = _echo_share(figures, NEAR)
    return [
        _verdict("hit ratio", f"{hits:.3f} %", hits >= 99.9, ">= 99.9 %", hits > 95, "> 95 %"),
        _verdict("mean at moderate load", f"{mean:.2f} ms", mean < 1, "< 1 ms", mean < 5, "< 5 ms"),
        _verdict("MongoDB reads saved", f"{down:.2f} %", down >= 99.9, ">= 99.9 %", down >= 90, ">= 90 %"),
        _verdict("batch of 100 relative to unary", f"{batch:.1f} x", batch >= 20, ">= 20 x"),
        _verdict("near cache relative to echo, per CPU-second", f"{share:.2f}", share >= 0.9, ">= 0.90"),
    ]


def _verdict(what: str, measured: str, met: bool, target: str, plan_met: bool | None = None, plan: str = "") -> str:  # noqa: PLR0917
    verdict = f"{what}: {measured}; target {target}: {'met' if met else 'MISSED'}"
    return verdict if plan_met is None else f"{verdict}; existing plan {plan}: {'met' if plan_met else 'MISSED'}"


if __name__ == "__main__":
    main()
