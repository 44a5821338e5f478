"""The CPU time of one call for 100 flags in this process, without a transport: evaluated, and from memory.

Ways take turns in every round, so the ratio holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvloop
from google.protobuf import struct_pb2
from rich.console import Console
from rich.table import Table

from benchmarks.answers import FLAGS, OUT, RULE, context
from benchmarks.guarded import machine
from flagsvc.api.common.handlers import Handlers
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import replica, until_serving

CONTEXTS, SIZE = 300, 33_554_432
OFF, SECOND, AGAIN = "evaluated", "asked for the second time, remembered", "from memory"
Figures = dict[str, dict[str, list[float]]]


class Call:
    """What a handler needs of gRPC's context."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return headers."""
        return (("user-agent", "benchmark"),)


def _resolve_all(number: int) -> Any:
    fields = struct_pb2.Struct()
    fields.update(context(number))
    return v1.ResolveAllRequest(context=fields)


def _batch(number: int) -> Any:
    given = {name: types.Value(string_value=value) for name, value in context(number).items()}
    keys = [f"flag-{each:03}" for each in range(FLAGS)]
    return pb.BatchEvaluateFlagsRequest(flag_keys=keys, context=types.EvaluationContext(attributes=given))


METHODS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "ResolveAll": ("/flagd.evaluation.v1.Service/ResolveAll", _resolve_all),
    "BatchEvaluateFlags": ("/flagsvc.v1.FlagService/BatchEvaluateFlags", _batch),
}


async def measured(server: Server, rounds: int) -> tuple[Figures, dict[str, float]]:
    """Return microseconds of CPU time a call for each round, and bytes of memory for each remembered answer."""
    handlers, figures, sizes = Handlers(()), Figures(), dict[str, float]()
    server.services.add_to(handlers, server.listeners["grpc"])  # type: ignore[arg-type]  # it has what registering uses
    answers = server._answers  # noqa: SLF001
    for name, (path, request) in METHODS.items():
        handler, requests = handlers.of(path), [request(number) for number in range(CONTEXTS)]
        assert handler is not None
        call: Callable[[Any, Any], Awaitable[object]] = handler.unary_unary  # type: ignore[assignment]
        for _ in range(rounds):
            for way in (OFF, "", SECOND, AGAIN):
                answers._max_bytes = 0 if way == OFF else SIZE  # noqa: SLF001
                started = time.process_time()
                for each in requests:
                    await call(each, Call())
                us = (time.process_time() - started) / CONTEXTS * 1e6
                if way:
                    figures.setdefault(name, {}).setdefault(way, []).append(us)
            sizes[name] = answers._bytes / len(answers._answers)  # noqa: SLF001
            answers._answers.clear()  # noqa: SLF001
            answers._bytes = 0  # noqa: SLF001
    return figures, sizes


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the table shows medians [7]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with replica(store_url=f"sqlite:///{folder}/flags.db") as (client, server):
            await until_serving(client)
            for number in range(FLAGS):
                rule = {"targeting": RULE} if number % 2 else {}
                await client.create(f"flag-{number:03}", status=types.FLAG_STATUS_ENABLED, **rule)
            figures, sizes = await measured(server, args.rounds)
    table = Table("CPU us a call (least to most)", OFF, SECOND, AGAIN, "kB each", title=machine())
    for name, row in figures.items():
        cells = [f"{statistics.median(row[way]):.0f} ({min(row[way]):.0f} to {max(row[way]):.0f})" for way in row]
        table.add_row(name, *cells, f"{sizes[name] / 1e3:.1f}")
    Console(width=150).print(table)
    command = f"python -m benchmarks.answers_cost --rounds {args.rounds}"
    record = {"command": command, "machine": machine(), "bytes each": sizes, "CPU us a call": figures}
    (OUT / "answers-cost.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
