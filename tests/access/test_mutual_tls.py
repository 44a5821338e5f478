"""Client certificates of a gRPC listener that requires them are credentials."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.server import Server
from flagsvc.settings import Settings
from tests.access.callers import bearer, made, stored
from tests.access.issuing import authority, certificate, ec_key, key_pem, pem, until

API = "spiffe://prod/ns/web/sa/api"
BATCH = "spiffe://prod/ns/batch/sa/nightly"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Server, str]]:
    """A server whose gRPC port requires client certificates, and a token for it."""
    rules = [{"uri": API, "grant": "read@default"}, {"uri_prefix": "spiffe://prod/ns/batch/", "grant": "evaluate@*"}]
    (tmp_path / "issuers.json").write_text(json.dumps({"certificates": rules}))
    (tmp_path / "ca.pem").write_bytes(pem(authority()[0]))
    (tmp_path / "tls.crt").write_bytes(certificate(ec_key("server")))
    (tmp_path / "tls.key").write_bytes(key_pem(ec_key("server")))
    store = f"sqlite:///{tmp_path}/flags.db"
    token, text = made("toggle")
    await stored(store, token)
    server = Server(
        Settings(
            host="127.0.0.1",
            port=0,
            sync_port=-1,
            ofrep_port=-1,
            management_port=-1,
            drain_s=0.0,
            grace_s=1.0,
            store_url=store,
            auth="required",
            anonymous="grpc=evaluate@default",
            tls_cert=str(tmp_path / "tls.crt"),
            tls_key=str(tmp_path / "tls.key"),
            tls_client_ca=str(tmp_path / "ca.pem"),
            jwt_issuers_file=str(tmp_path / "issuers.json"),
        )
    )
    await server.start()
    await until(server.replica.is_ready)
    yield server, text
    await server.stop()


@asynccontextmanager
async def calling(server: Server, *uris: str) -> AsyncIterator[pb_grpc.FlagServiceStub]:
    """Calls with a certificate that has these names."""
    own = ec_key("client")
    credentials = grpc.ssl_channel_credentials(pem(authority()[0]), key_pem(own), certificate(own, uris=uris))
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as channel:
        yield pb_grpc.FlagServiceStub(channel)


async def test_a_certificate_gives_the_role_of_its_rule_and_a_header_goes_before_it(served: tuple[Server, str]) -> None:
    server, token = served
    async with calling(server, API) as stub:
        assert await stub.ListFlags(pb.ListFlagsRequest(), timeout=5) is not None
        with pytest.raises(grpc.aio.AioRpcError, match=f"certificate:uri:{API} has read"):
            await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a"), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a"), timeout=5, metadata=bearer(token))
    async with calling(server, BATCH) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await stub.ListFlags(pb.ListFlagsRequest(), timeout=5)


async def test_a_certificate_without_a_rule_is_refused_although_the_listener_has_an_anonymous_role(
    served: tuple[Server, str],
) -> None:
    server, _ = served
    async with calling(server, "spiffe://other/x") as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED") as refused:
            await stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), timeout=5)
    assert "no rule names" in (refused.value.details() or "")


async def test_a_stream_ends_when_a_name_of_its_certificate_is_denied(served: tuple[Server, str]) -> None:
    server, _ = served
    async with calling(server, API, "spiffe://prod/second") as stub:
        watch = stub.WatchFlags(pb.WatchFlagsRequest(), timeout=20)
        assert await watch.read()
        assert server._issuers is not None
        server._issuers.deny(["certificate:uri:spiffe://prod/second"])
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await to_its_end(watch)
        with pytest.raises(grpc.aio.AioRpcError, match="is denied"):
            await stub.ListFlags(pb.ListFlagsRequest(), timeout=5)


async def to_its_end(stream: Any) -> None:
    """Read until the stream fails."""
    while True:
        await stream.read()
