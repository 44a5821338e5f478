"""The HTTP server: its port, connections, bounds, CORS, load and errors."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from flagsvc.api.http import bodies
from flagsvc.api.http import server as http
from tests.ofrep.asking import FLAGS_PATH, Asked, asking
from tests.ofrep.conftest import FEW
from tests.replicas import replica, until

ORIGIN = "https://app.example"
HEAD = f"POST {FLAGS_PATH}/switch HTTP/1.1\r\nHost: x\r\n".encode()


@contextlib.asynccontextmanager
async def connected(asked: Asked) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", asked.server.ofrep_port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_without_a_port_there_is_no_ofrep(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", ofrep_port=-1) as (_, server):
        assert server.ofrep_port == 0


async def test_a_connection_serves_many_calls_without_delay(few: Asked) -> None:
    took = [1.0]
    async with httpx.AsyncClient(
        base_url=few.http.base_url, limits=httpx.Limits(max_connections=1), timeout=10
    ) as client:
        for number in range(600):
            if min(took) < 0.03:
                break
            began = time.monotonic()
            found = await client.post(f"{FLAGS_PATH}/switch", json={"context": {"country": "CH"}})
            assert "connection" not in found.headers
            if number >= 30:
                took.append(time.monotonic() - began)
    assert min(took) < 0.03, "each answer waits for an acknowledgement of its first packet"


async def test_what_is_not_http_is_refused(few: Asked) -> None:
    async with connected(few) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    async with connected(few) as (reader, writer):
        writer.write(HEAD + b"X-Long: " + b"x" * 20_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
async def test_an_unfinished_head_ends_the_connection(few: Asked, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http, "HEADERS_S", 0.3)
    async with connected(few) as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_head_has_its_time_on_a_connection_in_use_too(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(few) as (reader, writer):
        for headers_s in (http.HEADERS_S, 0.3):
            monkeypatch.setattr(http, "HEADERS_S", headers_s)
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}}")
        await asyncio.sleep(0.6)  # an idle connection may stay
        writer.write(HEAD)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_body_that_does_not_arrive_is_408(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.3)
    async with connected(few) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer.lower()


async def test_bodies_that_have_arrived_in_part_are_bounded_together(few: Asked) -> None:
    few.server._ofrep.bodies._limit = 1_000
    part = HEAD + b"Content-Length: 900\r\n\r\n" + b" " * 600
    async with connected(few) as (_, first), connected(few) as (reader, second):
        first.write(part)
        await until(lambda: few.server._ofrep.bodies.held == 600)
        second.write(part)
        assert (await reader.readline()).startswith(b"HTTP/1.1 429")
        assert (await few.one("switch")).status_code == 200
    await until(lambda: few.server._ofrep.bodies.held == 0)


async def test_a_client_that_reads_no_answers_is_disconnected(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WRITE_S", 0.3)
    before = few.server._admission.in_progress
    key = "x" * 8_000  # the answer has it twice, so that a few hundred answers fill the buffers between the two
    request = f"POST {FLAGS_PATH}/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()

    async def ask_without_end(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(request * 20)
            await writer.drain()

    async with connected(few) as (_, writer):
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_without_end(writer), 20)
    assert few.server._admission.in_progress == before


async def test_a_caller_that_disconnects_in_the_middle_costs_nothing(few: Asked) -> None:
    admission = few.server._admission
    before = admission.in_progress
    for sent in (HEAD + b"Content-Length: 10\r\n\r\n{", HEAD + b"Content-Length: 0\r\n\r\n"):
        async with connected(few) as (_, writer):
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.05)
    await until(lambda: admission.in_progress == before)


async def test_too_many_calls_are_refused_with_retry_after(tmp_path: Path) -> None:
    async with asking(tmp_path / "flags.db", FEW, max_calls=1, max_streams=1) as asked:
        with asked.server._admission.ofrep:
            for refused in (await asked.one("switch"), await asked.all()):
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
                assert "retry later" in refused.json()["errorDetails"]
            assert (await asked.grpc.evaluate("switch")).variant == "on", "gRPC has slots of its own"
        assert (await asked.one("switch")).status_code == 200
        async with asked.events() as stream:
            await stream.opened()
            refused = await asked.http.get("/ofrep/v1/sse")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert (await asked.one("switch")).status_code == 200, "streams and calls are counted apart"
        await until(lambda: asked.server._admission.in_progress == (0, 0))
        async with asked.events() as stream:
            assert stream.response.status_code == 200


async def test_during_a_stop_callers_are_sent_elsewhere(few: Asked) -> None:
    few.server._admission.gate.set(stopping=True)
    found = await few.one("switch")
    few.server._admission.gate.set(stopping=False)
    assert (found.status_code, found.headers["connection"]) == (503, "close")
    assert "another replica" in found.json()["errorDetails"]


async def test_an_internal_error_shows_only_a_request_id(few: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ValueError("mongodb://user:secret@host")

    monkeypatch.setattr(few.server.replica.reader, "evaluate", broken)
    found = await few.one("switch")
    assert found.status_code == 500
    assert found.json()["errorDetails"].startswith("an internal error occurred; request id ")
    assert "secret" not in found.text


async def test_calls_and_evaluations_are_counted(few: Asked) -> None:
    await few.one("color")
    await few.one("nowhere")
    await few.all()
    async with few.events() as stream:
        await stream.opened()
        page = few.server._metrics.page().decode()
        assert "flagsvc_ofrep_streams 1.0" in page
    assert 'flagsvc_call_seconds_count{code="200",method="ofrep/Evaluate"} 1.0' in page
    assert 'flagsvc_call_seconds_count{code="404",method="ofrep/Evaluate"} 1.0' in page
    assert 'flagsvc_call_seconds_count{code="200",method="ofrep/EvaluateAll"} 1.0' in page
    assert 'flagsvc_flag_evaluations_total{flag_key="color",flag_set="default"} 2.0' in page


async def preflight(asked: Asked, origin: str) -> httpx.Response:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "content-type, if-none-match, flagd-selector"
    return await asked.http.options(FLAGS_PATH, headers=asks)


async def test_no_page_of_another_origin_may_call_unless_it_is_named(few: Asked) -> None:
    assert (await preflight(few, ORIGIN)).status_code == 405
    assert "access-control-allow-origin" not in (await few.all(Origin=ORIGIN)).headers


async def test_pages_of_named_origins_may_call(tmp_path: Path) -> None:
    async with asking(tmp_path / "flags.db", FEW, cors_origins=f"{ORIGIN}, http://localhost:3000") as asked:
        allowed = await preflight(asked, ORIGIN)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "if-none-match" in allowed.headers["access-control-allow-headers"]
        found = await asked.all(Origin="http://localhost:3000")
        assert found.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "ETag" in found.headers["access-control-expose-headers"]
        missing = await asked.one("nowhere", Origin=ORIGIN)
        assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, ORIGIN)
        async with asked.events(Origin=ORIGIN) as stream:
            assert stream.response.headers["access-control-allow-origin"] == ORIGIN
        assert (await preflight(asked, "https://evil.example")).status_code == 400
        assert "access-control-allow-origin" not in (await asked.all(Origin="https://evil.example")).headers


async def test_pages_of_all_origins_may_call(tmp_path: Path) -> None:
    async with asking(tmp_path / "flags.db", FEW, cors_origins="*") as asked:
        assert (await preflight(asked, ORIGIN)).status_code == 200
        assert (await asked.all(Origin=ORIGIN)).headers["access-control-allow-origin"] == "*"
