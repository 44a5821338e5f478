"""A replica as a process that is killed, frozen and restarted; each of its lives is in the record."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from tests.access.callers import Headers
from tests.faults.record import NEVER, Incarnation, Story
from tests.replicas import EAGER, FLAGSVC
from tests.servers import HOST, free_port

ROOT = Path(__file__).parents[2]
_POLL_S = 0.05
_END_S = 15.0
_ASKED_S = 1.0
_NAME_TRIES = 20


class Access(NamedTuple):
    """What callers send: an admin, one that evaluates, and one that sends more than its rate."""

    root: Headers
    caller: Headers
    greedy: Headers


class Replica:
    """`ready` is set while the process can be called; `channel`, `stub` and `incarnation` are of its present life."""

    def __init__(
        self,
        number: int,
        story: Story,
        folder: Path,
        program: Sequence[str],
        environment: Mapping[str, str],
        *,
        access: Access,
    ) -> None:
        self.number, self.ready, self.access = number, asyncio.Event(), access
        self.port = free_port()
        self.channel: grpc.aio.Channel
        self.stub: pb_grpc.FlagServiceAsyncStub
        self.incarnation: Incarnation
        self._story, self._program = story, program or (str(FLAGSVC),)
        self._log = folder / f"replica-{number}.log"
        own = {"HOST": HOST, "PORT": self.port, "MANAGEMENT_PORT": -1, "SYNC_PORT": -1, "OFREP_PORT": -1}
        own |= {"DRAIN_S": 0.2, "GRACE_S": 2, "LOG_FORMAT": "json"}
        own |= {"SNAPSHOT_FILE": folder / f"replica-{number}.snapshot"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
        self._environment = {**plain, **{f"FLAGSVC_{name}": str(value) for name, value in own.items()}, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: list[grpc.aio.Channel] = []  # closing one cancels its calls, and with them their callers
        self._watch: asyncio.Task[None] | None = None

    @property
    def named(self) -> str:
        """Its name for people."""
        return f"replica {self.number}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Begin a new life; it becomes ready a moment later."""
        setpriv = shutil.which("setpriv")
        command = [*((setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()), *self._program, "serve"]
        started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.incarnation = Incarnation(len(self._story.incarnations), self.number, self._process.pid, started)
        self._story.incarnations.append(self.incarnation)
        channel = self.channel = grpc.aio.insecure_channel(f"{HOST}:{self.port}", options=EAGER)
        self._channels.append(channel)
        self.stub = pb_grpc.FlagServiceStub(channel)
        self._watch = asyncio.create_task(self._until_ready(self.incarnation, channel, self._process))

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Stop it in order."""
        await self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it."""
        self.incarnation.pauses.append([time.monotonic(), NEVER])
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Unfreeze it."""
        self._signal(signal.SIGCONT)
        if self.incarnation.pauses:
            self.incarnation.pauses[-1][1] = time.monotonic()

    async def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            await self._end(signal.SIGKILL)
        for channel in self._channels:
            await channel.close()

    async def _end(self, how: signal.Signals) -> None:
        assert self._process
        self.ready.clear()
        self.incarnation.ended = min(self.incarnation.ended, time.monotonic())
        self._signal(how)
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(_END_S):
                while self._process.poll() is None:  # noqa: ASYNC110  a process sends no notification
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self._process.kill()
            self._process.wait()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def _until_ready(
        self, incarnation: Incarnation, channel: grpc.aio.Channel, process: subprocess.Popen[bytes]
    ) -> None:
        """Wait until health reports ready, learn the name, then watch that it does not end by itself."""
        health = health_pb2_grpc.HealthStub(channel)
        while not await _serves(health):
            if process.poll() is not None:
                break
            await asyncio.sleep(_POLL_S)
        else:
            incarnation.ready = time.monotonic()
            self.ready.set()
            await self._learn_name(incarnation)
        while process.poll() is None:  # noqa: ASYNC110  a process sends no notification
            await asyncio.sleep(_POLL_S)
        self.ready.clear()
        if incarnation.ended == NEVER:
            incarnation.ended, incarnation.crashed = time.monotonic(), True

    async def _learn_name(self, incarnation: Incarnation) -> None:
        for _ in range(_NAME_TRIES):
            try:
                answer = await self.stub.GetStatus(pb.GetStatusRequest(), metadata=self.access.root, timeout=_ASKED_S)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(_POLL_S)
            else:
                incarnation.name = answer.answered_by
                return


async def _serves(health: health_pb2_grpc.HealthAsyncStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=_ASKED_S)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module of this package in place of flagsvc."""
    return sys.executable, "-m", module, *arguments
