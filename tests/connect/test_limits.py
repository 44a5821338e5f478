"""What bounds gRPC's calls bounds these too: slots, bytes before parsing, time for the message, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flagsvc.api.common import sending
from flagsvc.api.http import server as http
from flagsvc.core.errors import Stopping
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.connect.asking import OWN, V1, Asked, asking, framed, frames
from tests.providers.cases import SWITCH, flag
from tests.replicas import until

FAT = "x" * 60_000
STREAM_JSON = "application/connect+json"
BOOLEAN = f"{V1}/ResolveBoolean"


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    """A server with low limits. Each test leaves it as it was."""
    flags = [flag("switch", SWITCH, "on")]
    flags += [flag(f"fat{number:02}", {"on": FAT}, "on") for number in range(60)]
    limits: dict[str, Any] = {"max_calls": 20, "max_streams_per_peer": 2, "outstanding_bytes": 12_000_000}
    store = tmp_path_factory.mktemp("limits") / "flags.db"
    async with asking(store, flags, **limits) as small:
        yield small


async def test_evaluations_beyond_the_pool_are_refused_before_their_message_is_read(small: Asked) -> None:
    pool = small.server._admission.evaluations
    with contextlib.ExitStack() as taken:
        for _ in range(20):
            taken.enter_context(pool)
        refused = await small.post(BOOLEAN, b"not even read")
        assert (refused.status_code, refused.json()["code"]) == (429, "resource_exhausted")
        assert {"type": "google.rpc.RetryInfo", "value": "CgIIAQ"} in refused.json()["details"]
    assert (await small.post(BOOLEAN, {"flagKey": "switch"})).status_code == 200
    assert pool.taken == 0


async def test_a_caller_has_so_many_streams_over_all_protocols(small: Asked) -> None:
    streams = [small.grpc.stub.WatchFlags(pb.WatchFlagsRequest(paged_snapshots=True)) for _ in range(2)]
    for stream in streams:
        await stream.read()
    refused = await small.post(f"{OWN}/WatchFlags", framed(b"{}"), STREAM_JSON)
    error = json.loads(frames(refused.content)[0][1])["error"]
    assert error["code"] == "resource_exhausted"
    assert "ipv4:127.0.0.1 is at its limit of 2" in error["message"]
    for stream in streams:
        stream.cancel()
    await until(lambda: small.server._admission.in_progress == (0, 0))


async def test_bytes_and_values_are_limited_before_messages_are_made(small: Asked) -> None:
    long = {"flagKey": "switch", "context": {"x": "y" * 132_000}}
    many = {"flagKey": "switch", "context": {"x": [1] * 7_000}}
    deep: Any = 1
    for _ in range(40):
        deep = {"x": deep}
    for body in (long, many):
        refused = await small.post(BOOLEAN, body)
        assert (refused.status_code, refused.json()["code"]) == (429, "resource_exhausted"), "as over gRPC"
    own = await small.post(f"{OWN}/EvaluateFlag", {**long, "flagKey": "switch"})
    assert (own.status_code, own.json()["code"]) == (400, "invalid_argument")
    assert "at most 131072 bytes" in own.json()["message"]
    assert "32 deep" in (await small.post(BOOLEAN, {"flagKey": "switch", "context": deep})).json()["message"]


async def test_a_write_may_be_larger_and_has_its_own_limits(small: Asked) -> None:
    values = {str(number): {"integerValue": "1"} for number in range(21_000)}
    body = {"flag": {"key": "wide", "variants": {"on": {"objectValue": {"fields": values}}}}}
    refused = await small.post(f"{OWN}/CreateFlag", body)
    assert "at most 20000 fields and list elements" in refused.json()["message"]
    stored = await small.post(f"{OWN}/CreateFlag", {"flag": {"key": "large", "description": "d" * 200_000}})
    assert "description" in stored.json()["message"], "read, and refused for what is in it"


async def test_a_message_that_does_not_arrive_ends_the_call(tmp_path: Path) -> None:
    head = f"POST /{BOOLEAN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    async with asking(tmp_path / "flags.db", [], first_message_s=0.3) as asked:
        reader, writer = await asyncio.open_connection("127.0.0.1", asked.server.port)
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 504")
        writer.close()
        await until(lambda: asked.server.services.first_messages.waiting == 0)


async def test_a_server_that_stops_says_so_and_closes_the_connection(small: Asked) -> None:
    small.server._admission.gate.set(stopping=True)
    try:
        refused = await small.post(BOOLEAN, {"flagKey": "switch"})
    finally:
        small.server._admission.gate.set(stopping=False)
    assert (refused.status_code, refused.json()["message"]) == (503, str(Stopping()))
    assert refused.headers["connection"] == "close"


async def _unreading(asked: Asked, method: str, body: bytes, content_type: str) -> socket.socket:
    """Call a method and read nothing."""
    head = f"POST /{method} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", asked.server.port))
    await loop.sock_sendall(client, head.encode() + body)
    return client


async def test_unread_answers_are_counted_until_they_are_taken(small: Asked) -> None:
    outflow = small.server._outflow
    clients = [await _unreading(small, f"{V1}/ResolveAll", b"{}", "application/json") for _ in range(5)]
    heads = [await asyncio.get_running_loop().sock_recv(client, 12) for client in clients]
    assert set(heads) == {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert 3_000_000 < outflow.outstanding <= 9_000_000
    assert (await small.post(BOOLEAN, {"flagKey": "switch"})).status_code == 200
    for client in clients:
        client.close()
    await until(lambda: outflow.outstanding == 0)


async def test_a_stream_whose_client_does_not_read_ends(small: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "STALL_S", 0.2)
    monkeypatch.setattr(sending, "SLOWEST_BYTES_PER_S", 100_000_000)
    monkeypatch.setattr(http, "WRITE_S", 0.4)
    stalled = small.server._outflow.stalled
    client = await _unreading(small, f"{OWN}/WatchFlags", framed(b""), "application/connect+proto")
    await until(lambda: small.server._outflow.stalled == stalled + 1)
    await until(lambda: small.server._admission.in_progress == (0, 0))
    await until(lambda: small.server._outflow.outstanding == 0)
    client.close()


async def test_a_client_that_leaves_ends_the_work_for_it(small: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def for_ever(*_: object) -> AsyncIterator[Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.set()

    reader = small.server.services._evaluation._reader
    monkeypatch.setattr(reader, "evaluate_set", for_ever)
    client = await _unreading(small, f"{V1}/ResolveAll", b"{}", "application/json")
    await asyncio.wait_for(begun.wait(), 10)
    client.close()
    await asyncio.wait_for(ended.wait(), 10)
    await until(lambda: small.server._admission.in_progress == (0, 0))
