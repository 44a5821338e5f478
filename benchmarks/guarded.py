"""Replicas that authenticate their callers: real MongoDB replica set, real Redis, tokens made on the store."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from flagsvc.access.token_writer import Grant, issued
from flagsvc.core.access.identity import UNCHECKED
from flagsvc.core.access.roles import Role
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import Headers, bearer, stored
from tests.replica_sets import ReplicaSet
from tests.replicas import EAGER, Process
from tests.servers import RedisServer, versions

FLAG = "flag"
READY_S = 30.0
OWN_CONNECTION = (*EAGER, ("grpc.use_local_subchannel_pool", 1))


def machine() -> str:
    """Name what was measured with, without addresses."""
    return f"{versions()}, grpcio {grpc.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs"


class Guarded:
    """Replicas with one flag, and what callers need. `root`: the headers of an admin."""

    def __init__(self, processes: list[Process], redis: RedisServer, store_url: str, root: Headers) -> None:
        self.processes, self.redis, self.store_url, self.root = processes, redis, store_url, root
        self.channels = [self.connect(number) for number in range(len(processes))]

    def connect(self, number: int) -> grpc.aio.Channel:
        """Return one more connection to a replica."""
        return grpc.aio.insecure_channel(self.processes[number].address, options=OWN_CONNECTION)

    def flags(self, number: int) -> pb_grpc.FlagServiceAsyncStub:
        """Return the stub of a replica."""
        return pb_grpc.FlagServiceStub(self.channels[number])

    def tokens(self, number: int) -> tokens_grpc.TokenServiceAsyncStub:
        """Return the stub of a replica for tokens."""
        return tokens_grpc.TokenServiceStub(self.channels[number])

    async def name(self, number: int) -> str:
        """Return how answers name a replica."""
        return (await self.flags(number).GetStatus(pb.GetStatusRequest(), metadata=self.root, timeout=5)).answered_by


def grant(name: str, role: Role, *flag_sets: str, rate: int = 0) -> tuple[Any, str]:
    """Return a token for a store, and its text. Without flag sets it is for all."""
    return issued(UNCHECKED, Grant(name, role, flag_sets or ("*",), rate=rate))


@asynccontextmanager
async def guarded(count: int = 3, mongods: int = 3, **environment: str) -> AsyncIterator[Guarded]:
    """Run replicas; all is ready, and one flag is on. `environment`: settings without their prefix."""
    settings = {"AUTH": "required", "LOG_LEVEL": "error"} | environment
    async with AsyncExitStack() as stack:
        store, redis = stack.enter_context(ReplicaSet(mongods)), stack.enter_context(RedisServer())
        store_url = store.database_url("bench")
        root, text = grant("operator", Role.ADMIN)
        await stored(store_url, root)
        named = {f"FLAGSVC_{name}": value for name, value in settings.items()}
        arguments = ("--store", store_url, "--cache", redis.url)
        processes = [stack.enter_context(Process(*arguments, **named)) for _ in range(count)]
        found = Guarded(processes, redis, store_url, bearer(text))
        try:
            for number in range(count):
                await _until_ready(found, number)
            flag = types.Flag(key=FLAG, status=types.FLAG_STATUS_ENABLED)
            created = pb.CreateFlagRequest(flag=flag, wait_for=pb.WRITE_LEVEL_APPLIED)
            await found.flags(0).CreateFlag(created, metadata=found.root, timeout=READY_S)
            await _until_all_are_known(found)
            yield found
        finally:
            for channel in found.channels:
                await channel.close()


async def _until_ready(found: Guarded, number: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                await found.name(number)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return


async def _until_all_are_known(found: Guarded) -> None:
    """Wait until every replica knows of the others."""
    async with asyncio.timeout(READY_S):
        for number in range(len(found.processes)):
            while True:
                status = await found.flags(number).GetStatus(pb.GetStatusRequest(), metadata=found.root, timeout=5)
                if len(status.replicas) == len(found.processes):
                    break
                await asyncio.sleep(0.1)
