# ruff: noqa: T201  what the caller saw is read with -rP
"""What a caller sees on bad days: the default, soon, with a reason; never a hang, a leak or a traceback."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flagsvc_client import (
    AsyncFlagClient,
    Change,
    ErrorCode,
    EvaluationDetails,
    Flag,
    FlagServiceError,
    Reason,
    Snapshot,
    Source,
)

from tests.certificates import Authority
from tests.client.forms import FORMS, Asked, asked
from tests.faults.proxy import Proxy
from tests.replicas import Process, replica
from tests.servers import free_port

SOON_S = 2.0
AT_ONCE = 2_000
"""Calls: four times as many as a connection takes."""
pytestmark = pytest.mark.parametrize("form", FORMS)


async def seen(client: Asked, day: str, code: ErrorCode, *, within_s: float = SOON_S) -> EvaluationDetails[bool]:
    """Evaluate, and check that the default is returned soon, with an explanation."""
    began = time.monotonic()
    found = await client.details("a", default=True)
    took = time.monotonic() - began
    print(f"{day}, {client.form}: {found.value} after {took * 1000:.0f} ms, {found.error_code}: {found.error_message}")
    assert (found.value, found.variant, found.reason, found.error_code) == (True, None, Reason.ERROR, code)
    assert took < within_s
    assert "Traceback" not in found.error_message
    assert await client.is_enabled("a") is False
    assert (await client.batch(["a", "b"]))["b"].error_code is code
    return found


async def until_right(client: Asked, seconds: float = 10.0) -> float:
    """Wait until the flag is evaluated; return the seconds it took."""
    began = time.monotonic()
    while not await client.is_enabled("a"):
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[Process]:
    """A separate server with flag a on, not started."""
    store = f"sqlite:///{folder}/flags.db"
    async with replica(store_url=store) as (client, _):
        await client.create("a", status=1)
    server = Process("--store", store, FLAGSVC_DRAIN_S="0")
    try:
        yield server
    finally:
        if server.process is not None:
            server.kill()


async def test_down_at_start_later_and_back(form: str, tmp_path: Path) -> None:
    async with process(tmp_path) as server, asked(form, server.address) as client:
        await seen(client, "down at start", ErrorCode.PROVIDER_NOT_READY)
        with pytest.raises(FlagServiceError) as failed:
            await client.toggle("a", True)
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE
        server.start()
        print(f"started, {form}: right after {await until_right(client):.1f} s")
        server.kill()
        await seen(client, "down later", ErrorCode.PROVIDER_NOT_READY)
        server.start()
        print(f"restarted, {form}: right after {await until_right(client):.1f} s")
        server.pause()
        await seen(client, "frozen", ErrorCode.PROVIDER_NOT_READY)
        server.resume()
        await until_right(client)


async def test_slow_accepts_and_never_answers(form: str) -> None:
    async with listening(nothing) as target, asked(form, target) as client:
        await seen(client, "never answers", ErrorCode.PROVIDER_NOT_READY)


async def test_wrong_port_where_something_else_answers(form: str) -> None:
    async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with listening(web) as target, asked(form, target) as client:
        await seen(client, "a web server", ErrorCode.PROVIDER_NOT_READY)


async def test_tls_against_plaintext_and_the_reverse(form: str, tmp_path: Path) -> None:
    authority = Authority()
    async with (
        replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (_, server),
        asked(form, f"127.0.0.1:{server.port}", credentials=authority.credentials()) as client,
    ):
        await seen(client, "TLS against plaintext", ErrorCode.PROVIDER_NOT_READY)
    signed = authority.sign()
    secure = grpc.aio.server()
    port = secure.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(signed.key_pem, signed.pem)]))
    await secure.start()
    async with asked(form, f"127.0.0.1:{port}") as client:
        await seen(client, "plaintext against TLS", ErrorCode.PROVIDER_NOT_READY)
    await secure.stop(None)


async def test_a_proxy_that_cuts_streams_loses_no_change(form: str, tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (direct, server):
        await direct.create("a")
        proxy = Proxy(server.port, label="flagsvc")
        await proxy.start()
        async with asked(form, f"127.0.0.1:{proxy.port}") as client:
            events = client.watched()
            known: Flag | None = None
            for number in range(5):
                if number:
                    proxy.cut("flagsvc")
                changed = await direct.toggle("a", number % 2 == 0)
                while known is None or known.revision < changed.revision:
                    event = await asyncio.wait_for(anext(events), 10)
                    known = event.flags[0] if isinstance(event, Snapshot) else event.flag
                    assert isinstance(event, Snapshot | Change)
            await events.aclose()
        await proxy.close()


async def test_a_newer_server_with_unknown_fields_reasons_and_kinds(form: str) -> None:
    # field 1 evaluation { 1 key, 4 reason 77, 8 revision 3, 12 status 55, 99 text, 2 value { 44 text } , 3 variant }
    inner = b"\x0a\x01a\x12\x05\xe2\x02\x02hi\x1a\x01v\x20\x4d\x40\x03\x60\x37\x9a\x06\x01z"
    answer = b"\x0a" + bytes([len(inner)]) + inner + b"\x9a\x06\x01z"

    async def evaluate(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    handlers = {"EvaluateFlag": grpc.unary_unary_rpc_method_handler(evaluate)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("flagsvc.v1.FlagService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with asked(form, f"127.0.0.1:{port}") as client:
        found = await client.details("a", default=True)
        assert (found.value, found.error_code, found.revision, found.status) == (True, ErrorCode.TYPE_MISMATCH, 3, "")
        inner = b"\x0a\x01a" + b"\x12\x02\x10\x01" + b"\x1a\x02on" + b"\x20\x4d" + b"\x48\x63"
        answer = b"\x0a" + bytes([len(inner)]) + inner
        found = await client.details("a", default=False)
        assert (found.value, found.reason, found.source) == (True, Reason.UNKNOWN, Source.NONE)
    await server.stop(None)


async def test_very_many_calls_at_once(form: str, tmp_path: Path) -> None:
    async with process(tmp_path) as server, asked(form, server.address, timeout_s=60.0) as client:
        server.start()
        await until_right(client, 30)
        if form == "aio":
            answers = await asyncio.gather(*(client.is_enabled("a") for _ in range(AT_ONCE)))
        else:
            answers = await asyncio.to_thread(in_threads, lambda: client.client.is_enabled("a"))
        print(f"very many calls at once, {form}: {sum(answers)} right of {len(answers)}")
        assert answers == [True] * (AT_ONCE if form == "aio" else 1_000)


def in_threads(ask: Callable[[], bool]) -> list[bool]:
    """Evaluate 1,000 times in 200 threads, so 200 at once."""
    answers: list[bool] = []

    def many() -> None:
        answers.extend([ask() for _ in range(5)])

    threads = [threading.Thread(target=many) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


FORKED = """
import asyncio, os, sys
from flagsvc_client import FlagClient, FlagServiceError
from flagsvc_client import AsyncFlagClient
form, target, used = sys.argv[1], sys.argv[2], sys.argv[3] == "used"
client = (AsyncFlagClient if form == "aio" else FlagClient)(target, timeout_s=5.0)
if form == "aio":
    def ask(): return asyncio.run(client.details("a", default=False))
else:
    def ask(): return client.details("a", default=False)
if used: assert ask().value is True
child = os.fork()
if not child:
    found = ask()
    print(found.value, found.error_code, found.error_message, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("used", ["used", "new"])
async def test_a_fork(form: str, tmp_path: Path, used: str) -> None:
    async with process(tmp_path) as server:
        server.start()
        async with asked(form, server.address) as client:
            await until_right(client, 30)
        command = [sys.executable, "-W", "ignore", "-c", FORKED, form, server.address, used]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    print(f"forked when {used}, {form}: {done.stdout.strip()}")
    if used == "used":
        assert (
            "PROVIDER_NOT_READY this client cannot be used: it was used in" in done.stdout
            or "before a fork" in done.stdout
        )
    else:
        assert done.stdout.startswith("True None")
    assert "Traceback" not in done.stderr


async def test_a_closed_client_and_a_closed_loop(form: str, tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (direct, server):
        await direct.create("a", status=1)
        target = f"127.0.0.1:{server.port}"
        async with asked(form, target, timeout_s=5.0) as client:
            assert await client.is_enabled("a")
        await seen(client, "closed", ErrorCode.PROVIDER_NOT_READY)
        with pytest.raises(FlagServiceError, match="it is closed"):
            await client.toggle("a", True)
        if form == "aio":  # its loop is closed, and another one takes over
            other = AsyncFlagClient(target, timeout_s=5.0)
            assert await asyncio.to_thread(lambda: asyncio.run(other.is_enabled("a")))
            found = await other.details("a", default=False)
            assert (found.value, found.error_code) == (True, None)
            await other.close()


async def test_nothing_is_left_behind(form: str, tmp_path: Path) -> None:
    async with process(tmp_path) as server:
        server.start()
        async with asked(form, server.address) as client:
            await until_right(client, 30)
        tasks = len(asyncio.all_tasks())
        for local in (False, True):
            async with asked(form, server.address, local=local) as client:
                await client.wait_ready()
                events = client.watched()
                await anext(events)
                await events.aclose()
        gc.collect()
        began = time.monotonic()
        while len(asyncio.all_tasks()) > tasks or any(t.name.startswith("flagsvc") for t in threading.enumerate()):
            assert time.monotonic() - began < 10, (asyncio.all_tasks(), threading.enumerate())
            await asyncio.sleep(0.05)


async def nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accept and never answer."""


@asynccontextmanager
async def listening(answer: Callable[..., Any]) -> AsyncIterator[str]:
    """A listener; `answer` handles its connections."""

    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await answer(reader, writer)

    port = free_port()
    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)
