"""Random and mutated calls over every RPC and HTTP route: python -m tests.fuzz.calls --calls 100000 --seed 1.

Methods are learned from the server's reflection, so a new one is called too. The exit status is 1 when an answer is
INTERNAL, UNKNOWN or an HTTP 500, shows a traceback, a path or an address, when the log has an exception, when the
server stops answering, or when its memory grows. Calls that led there are saved in .fuzz/calls; --again repeats them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.calling import load
from tests.fuzz.campaign import Campaign, Result, growth
from tests.fuzz.connect_calls import OVER_HTTP
from tests.fuzz.http_calls import ROUTES
from tests.fuzz.target import target


def main() -> int:
    """Run, and report. Return 0 if nothing was found."""
    args = _arguments()
    with target(cache=args.cache) as server:
        campaign = Campaign(server, args.seed, args.folder)
        work = campaign.again(load(args.again)) if args.again else campaign.run(args.calls, args.seconds)
        try:
            result = asyncio.run(work)
        except KeyboardInterrupt:
            return 130
    print(json.dumps(_document(result), indent=1)) if args.json else _show(result)  # noqa: T201
    return 1 if result.findings else 0


def _show(result: Result) -> None:
    console = Console(width=220)
    for title, is_http in (("gRPC", False), ("HTTP", True)):
        rows = {
            name: counts
            for name, counts in sorted(result.statuses.items())
            if (name in ROUTES or name.endswith(OVER_HTTP)) is is_http
        }
        statuses = sorted(
            {status for counts in rows.values() for status in counts}, key=lambda each: (each != "OK", each)
        )
        table = Table("calls", *(status.replace("_", " ").lower() for status in statuses), title=title)
        for name, counts in rows.items():
            table.add_row(
                name.removeprefix("/flagsvc.v1.FlagService"),
                *(f"{counts[status]:,}" if counts[status] else "" for status in statuses),
            )
        console.print(table)
    memory = result.memory_mb
    console.print(
        f"seed {result.seed}: {result.calls:,} calls in {result.seconds:.0f} s; memory {memory[0]:.0f} MB at the start,"
        f" {max(memory):.0f} MB at most, {memory[-1]:.0f} MB at the end; health within {result.worst_health_ms:.0f} ms;"
        f" {result.log_lines:,} lines of log",
        highlight=False,
    )
    if medians := growth(memory):
        console.print("memory, median of the third and of the last quarter: {:.0f} MB, {:.0f} MB".format(*medians))
    for finding in result.findings:
        console.print(f"FOUND {finding}", style="red", markup=False, highlight=False)


def _document(result: Result) -> dict[str, object]:
    return {
        "seed": result.seed,
        "calls": result.calls,
        "seconds": round(result.seconds, 1),
        "statuses": {name: dict(counts) for name, counts in sorted(result.statuses.items())},
        "memory_mb": [round(sample, 1) for sample in result.memory_mb],
        "worst_health_ms": round(result.worst_health_ms, 1),
        "log_lines": result.log_lines,
        "findings": result.findings,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.calls", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000, help="how many calls (default: 100000)")
    parser.add_argument("--seconds", type=float, default=1_800, help="the longest that it takes (default: 1800)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="default: a random one")
    parser.add_argument("--cache", action="store_true", help="on a MongoDB and a Redis instead of SQLite")
    parser.add_argument("--again", type=Path, metavar="FILE", help="repeat the calls of a finding")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz/calls"), help="for findings (default: .fuzz/calls)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
