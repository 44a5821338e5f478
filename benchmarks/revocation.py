"""How long a revoked token goes on being accepted: 3 replicas, 1,000 open streams, evaluations under way.

50 callers have 20 streams each, half of them of changed definitions and half of flagd's events, spread over the
replicas, and evaluate all the time. One after the other is revoked, waiting for APPLIED, then for CACHED, then with
Redis gone. Meanwhile the revoked caller calls every replica without a pause. In the end one replica is frozen.

Moments are of one clock, that of the callers. A call counts by its start: one that began before the answer may end
later.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.guarded import FLAG, Guarded, guarded, machine
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from tests.access.callers import bearer

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
REPLICAS, CALLERS, STREAMS = 3, 50, 20
CONNECTIONS = 4
"""To each replica, for streams; gRPC allows 512 on one by default."""
PAUSE_S = 0.1
"""Between two evaluations of one caller on one replica, unless it is being revoked."""
FIRST_S, AFTER_S = 0.05, {"APPLIED": 0.3, "CACHED": 0.5, "STORED": 1.3}
"""How long a caller calls without a pause before it is revoked, and after the answer, by the level waited for."""
STREAM_S = 5.0
APPLIED, CACHED, NO_REDIS = "APPLIED", "CACHED", "CACHED, Redis gone"
_CALLS: Sequence[tuple[str, Any]] = (
    ("/flagsvc.v1.FlagService/WatchFlags", pb.WatchFlagsRequest()),
    ("/flagd.evaluation.v1.Service/EventStream", v1.EventStreamRequest()),
)


@dataclass(slots=True)
class Caller:
    """One token, its streams and its calls. `ended_at`: when each stream has ended."""

    token_id: str
    text: str
    streams: list[asyncio.Task[None]] = field(default_factory=list)
    evaluations: list[asyncio.Task[None]] = field(default_factory=list)
    hurries: bool = False
    accepted: list[tuple[float, float]] = field(default_factory=list)
    ended_at: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Revoked:
    """One revocation, in seconds from its answer; `answer_s` from its request. Nothing later: 0."""

    level: str
    answer_s: float
    call_s: float
    """The start of the last accepted call."""
    answered_s: float
    """The answer of the last accepted call."""
    stream_s: float
    """The end of the last stream."""
    reached: str
    applied_by: int
    lagging: int


class Bench:
    """All callers of a cluster."""

    def __init__(self, cluster: Guarded) -> None:
        self._cluster = cluster
        self._connections = [cluster.connect(n) for n in range(REPLICAS) for _ in range(CONNECTIONS)]
        self.callers: list[Caller] = []
        self.open = 0

    async def close(self) -> None:
        """Leave everything."""
        tasks = [task for caller in self.callers for task in (*caller.streams, *caller.evaluations)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections:
            await connection.close()

    async def add(self) -> None:
        """Make a caller, and wait until its streams are open."""
        token = tokens.Token(name="caller", role=tokens.ROLE_READ, flag_sets=["default"])
        request = tokens.CreateTokenRequest(token=token, wait_for=pb.WRITE_LEVEL_APPLIED)
        made = await self._cluster.tokens(0).CreateToken(request, metadata=self._cluster.root, timeout=20)
        caller, before = Caller(made.token.id, made.secret), self.open
        self.callers.append(caller)
        for number in range(STREAMS):
            connection = self._connections[(len(self.callers) + number) % len(self._connections)]
            caller.streams.append(asyncio.create_task(self._follow(caller, connection, *_CALLS[number % 2])))
        caller.evaluations = [asyncio.create_task(self._evaluate(caller, replica)) for replica in range(REPLICAS)]
        async with asyncio.timeout(20):
            while self.open < before + STREAMS:  # noqa: ASYNC110  each stream counts itself
                await asyncio.sleep(0.005)

    async def revoke(self, caller: Caller, level: str) -> Revoked:
        """Revoke a caller through replica 0, and see how long it goes on."""
        caller.hurries = True
        await asyncio.sleep(FIRST_S)
        wait_for = pb.WRITE_LEVEL_APPLIED if level == APPLIED else pb.WRITE_LEVEL_CACHED
        request = tokens.RevokeTokenRequest(id=caller.token_id, wait_for=wait_for)
        request.wait_timeout.seconds = 2
        asked_at = time.monotonic()
        answer = await self._cluster.tokens(0).RevokeToken(request, metadata=self._cluster.root, timeout=20)
        answered_at = time.monotonic()
        reached = pb.WriteLevel.Name(answer.spread.reached).removeprefix("WRITE_LEVEL_")
        await asyncio.sleep(AFTER_S["STORED" if level == NO_REDIS else level])
        await asyncio.wait(caller.streams, timeout=STREAM_S)
        for task in caller.evaluations:
            task.cancel()
        self.callers.remove(caller)
        left = [task for task in caller.streams if not task.done()]
        starts, ends = zip(*caller.accepted, strict=True) if caller.accepted else ((), ())
        return Revoked(
            level,
            answered_at - asked_at,
            max(0.0, max(starts, default=0.0) - answered_at),
            max(0.0, max(ends, default=0.0) - answered_at),
            math.inf if left else max(0.0, max(caller.ended_at, default=0.0) - answered_at),
            reached,
            len(answer.spread.applied_by),
            len(answer.spread.lagging),
        )

    async def _evaluate(self, caller: Caller, replica: int) -> None:
        stub, headers = self._cluster.flags(replica), bearer(caller.text)
        request = pb.EvaluateFlagRequest(flag_key=FLAG)
        while True:
            start = time.monotonic()
            try:
                await stub.EvaluateFlag(request, metadata=headers, timeout=5)
                if caller.hurries:
                    caller.accepted.append((start, time.monotonic()))
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0 if caller.hurries else PAUSE_S)

    async def _follow(self, caller: Caller, connection: grpc.aio.Channel, path: str, request: Any) -> None:
        call = connection.unary_stream(path, type(request).SerializeToString)(request, metadata=bearer(caller.text))
        await call.read()
        self.open += 1
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        finally:
            self.open -= 1
            caller.ended_at.append(time.monotonic())


async def measure(count: int, console: Console) -> tuple[list[Revoked], dict[str, Any]]:
    """Return every revocation, and what was found with a frozen replica."""
    async with guarded(REPLICAS) as cluster:
        bench = Bench(cluster)
        try:
            with Progress(transient=True, console=console) as progress:
                bar = progress.add_task("callers", total=CALLERS)
                for _ in range(CALLERS):
                    await bench.add()
                    progress.advance(bar)
                console.print(f"{bench.open:,} streams are open, {CALLERS} callers evaluate on {REPLICAS} replicas")
                found: list[Revoked] = []
                for level, times in ((APPLIED, count), (CACHED, count)):
                    bar = progress.add_task(level, total=times)
                    for _ in range(times):
                        found.append(await bench.revoke(bench.callers[0], level))
                        await bench.add()
                        progress.advance(bar)
                frozen = await _with_a_frozen_replica(cluster, bench)
                cluster.redis.kill()
                bar = progress.add_task(NO_REDIS, total=count // 2)
                await asyncio.sleep(2)
                for _ in range(min(count // 2, len(bench.callers))):
                    found.append(await bench.revoke(bench.callers[0], NO_REDIS))
                    progress.advance(bar)
            return found, frozen
        finally:
            await bench.close()


async def _with_a_frozen_replica(cluster: Guarded, bench: Bench) -> dict[str, Any]:
    """Revoke with one replica frozen: who is named, and how long the replica accepts calls once it goes on."""
    caller, name = bench.callers[0], await cluster.name(2)
    cluster.processes[2].pause()
    request = tokens.RevokeTokenRequest(id=caller.token_id, wait_for=pb.WRITE_LEVEL_APPLIED)
    request.wait_timeout.seconds = 1
    answer = await cluster.tokens(0).RevokeToken(request, metadata=cluster.root, timeout=20)
    resumed_at = time.monotonic()
    cluster.processes[2].resume()
    refused_after_s, accepted = 0.0, 0
    async with asyncio.timeout(20):
        while True:
            try:
                await cluster.flags(2).EvaluateFlag(
                    pb.EvaluateFlagRequest(flag_key=FLAG), metadata=bearer(caller.text), timeout=5
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    refused_after_s = time.monotonic() - resumed_at
                    break
            else:
                accepted += 1
    await asyncio.wait(caller.streams, timeout=STREAM_S)
    bench.callers.remove(caller)
    for task in caller.evaluations:
        task.cancel()
    return {
        "named as lagging": list(answer.spread.lagging) == [name],
        "applied by": len(answer.spread.applied_by),
        "reached": pb.WriteLevel.Name(answer.spread.reached).removeprefix("WRITE_LEVEL_"),
        "refused after it went on, ms": refused_after_s * 1e3,
        "calls accepted until then": accepted,
    }


_FIGURES = {
    "until the answer": "answer_s",
    "last accepted call, begun after the answer": "call_s",
    "last answer to an accepted call": "answered_s",
    "last open stream": "stream_s",
}


def _rows(found: Sequence[Revoked]) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds by level and figure: p50, p99 and the worst."""
    rows: dict[str, dict[str, list[float]]] = {}
    for level in dict.fromkeys(each.level for each in found):
        for name, attribute in _FIGURES.items():
            values = [getattr(each, attribute) * 1e3 for each in found if each.level == level]
            ranked = [float(np.percentile(values, 50)), float(np.percentile(values, 99)), max(values)]
            rows.setdefault(level, {})[name] = ranked
    return rows


def _table(rows: dict[str, dict[str, list[float]]], found: Sequence[Revoked]) -> Table:
    table = Table(title="from RevokeToken's answer, milliseconds: p50 / p99 / worst")
    table.add_column("waited for")
    table.add_column("revocations", justify="right")
    for name in _FIGURES:
        table.add_column(name, justify="right")
    for level, figures in rows.items():
        count = sum(each.level == level for each in found)
        table.add_row(level, str(count), *(" / ".join(f"{value:,.1f}" for value in each) for each in figures.values()))
    return table


def main() -> None:
    """Measure, print the table, write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="revocations for each level [50]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    console = Console(width=140, stderr=args.json)
    console.print(machine())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found, frozen = runner.run(measure(args.count, console))
    rows = _rows(found)
    record = {"command": f"python -m benchmarks.revocation --count {args.count}", "machine": machine()}
    figures = {"milliseconds, p50 p99 worst": rows, "one replica frozen": frozen}
    revocations = [asdict(each) for each in found]
    written = json.dumps({**record, **figures, "revocations": revocations}, indent=1)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "revocation.json").write_text(written + "\n")
    from benchmarks.revocation_picture import draw  # noqa: PLC0415  slow to import

    draw(revocations, OUT / "revocation.png")
    if args.json:
        print(written)
        return
    console.print(_table(rows, found))
    console.print("one replica frozen: " + ", ".join(f"{name}: {value}" for name, value in frozen.items()))
    console.print(f"written: {(OUT / 'revocation.json').relative_to(Path.cwd())} and revocation.png")


if __name__ == "__main__":
    main()
