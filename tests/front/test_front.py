"""The gRPC port: HTTP/1.1 and HTTP/2 told apart, connections counted, and each call's peer known behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import pytest

from flagsvc.api.common.peers import peer_name
from flagsvc.api.common.values import to_value
from flagsvc.api.connect.app import not_found
from flagsvc.api.http.server import Connections, HttpServer
from flagsvc.front import door
from flagsvc.front import server as fronts
from flagsvc.front.inner import Loopback
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from flagsvc.settings import Settings
from tests.replicas import Client, replica, until, until_serving
from tests.unreading import PREFACE, Unreading

REQUEST = b"POST /flagd.evaluation.v1.Service/ResolveBoolean HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST += b'Content-Length: 15\r\n\r\n{"flagKey":"a"}'
PER_PEER = 6


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Client, Server]]:
    store = tmp_path_factory.mktemp("front") / "flags.db"
    limits = {"max_connections_per_peer": PER_PEER, "max_connections": 16, "max_streams_per_peer": 2}
    async with replica(store_url=f"sqlite:///{store}", sync_port=0, **limits) as (client, server):
        await until_serving(client)
        await client.create("a")
        yield client, server


def _connected(server: Server, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=(source, 0))


async def _read(connection: socket.socket, size: int = 12) -> bytes:
    connection.setblocking(False)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, size), 10)


async def _ended(connection: socket.socket) -> bool:
    try:
        return not await _read(connection)
    except ConnectionResetError:
        return True


def _front(server: Server) -> fronts.Front:
    assert server._front is not None
    return server._front


def test_whoever_has_a_network_of_64_bits_has_the_connections_of_one_address() -> None:
    http = HttpServer(not_found, None, max_connections=16, max_per_peer=2)
    server = http._server.config

    class Connected(asyncio.Transport):
        def __init__(self, host: str) -> None:
            super().__init__({"peername": (host, 50_000, 0, 0)})
            self.aborted = False

        def abort(self) -> None:
            self.aborted = True

    async def refused(host: str) -> tuple[bool, bool]:
        """Connect to the gRPC port and to the OFREP port."""
        aborted: list[bool] = []
        door.Arrival(cast("door.Door", gate), (host, 50_000, 0, 0), lambda: aborted.append(True))
        connected = Connected(host)
        http._protocol(config=server, server_state=http._server.server_state, app_state={}).connection_made(connected)
        return bool(aborted), connected.aborted

    async def connect() -> None:
        assert [await refused(f"2001:db8::{number:x}") for number in range(4)] == [(False, False)] * 2 + [
            (True,) * 2
        ] * 2
        assert await refused("2001:db8:0:1::1") == (False, False), "another network"

    gate = SimpleNamespace(http=http, connections=Connections(16, 2), arrivals=set(), name_of=peer_name)
    asyncio.run(connect())


async def test_the_protocol_is_known_however_the_first_bytes_arrive(served: tuple[Client, Server]) -> None:
    _, server = served
    for sent, answered in ((REQUEST, b"HTTP/1.1 200"), (PREFACE + b"\0\0\0\4\0\0\0\0\0", b"\0\0")):
        with closing(_connected(server)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for index in range(30):
                connection.sendall(sent[index : index + 1])
                await asyncio.sleep(0)
            connection.sendall(sent[30:])
            assert (await _read(connection)).startswith(answered)
    with closing(_connected(server)) as connection:
        connection.sendall(b"PRI * HTTP/1.1\r\n\r\n")
        assert await _read(connection) == b"HTTP/1.1 400", "as far as 'PRI * HTTP/' it might have been HTTP/2"
    await until(lambda: _front(server).connections.open == 1)


async def test_calls_know_their_peer_and_limits_count_it(served: tuple[Client, Server]) -> None:
    client, server = served
    streams = [client.stub.WatchFlags(pb.WatchFlagsRequest()) for _ in range(2)]
    for stream in streams:
        await stream.read()
    pool = next(pool for pool in server._admission._streams.values() if pool.name.startswith("WatchFlags"))
    assert pool.peers == {"ipv4:127.0.0.1": 2}
    refused = client.stub.WatchFlags(pb.WatchFlagsRequest())
    with pytest.raises(grpc.aio.AioRpcError, match=r"ipv4:127\.0\.0\.1 is at its limit of 2"):
        await refused.read()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.sync_port}") as channel:
        by_other_port = channel.unary_stream("/flagsvc.v1.FlagService/WatchFlags")(b"")
        with pytest.raises(grpc.aio.AioRpcError, match=r"ipv4:127\.0\.0\.1 is at its limit of 2"):
            await by_other_port.read()
    for stream in streams:
        stream.cancel()
    await until(lambda: not pool.taken)


async def test_a_program_that_connects_inside_is_nobody_else(served: tuple[Client, Server]) -> None:
    client, server = served
    known = dict(_front(server).peers._callers)
    assert all(caller.startswith("ipv4:127.0.0.1:") for caller in known.values())
    async with grpc.aio.insecure_channel(_front(server).inner.address) as channel:
        stream = channel.unary_stream("/flagsvc.v1.FlagService/WatchFlags")(b"")
        await stream.read()
        pool = next(pool for pool in server._admission._streams.values() if pool.name.startswith("WatchFlags"))
        assert "ipv4:127.0.0.1" not in pool.peers
        stream.cancel()
    assert _front(server).peers._callers == known
    assert (await client.evaluate("a")).flag_key == "a"


async def test_an_address_has_so_many_connections_and_another_has_its_own(served: tuple[Client, Server]) -> None:
    client, server = served
    refused = _front(server).connections.refused
    opened = [_connected(server) for _ in range(PER_PEER + 2)]
    await until(lambda: _front(server).connections.refused == refused + 3)  # the client's is one of them
    other = _connected(server, "127.0.0.2")
    other.sendall(REQUEST)
    assert await _read(other) == b"HTTP/1.1 200"
    assert (await client.evaluate("a")).flag_key == "a"
    for connection in (*opened, other):
        connection.close()
    await until(lambda: _front(server).connections.open == 1)


async def test_at_the_limit_silent_connections_give_way_and_calls_do_not(served: tuple[Client, Server]) -> None:
    client, server = served
    silent = [_connected(server, f"127.0.0.{2 + number // 5}") for number in range(15)]
    await until(lambda: len(_front(server).arrivals) == 15)
    refused = _front(server).connections.refused
    newest = _connected(server, "127.0.0.9")
    newest.sendall(REQUEST)
    assert await _read(newest) == b"HTTP/1.1 200"
    assert (_front(server).connections.open, _front(server).connections.refused) == (16, refused + 1)
    assert await _ended(silent[0]), "the one that waited longest"
    assert (await client.evaluate("a")).flag_key == "a"
    for connection in (*silent, newest):
        connection.close()
    await until(lambda: _front(server).connections.open == 1)


async def test_a_silent_connection_ends(served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = served
    monkeypatch.setattr(door, "SILENT_S", 0.1)
    for sent in (b"", PREFACE[:13]):
        with closing(_connected(server)) as connection:
            connection.sendall(sent)
            assert await _ended(connection)
    await until(lambda: not _front(server).arrivals)


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "UNACKNOWLEDGED_S", 1)
    async with replica(store_url=f"sqlite:///{tmp_path}/f.db") as (client, server):
        await until_serving(client)
        for number in range(40):
            await client.create(f"k{number}", variants={"on": to_value("x" * 60_000)})
        with Unreading(server.port) as deaf:
            for _ in range(8):  # more than the system's buffers hold
                deaf.open_window(deaf.call("/flagsvc.v1.FlagService/WatchFlags"))
            await until(lambda: server._outflow.outstanding > 10_000_000)
            held = 0
            while len(_front(server).pipes) == 2:
                held = max(held, *(pipe.transport.get_write_buffer_size() for pipe in _front(server).pipes))
                await asyncio.sleep(0.01)
            assert 0 < held < 1_000_000, "gRPC waits, and the front holds little"
        await until(lambda: server._outflow.outstanding == 0)
        assert await client.serving(), "others go on"


async def test_without_the_front_the_port_speaks_grpc_only(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/f.db", http_on_grpc_port=False) as (client, server):
        await until_serving(client)
        assert server._front is None
        with closing(_connected(server)) as connection:
            connection.sendall(REQUEST)
            assert not (await _read(connection)).startswith(b"HTTP/1.1")
        stream = client.stub.WatchFlags(pb.WatchFlagsRequest())
        await stream.read()
        pool = next(pool for pool in server._admission._streams.values() if pool.name.startswith("WatchFlags"))
        assert pool.peers == {"ipv4:127.0.0.1": 1}


async def test_ipv6_and_ipv4_on_one_port_and_without_abstract_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "inner", lambda _outer: Loopback())
    async with replica(store_url=f"sqlite:///{tmp_path}/f.db", host="::", auth="off") as (_, server):
        for target, host in (
            (f"[::1]:{server.port}", "ipv6:%5B::1%5D"),
            (f"127.0.0.1:{server.port}", "ipv4:127.0.0.1"),
        ):
            client = Client(target)
            await until_serving(client)
            assert {caller.rpartition(":")[0] for caller in server.services.peers._callers.values()} >= {host}
            await client.channel.close()
        await until(lambda: not server.services.peers._callers)


async def test_a_stop_cuts_off_no_message_that_was_sent(tmp_path: Path) -> None:
    ports = {"port": 0, "sync_port": -1, "ofrep_port": -1, "management_port": -1}
    server = Server(Settings(host="127.0.0.1", store_url=f"sqlite:///{tmp_path}/f.db", drain_s=0.0, **ports))
    await server.start()
    client = Client(f"127.0.0.1:{server.port}")
    await until_serving(client)
    for number in range(20):
        await client.create(f"k{number}", variants={"on": to_value("x" * 60_000)})
    stream = client.stub.WatchFlags(pb.WatchFlagsRequest(paged_snapshots=True))
    keys = [flag.key for flag in (await stream.read()).snapshot.flags]
    stopping = asyncio.create_task(server.stop())
    while (message := await stream.read()) is not grpc.aio.EOF:
        keys += [flag.key for flag in message.snapshot.flags]
    assert len(keys) == 20
    await stopping
    with pytest.raises(ConnectionRefusedError):
        _connected(server)
    assert not _front(server).pipes
    await client.channel.close()
