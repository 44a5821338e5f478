"""What one port for all protocols costs: server CPU for a gRPC call through the front, without it, and by Connect.

Two servers run at once, with and without the front, and are measured in turns, so that changes of the machine affect
both. The table shows medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.load import cpu_s
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Process

SHAPES = ((1, 64), (8, 8), (64, 1))
"""Connections, and calls in flight on each."""
EVALUATE, BODY = "/flagsvc.v1.FlagService/EvaluateFlag", b'{"flagKey":"a"}'
REQUEST = pb.EvaluateFlagRequest(flag_key="a")
Load = Callable[[int, int, int, int], Coroutine[Any, Any, None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4_000, help="calls of one measurement [4000]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the table shows medians [5]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = ("--store", f"sqlite:///{folder}/flags.db")
        with Process(*store) as front, Process(*store, FLAGSVC_HTTP_ON_GRPC_PORT="false") as direct:
            table = asyncio.run(_measured(front, direct, args.calls, args.rounds))
    Console(width=120).print(table)


async def _measured(front: Process, direct: Process, calls: int, rounds: int) -> Table:
    ways: dict[str, tuple[Process, int, Load]] = {
        "8013 without the front": (direct, direct.port, _by_grpc),
        "8013 with the front": (front, front.port, _by_grpc),
        "8015 beside the front": (front, front.sync_port, _by_grpc),
        "8013, Connect in JSON": (front, front.port, _by_connect),
    }
    for process in (front, direct):
        await _create(process.port)
    title = f"server CPU for a call, grpcio {grpc.__version__}, Python {platform.python_version()}"
    table = Table("way", *(f"{connections} x {each}" for connections, each in SHAPES), title=title)
    found: dict[str, list[list[float]]] = {name: [[] for _ in SHAPES] for name in ways}
    for number in range(rounds + 1):
        for column, (connections, each) in enumerate(SHAPES):
            for name, (process, port, load) in ways.items():
                assert process.process is not None
                before = cpu_s(process.process.pid)
                await load(port, connections, each, calls // connections)
                if number:  # the first round warms up
                    found[name][column].append((cpu_s(process.process.pid) - before) / calls * 1e6)
    base = found["8013 without the front"]
    for name, columns in found.items():
        table.add_row(name, *(_cell(each, direct) for each, direct in zip(columns, base, strict=True)))
    return table


def _cell(us: list[float], direct: list[float]) -> str:
    ratio = statistics.median(mine / other for mine, other in zip(us, direct, strict=True))
    return f"{statistics.median(us):.0f} us ({ratio - 1:+.0%})"


async def _create(port: int) -> None:
    deadline = time.monotonic() + 20
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.FlagServiceStub(channel)
        flag = types.Flag(key="a", status="FLAG_STATUS_ENABLED")
        try:
            await stub.CreateFlag(
                pb.CreateFlagRequest(flag=flag), timeout=deadline - time.monotonic(), wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise


async def _by_grpc(port: int, connections: int, each: int, calls: int) -> None:
    """Make so many calls on each connection, `each` of them in flight."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(connections)]

    async def caller(stub: pb_grpc.FlagServiceAsyncStub) -> None:
        for _ in range(calls // each):
            await stub.EvaluateFlag(REQUEST)

    stubs = [pb_grpc.FlagServiceStub(channel) for channel in channels]
    await asyncio.gather(*(caller(stub) for stub in stubs for _ in range(each)))
    await asyncio.gather(*(channel.close() for channel in channels))


async def _by_connect(port: int, connections: int, each: int, calls: int) -> None:
    """Make so many calls for each connection; HTTP/1.1 has one in flight, so there are `each` times as many."""
    head = f"POST {EVALUATE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    loop = asyncio.get_running_loop()

    async def caller() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setblocking(False)
            for _ in range(calls // each):
                await loop.sock_sendall(connection, request)
                answer = b""
                while not answer.endswith(b"}}"):
                    answer += await loop.sock_recv(connection, 65_536)
                assert answer.startswith(b"HTTP/1.1 200")

    await asyncio.gather(*(caller() for _ in range(connections * each)))


if __name__ == "__main__":
    main()
