"""A second deployment on the same Redis during a whole run: its own store, the same flags, other values."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import subprocess
from pathlib import Path

import grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.faults.poison import STRANGERS
from tests.faults.record import Story
from tests.replicas import EAGER, FLAGSVC
from tests.servers import HOST, free_port

DATABASE = 1
"""Of Redis; its channels are common to all databases."""
_PAUSE_S = 0.2
_READY_S = 30.0
_DEADLINE_S = 5.0


class Neighbour:
    """One replica of another deployment, which writes and reads the same flags in a store of its own."""

    def __init__(self, story: Story, folder: Path, redis_port: int, seed: int) -> None:
        self._story, self._folder = story, folder
        self._random = random.Random(seed)
        self._port = free_port()
        self._cache = f"redis://{HOST}:{redis_port}/{DATABASE}"
        self._values = itertools.count(STRANGERS + 1)
        self._possible: dict[str, list[int]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """Start the process, create its flags, and begin to use them."""
        self._launch()
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{self._port}", options=EAGER)
        stub = pb_grpc.FlagServiceStub(self._channel)
        async with asyncio.timeout(_READY_S):
            await self._channel.channel_ready()
        for flag in self._story.flags:
            await self._create(stub, flag)
        self._task = asyncio.create_task(self._go_on(stub))

    def _launch(self) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
        own = {"FLAGSVC_STORE_URL": f"sqlite:///{self._folder}/neighbour.db", "FLAGSVC_CACHE_URL": self._cache}
        own |= {f"FLAGSVC_{name}_PORT": "-1" for name in ("MANAGEMENT", "SYNC", "OFREP")}
        own |= {"FLAGSVC_HOST": HOST, "FLAGSVC_PORT": str(self._port), "FLAGSVC_LOG_FORMAT": "json"}
        setpriv = shutil.which("setpriv")
        command = [*((setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()), str(FLAGSVC), "serve"]
        with (self._folder / "neighbour.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**plain, **own}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _create(self, stub: pb_grpc.FlagServiceAsyncStub, flag: str) -> None:
        value = next(self._values)
        made = types.Flag(key=flag, status=types.FLAG_STATUS_ENABLED, default_variant="v", variants=_variants(value))
        await stub.CreateFlag(pb.CreateFlagRequest(flag=made), timeout=_DEADLINE_S, wait_for_ready=True)
        self._possible[flag] = [value]

    async def _go_on(self, stub: pb_grpc.FlagServiceAsyncStub) -> None:
        while True:
            flag = self._random.choice(self._story.flags)
            try:
                await self._change(stub, flag)
                await self._ask(stub, flag)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # as on a machine without CPU
                    self._wrong(f"a call about {flag} failed: {error.code().name}: {error.details()}")
            await asyncio.sleep(_PAUSE_S)

    async def _change(self, stub: pb_grpc.FlagServiceAsyncStub, flag: str) -> None:
        value = next(self._values)
        self._possible[flag].append(value)  # also where the answer is lost
        update = pb.UpdateFlagRequest(flag=types.Flag(key=flag, variants=_variants(value)))
        update.update_mask.paths.append("variants")
        await stub.UpdateFlag(update, timeout=_DEADLINE_S)
        self._possible[flag] = [value]

    async def _ask(self, stub: pb_grpc.FlagServiceAsyncStub, flag: str) -> None:
        answer = await stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key=flag), timeout=_DEADLINE_S)
        value = answer.evaluation.value.integer_value
        self._story.neighbour_answers += 1
        if value not in self._possible[flag]:
            self._wrong(f"{flag} has value {value} there instead of {self._possible[flag]}")

    def _wrong(self, text: str) -> None:
        self._story.neighbour_wrong.append(text)


def _variants(value: int) -> dict[str, types.Value]:
    return {"v": types.Value(integer_value=value)}
