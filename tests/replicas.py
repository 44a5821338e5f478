"""Replicas for end-to-end tests: in this process (quick) or as `flagsvc serve` processes (real signals)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from flagsvc.settings import Settings
from tests.forks import Fork
from tests.servers import ended_with_parent, free_port, freeze
from tests.stopwatch import waited_s

FLAGSVC = Path(sys.executable).with_name("flagsvc")
PROGRAM = (str(FLAGSVC),)
TRANSPORT = os.environ.get("TEST_TRANSPORT", "grpcio")
"""What speaks HTTP/2 on the gRPC ports of the replicas here: FLAGSVC_TRANSPORT, unless a test asks for one."""
EAGER = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # the time limit of one attempt
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A client that waits for a server's start notices it at once, not after a back-off of seconds."""


class Client:
    """Short calls on one channel."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.channel = grpc.aio.insecure_channel(target, EAGER)
        self.stub = pb_grpc.FlagServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def evaluate(self, key: str, **fields: Any) -> pb.FlagEvaluation:
        return (await self.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key=key, **fields), timeout=5)).evaluation

    async def toggle(self, key: str, enabled: bool, **fields: Any) -> types.Flag:
        request = pb.ToggleFlagRequest(flag_key=key, enabled=enabled, **fields)
        return (await self.stub.ToggleFlag(request, timeout=10)).flag

    async def create(self, key: str, **fields: Any) -> types.Flag:
        return (await self.stub.CreateFlag(pb.CreateFlagRequest(flag=types.Flag(key=key, **fields)), timeout=10)).flag

    async def delete_all(self) -> None:
        """Delete every flag of the default set, for the next test of a replica that several share."""
        for flag in (await self.stub.ListFlags(pb.ListFlagsRequest(page_size=1_000), timeout=10)).flags:
            await self.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key=flag.key), timeout=10)

    async def serving(self, service: str = "") -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def replica(**settings: Any) -> AsyncIterator[tuple[Client, Server]]:
    """A server in this process on free ports, ready, with a client. A busy machine is not an outage of Redis."""
    ports = {"port": 0, "management_port": -1, "sync_port": -1, "ofrep_port": -1}
    patience = {"drain_s": 0.0, "grace_s": 1.0, "cache_timeout_s": 0.5, "transport": TRANSPORT}
    server = Server(Settings(**{"host": "127.0.0.1", **ports, **patience, **settings}))
    try:
        await server.start()
        client = Client(f"127.0.0.1:{server.port}" if server.port else str(server.addresses["grpc"]))
        try:
            yield client, server
        finally:
            await client.channel.close()
    finally:
        await server.stop()  # also when a test that ends early cancels the start


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        await asyncio.sleep(0.01)


async def until_serving(client: Client, service: str = "", *, serving: bool = True, seconds: float = 20) -> None:
    """Wait until health reports ready."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if await client.serving(service) is serving:
                return
        except grpc.aio.AioRpcError:
            pass
        assert time.monotonic() < deadline, f"{service or 'overall'} health is not {serving} after {seconds} s"
        await asyncio.sleep(0.05)


class Process:
    """`flagsvc serve` as a process of its own; it can stop and start again, on the same ports.

    Without a program it is forked from one that has imported flagsvc; `program=PROGRAM` starts it as users do.
    """

    def __init__(self, *arguments: str, program: tuple[str, ...] = (), **environment: str) -> None:
        self._program = program
        self.port, self.management_port, self.sync_port = free_port(), free_port(), free_port()
        self.ofrep_port = free_port()
        self._arguments, self._environment = arguments, environment
        self.process: subprocess.Popen[str] | Fork | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start; it becomes ready a moment later."""
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--management-port", str(self.management_port), *self._arguments]
        env = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
        env |= {"FLAGSVC_SYNC_PORT": str(self.sync_port), "FLAGSVC_OFREP_PORT": str(self.ofrep_port)}
        env |= {"FLAGSVC_TRANSPORT": TRANSPORT}
        env |= self._environment
        if not self._program:
            self.process = Fork(arguments, env)
            return
        command = [*ended_with_parent(), *self._program, *arguments]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def stop(self) -> None:
        """Stop as an operator does, and wait for the end."""
        self.terminate()
        assert self.process
        self.process.wait(20)
        self.kill()

    def kill(self) -> None:
        """End at once, as a crash does, unless it has ended."""
        assert self.process
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()

    def pause(self) -> None:
        """Freeze: connections stay open and nothing answers."""
        assert self.process
        if isinstance(self.process, Fork):
            self.process.freeze()
        else:
            freeze(self.process)

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def terminate(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)


def waited_for_a_cpu_s(pid: int) -> float | None:
    """Return for how long a process's main thread could have run and got no CPU; None where Linux does not say."""
    return waited_s(Path(f"/proc/{pid}"))


def starved_s() -> float:
    """Return for how long this process, which may contain replicas, could have run and got no CPU."""
    return waited_for_a_cpu_s(os.getpid()) or 0.0


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo's reason of a failed call."""
    return info_of(error).reason


def info_of(error: grpc.aio.AioRpcError) -> Any:
    """The ErrorInfo of a failed call."""
    return detail_of(error, "ErrorInfo")


def detail_of(error: grpc.aio.AioRpcError, kind: str) -> Any:
    """A google.rpc detail of a failed call."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                message = getattr(error_details_pb2, kind)()
                if detail.Unpack(message):
                    return message
    raise AssertionError(f"no {kind} in {error!r}")
