"""A caller at ten times its rate on 3 replicas: what it gets, what others notice, and what that costs Redis.

In turns: others alone, others beside that caller, and the same with Redis killed. Others are ten callers with tokens
of their own, far below their rates, in a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.greedy_caller import Calls, offer
from benchmarks.guarded import FLAG, Guarded, grant, guarded, machine
from flagsvc.core.access.roles import Role
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.access.callers import Headers, bearer, stored

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
REPLICAS, OTHERS, OTHERS_RATE = 3, 10, 150.0
RATE, TIMES = 100, 10
BURST_S = 3.0
"""After so long the burst that a caller may have at once is used up."""
WITHIN = 0.05
ALONE, BESIDE, NO_REDIS = "others alone", "beside a caller at 10 times its rate", "the same, Redis killed"


@dataclass(frozen=True, slots=True)
class Row:
    """One phase: what the greedy caller asked for and got after its burst, in calls a second; what others noticed."""

    phase: str
    offered: float
    accepted: float
    first_s: int
    """Accepted in the first three seconds, with the burst."""
    others: int
    failed: int
    p50_ms: float
    p99_ms: float
    leases: float
    """Scripts sent to Redis for each 1,000 evaluations asked for."""


async def measure(seconds: float, console: Console) -> list[Row]:
    """Return the phases."""
    async with guarded(REPLICAS, RATE_LIMITS="enforce") as cluster:
        greedy, text = grant("greedy", Role.EVALUATE, rate=RATE)
        made = [grant(f"other {number}", Role.EVALUATE) for number in range(OTHERS)]
        await stored(cluster.store_url, greedy, *(token for token, _ in made))
        await asyncio.sleep(1)  # until every replica has read the tokens, twice a second
        others = [bearer(each) for _, each in made]
        rows = []
        for phase in (ALONE, BESIDE, NO_REDIS):
            if phase == NO_REDIS:
                cluster.redis.kill()
                await asyncio.sleep(2)
            rows.append(await _phase(cluster, phase, seconds, others, bearer(text)))
            console.print(f"measured: {phase}")
            await asyncio.sleep(3)  # a share is whole again
        return rows


async def _phase(cluster: Guarded, phase: str, seconds: float, others: Sequence[Headers], greedy: Headers) -> Row:
    request = pb.EvaluateFlagRequest(flag_key=FLAG)
    calls = [
        partial(cluster.flags(number).EvaluateFlag, request, metadata=headers, timeout=5)
        for number in range(REPLICAS)
        for headers in others
    ]
    asking = asyncio.create_task(_ask(cluster, greedy, seconds)) if phase != ALONE else None
    await asyncio.sleep(2)  # the other process has started
    before = _leases(cluster)
    noticed = await offer(calls, OTHERS_RATE, seconds)
    leases = _leases(cluster) - before
    found = await asking if asking is not None else Calls(seconds=seconds)
    waits_ms = np.array(noticed.waits_s) * 1e3
    return Row(
        phase,
        found.offered / seconds,
        found.per_second(BURST_S),
        sum(at < BURST_S for at in found.accepted),
        noticed.offered,
        sum(noticed.refused.values()),
        float(np.percentile(waits_ms, 50)),
        float(np.percentile(waits_ms, 99)),
        1_000 * leases / (noticed.offered + found.offered),
    )


async def _ask(cluster: Guarded, headers: Headers, seconds: float) -> Calls:
    """Run the greedy caller as a process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.greedy_caller", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    targets = [each.address for each in cluster.processes]
    wanted = {"targets": targets, "headers": headers, "flag": FLAG, "rate": RATE * TIMES, "seconds": seconds}
    written, _ = await process.communicate(json.dumps(wanted).encode() + b"\n")
    return Calls(**json.loads(written))


def _leases(cluster: Guarded) -> float:
    """Return how many scripts the replicas have sent to Redis for rate limits."""
    pages = "".join(_metrics(process.management_port) for process in cluster.processes)
    return sum(map(float, re.findall(r"^flagsvc_rate_limit_leases_total (\S+)", pages, re.MULTILINE)))


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return str(page.read().decode())


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"one caller's rate is {RATE} evaluations a second over {REPLICAS} replicas")
    heads = ("asked for/s", "accepted/s", "of its rate", "first 3 s", "others' calls", "failed", "p50 ms", "p99 ms")
    table.add_column("")
    for head in (*heads, "leases per 1,000"):
        table.add_column(head, justify="right")
    for row in rows:
        asked = (f"{row.offered:,.0f}", f"{row.accepted:,.1f}", f"{row.accepted / RATE:.1%}", f"{row.first_s:,}")
        greedy = asked if row.offered else ("-",) * 4
        others = (f"{row.others:,}", f"{row.failed:,}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.leases:.1f}")
        table.add_row(row.phase, *greedy, *others)
    return table


def _verdicts(rows: Sequence[Row]) -> list[str]:
    by_phase = {row.phase: row for row in rows}
    beside, alone = by_phase[BESIDE], by_phase[ALONE]
    share = beside.accepted / RATE
    met = "met" if abs(share - 1) <= WITHIN else "MISSED"
    return [
        f"accepted relative to the rate: {share:.1%}; target within {WITHIN:.0%}: {met}",
        f"others' failed calls: {sum(row.failed for row in rows)}; target 0",
        f"others' p99 beside that caller, relative to alone: {beside.p99_ms / alone.p99_ms:.2f}",
    ]


def main() -> None:
    """Measure, print the table, write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each phase [20]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"  # it would report each process that is started beside its connections
    console = Console(width=140, stderr=args.json)
    console.print(machine())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(measure(args.seconds, console))
    record: dict[str, Any] = {"command": f"python -m benchmarks.rate_limits --seconds {args.seconds:g}"}
    record |= {"machine": machine(), "rate": RATE, "rows": [asdict(row) for row in rows], "verdicts": _verdicts(rows)}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "rate-limits.json").write_text(json.dumps(record, indent=1) + "\n")
    from benchmarks.rate_limits_picture import draw  # noqa: PLC0415  slow to import

    draw(record["rows"], RATE, OUT / "rate-limits.png")
    if args.json:
        print(json.dumps(record, indent=1))
        return
    console.print(_table(rows))
    for line in record["verdicts"]:
        console.print(line)
    console.print(f"written: {(OUT / 'rate-limits.json').relative_to(Path.cwd())} and rate-limits.png")


if __name__ == "__main__":
    main()
