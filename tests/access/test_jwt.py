"""JWTs of configured issuers: what Kubernetes and CI send is recognized, and what attackers send is refused."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import Overloaded, PermissionDenied, Unauthenticated
from flagsvc.issuers import failures, tokens
from flagsvc.issuers.issuers import Issuers
from flagsvc.issuers.tokens import JwtCallers
from tests.access.issuing import (
    AUDIENCE,
    GITHUB,
    GITLAB,
    KUBERNETES,
    ec_key,
    ed_key,
    encoded,
    github_claims,
    gitlab_claims,
    jwk_of,
    jwks,
    kubernetes_claims,
    raw_signed,
    rsa_key,
    signed,
    times,
    until,
)

PEER = "ipv4:10.0.0.1:50000"
RSA, EC, ED = rsa_key(), ec_key(), ed_key()
NAMESPACE = ["kubernetes.io", "namespace"]


def entry(issuer: str, jwks_file: Path, *rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"issuer": issuer, "audience": AUDIENCE, "jwks": f"file:{jwks_file}", "rules": rules, **fields}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("issuers")
    (found / "kubernetes.json").write_bytes(jwks(k1=RSA, other=rsa_key("other")))
    (found / "github.json").write_bytes(jwks(k1=EC, only_github=EC))
    (found / "gitlab.json").write_bytes(jwks(k1=ec_key("gitlab"), e1=ED))
    configuration = {
        "issuers": [
            entry(
                KUBERNETES,
                found / "kubernetes.json",
                {"when": [{"claim": NAMESPACE, "equals": "team-a"}], "grant": "read@team-a"},
                {"when": [{"claim": "sub", "prefix": "system:serviceaccount:team-"}], "grant": "evaluate@*"},
                context={"namespace": NAMESPACE, "targetingKey": "sub", "plan": "plan"},
            ),
            entry(
                GITHUB,
                found / "github.json",
                {
                    "when": [
                        {"claim": "repository", "equals": "acme/web"},
                        {"claim": "ref", "equals": "refs/heads/main"},
                    ],
                    "grant": "write@web,web-*",
                },
            ),
            entry(
                GITLAB,
                found / "gitlab.json",
                {"when": [{"claim": "groups_direct", "contains": "acme/flag-admins"}], "grant": "admin@*"},
                algorithms=["ES256", "EdDSA"],
            ),
        ]
    }
    (found / "issuers.json").write_text(json.dumps(configuration))
    return found


@pytest.fixture(scope="module")
async def issuers(folder: Path) -> AsyncIterator[Issuers]:
    running = Issuers(str(folder / "issuers.json"))
    await running.start()
    await until(lambda: all(each.keys for each in running.tokens.issuers.values()))
    yield running
    await running.close()


@pytest.fixture
def callers(issuers: Issuers) -> Iterator[JwtCallers]:
    """The module's issuers with memory and counters of their own."""
    found = JwtCallers()
    found.issuers = issuers.tokens.issuers
    return found


async def identified(callers: JwtCallers, token: str) -> Identity:
    return callers.known(token) or await callers.verified_caller(token, PEER)


async def test_a_pods_token_gives_what_the_first_fitting_rule_says(callers: JwtCallers) -> None:
    identity = await identified(callers, signed(kubernetes_claims(), RSA))
    assert (identity.role, identity.scope.patterns) == (Role.READ, ("team-a",))
    assert str(identity) == f"jwt:{KUBERNETES}|system:serviceaccount:team-a:web"
    assert identity.name == "system:serviceaccount:team-a:web"
    other = await identified(callers, signed(kubernetes_claims("team-b"), RSA))
    assert (other.role, other.scope.is_all) == (Role.EVALUATE, True)


async def test_a_job_of_github_or_gitlab_gets_its_role_without_a_stored_secret(callers: JwtCallers) -> None:
    github = await identified(callers, signed(github_claims(), EC, typ="JWT", x5t="thumbprint"))
    assert (github.role, github.scope.patterns) == (Role.WRITE, ("web", "web-*"))
    gitlab = await identified(callers, signed(gitlab_claims(), ED, "e1"))
    assert (gitlab.role, gitlab.scope.is_all) == (Role.ADMIN, True)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(signed(kubernetes_claims("kube-system"), RSA), id="another namespace"),
        pytest.param(signed(github_claims(repository="acme/website"), EC), id="another repository"),
        pytest.param(signed(github_claims(ref="refs/heads/evil"), EC), id="another branch"),
        pytest.param(signed(gitlab_claims(groups_direct="acme/flag-admins"), ED, "e1"), id="a text is no list"),
        pytest.param(signed(gitlab_claims(groups_direct=["x-acme/flag-admins"]), ED, "e1"), id="another group"),
        pytest.param(signed(gitlab_claims(groups_direct=[["acme/flag-admins"]]), ED, "e1"), id="a list in the list"),
    ],
)
async def test_a_valid_token_without_a_rule_has_no_role_and_is_verified_once(callers: JwtCallers, token: str) -> None:
    for _ in range(3):
        with pytest.raises(PermissionDenied, match="no rule of its issuer gives its caller a role"):
            await identified(callers, token)
    assert callers.verified == 1


async def test_a_verified_token_is_known_from_then_on(callers: JwtCallers) -> None:
    token = signed(kubernetes_claims(), RSA)
    assert callers.known(token) is None
    first = await callers.verified_caller(token, PEER)
    assert all(callers.known(token) is first for _ in range(3))
    assert callers.verified == 1
    assert token.encode() not in repr(vars(callers._known)).encode()


async def test_callers_at_the_same_time_share_one_verification(callers: JwtCallers) -> None:
    token = signed(kubernetes_claims(), RSA)
    leaves = asyncio.create_task(callers.verified_caller(token, PEER))
    others = [asyncio.create_task(callers.verified_caller(token, PEER)) for _ in range(20)]
    await asyncio.sleep(0)
    leaves.cancel()
    found = await asyncio.gather(*others)
    assert len({id(each) for each in found}) == 1
    assert callers.verified == 1


def unsigned(claims: dict[str, Any], **header: Any) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': 'k1', **header})}.{encoded(claims)}."


def with_public_key_as_secret(claims: dict[str, Any], secret: bytes, alg: str = "HS256") -> str:
    text = f"{encoded({'alg': alg, 'kid': 'k1'})}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


EVIL = ec_key("evil")
CLAIMS = github_claims()
HEADER = {"alg": "ES256", "kid": "k1", "typ": "JWT"}


def header(**fields: Any) -> str:
    return raw_signed(HEADER | fields, CLAIMS, EC)


def claims(**fields: Any) -> str:
    return raw_signed(HEADER, {n: v for n, v in (CLAIMS | fields).items() if v is not ...}, EC)


def text_of(value: dict[str, Any], extra: str) -> bytes:
    return f"{json.dumps(value)[:-1]}, {extra}}}".encode()


EXPIRED = times(-61)["exp"]
ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned(CLAIMS) + "AA", "alg is not accepted"),
    "alg none, no signature": (lambda: unsigned(CLAIMS), "three parts in base64url"),
    "alg None": (lambda: unsigned(CLAIMS, alg="None") + "AA", "alg is not accepted"),
    "alg missing": (lambda: header(alg=None), "header has no alg"),
    "alg of another kind": (lambda: header(alg=["ES256"]), "header has no alg"),
    "HS256 with the public key": (lambda: with_public_key_as_secret(CLAIMS, public_pem(EC)), "alg is not accepted"),
    "HS256 with the JWKS": (lambda: with_public_key_as_secret(CLAIMS, jwks(k1=EC)), "alg is not accepted"),
    "HS256 called ES256": (lambda: with_public_key_as_secret(CLAIMS, public_pem(EC), "ES256"), "signature is not one"),
    "another algorithm of the key": (lambda: signed(kubernetes_claims(), RSA, alg="RS512"), "alg is not accepted"),
    "an algorithm of another key": (lambda: header(alg="RS256"), "no key of its kid and alg"),
    "a key of another issuer": (lambda: signed(kubernetes_claims(), EC, "only_github"), "no key of its kid and alg"),
    "another issuer's token": (lambda: signed(kubernetes_claims(), EC), "no key of its kid and alg"),
    "another issuer's claims": (lambda: signed(gitlab_claims(), EC), "signature is not one"),
    "signed by nobody": (lambda: signed(CLAIMS, EVIL), "signature is not one"),
    "the signature of another token": (
        lambda: f"{signed(github_claims('acme/x'), EC).rpartition('.')[0]}.{signed(CLAIMS, EC).rpartition('.')[2]}",
        "signature is not one",
    ),
    "a signature of zeros (CVE-2022-21449)": (
        lambda: f"{signed(CLAIMS, EC).rpartition('.')[0]}.{encoded(bytes(64))}",
        "signature is not one",
    ),
    "a signature in DER": (
        lambda: f"{signed(CLAIMS, EC).rpartition('.')[0]}.{encoded(bytes.fromhex('3006020101020101'))}",
        "signature is not one",
    ),
    "jku": (lambda: signed(CLAIMS, EVIL, jku="https://evil.example/keys"), "header has jku"),
    "x5u": (lambda: signed(CLAIMS, EVIL, x5u="https://evil.example/keys"), "header has x5u"),
    "an embedded key": (lambda: signed(CLAIMS, EVIL, jwk=jwk_of(EVIL, "k1")), "header has jwk"),
    "an embedded chain": (lambda: signed(CLAIMS, EVIL, x5c=["AA=="]), "header has x5c"),
    "crit": (lambda: header(crit=["exp"], exp=1), "header has crit"),
    "crit and b64": (lambda: header(crit=["b64"], b64=True), "header has crit"),
    "b64": (lambda: header(b64=False), "header has b64"),
    "zip": (lambda: header(zip="DEF"), "header has zip"),
    "an encrypted token": (lambda: f"{header()}.AA.AA", "three parts in base64url"),
    "no kid": (lambda: header(kid=None), "header has no kid"),
    "an empty kid": (lambda: header(kid=""), "header has no kid"),
    "a kid that is no text": (lambda: header(kid=1), "header has no kid"),
    "a kid that is a path": (lambda: header(kid="../../dev/null"), "no key of its kid"),
    "a long kid": (lambda: header(kid="k" * 257), "header has no kid"),
    "no exp": (lambda: claims(exp=...), "no exp"),
    "exp null": (lambda: claims(exp=None), "exp is no number"),
    "exp as text": (lambda: claims(exp=str(int(time.time()) + 99)), "exp is no number"),
    "exp true": (lambda: claims(exp=True), "exp is no number"),
    "exp in milliseconds": (lambda: claims(exp=int(time.time() * 1_000) + 60_000), "exp is no number"),
    "exp negative": (lambda: claims(exp=-1), "exp is no number"),
    "exp huge": (
        lambda: raw_signed(HEADER, text_of(CLAIMS, '"x": 1').replace(b'"exp": ', b'"exp": 1e999, "y": '), EC),
        "claims are not",
    ),
    "exp with 400 digits": (lambda: claims(exp=10**400), "exp is no number"),
    "nbf with 400 digits": (lambda: claims(nbf=-(10**400)), "nbf is no number"),
    "exp NaN": (lambda: raw_signed(HEADER, text_of(CLAIMS, '"z": NaN'), EC), "claims are not"),
    "expired": (lambda: claims(exp=EXPIRED), "has expired"),
    "not yet": (lambda: claims(nbf=int(time.time()) + 70), "not valid yet"),
    "issued in the future": (lambda: claims(iat=int(time.time()) + 70), "not valid yet"),
    "nbf as text": (lambda: claims(nbf="0"), "nbf is no number"),
    "no aud": (lambda: claims(aud=...), "no aud"),
    "aud null": (lambda: claims(aud=None), "no aud"),
    "aud empty": (lambda: claims(aud=[]), "no aud"),
    "aud an object": (lambda: claims(aud={AUDIENCE: 1}), "no aud"),
    "aud another": (lambda: claims(aud="other"), "names others"),
    "aud a part": (lambda: claims(aud="flagsvc-admin"), "names others"),
    "aud others": (lambda: claims(aud=["a", "b"]), "names others"),
    "aud with another kind beside": (lambda: claims(aud=[AUDIENCE, 1]), "no aud"),
    "no iss": (lambda: claims(iss=...), "no iss"),
    "iss a list": (lambda: claims(iss=[GITHUB]), "no iss"),
    "iss another": (lambda: claims(iss="https://evil.example"), "issuer is none"),
    "iss longer": (lambda: claims(iss=GITHUB + "/"), "issuer is none"),
    "iss shorter": (lambda: claims(iss=GITHUB[:-1]), "issuer is none"),
    "no sub": (lambda: claims(sub=...), "no sub"),
    "sub of another kind": (lambda: claims(sub=7), "no sub"),
    "sub hidden": (lambda: claims(sub="admin\u202e"), "no sub"),
    "sub long": (lambda: claims(sub="x" * 513), "no sub"),
    "duplicate claims": (
        lambda: raw_signed(HEADER, text_of(CLAIMS, '"repository": "acme/web"'), EC),
        "claims are not a JSON object",
    ),
    "duplicate header": (
        lambda: raw_signed(text_of(HEADER, '"alg": "ES256"'), CLAIMS, EC),
        "header is not a JSON object",
    ),
    "nested objects": (
        lambda: raw_signed(HEADER, b'{"a":' * 1_000 + b"1" + b"}" * 1_000, EC),
        "claims are not a JSON object",
    ),
    "nested lists": (lambda: raw_signed(b"[" * 2_000 + b"]" * 2_000, CLAIMS, EC), "header is not a JSON object"),
    "a long number": (lambda: raw_signed(HEADER, b'{"exp": ' + b"9" * 4_400 + b"}", EC), "claims are not"),
    "a lone surrogate": (lambda: raw_signed(HEADER, text_of(CLAIMS, '"x": "\\ud800"'), EC), "claims are not"),
    "no JSON": (lambda: raw_signed(HEADER, b"\xff\xfe", EC), "claims are not"),
    "no object": (lambda: raw_signed(HEADER, b"[]", EC), "claims are not"),
    "huge": (lambda: claims(padding="x" * 6_000), "over 8192 bytes"),
    "padding in a part": (lambda: header().replace(".", "=.", 1), "three parts in base64url"),
    "a line break in a part": (lambda: header().replace(".", "\n.", 1), "three parts in base64url"),
    "base64 that is not canonical": (lambda: not_canonical(header()), "signature is not one"),
    "other letters": (lambda: "\u0661" + header(), "three parts in base64url"),
    "nothing": (lambda: "..", "three parts in base64url"),
}


def not_canonical(token: str) -> str:
    """The token with other unused bits at its end: the same bytes to most decoders, and another digest."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_each_attack_is_refused_in_words_that_repeat_nothing_of_it(callers: JwtCallers, attack: str) -> None:
    make, words = ATTACKS[attack]
    token = make()
    with pytest.raises(Unauthenticated, match=words) as refused:
        await callers.verified_caller(token, PEER)
    assert len(str(refused.value)) < 120
    assert callers.known(token) is None
    assert callers.refusals.total() == 1
    assert callers.verified == ("signature" in words)


async def test_the_clocks_may_differ_by_a_minute_and_no_more(issuers: Issuers) -> None:
    now = 2_000_000_000.0
    moment = [now]
    callers = JwtCallers(lambda: moment[0])
    callers.issuers = issuers.tokens.issuers
    edges = {"iat": now + 60, "nbf": now + 60, "exp": now - 59}
    token = signed(github_claims(**edges), EC)
    identity = await callers.verified_caller(token, PEER)
    assert identity.expires_at == now + 1
    assert callers.known(token) is identity
    moment[0] = now + 1
    assert callers.known(token) is None
    assert not callers.is_current(identity)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated, match="has expired"):
        await callers.verified_caller(token, PEER)
    moment[0] = now
    for edge, words in ({"iat": now + 61}, "not valid"), ({"nbf": now + 60.5}, "not valid"), ({"exp": now - 60}, "exp"):
        with pytest.raises(Unauthenticated, match=words):
            await callers.verified_caller(signed(github_claims(**edges | edge), EC), PEER)


async def test_a_token_for_several_audiences_is_accepted(callers: JwtCallers) -> None:
    assert await identified(callers, signed(github_claims(aud=["other", AUDIENCE]), EC))


async def test_claims_become_fields_of_the_context_and_a_missing_claim_becomes_null(callers: JwtCallers) -> None:
    identity = await identified(callers, signed(kubernetes_claims(), RSA))
    subject = "system:serviceaccount:team-a:web"
    assert identity.context == {"namespace": "team-a", "targetingKey": subject, "plan": None}
    with pytest.raises(Unauthenticated, match="claims for the context are over 2048 bytes"):
        await identified(callers, signed(kubernetes_claims(plan="x" * 2_100), RSA))


async def test_a_denied_subject_is_refused_at_once_and_its_token_is_not_verified_again(issuers: Issuers) -> None:
    callers, token = issuers.tokens, signed(kubernetes_claims(account="denied"), RSA)
    identity = await identified(callers, token)
    assert issuers.is_current(identity)
    issuers.deny([f"jwt:{KUBERNETES}|system:serviceaccount:team-a:denied"])
    try:
        assert callers.known(token) is None
        assert not issuers.is_current(identity)
        verified = callers.verified
        with pytest.raises(PermissionDenied, match="subject is denied"):
            await callers.verified_caller(token, PEER)
        assert callers.verified == verified
        with pytest.raises(PermissionDenied, match="subject is denied"):
            await callers.verified_caller(signed(kubernetes_claims(account="denied", jti="2"), RSA), PEER)
        assert await identified(callers, signed(kubernetes_claims(), RSA))
    finally:
        issuers.deny([])
    assert callers.known(token) is identity


async def test_a_right_token_of_a_network_that_fails_too_often_waits_for_its_turn(
    callers: JwtCallers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "PER_NETWORK", 3.0)
    monkeypatch.setattr(failures, "MAX_WAITING_PER_NETWORK", 20)
    good, fresh, other = (signed(kubernetes_claims(jti=str(n)), RSA) for n in range(3))
    identity = await callers.verified_caller(good, PEER)
    for n in range(3):
        with pytest.raises(Unauthenticated, match="signature"):
            await callers.verified_caller(signed(github_claims(jti=str(n)), EVIL), f"ipv4:10.0.0.1:{n}")
    ended: list[str] = []

    async def verify(name: str, text: str, peer: str) -> None:
        try:
            await callers.verified_caller(text, peer)
        except (Unauthenticated, Overloaded) as error:
            name = f"{name} {type(error).__name__}"
        ended.append(name)

    wrong = [signed(github_claims(jti=f"more {n}"), EVIL) for n in range(25)]
    tasks = [asyncio.create_task(verify("wrong", text, "ipv4:10.0.0.1:9")) for text in wrong[:19]]
    tasks.append(asyncio.create_task(verify("right", fresh, "ipv4:10.0.0.1:9")))
    tasks += [asyncio.create_task(verify("late", text, "ipv4:10.0.0.1:9")) for text in wrong[19:]]
    tasks.append(asyncio.create_task(verify("elsewhere", other, "ipv4:10.0.0.2:1")))
    assert callers.known(good) is identity
    await asyncio.gather(*tasks)
    assert ended.count("wrong Unauthenticated") == 19
    assert ended.count("late Overloaded") == 6
    assert ended.index("elsewhere") < ended.index("right") == len(ended) - 1
    assert callers.verified == 1 + 3 + 19 + 2


async def test_networks_that_fail_too_often_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PER_NETWORK", 1.0)
    monkeypatch.setattr(failures, "MAX_WAITING", 12)
    found, order = failures.Failures(lambda: 0.0), []
    for n in range(2):
        found.failed(f"ipv4:10.0.0.{n}:1")

    async def verify(name: str) -> None:
        async with found.turn(name):
            order.append(name[12])

    one, other = "ipv4:10.0.0.0:1", "ipv4:10.0.0.1:1"
    tasks = [asyncio.create_task(verify(name)) for name in [one] * 10 + [other] * 2]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="too many tokens from this network"):
        found.check(other)
    await asyncio.gather(*tasks)
    assert "".join(order) == "010100000000"
    found.check(other)


async def test_a_bad_token_that_is_sent_again_and_again_is_verified_once(callers: JwtCallers) -> None:
    token = signed(github_claims(), EVIL)
    for _ in range(int(failures.PER_NETWORK) + 5):
        with pytest.raises(Unauthenticated, match="signature"):
            await callers.verified_caller(token, PEER)
    assert callers.verified == 1


async def test_the_tokens_that_are_held_and_that_wait_are_bounded(
    issuers: Issuers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_KNOWN", 2)
    monkeypatch.setattr(tokens, "MAX_WAITING", 1)
    callers = JwtCallers()
    callers.issuers = issuers.tokens.issuers
    texts = [signed(kubernetes_claims(jti=str(n)), RSA) for n in range(3)]
    found = [await callers.verified_caller(text, PEER) for text in texts]
    assert len(callers) == 2
    assert [callers.known(text) for text in texts] == [None, *found[1:]]
    waits = asyncio.create_task(callers.verified_caller(texts[0], PEER))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="too many tokens wait"):
        await callers.verified_caller(signed(kubernetes_claims(jti="4"), RSA), PEER)
    assert await waits


async def test_refusals_are_counted_and_one_a_second_is_logged(callers: JwtCallers) -> None:
    with capture_logs() as logs:
        for n in range(5):
            with pytest.raises(Unauthenticated):
                await callers.verified_caller(signed(github_claims(aud=f"other-{n}"), EC), PEER)
    assert [line["event"] for line in logs] == ["jwt_refused"]
    assert logs[0]["reason"] == "claims"
    assert callers.refusals == {"claims": 5}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2", True),
        ("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1", False),
        ("ipv6:%5B2001:db8:0:1::1%5D:1", "ipv6:%5B2001:db8:0:1:2::9%5D:2", True),
        ("ipv6:%5B2001:db8:0:1::1%5D:1", "ipv6:%5B2001:db8:0:2::1%5D:1", False),
        ("unix:", "unix:/a", True),
    ],
)
def test_a_network_is_an_ipv4_address_or_a_64th_of_ipv6(one: str, other: str, same: bool) -> None:
    assert (failures.network_of(one) == failures.network_of(other)) is same


def test_once_too_much_fails_in_all_only_networks_without_a_failure_wait_for_no_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "IN_ALL", 2.0)
    monkeypatch.setattr(failures, "MAX_WAITING", 0)
    monkeypatch.setattr(failures, "MAX_NETWORKS", 3)
    now = [0.0]
    found = failures.Failures(lambda: now[0])
    for n in range(5):
        found.failed(f"ipv4:10.0.0.{n}:1")
    assert len(found._networks) == 3
    with pytest.raises(Overloaded):
        found.check("ipv4:10.0.0.4:1")
    found.check("ipv4:10.9.9.9:1")
    now[0] = 1.0
    found.check("ipv4:10.0.0.4:1")


def test_the_library_knows_no_symmetric_algorithm_and_not_none() -> None:
    from flagsvc.issuers import keys  # noqa: PLC0415

    assert not {"none", "HS256", "HS384", "HS512"} & set(keys._VERIFIER.get_algorithms())
    assert jwt.__version__ >= "2.15.1"
