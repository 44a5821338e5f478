"""A server in this process, a plain HTTP client of its OFREP port, and a gRPC client that changes its flags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import Client, replica, until_serving

FLAGS_PATH = "/ofrep/v1/evaluate/flags"
EVENTS_PATH = "/ofrep/v1/sse"


@dataclass
class Asked:
    """`http` calls OFREP, `grpc` calls FlagService."""

    http: httpx.AsyncClient
    grpc: Client
    server: Server

    async def one(self, key: str, context: Any = None, **headers: str) -> httpx.Response:
        body = {} if context is None else {"context": context}
        return await self.http.post(f"{FLAGS_PATH}/{key}", json=body, headers=_named(headers))

    async def all(self, context: Any = None, query: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        body = {} if context is None else {"context": context}
        return await self.http.post(FLAGS_PATH, json=body, headers=_named(headers), params=query or {})

    async def set_default(self, key: str, variant: str, flag_set: str = "") -> int:
        """Change a flag and return its revision."""
        changed = types.Flag(key=key, flag_set=flag_set, default_variant=variant)
        request = pb.UpdateFlagRequest(flag=changed)
        request.update_mask.paths.append("default_variant")
        return (await self.grpc.stub.UpdateFlag(request, timeout=10)).flag.revision

    @asynccontextmanager
    async def events(self, query: dict[str, str] | None = None, **headers: str) -> AsyncIterator[EventStream]:
        """Follow the event stream."""
        timeout = httpx.Timeout(10)
        async with self.http.stream(
            "GET", EVENTS_PATH, params=query or {}, headers=_named(headers), timeout=timeout
        ) as response:
            yield EventStream(response)


class EventStream:
    """An event stream as EventSource reads it: `id` is remembered, also of what is no event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.id = ""

    async def block(self) -> dict[str, str]:
        """Return the next block of fields. Raises StopAsyncIteration at the end."""
        fields: dict[str, str] = {}
        while True:
            line = await anext(self._lines)
            if not line and fields:
                self.id = fields.get("id", self.id)
                return fields
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()

    async def opened(self) -> None:
        """Read the beginning that every stream has."""
        assert "retry" in await self.block()

    async def event(self, seconds: float = 10) -> dict[str, Any]:
        """Return the data of the next event."""
        async with asyncio.timeout(seconds):
            while "data" not in (fields := await self.block()):
                pass
        assert fields["event"] == "message"
        return json.loads(fields["data"])

    async def nothing(self, seconds: float = 0.3) -> None:
        """Assert that no event arrives for a while."""
        try:
            event = await self.event(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected event {event}")


@asynccontextmanager
async def asking(store: Path, flags: Iterable[types.Flag] = (), **settings: Any) -> AsyncIterator[Asked]:
    """Serve a new SQLite store with these flags."""
    async with replica(**{"store_url": f"sqlite:///{store}", "ofrep_port": 0, **settings}) as (client, server):
        await until_serving(client)
        for flag in flags:
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
            yield Asked(http, client, server)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
