"""A caller at ten times its rate on 3 replicas: what it gets, what others notice, and what that costs.

In turns: others alone and beside that caller, both again with Redis killed. Others are ten callers with tokens of
their own, far below their rates. All calls are prebuilt, and few enough that the machine is not full: how busy it was
is shown. Then one replica is called as often as it answers, to compare what a refusal costs it with an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.guarded import FLAG, Guarded, grant, guarded, machine
from benchmarks.load import cpu_s
from benchmarks.offered_calls import Calls, Wanted, offered
from flagsvc.core.access.roles import Role
from tests.access.callers import Headers, bearer, stored

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
REPLICAS, OTHERS, OTHERS_RATE = 3, 10, 150.0
RATE, TIMES = 20, 10
SETTLING_S = 3.0
"""After so long the burst of two seconds that a caller may have at once is used up."""
WITHIN = 0.05
IN_FLIGHT = 16
COST_S = 3.0
ALONE, BESIDE = "others alone", "beside a caller at 10 times its rate"
ALONE_NO_REDIS, BESIDE_NO_REDIS = "others alone, Redis killed", "beside that caller, Redis killed"


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
    busy: float
    """Share of all cores' time that was used, by whatever runs on the machine."""


async def measure(seconds: float, rounds: int, console: Console) -> tuple[list[Row], dict[str, list[float]]]:
    """Return the phases, and microseconds of a replica's CPU for one answer and for one refusal, one each round."""
    async with guarded(REPLICAS, RATE_LIMITS="enforce") as cluster:
        greedy, text = grant("greedy", Role.EVALUATE, rate=RATE)
        unlimited, unlimited_text = grant("unlimited", Role.EVALUATE, rate=1_000_000)
        made = [grant(f"other {number}", Role.EVALUATE) for number in range(OTHERS)]
        await stored(cluster.store_url, greedy, unlimited, *(token for token, _ in made))
        await asyncio.sleep(1)  # until every replica has read the tokens, twice a second
        others, rows = [bearer(each) for _, each in made], []
        for phase in (ALONE, BESIDE, ALONE_NO_REDIS, BESIDE_NO_REDIS):
            if phase == ALONE_NO_REDIS:
                costs = await _costs(cluster, bearer(unlimited_text), bearer(text), rounds)
                await asyncio.sleep(SETTLING_S)
                cluster.redis.kill()
                await asyncio.sleep(2)
            rows.append(await _phase(cluster, phase, seconds, others, bearer(text)))
            console.print(f"measured: {phase}")
            await asyncio.sleep(SETTLING_S)  # a share is whole again
        return rows, costs


async def _phase(cluster: Guarded, phase: str, seconds: float, others: list[Headers], greedy: Headers) -> Row:
    ports = [each.port for each in cluster.processes]
    wanted = [Wanted(ports, others, FLAG, seconds, OTHERS_RATE)]
    if phase in (BESIDE, BESIDE_NO_REDIS):
        wanted.append(Wanted(ports, [greedy], FLAG, seconds, RATE * TIMES))
    leases, (used, all_s) = _leases(cluster), _machine_s()
    noticed, *rest = await asyncio.gather(*map(offered, wanted))
    leases, (used_after, all_after) = _leases(cluster) - leases, _machine_s()
    found = rest[0] if rest else Calls(seconds=seconds)
    waits_ms = np.array(noticed.waits_s) * 1e3
    return Row(
        phase,
        found.offered / seconds,
        found.per_second(SETTLING_S),
        sum(at < SETTLING_S for at in found.accepted),
        noticed.offered,
        noticed.refused + noticed.failed + found.failed,
        float(np.percentile(waits_ms, 50)),
        float(np.percentile(waits_ms, 99)),
        1_000 * leases / (noticed.offered + found.offered),
        (used_after - used) / (all_after - all_s),
    )


async def _costs(cluster: Guarded, unlimited: Headers, greedy: Headers, rounds: int) -> dict[str, list[float]]:
    """Call one replica as often as it answers, in turns within and over the rate."""
    replica = cluster.processes[0]
    assert replica.process is not None
    found: dict[str, list[float]] = {"answered": [], "refused": []}
    for _ in range(rounds):
        for name, headers in (("answered", unlimited), ("refused", greedy)):
            before = cpu_s(replica.process.pid)
            calls = await offered(Wanted([replica.port], [headers], FLAG, COST_S, in_flight=IN_FLIGHT))
            found[name].append((cpu_s(replica.process.pid) - before) / calls.offered * 1e6)
    return found


def _leases(cluster: Guarded) -> float:
    """Return how many scripts the replicas have sent to Redis for rate limits."""
    pages = "".join(_metrics(process.management_port) for process in cluster.processes)
    return sum(map(float, re.findall(r"^flagsvc_rate_limit_leases_total (\S+)", pages, re.MULTILINE)))


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return str(page.read().decode())


def _machine_s() -> tuple[float, float]:
    """Return the time that all cores were busy, and all of their time, in ticks."""
    with Path("/proc/stat").open() as file:
        user, nice, system, idle, waiting, *others = map(float, file.readline().split()[1:8])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"one caller's rate is {RATE} evaluations a second over {REPLICAS} replicas")
    heads = ("asked for/s", "accepted/s", "of its rate", "first 3 s", "others' calls", "failed", "p50 ms", "p99 ms")
    table.add_column("")
    for head in (*heads, "leases per 1,000", "CPUs busy"):
        table.add_column(head, justify="right")
    for row in rows:
        asked = (f"{row.offered:,.0f}", f"{row.accepted:,.1f}", f"{row.accepted / RATE:.1%}", f"{row.first_s:,}")
        greedy = asked if row.offered else ("-",) * 4
        others = (f"{row.others:,}", f"{row.failed:,}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}")
        table.add_row(row.phase, *greedy, *others, f"{row.leases:.1f}", f"{row.busy:.0%}")
    return table


def _verdicts(rows: Sequence[Row], costs: dict[str, list[float]]) -> list[str]:
    by_phase = {row.phase: row for row in rows}
    found = []
    for phase, base in ((BESIDE, ALONE), (BESIDE_NO_REDIS, ALONE_NO_REDIS)):
        beside, alone = by_phase[phase], by_phase[base]
        share = beside.accepted / RATE
        met = "met" if abs(share - 1) <= WITHIN else "MISSED"
        waits = f"{beside.p50_ms / alone.p50_ms:.2f}, {beside.p99_ms / alone.p99_ms:.2f}"
        found.append(f"{phase}: accepted relative to the rate: {share:.1%}; target within {WITHIN:.0%}: {met}")
        found.append(f"{phase}: others' p50 and p99 relative to alone: {waits}")
    found.append(f"failed calls: {sum(row.failed for row in rows)}; target 0")
    answered, refused = (statistics.median(costs[name]) for name in ("answered", "refused"))
    found.append(f"CPU of a replica: {answered:.0f} us for an answer, {refused:.0f} us for a refusal")
    return found


def main() -> None:
    """Measure, print the table, write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each phase [20]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of answers and refusals, 3 s each [3]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"  # it would report each process that is started beside its connections
    console = Console(width=150, stderr=args.json)
    console.print(machine())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, costs = runner.run(measure(args.seconds, args.rounds, console))
    command = f"python -m benchmarks.rate_limits --seconds {args.seconds:g} --rounds {args.rounds}"
    record: dict[str, Any] = {"command": command, "machine": machine(), "rate": RATE}
    record |= {"rows": [asdict(row) for row in rows], "CPU of a call, us": costs, "verdicts": _verdicts(rows, costs)}
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
