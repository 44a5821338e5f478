"""TLS on every port: which protocols each serves, and who is refused."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509

from flagsvc.api.flag_service.service import FlagService
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.server import Server
from tests.certificates import DAY, Authority
from tests.replicas import replica, until
from tests.tls.asking import OFREP, REQUEST, certificates_in_use, create_a, evaluate, exchange
from tests.unreading import PREFACE

OTHERS = {"management_port": 0, "sync_port": 0, "ofrep_port": 0}


class Served(NamedTuple):
    authority: Authority
    server: Server
    folder: Path


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server with TLS on every port."""
    folder, authority = tmp_path_factory.mktemp("tls"), Authority()
    certificate, key = authority.sign().put(folder)
    files = {"tls_cert": str(certificate), "tls_key": str(key), "management_tls": True}
    async with replica(store_url=f"sqlite:///{folder}/flags.db", **files, **OTHERS) as (_, server):
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", authority.credentials()) as channel:
            await create_a(channel)
        yield Served(authority, server, folder)


async def test_grpc_is_served_on_both_ports(served: Served) -> None:
    for port in (served.server.port, served.server.sync_port):
        assert await evaluate(port, served.authority.credentials())


async def test_alpn_decides_on_the_grpc_port(served: Served) -> None:
    port = served.server.port
    for offered in (["http/1.1"], ["http/1.1", "h2c"], [], ["h2", "http/1.1"]):  # the last one as browsers do
        context = served.authority.trusting(alpn=offered)
        answer = await exchange(port, context, REQUEST)
        assert answer.startswith(b"HTTP/1.1 200"), offered
        assert b'"value":true' in answer, offered
    preface = PREFACE + b"\0\0\0\4\0\0\0\0\0"
    for offered in (["h2"], ["h2", "grpc-exp"]):
        context = served.authority.trusting(alpn=offered)
        assert (await exchange(port, context, preface, 2)).startswith(b"\0\0"), offered
    front = served.server._front
    assert front is not None
    await until(lambda: front.connections.open == 0)


async def test_ofrep_and_management_are_served(served: Served) -> None:
    context = served.authority.trusting(alpn=["h2", "http/1.1"])
    assert b'"value":true' in await exchange(served.server.ofrep_port, context, OFREP)
    for path in (b"healthz", b"metrics"):
        asked = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path
        answer = await exchange(served.server.management_port, context, asked)
        assert answer.startswith(b"HTTP/1.1 200"), path
    assert b"\nflagsvc_tls_certificate_expiry_timestamp_seconds 1" in answer


@pytest.mark.parametrize("name", ["port", "sync_port", "ofrep_port", "management_port"])
async def test_plain_text_old_tls_and_strangers_are_refused(served: Served, name: str) -> None:
    port = getattr(served.server, name)
    assert not (await _tried(port, None, REQUEST)).startswith(b"HTTP/1.1 200")
    old = served.authority.trusting()
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await exchange(port, old, REQUEST)
    new_enough = served.authority.trusting()
    new_enough.maximum_version = ssl.TLSVersion.TLSv1_2
    if name not in ("port", "sync_port"):  # gRPC alone wants h2
        assert (await exchange(port, new_enough, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        await exchange(port, Authority().trusting(), REQUEST)


async def _tried(port: int, context: ssl.SSLContext | None, sent: bytes) -> bytes:
    try:
        return await exchange(port, context, sent)
    except (ssl.SSLError, ConnectionError):
        return b""


async def test_management_stays_plain_by_default(tmp_path: Path) -> None:
    certificate, key = Authority().sign().put(tmp_path)
    files = {"tls_cert": str(certificate), "tls_key": str(key)}
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", **files, management_port=0) as (_, server):
        asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await exchange(server.management_port, None, asked)).startswith(b"HTTP/1.1 200")


async def test_connections_are_counted_and_bounded_before_their_handshake(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.sign().put(tmp_path)
    settings: dict[str, Any] = {"tls_cert": str(certificate), "tls_key": str(key), "max_connections_per_peer": 3}
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store, **settings, ofrep_port=0) as (_, server):
        front, http = server._front, server._http
        assert front is not None
        assert http is not None
        for port, connections in ((server.port, front.connections), (server.ofrep_port, http.connections)):
            silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
            await until(lambda found=connections: (found.open, found.refused) == (3, 1))  # type: ignore[misc]
            for connection in silent:
                connection.close()
            await until(lambda found=connections: found.open == 0)  # type: ignore[misc]
            broken = socket.create_connection(("127.0.0.1", port))
            broken.sendall(b"\x16\x03\x01\x00\x05hello")
            await until(lambda found=connections: found.open == 0)  # type: ignore[misc]
            broken.close()
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        await until(lambda: front.connections.open == 2)
    for connection in silent:  # the server has stopped meanwhile
        connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()


class Mutual(NamedTuple):
    authority: Authority
    clients: Authority
    server: Server
    folder: Path
    seen: list[Mapping[str, Any]]


CLIENT_NAMES = (x509.DNSName("shop.internal"), x509.UniformResourceIdentifier("spiffe://prod/shop"))


@pytest.fixture(scope="module")
async def mutual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mutual]:
    """A server whose listeners require client certificates; it records what handlers learn of them."""
    folder, authority, clients = tmp_path_factory.mktemp("mtls"), Authority(), Authority("client CA")
    certificate, key = authority.sign().put(folder)
    files = {"tls_cert": str(certificate), "tls_key": str(key), "tls_client_ca": str(clients.put(folder))}
    seen: list[Mapping[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        handler = FlagService.EvaluateFlag

        async def recorded(self: FlagService, request: Any, context: Any) -> Any:
            seen.append(context.auth_context())
            return await handler(self, request, context)

        patch.setattr(FlagService, "EvaluateFlag", recorded)
        async with replica(store_url=f"sqlite:///{folder}/flags.db", **files, **OTHERS) as (_, server):
            own = clients.sign("shop", CLIENT_NAMES)
            async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", authority.credentials(own)) as channel:
                await create_a(channel)
            yield Mutual(authority, clients, server, folder, seen)


async def test_client_certificates_are_required_and_handlers_know_them(mutual: Mutual) -> None:
    server, authority = mutual.server, mutual.authority
    assert server._front is None, "gRPC alone"
    own = mutual.clients.sign("shop", CLIENT_NAMES)
    late = mutual.clients.sign("shop", CLIENT_NAMES, begins=-2 * DAY, ends=-DAY)
    for port in (server.port, server.sync_port):
        mutual.seen.clear()
        assert await evaluate(port, authority.credentials(own))
        for refused in (None, Authority().sign(), authority.sign(), late):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await evaluate(port, authority.credentials(refused))
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        (known,) = mutual.seen
        assert known["peer_dns"] == [b"shop.internal"]
        assert known["peer_uri"] == [b"spiffe://prod/shop"]


async def test_http_can_require_client_certificates_too(mutual: Mutual) -> None:
    own = mutual.clients.sign("shop", CLIENT_NAMES)
    with_own = mutual.authority.trusting(own, folder=mutual.folder)
    assert b'"value":true' in await exchange(mutual.server.ofrep_port, with_own, OFREP)
    failed = certificates_in_use(mutual.server).failed_handshakes
    before = failed["ofrep"]
    assert await _tried(mutual.server.ofrep_port, mutual.authority.trusting(), OFREP) == b""
    await until(lambda: failed["ofrep"] == before + 1)


async def test_listeners_that_require_client_certificates_can_be_named(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.sign().put(tmp_path)
    files = {"tls_cert": str(certificate), "tls_key": str(key), "tls_client_ca": f"sync={authority.put(tmp_path)}"}
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", **files, **OTHERS) as (_, server):
        assert server._front is not None
        assert not await evaluate(server.port, authority.credentials())
        with pytest.raises(grpc.aio.AioRpcError):
            await evaluate(server.sync_port, authority.credentials())
        assert not await evaluate(server.sync_port, authority.credentials(authority.sign()))


async def test_a_unix_socket_has_tls_too(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.sign().put(tmp_path)
    files = {"tls_cert": str(certificate), "tls_key": str(key)}
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store, **files, port=f"unix:{tmp_path}/s", sync_port=f"unix:{tmp_path}/t"):
        for name in ("s", "t"):
            options = [("grpc.ssl_target_name_override", "localhost")]
            target = f"unix:{tmp_path}/{name}"
            async with grpc.aio.secure_channel(target, authority.credentials(), options) as channel:
                request = pb.EvaluateFlagRequest(flag_key="a")
                answer = await pb_grpc.FlagServiceStub(channel).EvaluateFlag(request, timeout=10)
                assert answer.evaluation.flag_key == "a"
