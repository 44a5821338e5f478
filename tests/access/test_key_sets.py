"""An issuer's keys: read over HTTPS without redirects and bounded, or from a file; kept while they cannot be read."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from flagsvc.core.errors import AccessUnknown, Unauthenticated
from flagsvc.issuers import https, key_set, tokens
from flagsvc.issuers.configuration import configuration
from flagsvc.issuers.key_set import KeySet
from flagsvc.issuers.keys import BadKeys, keys_of
from flagsvc.issuers.tokens import JwtCallers
from tests.access.issuing import (
    GITHUB,
    KeyServer,
    ec_key,
    ed_key,
    github_claims,
    http_answer,
    jwk_of,
    jwks,
    key_server,
    rsa_key,
    signed,
    until,
)

PEER = "ipv4:10.0.0.1:1"
RULES = [{"when": [{"claim": "repository_owner", "equals": "acme"}], "grant": "read@*"}]
EC = frozenset({"ES256"})


@asynccontextmanager
async def following(jwks_of: str, folder: Path, **fields: Any) -> AsyncIterator[JwtCallers]:
    """Callers of one issuer whose keys are there."""
    entry = {"issuer": GITHUB, "audience": "flagsvc", "jwks": jwks_of, "rules": RULES, **fields}
    if jwks_of.startswith("https:"):
        entry.setdefault("ca_file", str(folder / "ca.pem"))
    document = json.dumps({"issuers": [entry]}).encode()
    callers = JwtCallers()
    keys = KeySet(configuration("issuers.json", document).issuers[0], lambda: None)
    callers.issuers = {GITHUB: keys}
    keys.start()
    try:
        yield callers
    finally:
        await keys.close()
        await callers.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KeyServer]:
    async with key_server(jwks(k1=ec_key()), tmp_path) as found:
        yield found


async def test_keys_are_read_over_https_and_the_first_call_waits_for_them(server: KeyServer, tmp_path: Path) -> None:
    server.hold = asyncio.Event()
    async with following(server.url, tmp_path) as callers:
        await until(lambda: len(server.requests) == 1)
        waits = asyncio.create_task(callers.verified_caller(signed(github_claims(), ec_key()), PEER))
        await asyncio.sleep(0.05)
        assert not waits.done()
        server.hold.set()
        assert (await waits).name.startswith("repo:acme/web")
        assert server.requests[0].startswith(b"GET /keys HTTP/1.1\r\n")
        assert b"authorization" not in server.requests[0].lower()


async def test_a_token_for_the_server_of_the_keys_is_read_from_its_file(server: KeyServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-of-the-pod\n")
    async with following(server.url, tmp_path, token_file=str(tmp_path / "token")) as callers:
        assert await callers.verified_caller(signed(github_claims(), ec_key()), PEER)
        assert b"Authorization: Bearer secret-of-the-pod\r\n" in server.requests[0]


async def test_an_unknown_kid_reads_the_keys_again_once_in_thirty_seconds(
    server: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(server.url, tmp_path) as callers:
        first = await callers.verified_caller(signed(github_claims(), ec_key()), PEER)
        server.answer = http_answer(jwks(k1=ec_key(), k2=ec_key("two")))
        rotated = signed(github_claims(), ec_key("two"), "k2")
        for _ in range(3):
            with pytest.raises(Unauthenticated, match="no key of its kid"):
                await callers.verified_caller(rotated, PEER)
        assert len(server.requests) == 1, "read less than thirty seconds ago"
        monkeypatch.setattr(key_set, "REFETCH_S", 0.0)
        found = await asyncio.gather(*(callers.verified_caller(rotated, f"ipv4:10.0.0.{n}:1") for n in range(9)))
        assert len({id(each) for each in found}) == 1
        assert len(server.requests) == 2
        assert callers.is_current(first)  # type: ignore[arg-type]


async def test_a_key_that_left_ends_the_tokens_that_it_signed_and_no_others(
    server: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "REFRESH_S", 0.02)
    server.answer = http_answer(jwks(k1=ec_key(), k2=ec_key("two"), k3=ec_key("three")))
    async with following(server.url, tmp_path) as callers:
        private = {"k1": ec_key(), "k2": ec_key("two"), "k3": ec_key("three")}
        texts = {kid: signed(github_claims(), key, kid) for kid, key in private.items()}
        known = {kid: await callers.verified_caller(text, PEER) for kid, text in texts.items()}
        server.answer = http_answer(jwks(k1=ec_key(), k3=ec_key("another with the same name")))
        await until(lambda: callers.known(texts["k2"]) is None)
        assert callers.known(texts["k1"]) is known["k1"]
        assert callers.known(texts["k3"]) is None
        assert [callers.is_current(each) for each in known.values()] == [True, False, False]  # type: ignore[arg-type]
        with pytest.raises(Unauthenticated, match="no key of its kid"):
            await callers.verified_caller(texts["k2"], PEER)
        with pytest.raises(Unauthenticated, match="signature"):
            await callers.verified_caller(texts["k3"], PEER)


def redirect(server: KeyServer) -> bytes:
    return http_answer(b"", "302 Found", f"Location: {server.url}\r\n")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (redirect, "status 302; redirects are not followed"),
        (lambda _: http_answer(b"", "500 Internal Server Error"), "status 500"),
        (lambda _: http_answer(b"x" * 262_145), "the answer is over 262144 bytes"),
        (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "h11._util.RemoteProtocolError|no valid HTTP"),
        (lambda _: b"", "no valid HTTP|closes the connection"),
        (lambda _: b"SSH-2.0\r\n\r\n", "no valid HTTP"),
        (lambda _: http_answer(b"<html>"), "it is not JSON"),
        (lambda _: http_answer(b'{"keys": []}'), "no public key with a kid for ES256, RS256"),
    ],
)
async def test_bad_answers_keep_the_keys_that_were_read(
    server: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, cause: str
) -> None:
    monkeypatch.setattr(key_set, "REFRESH_S", 0.0)
    monkeypatch.setattr(key_set, "MIN_RETRY_S", 30.0)
    monkeypatch.setattr(key_set, "REFETCH_S", 0.0)
    async with following(server.url, tmp_path) as callers:
        text = signed(github_claims(), ec_key())
        identity = await callers.verified_caller(text, PEER)
        with capture_logs() as logs:
            server.answer = answer(server)
            keys = callers.issuers[GITHUB]
            await until(lambda: keys.failures > 0)
        warning = next(line for line in logs if line["event"] == "jwt_keys_not_read")
        assert warning["using"] == "the keys that were read before"
        assert re.search(cause, warning["cause"]), warning
        assert server.url not in str(logs)
        assert callers.known(text) is identity
        with pytest.raises(AccessUnknown, match="keys of the token's issuer cannot be read now"):
            await callers.verified_caller(signed(github_claims(), ec_key("two"), "k2"), PEER)
        server.answer = http_answer(jwks(k2=ec_key("two")))
        assert await callers.verified_caller(signed(github_claims(), ec_key("two"), "k2"), PEER)
        assert keys.failures == 0


async def test_a_slow_server_is_given_up_and_calls_wait_no_longer_than_their_limit(
    server: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TOTAL_S", 0.3)
    monkeypatch.setattr(tokens, "KEY_WAIT_S", 0.05)
    monkeypatch.setattr(key_set, "MIN_RETRY_S", 30.0)
    server.hold = asyncio.Event()
    async with following(server.url, tmp_path) as callers:
        await until(lambda: len(server.requests) == 1)
        with pytest.raises(AccessUnknown):
            await callers.verified_caller(signed(github_claims(), ec_key()), PEER)
        keys = callers.issuers[GITHUB]
        assert keys.failures == 0, "the call did not wait for the end"
        with capture_logs() as logs:
            await until(lambda: keys.failures == 1)
        assert logs[0]["cause"] == "the server does not answer within 0.3 s"
        assert logs[0]["using"] == "none: tokens of this issuer are refused"
        server.hold.set()


async def test_a_server_with_a_certificate_of_another_ca_is_not_believed(server: KeyServer, tmp_path: Path) -> None:
    files = (tmp_path / "missing", "CA certificates cannot be read"), (other_ca(tmp_path), "unable to get")
    for ca_file, cause in files:
        with capture_logs() as logs:
            async with following(server.url, tmp_path, ca_file=str(ca_file)) as callers:
                keys = callers.issuers[GITHUB]
                await until(lambda keys=keys: keys.failures == 1)
        assert cause in logs[0]["cause"]
    assert server.requests == []


def other_ca(folder: Path) -> Path:
    import certifi  # noqa: PLC0415

    (folder / "other.pem").write_text(
        Path(certifi.where()).read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    return folder / "other.pem"


async def test_keys_of_a_file_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "FILE_REFRESH_S", 0.02)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(k1=ec_key()))
    async with following(f"file:{file}", tmp_path) as callers:
        text = signed(github_claims(), ec_key())
        identity = await callers.verified_caller(text, PEER)
        file.write_text("")
        await until(lambda: callers.issuers[GITHUB].failures > 0)
        assert callers.known(text) is identity
        file.write_bytes(jwks(k2=ec_key("two")))
        await until(lambda: callers.known(text) is None)
        assert await callers.verified_caller(signed(github_claims(), ec_key("two"), "k2"), PEER)


ALL = frozenset({"RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"})


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (jwk_of(rsa_key(), "k"), {"RS256", "RS512", "PS256"}),
        (jwk_of(rsa_key(), "k", alg="RS512"), {"RS512"}),
        (jwk_of(ec_key(), "k"), {"ES256"}),
        (jwk_of(ec_key("k", "secp384r1"), "k"), {"ES384"}),
        (jwk_of(ed_key(), "k"), {"EdDSA"}),
        (jwk_of(ed_key(), "k", alg="Ed25519"), {"EdDSA"}),
        (jwk_of(ec_key(), "k", key_ops=["verify"]), {"ES256"}),
        (jwk_of(ec_key(), "k", alg="ES384"), set()),
        (jwk_of(ec_key(), "k", alg="HS256"), set()),
        (jwk_of(ec_key(), "k", use="enc"), set()),
        (jwk_of(ec_key(), "k", key_ops=["sign"]), set()),
        (jwk_of(ec_key(), "k", d="AAAA"), set()),
        (jwk_of(ec_key(), "k", x="AAAA"), set()),
        (jwk_of(ec_key(), "k", crv="P-384"), set()),
        (jwk_of(ec_key(), "k", crv=[]), set()),
        (jwk_of(ec_key(), "k") | {"kid": 1}, set()),
        (jwk_of(rsa_key("small", 1_024), "k"), set()),
        (jwk_of(rsa_key(), "k", n="A" * 1_367), set()),
        (jwk_of(rsa_key(), "k", e="Ag"), set()),
        ({"kty": "oct", "k": "AAAA", "kid": "k", "alg": "HS256"}, set()),
        ("k", set()),
    ],
)
def test_a_key_is_used_only_with_the_algorithms_of_its_kind(key: Any, names: set[str]) -> None:
    good = jwk_of(ec_key(), "good")
    found = keys_of(json.dumps({"keys": [good, key]}).encode(), ALL)
    assert {algorithm for kid, algorithm in found if kid == "k"} == names


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"keys": {}}',
        b"\xff",
        pytest.param(json.dumps({"keys": [jwk_of(ec_key(), "k")] * 2}).encode(), id="one name twice"),
        pytest.param(json.dumps({"keys": [1] * 101}).encode(), id="too many"),
        b'{"keys": [], "keys": []}',
    ],
    ids=["nothing", "a list", "an object of keys", "no UTF-8", "one kid twice", "too many", "one name twice"],
)
def test_what_is_no_set_of_keys_is_refused(document: bytes) -> None:
    with pytest.raises(BadKeys):
        keys_of(document, EC)
