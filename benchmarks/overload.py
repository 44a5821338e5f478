"""What one replica answers in time when it is offered more calls than it can answer.

The server has one core, and the load generator the other. Every call has a deadline of one second. Peak and load come
from the same generator in turns, so that changes of the machine affect both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from rich.console import Console
from rich.table import Table

from benchmarks.client import serving
from benchmarks.client_cost import SWITCH_KEY
from benchmarks.http2_load import LATE, Load, Outcome, Request
from benchmarks.overload_picture import draw
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
TIMES = (2, 5, 20)
IN_FLIGHT = 256
CANCELLED, EXHAUSTED = "1", "8"
Row = dict[str, float]


def main() -> None:
    """Measure, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each phase [4]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the table shows medians [3]")
    parser.add_argument("--connections", type=int, default=8, help="clients, of one connection each [8]")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    console = Console(width=140)
    versions = f"grpcio {grpc.__version__}, Python {platform.python_version()}, {len(cores)} CPUs"
    console.print(versions)
    rows: dict[str, list[Row]] = {}
    os.sched_setaffinity(0, cores[:1])  # which the server inherits
    with serving() as target:
        pid = _child()
        os.sched_setaffinity(0, cores[-1:])
        for _ in range(args.rounds):
            peak = 0.0
            for times in (0, *TIMES):
                outcome = _offered(int(target.rpartition(":")[2]), times * peak, args.seconds, args.connections)
                peak = peak or outcome.in_time
                if not peak:
                    raise SystemExit(f"the server answered nothing in time: {dict(outcome.codes)}")
                rows.setdefault(f"{times} x" if times else "peak", []).append(_row(outcome, peak, _memory_mb(pid)))
                time.sleep(1)
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    console.print(_table(medians, args.connections))
    OUT.mkdir(parents=True, exist_ok=True)
    options = f"--seconds {args.seconds:g} --rounds {args.rounds} --connections {args.connections}"
    command = f"python -m benchmarks.overload {options}"
    record = {"command": command, "versions": versions, "rounds": rows}
    (OUT / "overload.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(medians, OUT / "overload.png")
    console.print(f"written: {OUT / 'overload.png'} and overload.json")


def _offered(port: int, rate: float, seconds: float, connections: int) -> Outcome:
    """Offer calls at a rate; without one, keep calls in flight, which finds the peak."""
    path = "/flagsvc.v1.FlagService/EvaluateFlag"
    request = Request(path, pb.EvaluateFlagRequest(flag_key=SWITCH_KEY).SerializeToString())
    health = Request("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest().SerializeToString())
    with Load([(port, request)] * connections, (port, health)) as load:
        return load.steady(rate, seconds) if rate else load.full(IN_FLIGHT, seconds)


def _row(outcome: Outcome, peak: float, memory_mb: float) -> Row:
    waits = sorted(outcome.waits_s) or [float("nan")]
    return {
        "offered/s": outcome.offered / outcome.seconds,
        "in time/s": outcome.in_time,
        "in time / peak": outcome.in_time / peak,
        "median wait ms": 1_000 * statistics.median(waits),
        "RESOURCE_EXHAUSTED": outcome.share(EXHAUSTED),
        "CANCELLED": outcome.share(CANCELLED),
        "late": outcome.share(LATE),
        "late, never sent": outcome.unsent / max(1, outcome.offered),
        "health, worst ms": 1_000 * max(outcome.health_s, default=float("nan")),
        "generator late ms": 1_000 * outcome.lag_s,
        "memory MB": memory_mb,
    }


def _child() -> int:
    """Return the process id of the server, the only child of this process."""
    return int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0])


def _memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _table(rows: dict[str, Row], connections: int) -> Table:
    table = Table(title=f"calls with a deadline of 1 s over {connections} connections, medians of the rounds")
    table.add_column("offered")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        shares = ("in time / peak", "RESOURCE_EXHAUSTED", "CANCELLED", "late", "late, never sent")
        table.add_row(name, *(f"{value:.0%}" if key in shares else f"{value:,.0f}" for key, value in row.items()))
    return table


if __name__ == "__main__":
    main()
