"""Callers of a server with TLS, each over a connection of its own."""

from __future__ import annotations

import asyncio
import ssl

import grpc
from cryptography import x509

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.server import Server
from flagsvc.tls.certificates import Certificates
from tests.certificates import Authority

REQUEST = b"POST /flagd.evaluation.v1.Service/ResolveBoolean HTTP/1.1\r\nHost: localhost\r\n"
REQUEST += b'Content-Type: application/json\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{"flagKey":"a"}'
OFREP = (
    b"POST /ofrep/v1/evaluate/flags/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
)


async def create_a(channel: grpc.aio.Channel) -> None:
    await pb_grpc.FlagServiceStub(channel).CreateFlag(
        pb.CreateFlagRequest(flag={"key": "a", "status": 1}), timeout=20, wait_for_ready=True
    )


async def evaluate(port: int, credentials: grpc.ChannelCredentials | None) -> bool:
    """Evaluate over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"127.0.0.1:{port}"
    channel = (
        grpc.aio.insecure_channel(target, options)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options)
    )
    async with channel:
        request = pb.EvaluateFlagRequest(flag_key="a")
        return (await pb_grpc.FlagServiceStub(channel).EvaluateFlag(request, timeout=10)).evaluation.enabled


async def exchange(port: int, context: ssl.SSLContext | None, sent: bytes, size: int = -1) -> bytes:
    """Send bytes over a connection of its own and return what comes back."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(sent)
        try:
            return await (reader.read() if size < 0 else reader.read(size))
        finally:
            writer.close()


async def served_certificate(port: int, authority: Authority) -> x509.Certificate:
    """Return the certificate that a port serves."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.trusting(alpn=["h2", "http/1.1"]))
    try:
        return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.close()


def certificates_in_use(server: Server) -> Certificates:
    found = server._tls._certificates
    assert found is not None
    return found
