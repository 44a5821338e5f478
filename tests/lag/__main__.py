"""Search for the request that holds the event loop longest, and print the worst milliseconds of each method."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import grpc
import httpx
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from tests.fuzz.calling import Answer, Call, fault
from tests.lag.messages import KEYS, Sizes
from tests.lag.requests import Requests, Row
from tests.lag.store import HOSTILE, fill
from tests.servers import RedisServer

Control = tuple[asyncio.StreamReader, asyncio.StreamWriter]
REPEATS = 3
"""A request that seems to hold the loop is repeated; the least of its measurements counts, so that noise does not."""
SUSPICIOUS_MS = 5.0
CANDIDATES = 5
CONFIRMATIONS = 10
"""How often the worst requests of each method are repeated at the end, a round of all methods at a time.

The machine can be slow for seconds, which three repetitions in a row do not show.
"""
FILL_S = 5.0
"""After a load the shared cache is filled; that belongs to the start."""
ANSWER_S = 60.0


@dataclass
class Worst:
    """The longest that one method has held the loop, and by which request."""

    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    sizes: Sizes = field(default_factory=Sizes)
    status: str = ""
    where: str = ""


class Search:
    """One server under search."""

    def __init__(self, requests: Requests, control: Control, names: list[str]) -> None:
        """`names`: parts of the methods' names; none: all of them."""
        rows = requests.rows()
        self.rows = {name: row for name, row in rows.items() if not names or any(each in name for each in names)}
        self._control = control
        self._candidates: dict[str, list[Worst]] = {name: [] for name in self.rows}
        self._calls = Counter[str]()
        self.faults: dict[str, Sizes] = {}
        """Answers that may not be, such as INTERNAL, with the sizes of the request that got each first."""

    async def measured(self, name: str, sizes: Sizes) -> float:
        """Send a request, repeatedly if it seems bad. Return for how many milliseconds it held the loop."""
        found = await self._once(self.rows[name], sizes)
        for _ in range(REPEATS - 1):
            if found.cpu_ms < SUSPICIOUS_MS:
                break
            found = min(found, await self._once(self.rows[name], sizes), key=lambda each: each.cpu_ms)
        self._calls[name] += 1
        candidates = sorted([*self._candidates[name], found], key=lambda each: -each.cpu_ms)
        self._candidates[name] = candidates[:CANDIDATES]
        return found.cpu_ms

    async def confirm(self) -> None:
        """Repeat the worst requests of each method; the least of a request's measurements counts."""
        for _ in range(CONFIRMATIONS):
            for name, candidates in self._candidates.items():
                self._candidates[name] = [
                    min(each, await self._once(self.rows[name], each.sizes), key=lambda one: one.cpu_ms)
                    if each.cpu_ms > SUSPICIOUS_MS
                    else each
                    for each in candidates
                ]

    def worst(self) -> dict[str, tuple[Worst, int]]:
        """Return the request of each method that holds the loop longest, and how many were tried."""
        return {
            name: (max(candidates, key=lambda each: each.cpu_ms, default=Worst()), self._calls[name])
            for name, candidates in self._candidates.items()
        }

    async def _once(self, row: Row, sizes: Sizes) -> Worst:
        await ask(self._control)
        status = "OK"
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await row.call(sizes)
            if isinstance(answer, httpx.Response):
                status = str(answer.status_code)
                error = answer.content if answer.is_error else b""
                self._judge(Call(row.path, [], port="front_port"), Answer(status, error), sizes)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            self._judge(Call(row.path, []), Answer(status, (error.details() or "").encode()), sizes)
        except TimeoutError:
            status = "NO ANSWER"
        wall_ms, cpu_ms, where, *_ = await ask(self._control)
        return Worst(wall_ms, cpu_ms, sizes, status, where)

    def _judge(self, call: Call, answer: Answer, sizes: Sizes) -> None:
        if wrong := fault(call, answer):
            self.faults.setdefault(f"{call.method}: {wrong}", sizes)


async def ask(control: Control) -> list[Any]:
    """Return what the server measured since the last time and what ran then, whether it is ready, and its ports."""
    control[1].write(b"\n")
    return list(json.loads(await control[0].readline()))


async def started(store: Path, cache: str, socket: Path) -> tuple[asyncio.subprocess.Process, Control]:
    """Start a server and wait until it has loaded, compiled and cached everything."""
    command = (sys.executable, "-m", "tests.lag.server", f"sqlite:///{store}", cache, str(socket))
    process = await asyncio.create_subprocess_exec(*command)
    control: Control | None = None
    while control is None:
        await asyncio.sleep(0.05)
        with contextlib.suppress(OSError):  # the server is not there yet
            control = await asyncio.open_unix_connection(str(socket))
    longest, where, ready_at = 0.0, "", 0.0
    while not ready_at or time.monotonic() < ready_at + FILL_S:
        _, cpu_ms, ran, is_ready, *_ = await ask(control)
        if cpu_ms > longest:
            longest, where = cpu_ms, ran
        ready_at = ready_at or (time.monotonic() if is_ready else 0.0)
        await asyncio.sleep(0.05)
    Console().print(f"start and load held the loop for {longest:.1f} ms {where}", highlight=False)
    return process, control


class _TimeIsUp(KeyboardInterrupt):
    """Ends a search: Hypothesis takes no other exception for a wish to stop."""


SIZES = st.builds(
    Sizes,
    key=st.sampled_from(KEYS),
    keys=st.integers(1, 1_000),
    same_keys=st.booleans(),
    text=st.integers(0, 64_000),
    text_of=st.sampled_from(["a", " ", "9", "object"]),
    elements=st.integers(0, 20_000),
    fields=st.integers(0, 20_000),
    variants=st.integers(0, 6),
    conditions=st.integers(0, 6_000),
    noted=st.booleans(),
    page=st.integers(0, 1_000),
    explain=st.booleans(),
    min_revision=st.sampled_from([0, 1, 10**6]),
)


def explore(search: Search, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Let Hypothesis vary the requests of each method, towards those that hold the loop longer."""
    with_sizes = [name for name, row in search.rows.items() if row.is_searched]
    for name in with_sizes:
        with contextlib.suppress(_TimeIsUp):
            _explored(search, loop, name, time.monotonic() + seconds / len(with_sizes))()


def _explored(search: Search, loop: asyncio.AbstractEventLoop, name: str, until: float) -> Callable[[], None]:
    @settings(max_examples=100_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(SIZES)
    def once(sizes: Sizes) -> None:
        if time.monotonic() > until:
            raise _TimeIsUp
        target(loop.run_until_complete(search.measured(name, sizes)))

    return once


def show(search: Search, flags: int) -> None:
    """Print the table."""
    table = Table(title=f"Longest that one request within the limits holds the event loop, {flags:,} flags")
    for column in ("method", "ms of CPU", "ms of time", "requests", "status", "worst request", "what ran"):
        table.add_column(column, overflow="fold")
    default = Sizes()
    for name, (worst, calls) in search.worst().items():
        made_of = {n: v for n, v in vars(worst.sizes).items() if v != getattr(default, n)}
        text = ", ".join(f"{n}={v}" for n, v in made_of.items())
        table.add_row(name, f"{worst.cpu_ms:.1f}", f"{worst.wall_ms:.1f}", str(calls), worst.status, text, worst.where)
    Console(width=200).print(table)
    for wrong, sizes in search.faults.items():
        Console(width=200).print(f"FAULT {wrong}, first for {sizes}", style="red", markup=False, highlight=False)


def main() -> int:
    """Search, print, and return 1 where a request held the loop longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.lag", description=__doc__)
    parser.add_argument("methods", nargs="*", help="parts of the methods' names (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to search, after the requests by hand")
    parser.add_argument("--flags", type=int, default=1_000)
    parser.add_argument("--limit-ms", type=float, default=10.0)
    parser.add_argument("--cache", choices=("redis", "none"), default="redis", help="whether the server has a Redis")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(RedisServer()).url if args.cache == "redis" else "none"
        folder, runner = stack.enter_context(tempfile.TemporaryDirectory()), stack.enter_context(asyncio.Runner())
        store, socket = Path(folder, "flags.db"), Path(folder, "control")
        fill(store, args.flags)
        process, control = runner.run(started(store, cache, socket))
        try:
            ports = list(map(int, runner.run(ask(control))[4:]))

            async def made() -> Requests:
                return Requests(*ports, resume=args.flags + len(HOSTILE) + 1)

            requests = runner.run(made())
            search = Search(requests, control, args.methods)
            with contextlib.suppress(KeyboardInterrupt):  # what was found until then is shown
                for sizes_of_all in zip_longest(*(row.sizes for row in search.rows.values())):
                    for name, sizes in zip(search.rows, sizes_of_all, strict=True):
                        if sizes is not None:
                            runner.run(search.measured(name, sizes))
                if args.seconds:
                    explore(search, runner.get_loop(), args.seconds)
                runner.run(search.confirm())
            show(search, args.flags)
            runner.run(requests.close())
        finally:
            control[1].close()
            runner.run(process.wait())
    return int(bool(search.faults) or any(worst.cpu_ms > args.limit_ms for worst, _ in search.worst().values()))


if __name__ == "__main__":
    sys.exit(main())
