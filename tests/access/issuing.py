"""An issuer of the tests: keys, tokens as Kubernetes and CI make them, a JWKS on a loopback HTTPS server, and a CA."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

KUBERNETES = "https://kubernetes.default.svc.cluster.local"
GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.example"
AUDIENCE = "flagsvc"
HOUR = 3_600


@cache
def rsa_key(name: str = "one", bits: int = 2_048) -> rsa.RSAPrivateKey:
    """A key of the test run."""
    return rsa.generate_private_key(65_537, bits)


@cache
def ec_key(name: str = "one", curve: str = "secp256r1") -> ec.EllipticCurvePrivateKey:
    curves = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}
    return ec.generate_private_key(curves[curve])


@cache
def ed_key(name: str = "one") -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


ALGORITHM = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}


def algorithm_of(key: Any) -> str:
    """The algorithm that tokens are signed with by default."""
    return next(name for kind, name in ALGORITHM.items() if isinstance(key, kind))


def jwk_of(private: Any, kid: str, **extra: Any) -> dict[str, Any]:
    """The public key as issuers publish it."""
    found = get_default_algorithms()[algorithm_of(private)].to_jwk(private.public_key(), as_dict=True)
    return {name: found[name] for name in found if name != "key_ops"} | {"kid": kid, "use": "sig", **extra}


def jwks(**keys: Any) -> bytes:
    """The JWKS of some private keys, by kid."""
    return json.dumps({"keys": [jwk_of(key, kid) for kid, key in keys.items()]}).encode()


def times(lives_s: float = HOUR) -> dict[str, int]:
    now = int(time.time())
    return {"iat": now, "nbf": now, "exp": now + int(lives_s)}


def kubernetes_claims(namespace: str = "team-a", account: str = "web", **extra: Any) -> dict[str, Any]:
    """The claims of a pod's projected service account token (Kubernetes 1.30)."""
    uid = "0f7b3a2e-7d5f-4f0e-8a0e-6d5f5b0f2b1c"
    return {
        "iss": KUBERNETES,
        "aud": [AUDIENCE],
        **times(),
        "jti": uid,
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": uid},
            "pod": {"name": "web-7c6d4f5b9-abcde", "uid": uid},
            "serviceaccount": {"name": account, "uid": uid},
            "warnafter": int(time.time()) + HOUR,
        },
        **extra,
    }


def github_claims(repository: str = "acme/web", ref: str = "refs/heads/main", **extra: Any) -> dict[str, Any]:
    """The claims of a job's token of GitHub Actions."""
    return {
        "iss": GITHUB,
        "aud": AUDIENCE,
        **times(300),
        "jti": "example-id",
        "sub": f"repo:{repository}:ref:{ref}",
        "ref": ref,
        "sha": "example-sha",
        "repository": repository,
        "repository_owner": repository.partition("/")[0],
        "repository_id": "74",
        "run_id": "example-run-id",
        "runner_environment": "github-hosted",
        "actor": "octocat",
        "workflow": "deploy",
        "event_name": "push",
        "ref_type": "branch",
        "job_workflow_ref": f"{repository}/.github/workflows/deploy.yml@{ref}",
        **extra,
    }


def gitlab_claims(project: str = "acme/web", **extra: Any) -> dict[str, Any]:
    """The claims of an ID token of a GitLab job."""
    return {
        "iss": GITLAB,
        "aud": AUDIENCE,
        **times(300),
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "sub": f"project_path:{project}:ref_type:branch:ref:main",
        "namespace_path": project.partition("/")[0],
        "project_path": project,
        "project_id": "22",
        "pipeline_source": "push",
        "ref": "main",
        "ref_type": "branch",
        "ref_protected": "true",
        "groups_direct": ["acme/developers", "acme/flag-admins"],
        **extra,
    }


def signed(claims: Mapping[str, Any], key: Any, kid: str = "k1", alg: str = "", **headers: Any) -> str:
    """A token; its algorithm is that of the key unless said otherwise."""
    return jwt.encode(dict(claims), key, algorithm=alg or algorithm_of(key), headers={"kid": kid, **headers})


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_signed(header: Any, claims: Any, key: Any) -> str:
    """A token with exactly this header and these claims (objects, or JSON text as bytes), signed with an EC key."""
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(get_default_algorithms()['ES256'].sign(text.encode(), key))}"


@cache
def authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA of the test run."""
    key = ec_key("CA")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA of the tests")])
    builder = _certificate(name, name, key.public_key(), days=1)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()), key


def certificate(
    key: Any,
    *,
    uris: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    common_name: str = "x",
    days: float = 1,
    raw_names: bytes = b"",
) -> bytes:
    """A certificate (PEM) of the CA, for 127.0.0.1 besides its names. `raw_names`: DER of the names in their place."""
    ca, ca_key = authority()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    others: list[x509.GeneralName] = [x509.UniformResourceIdentifier(each) for each in uris]
    others += [x509.DNSName(each) for each in names]
    others.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    builder = _certificate(subject, ca.subject, key.public_key(), days)
    extension: x509.ExtensionType = x509.SubjectAlternativeName(others)
    if raw_names:
        sequence = bytes([0x30, len(raw_names)]) + raw_names
        extension = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, sequence)
    builder = builder.add_extension(extension, critical=False)
    return pem(builder.sign(ca_key, hashes.SHA256()))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any) -> bytes:
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


def _certificate(subject: x509.Name, issuer: x509.Name, public: Any, days: float) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
    return builder.not_valid_before(now - dt.timedelta(days=2)).not_valid_after(now + dt.timedelta(days=days))


class KeyServer:
    """A JWKS on HTTPS. `answer`: the whole answer to the next requests; `requests`: what was asked."""

    def __init__(self, body: bytes) -> None:
        self.requests: list[bytes] = []
        self.answer = http_answer(body)
        self.hold: asyncio.Event | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/keys"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.hold is not None:
                await self.hold.wait()
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def http_answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def key_server(body: bytes, folder: Path) -> AsyncIterator[KeyServer]:
    """Serve a JWKS on loopback; the CA is in `folder / "ca.pem"`."""
    server, context = KeyServer(body), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = ec_key("server")
    (folder / "ca.pem").write_bytes(pem(authority()[0]))
    (folder / "server.pem").write_bytes(certificate(key) + key_pem(key))
    context.load_cert_chain(folder / "server.pem")
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  ends at the deadline
            await asyncio.sleep(0.01)
