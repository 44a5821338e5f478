"""The management port: it answers while the main event loop is blocked, and costs that loop a bounded share."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flagsvc import health, management
from flagsvc.api.http import server as http
from flagsvc.management import Shared
from flagsvc.server import Server
from tests.replicas import Client, Process, replica, until, until_serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Client, Server]]:
    """A server in this process, whose event loop the test blocks."""
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", management_port=0) as (client, server):
        await until_serving(client)
        yield client, server


def fetch(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def blocked_while(work: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Block this thread, and so its event loop, until the work of another thread is done."""
    with ThreadPoolExecutor(1) as pool:
        found: Future[tuple[int, str]] = pool.submit(work)
        return found.result(timeout=20)


async def test_a_blocked_loop_is_seen_and_its_metrics_are_not_waited_for(
    served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STUCK_AFTER_S", 0.3)
    monkeypatch.setattr(management, "MAIN_LOOP_S", 0.2)
    port = served[1].management_port
    assert await asyncio.to_thread(fetch, port, "/healthz") == (200, "ok\n")

    def until_stuck() -> tuple[int, str]:
        while (found := fetch(port, "/healthz"))[0] == 200:
            time.sleep(0.01)
        return found

    assert blocked_while(until_stuck) == (503, "stuck\n")
    assert blocked_while(lambda: fetch(port, "/readyz")) == (200, "ready\n"), "readiness is as last published"
    code, text = blocked_while(lambda: fetch(port, "/metrics"))
    assert (code, text) == (503, "the event loop has not answered for 0.2 s; see /healthz\n")
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(fetch, port, "/healthz") == (200, "ok\n")
    assert (await asyncio.to_thread(fetch, port, "/metrics"))[0] == 200


async def test_many_scrapes_at_once_share_their_pages(
    served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = served
    await client.create("a")
    for _ in range(3):
        await client.evaluate("a")
    collected = 0
    samples = server._metrics.samples

    def counted() -> object:
        nonlocal collected
        collected += 1
        return samples()

    monkeypatch.setattr(server._metrics, "samples", counted)
    asked = [asyncio.to_thread(fetch, server.management_port, "/metrics") for _ in range(64)]
    pages = await asyncio.gather(*asked)
    assert {code for code, _ in pages} == {200}
    assert all('flagsvc_flag_evaluations_total{flag_key="a",flag_set="default"} 3.0' in page for _, page in pages)
    assert collected < 32, "each scrape had a page of its own"


async def test_who_waits_shares_a_run_that_begins_later() -> None:
    runs: list[asyncio.Event] = []

    async def make() -> bytes:
        runs.append(asyncio.Event())
        number = len(runs)
        await runs[-1].wait()
        return str(number).encode()

    shared = Shared(make)
    first = [asyncio.create_task(shared.result()) for _ in range(10)]
    await until(lambda: len(runs) == 1)
    later = [asyncio.create_task(shared.result()) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(runs) == 1, "one run at a time"
    runs[0].set()
    assert await asyncio.gather(*first) == [b"1"] * 10
    await until(lambda: len(runs) == 2)
    runs[1].set()
    assert await asyncio.gather(*later) == [b"2"] * 10


async def test_a_page_in_pieces_is_the_whole_page(served: tuple[Client, Server]) -> None:
    client, server = served
    for number in range(120):
        await client.create(f"flag-{number}")
        await client.evaluate(f"flag-{number}")
    code, page = await asyncio.to_thread(fetch, server.management_port, "/metrics")
    lines = page.splitlines()
    assert code == 200
    assert sum(line.startswith("flagsvc_flag_evaluations_total{") for line in lines) == 120
    heads = [line for line in lines if line.startswith("#")]
    assert len(heads) == len(set(heads)) > 40


async def test_idle_connections_give_way_to_a_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(http, "HEADERS_S", 60.0)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", management_port=0) as (_, server):
        idle = [await asyncio.open_connection("127.0.0.1", server.management_port) for _ in range(9)]
        assert await asyncio.to_thread(fetch, server.management_port, "/healthz") == (200, "ok\n")
        first = await asyncio.wait_for(idle[0][0].read(), 10)
        assert first == b"", "the oldest was closed"
        for _, writer in idle:
            writer.close()


async def test_only_get_and_head(served: tuple[Client, Server]) -> None:
    port = served[1].management_port
    assert await asyncio.to_thread(fetch, port, "/healthz", method="HEAD") == (200, "")
    assert (await asyncio.to_thread(fetch, port, "/healthz", method="POST"))[0] == 405


async def test_connections_that_are_reset_leave_no_traceback(tmp_path: Path) -> None:
    with Process("--store", f"sqlite:///{tmp_path}/flags.db", FLAGSVC_DRAIN_S="0") as server:
        client = Client(server.address)
        await until_serving(client)
        for request in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", server.management_port)) as connection:
                    connection.sendall(request)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert (await asyncio.to_thread(fetch, server.management_port, "/healthz"))[0] == 200
        await client.channel.close()
        server.terminate()
        assert server.process
        _, errors = await asyncio.to_thread(server.process.communicate, timeout=10)
        assert "Traceback" not in errors


@pytest.mark.parametrize(("host", "management_host"), [("::", ""), ("127.0.0.1", "::1")])
async def test_ipv6_on_every_port_and_an_address_of_its_own(tmp_path: Path, host: str, management_host: str) -> None:
    options = {"auth": "off", "management_port": 0, "sync_port": 0, "ofrep_port": 0}
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store, host=host, management_host=management_host, **options) as (client, server):
        await until_serving(client)  # by IPv4: `::` listens on both
        assert (await asyncio.to_thread(fetch, server.management_port, "/readyz", "[::1]"))[0] == 200
        own = "::1" if host == "::" else host
        for port in (server.port, server.sync_port, server.ofrep_port):
            socket.create_connection((own, port), timeout=5).close()
        if management_host:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, server.management_port), timeout=5)
