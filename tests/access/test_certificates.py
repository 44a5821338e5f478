"""Client certificates: a rule that names a URI or DNS name of one gives its holder a role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from flagsvc.core.access.roles import Role
from flagsvc.core.errors import PermissionDenied, Unauthenticated
from flagsvc.issuers.certificates import CertificateCallers
from flagsvc.issuers.configuration import configuration
from tests.access.issuing import authority, certificate, ec_key, key_pem, pem

RULES = b"""
certificates:
  - {uri: "spiffe://prod/ns/web/sa/api", grant: write@web}
  - {uri_prefix: "spiffe://prod/ns/batch/", grant: evaluate@*}
  - {dns: Billing.prod.internal, grant: read@billing}
  - {dns: backup.prod.internal, grant: read@billing}
"""
API = "spiffe://prod/ns/web/sa/api"


@pytest.fixture
def callers() -> CertificateCallers:
    found = CertificateCallers()
    found.replace_rules(configuration("issuers.yaml", RULES).certificates)
    return found


@pytest.mark.parametrize(
    ("names", "identity", "role"),
    [
        ({"uris": (API,)}, f"certificate:uri:{API}", Role.WRITE),
        (
            {"uris": ("spiffe://prod/ns/batch/sa/nightly",)},
            "certificate:uri:spiffe://prod/ns/batch/sa/nightly",
            "evaluate",
        ),
        ({"names": ("billing.PROD.internal",)}, "certificate:dns:billing.prod.internal", Role.READ),
        ({"uris": ("spiffe://other/x", API), "names": ("a.example",)}, f"certificate:uri:{API}", Role.WRITE),
    ],
)
def test_one_name_must_be_in_a_rule(callers: CertificateCallers, names: Any, identity: str, role: str) -> None:
    found = callers.caller(certificate(ec_key(), **names))
    assert (str(found), found.role) == (identity, role)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"common_name": "billing.prod.internal"},
        {"common_name": API},
        {"names": ("x.billing.prod.internal",)},
        {"names": (API.replace("/", "-").replace(":", "-"),)},
        {"uris": (API + "2",)},
        {"uris": (API.upper(),)},
        {"uris": ("spiffe://prod/ns/batch",)},
        {"uris": ("spiffe://prod/ns/batchx/sa/a",)},
        {"uris": ("billing.prod.internal",)},
    ],
)
def test_another_name_and_the_common_name_give_nothing(callers: CertificateCallers, names: Any) -> None:
    with pytest.raises(Unauthenticated, match="no rule names"):
        callers.caller(certificate(ec_key(), **names))
    assert len(callers) == 0
    assert callers.refusals == {"certificate": 1}


def test_a_certificate_is_read_once_and_ends_with_its_time(callers: CertificateCallers) -> None:
    now = [0.0]
    callers._clock = lambda: now[0]
    found = callers.caller(text := certificate(ec_key(), uris=(API,)))
    assert callers.caller(text) is found
    now[0] = found.expires_at
    assert not callers.is_current(found)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated, match="has expired"):
        callers.caller(text)


def test_a_denied_name_refuses_a_certificate_that_has_it_among_others(callers: CertificateCallers) -> None:
    text = certificate(ec_key(), uris=(API,), names=("stolen.example",))
    found = callers.caller(text)
    callers.denied = frozenset({"dns:stolen.example"})
    assert not callers.is_current(found)  # type: ignore[arg-type]
    with pytest.raises(PermissionDenied, match="is denied"):
        callers.caller(text)


def test_a_certificate_with_more_names_than_are_looked_at_is_refused(callers: CertificateCallers) -> None:
    many = tuple(f"{number}.example" for number in range(100))
    callers.denied = frozenset({"dns:99.example"})
    with pytest.raises(PermissionDenied, match="is denied"):
        callers.caller(certificate(ec_key(), uris=(API,), names=(*many[:98], many[99])))
    with pytest.raises(Unauthenticated, match="more than 100 names"):
        callers.caller(certificate(ec_key(), uris=(API,), names=many))


def test_other_rules_end_what_the_old_ones_gave(callers: CertificateCallers) -> None:
    text = certificate(ec_key(), uris=(API,))
    found = callers.caller(text)
    callers.replace_rules(configuration("issuers.yaml", RULES).certificates)
    assert callers.caller(text) is found, "the rules are the same"
    callers.replace_rules(configuration("issuers.yaml", RULES.replace(b"write@web", b"read@web")).certificates)
    assert not callers.is_current(found)  # type: ignore[arg-type]
    assert callers.caller(text).role is Role.READ
    callers.replace_rules(())
    with pytest.raises(Unauthenticated):
        callers.caller(text)


def test_what_is_no_certificate_is_refused(callers: CertificateCallers) -> None:
    with pytest.raises(Unauthenticated, match="cannot be read"):
        callers.caller(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")


def der(tag: int, text: bytes) -> bytes:
    """A name of one kind in DER: 0x82 is a DNS name, 0x86 a URI, 0xA3 an X.400 address."""
    return bytes([tag, len(text)]) + text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (der(0x82, b"billing.prod.internal\0.evil.example"), "no rule names"),
        (der(0x82, b"*.prod.internal"), "no rule names"),
        (der(0x82, b"billing.prod.internal."), "no rule names"),
        (der(0x82, b"billing.prod.internal "), "no rule names"),
        (der(0x86, API.encode() + b"\0"), "no rule names"),
        (der(0x86, b"spiffe://prod/ns/batch/a\n\x1b[2Jadmin"), "no rule names"),
        (der(0x86, b"spiffe://prod/ns/batch/\0"), "no rule names"),
        (der(0x82, "b\u0131lling.prod.internal".encode()), "no rule names"),
        (der(0x82, "bac\u212aup.prod.internal".encode()), "no rule names"),
        (der(0xA3, b"") + der(0x82, b"billing.prod.internal"), "cannot be read"),
        (der(0x82, b"billing.prod.internal")[:-1], "cannot be read"),
    ],
)
def test_a_name_that_looks_like_one_of_a_rule_gives_nothing(
    callers: CertificateCallers, raw: bytes, words: str
) -> None:
    with pytest.raises(Unauthenticated, match=words):
        callers.caller(certificate(ec_key(), raw_names=raw))


async def test_grpc_has_the_certificate_where_it_is_looked_for(callers: CertificateCallers) -> None:
    async with mutual_tls() as (address, seen):
        credentials = grpc.ssl_channel_credentials(
            pem(authority()[0]), key_pem(ec_key("client")), certificate(ec_key("client"), uris=(API,))
        )
        async with grpc.aio.secure_channel(address, credentials) as channel:
            await channel.unary_unary("/a/b")(b"")
    assert callers.caller(next(iter(seen[0]["x509_pem_cert"]))).id == f"uri:{API}"


@asynccontextmanager
async def mutual_tls() -> AsyncIterator[tuple[str, list[Mapping[str, Iterable[bytes]]]]]:
    """A server that requires client certificates, and what it saw of them."""
    seen: list[Mapping[str, Iterable[bytes]]] = []

    async def call(_request: bytes, context: Any) -> bytes:
        seen.append(context.auth_context())
        return b""

    server = grpc.aio.server()
    handlers = {"b": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", handlers),))
    pairs = [(key_pem(ec_key("server")), certificate(ec_key("server")))]
    credentials = grpc.ssl_server_credentials(pairs, pem(authority()[0]), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", seen
    finally:
        await server.stop(0)
        await asyncio.sleep(0)
