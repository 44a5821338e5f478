"""A server in this process, and a plain HTTP client of the HTTP/1.1 side of its gRPC port."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import Client, replica, until_serving

V1, V2, SCHEMA = "flagd.evaluation.v1.Service", "flagd.evaluation.v2.Service", "schema.v1.Service"
OWN = "flagsvc.v1.FlagService"
JSON = "application/json"


@dataclass
class Asked:
    http: httpx.AsyncClient
    grpc: Client
    server: Server

    async def post(
        self, method: str, body: bytes | dict[str, Any], content_type: str = JSON, **headers: str
    ) -> httpx.Response:
        """Call a method, `SERVICE/METHOD`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"/{method}", content=content, headers={"content-type": content_type, **named})


@asynccontextmanager
async def asking(store: Path, flags: list[types.Flag], **settings: Any) -> AsyncIterator[Asked]:
    async with replica(store_url=f"sqlite:///{store}", **settings) as (client, server):
        await until_serving(client)
        for flag in flags:
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as http:
            yield Asked(http, client, server)


def framed(message: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(message)) + message


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """Return the messages of a framed body, each with its flags."""
    found = []
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + size]))
        body = body[5 + size :]
    return found
