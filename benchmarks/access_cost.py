"""What authentication and rate limits cost: the chain alone in process, and a server's CPU for an evaluation.

The servers take turns in every round, so that changes of the machine affect all alike. Each has a MongoDB and a Redis
of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import access_chain, load
from benchmarks.access_chain import BOTH, JWT_BOTH, OFF
from benchmarks.guarded import grant, machine
from benchmarks.load import Target
from benchmarks.tiers import fill, process
from benchmarks.versions import median_and_interval
from flagsvc.core.access.roles import Role
from tests.access.callers import bearer, stored
from tests.servers import Mongod, RedisServer, free_port

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BUDGET_US = 5.0
SERVER_OFF, REQUIRED, LIMITED = "authentication off", "required, token", "required, token, rate limits"
_LIMITS = {"FLAGSVC_RATE_LIMITS": "enforce", "FLAGSVC_RATES": "evaluate=1000000,write=1000000"}
_GUARDED = {"FLAGSVC_AUTH": "required"}
_SERVERS = {SERVER_OFF: {"FLAGSVC_AUTH": "off"}, REQUIRED: _GUARDED, LIMITED: _GUARDED | _LIMITS}


@dataclass(frozen=True, slots=True)
class Figures:
    """Microseconds by what was measured, one for each round."""

    chain: dict[str, list[float]]
    server: dict[str, list[float]]


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the servers [20]")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each server's turn [1.5]")
    parser.add_argument("--chain-rounds", type=int, default=40, help="rounds of the chain [40]")
    parser.add_argument("--chain-only", action="store_true", help="measure no servers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    console = Console(width=120, stderr=args.json)
    console.print(machine())
    chain = access_chain.measure(args.chain_rounds)
    console.print(_table("added to one call in process, CPU in us", chain, OFF))
    met = {name: statistics.median(_added(chain, OFF, name)) <= BUDGET_US for name in (BOTH, JWT_BOTH)}
    for name, is_met in met.items():
        console.print(f"{name}: budget {BUDGET_US:g} us: {'met' if is_met else 'MISSED'}")
    server: dict[str, list[float]] = {}
    if not args.chain_only:
        with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            targets = [stack.enter_context(_server(runner, name, stack)) for name in _SERVERS]
            server = runner.run(_measure(targets, args.seconds, args.rounds, console))
        console.print(_table("server CPU for one evaluation, us", server, SERVER_OFF))
    options = f"--rounds {args.rounds} --seconds {args.seconds:g} --chain-rounds {args.chain_rounds}"
    record = {"command": f"python -m benchmarks.access_cost {options}", "machine": machine()}
    written = json.dumps({**record, "chain, us": chain, "server, us": server, "met": met}, indent=1)
    if args.json:
        print(written)
    if not args.chain_only:
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "access-cost.json").write_text(written + "\n")
        console.print(f"written: {(OUT / 'access-cost.json').relative_to(Path.cwd())}")


@contextmanager
def _server(runner: asyncio.Runner, name: str, stack: ExitStack) -> Iterator[Target]:
    store, cache = stack.enter_context(Mongod()), stack.enter_context(RedisServer())
    port, store_url = free_port(), store.database_url("bench")
    token, text = grant("bench", Role.ADMIN, rate=1_000_000)
    runner.run(stored(store_url, token))
    command: list[Any] = [Path(sys.executable).with_name("flagsvc"), "serve", "--store", store_url]
    command += ["--cache", cache.url, "--host", "127.0.0.1", "--port", str(port), "--management-port", "-1"]
    command += ["--sync-port", "-1", "--ofrep-port", "-1", "--log-level", "error"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("FLAGSVC_")}
    # gRPC alone, as in benchmarks.versions
    with process(command, {**plain, "FLAGSVC_HTTP_ON_GRPC_PORT": "false", **_SERVERS[name]}) as pid:
        yield Target(name, port, pid, headers=bearer(text))


async def _measure(targets: list[Target], seconds: float, rounds: int, console: Console) -> dict[str, list[float]]:
    for target in targets:
        await fill(target)
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    with Progress(transient=True, console=console) as progress:
        bar = progress.add_task("measuring", total=rounds * len(targets))
        for number in range(rounds):
            for target in targets if number % 2 else targets[::-1]:
                measured = await load.saturated(target, seconds, toggles=False)
                found[target.name].append(measured.cpu_us)
                progress.advance(bar)
    return found


def _added(found: dict[str, list[float]], base: str, name: str) -> list[float]:
    """Return the difference in each round."""
    return [own - plain for own, plain in zip(found[name], found[base], strict=True)]


def _table(title: str, found: dict[str, list[float]], base: str) -> Table:
    rounds = len(found[base])
    table = Table(title=f"{title}; medians of {rounds} rounds, and the interval of 95 % of the median difference")
    table.add_column("")
    for head in ("us", "added, us", "relative"):
        table.add_column(head, justify="right")
    for name, values in found.items():
        cells = ("-", "-")
        if name != base:
            ratios = [own / plain for own, plain in zip(values, found[base], strict=True)]
            cells = median_and_interval(_added(found, base, name), ".2f"), median_and_interval(ratios, ".3f")
        table.add_row(name, f"{statistics.median(values):.2f}", *cells)
    return table


if __name__ == "__main__":
    main()
