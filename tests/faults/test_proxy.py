"""Every mode of the proxy, in front of an echo server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from tests.faults.proxy import HOST, Proxy
from tests.replicas import until

SOON_S = 0.15


def greeting(name: str) -> bytes:
    """The relevant part of what a MongoDB driver with an appName sends first."""
    body = b"\x03application\x00\x18\x00\x00\x00\x02name\x00" + (len(name) + 1).to_bytes(4, "little")
    body += name.encode() + b"\x00\x00"
    return (len(body) + 4).to_bytes(4, "little") + body


class Echo(asyncio.Protocol):
    """Echoes what it receives, and ends when its client does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Listener(asyncio.Protocol):
    """Keeps what it receives, and leaves its own side open when the client's side ends."""

    heard: ClassVar[bytes] = b""
    ended: ClassVar[bool] = False
    last: ClassVar[asyncio.Transport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Listener.last = transport

    def data_received(self, data: bytes) -> None:
        Listener.heard += data

    def eof_received(self) -> bool:
        Listener.ended = True
        return True


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Echo, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def before_an_echo(label: str = "") -> AsyncIterator[Proxy]:
    async with echo() as port, through(port, label) as proxy:
        yield proxy


@asynccontextmanager
async def through(port: int, label: str) -> AsyncIterator[Proxy]:
    made = Proxy(port, label=label)
    await made.start()
    try:
        yield made
    finally:
        for caller in Caller.all:
            caller.writer.close()
        closed = [caller.writer.wait_closed() for caller in Caller.all]
        await made.close()
        await asyncio.gather(*closed, return_exceptions=True)
        Caller.all.clear()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """One listener for one client, as in front of Redis."""
    async with before_an_echo("replica-0") as made:
        yield made


@pytest.fixture
async def shared() -> AsyncIterator[Proxy]:
    """One listener for all clients, as in front of mongod."""
    async with before_an_echo() as made:
        yield made


class Caller:
    all: ClassVar[list[Caller]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        Caller.all.append(self)

    @staticmethod
    async def of(proxy: Proxy, name: str = "") -> Caller:
        caller = Caller(*await asyncio.open_connection(HOST, proxy.port))
        if name:
            await caller.says(greeting(name))
        return caller

    async def says(self, data: bytes, within_s: float = 5.0) -> float:
        """Send, wait for the echo, and return the seconds it took."""
        started = time.monotonic()
        self.writer.write(data)
        assert await asyncio.wait_for(self.reader.readexactly(len(data)), within_s) == data
        return time.monotonic() - started

    async def hears_nothing(self, data: bytes = b"hello") -> None:
        self.writer.write(data)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), SOON_S)

    async def sees_the_end(self) -> None:
        assert await asyncio.wait_for(self.reader.read(1), 5) == b""

    async def sees_a_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(self.reader.read(1), 5)


async def test_passes_data_both_ways_large_data_included(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    await caller.says(bytes(5_000_000))


async def test_passes_on_the_end_of_each_side(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    caller.writer.write(b"last")
    caller.writer.write_eof()
    assert await asyncio.wait_for(caller.reader.read(), 5) == b"last"


async def test_delays_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    proxy.delay("replica-0", 0.1, 0.05)
    assert 0.1 <= await caller.says(b"one") < 1
    for number in range(20):
        caller.writer.write(bytes([number]))
        await asyncio.sleep(0.002)
    assert await asyncio.wait_for(caller.reader.readexactly(20), 5) == bytes(range(20))
    await proxy.heal("replica-0")
    assert min([await caller.says(b"two") for _ in range(10)]) < 0.1


async def test_a_stall_forwards_and_closes_nothing_until_healed(proxy: Proxy) -> None:
    caller, leaver = await Caller.of(proxy), await Caller.of(proxy)
    await leaver.says(b"x")
    proxy.stall("replica-0")
    await caller.hears_nothing()
    leaver.writer.close()
    await asyncio.sleep(SOON_S)
    assert len(proxy.open("replica-0")) == 2
    late = await Caller.of(proxy)
    await late.hears_nothing(b"late")
    await proxy.heal("replica-0")
    assert await asyncio.wait_for(caller.reader.readexactly(5), 5) == b"hello"
    assert await asyncio.wait_for(late.reader.readexactly(4), 5) == b"late"


async def test_one_connection_can_be_stalled_alone(proxy: Proxy) -> None:
    one, other = await Caller.of(proxy), await Caller.of(proxy)
    await one.says(b"1")
    await other.says(b"2")
    proxy.open("replica-0")[0].stalled = True
    await one.hears_nothing()
    await other.says(b"3")
    await proxy.heal("replica-0")
    assert await asyncio.wait_for(one.reader.readexactly(5), 5) == b"hello"


async def test_a_cut_ends_both_sides_and_lets_new_connections_in(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    proxy.cut("replica-0")
    await caller.sees_the_end()
    await (await Caller.of(proxy)).says(b"again")


async def test_a_reset_is_seen_as_one(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    proxy.reset("replica-0")
    await caller.sees_a_reset()


async def test_the_way_back_shut_ends_what_the_client_receives_not_what_it_sends(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    proxy.half_close("replica-0", to_upstream=False)
    await caller.sees_the_end()
    assert proxy.open("replica-0")
    caller.writer.write(b"still there")
    await caller.writer.drain()


async def test_the_way_there_shut_alone_is_the_end_for_the_server(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    proxy.half_close("replica-0", to_upstream=True)
    await caller.sees_the_end()  # the server ends its side too, and that is passed on


async def test_the_way_there_shut_loses_what_is_sent_and_passes_the_answer() -> None:
    server = await asyncio.get_running_loop().create_server(Listener, HOST, 0)
    async with through(server.sockets[0].getsockname()[1], "replica-0") as proxy:
        caller = await Caller.of(proxy)
        caller.writer.write(b"before")
        await until(lambda: Listener.heard == b"before")
        proxy.half_close("replica-0", to_upstream=True)
        await until(lambda: Listener.ended)
        caller.writer.write(b"lost")
        await asyncio.sleep(SOON_S)
        Listener.last.write(b"answer")
        assert await asyncio.wait_for(caller.reader.readexactly(6), 5) == b"answer"
        assert Listener.heard == b"before"
    server.close()


async def test_refuses_new_connections_only_until_healed(proxy: Proxy) -> None:
    caller = await Caller.of(proxy)
    await caller.says(b"hello")
    await proxy.refuse("replica-0")
    with pytest.raises(ConnectionRefusedError):
        await Caller.of(proxy)
    await caller.says(b"still here")
    await proxy.heal("replica-0")
    await (await Caller.of(proxy)).says(b"again")


async def test_a_black_hole_accepts_and_never_answers(proxy: Proxy) -> None:
    proxy.black_hole("replica-0")
    caller = await Caller.of(proxy)
    await caller.hears_nothing()
    await proxy.heal("replica-0")
    await caller.hears_nothing()
    await (await Caller.of(proxy)).says(b"again")


async def test_a_server_that_is_absent_is_a_reset() -> None:
    async with before_an_echo("replica-0") as proxy:
        proxy.upstream_port = 1
        await (await Caller.of(proxy)).sees_a_reset()


async def test_clients_of_a_shared_listener_are_distinguished_by_their_name(shared: Proxy) -> None:
    one, tail = await Caller.of(shared, "replica-0"), await Caller.of(shared, "replica-0-tail")
    other, nobody = await Caller.of(shared, "replica-1"), await Caller.of(shared)
    await nobody.says(b"\x05\x00\x00\x00\x00")
    shared.stall("replica-0")
    await one.hears_nothing()
    for still in (tail, other, nobody):
        await still.says(b"\x05\x00\x00\x00\x01")
    assert shared.seen == {"replica-0": 1, "replica-0-tail": 1, "replica-1": 1, "": 1}


async def test_a_name_is_found_in_a_greeting_that_comes_in_pieces(shared: Proxy) -> None:
    caller, sent = await Caller.of(shared), greeting("replica-2")
    for place in range(0, len(sent), 7):
        caller.writer.write(sent[place : place + 7])
        await asyncio.sleep(0.005)
    assert await asyncio.wait_for(caller.reader.readexactly(len(sent)), 5) == sent
    assert shared.seen == {"replica-2": 1}


async def test_a_shared_listener_refuses_by_name(shared: Proxy) -> None:
    await shared.refuse("replica-0")
    refused = Caller(*await asyncio.open_connection(HOST, shared.port))
    refused.writer.write(greeting("replica-0"))
    await refused.sees_a_reset()
    await Caller.of(shared, "replica-1")
