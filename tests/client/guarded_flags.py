"""A flag server with a few flags, for tests of guards, and a service whose guard asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client import FlagClient as SyncClient
from flagsvc_client.guards import Rule
from flagsvc_client.guards import aio as aio_guards
from flagsvc_client.guards import sync as sync_guards

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.client.guarded_services import SERVICE, Seen, call, serving
from tests.replicas import Client, replica

ALL = f"/{SERVICE}/*"
ENABLED, DISABLED, BETA = types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED, types.FLAG_STATUS_BETA
PAID = '{"if": [{"==": [{"var": "plan"}, "paid"]}, "on", "off"]}'


class Flags:
    """The address of a running server, and short calls to it."""

    def __init__(self, target: str, client: Client) -> None:
        self.target = target
        self.stub, self.create, self.toggle = client.stub, client.create, client.toggle


@asynccontextmanager
async def flag_server(folder: Path) -> AsyncIterator[Flags]:
    """Flags that are on, off, BETA, on for a paid plan, and a text."""
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (client, server):
        await client.create("on", status=ENABLED)
        await client.create("off", status=DISABLED)
        await client.create("beta", status=BETA)
        await client.create("paid", status=ENABLED, targeting=PAID)
        await client.create("text", status=ENABLED, variants={"a": types.Value(string_value="a")}, default_variant="a")
        yield Flags(f"127.0.0.1:{server.port}", client)


@asynccontextmanager
async def guarded(
    form: str, target: str, rules: Mapping[str, str | Rule | None], *, local: bool = False, **options: Any
) -> AsyncIterator[tuple[grpc.aio.Channel, Seen]]:
    """The service behind a guard, which asks the server at `target` or its own copy; and a channel to the service."""
    if form == "sync":
        with SyncClient(target, local=local) as client:
            await asyncio.to_thread(client.wait_ready)
            guard: Any = sync_guards.FlagGuard(client, rules, **options)
            async with serving(form, (guard,)) as (address, seen), grpc.aio.insecure_channel(address) as channel:
                yield channel, seen
    else:
        async with AsyncFlagClient(target, local=local) as aio_client:
            await aio_client.wait_ready()
            guard = aio_guards.FlagGuard(aio_client, rules, **options)
            async with serving(form, (guard,)) as (address, seen), grpc.aio.insecure_channel(address) as channel:
                yield channel, seen


async def refused(channel: grpc.aio.Channel, kind: str, request: bytes = b"hello") -> grpc.aio.AioRpcError:
    """Call a method that must refuse."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(channel, kind, request)
    return failure.value
