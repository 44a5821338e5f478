"""Compares this checkout with another: the server's cost of a unary evaluation from the near cache, alternating.

python -m benchmarks.versions OTHER_CHECKOUT, such as one made by: git worktree add ../before COMMIT

gRPC alone answers on the port of both: what HTTP on the same port adds is measured by `benchmarks.front`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import comb
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import load
from benchmarks.load import Target
from benchmarks.tiers import fill, process
from tests.servers import Mongod, RedisServer, free_port

HERE, OTHER = "this checkout", "the other"
OUTSIDE = 0.05
MAIN = "import sys; from flagsvc.cli.main import main; sys.exit(main())"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each phase [4]")
    parser.add_argument("--rounds", type=int, default=10, help="rounds [10]")
    args = parser.parse_args()
    with ExitStack() as stack:
        targets = [
            stack.enter_context(_server(name, folder, stack))
            for name, folder in ((OTHER, args.other), (HERE, Path(__file__).parents[1]))
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_measure(targets, args.seconds, args.rounds))
    table = Table("near cache, unary", "server CPU per evaluation, us", "median", "evaluations/s, median", box=None)
    for name, found in figures.items():
        cpu = [us for us, _ in found]
        spread = f"{min(cpu):.0f} to {max(cpu):.0f}"
        table.add_row(name, spread, f"{statistics.median(cpu):.1f}", f"{statistics.median(n for _, n in found):.0f}")
    pairs = [(here, other) for (here, _), (other, _) in zip(figures[HERE], figures[OTHER], strict=True)]
    console = Console()
    console.print(table)
    console.print(f"CPU per evaluation, round by round, median and its interval of 95 %, {len(pairs)} rounds:")
    console.print(f"  {HERE} - {OTHER}: {median_and_interval([here - other for here, other in pairs], '.1f')} us")
    console.print(f"  {HERE} / {OTHER}: {median_and_interval([here / other for here, other in pairs], '.3f')}")


def median_and_interval(values: list[float], form: str) -> str:
    """Write the median and the interval between two of the values that holds it with at least 95 %, by ranks."""
    ranked, count = sorted(values), len(values)
    rank, outside = 0, 2 / 2**count  # the chance that the median lies beyond the values themselves
    while rank + 1 < count // 2 and outside + 2 * comb(count, rank + 1) / 2**count <= OUTSIDE:
        rank += 1
        outside += 2 * comb(count, rank) / 2**count
    return f"{statistics.median(ranked):{form}} ({ranked[rank]:{form}} to {ranked[count - 1 - rank]:{form}})"


@contextmanager
def _server(name: str, folder: Path, stack: ExitStack) -> Iterator[Target]:
    store, cache = stack.enter_context(Mongod()), stack.enter_context(RedisServer())
    port, management = free_port(), free_port()
    # -P: else this folder's code comes before that of PYTHONPATH.
    command = [sys.executable, "-P", "-c", MAIN, "serve", "--store", store.database_url("bench"), "--cache", cache.url]
    command += ["--host", "127.0.0.1", "--port", str(port), "--management-port", str(management)]
    command += ["--sync-port", "-1", "--log-level", "error"]
    if any((folder / "flagsvc" / package).is_dir() for package in ("ofrep", "api/ofrep")):  # older: no such option
        command += ["--ofrep-port", "-1"]
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    if (folder / "flagsvc" / "front").is_dir():  # older: gRPC is alone on its port, and the setting is refused
        environment["FLAGSVC_HTTP_ON_GRPC_PORT"] = "false"
    with process(command, environment) as pid:
        yield Target(name, port, pid, management)


async def _measure(targets: list[Target], seconds: float, rounds: int) -> dict[str, list[tuple[float, float]]]:
    for target in targets:
        await fill(target)
    figures: dict[str, list[tuple[float, float]]] = {target.name: [] for target in targets}
    with Progress(transient=True) as progress:
        bar = progress.add_task("measuring", total=rounds * len(targets))
        for number in range(rounds):
            for target in targets if number % 2 else targets[::-1]:
                progress.update(bar, description=f"round {number + 1}: {target.name}")
                measured = await load.saturated(target, seconds, toggles=True)
                figures[target.name].append((measured.cpu_us, measured.per_second))
                progress.advance(bar)
    return figures


if __name__ == "__main__":
    main()
