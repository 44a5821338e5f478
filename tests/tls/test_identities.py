"""Who a caller is on an encrypted connection: by its certificate, or by the token that it sends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from flagsvc_client import FlagClient, FlagServiceError, Tls, TokenFile

from flagsvc.cli.channels import token_for
from flagsvc.cli.usage import UsageError
from tests.certificates import Authority, put
from tests.command_line import run_here
from tests.replicas import Process
from tests.tls.asking import OFREP, exchange

SERVER, CLIENTS = Authority(), Authority("clients")
READER = "spiffe://prod/ns/shop/sa/web"
RULES = f"certificates:\n  - {{uri: '{READER}', grant: read@default}}\n"


class Served(NamedTuple):
    process: Process
    folder: Path
    token: Path

    def tls(self, uri: str) -> Tls:
        """The client of one name."""
        name = x509.UniformResourceIdentifier(uri)
        certificate, key = CLIENTS.sign("client", [name]).put(self.folder, uri.rpartition("/")[2])
        return Tls(ca=self.folder / "ca.crt", certificate=certificate, key=key)

    def run(self, uri: str, *arguments: str, **environment: str) -> Any:
        tls = self.tls(uri)
        files = {"CA": tls.ca, "CLIENT_CERT": tls.certificate, "CLIENT_KEY": tls.key}
        given = {f"FLAGSVC_TLS_{name}": str(path) for name, path in files.items()}
        return run_here(*arguments, "--address", self.process.address, **given, **environment)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("identities")
    store, token = f"sqlite:///{folder}/flags.db", folder / "admin.token"
    made = run_here("token", "create", "admin", "--role", "admin", "--store", store, "--output", str(token))
    assert made.returncode == 0, made.stderr
    certificate, key = SERVER.sign().put(folder)
    SERVER.put(folder)
    put(folder / "issuers.yaml", RULES.encode())
    ca = CLIENTS.put(folder, "clients.crt")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", f"grpc={ca};sync={ca}")
    issuers = {"FLAGSVC_JWT_ISSUERS_FILE": str(folder / "issuers.yaml")}
    with Process("--store", store, "--auth", "required", *options, **issuers) as process:
        found = Served(process, folder, token)
        deadline = time.monotonic() + 30
        while found.run(READER, "health").returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield found


def whoami(served: Served, uri: str, **environment: str) -> dict[str, Any]:
    done = served.run(uri, "whoami", "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_caller_is_who_its_certificate_says_unless_it_sends_a_token(served: Served) -> None:
    found = whoami(served, READER)
    assert (found["kind"], found["id"], found["role"]) == ("certificate", f"uri:{READER}", "read")
    assert whoami(served, READER, FLAGSVC_TOKEN_FILE=str(served.token))["kind"] == "token"
    assert served.run(READER, "list").returncode == 0
    assert "PERMISSION_DENIED" in served.run(READER, "create", "a").stderr
    assert served.run(READER, "create", "a", "status=ENABLED", FLAGSVC_TOKEN_FILE=str(served.token)).returncode == 0
    stranger = served.run("spiffe://prod/ns/other", "list")
    assert (stranger.returncode, "UNAUTHENTICATED" in stranger.stderr or "PERMISSION" in stranger.stderr) == (1, True)


def test_the_client_is_known_by_certificate_and_by_token(served: Served) -> None:
    tls = served.tls(READER)
    with FlagClient(served.process.address, tls=tls, timeout_s=5) as reader:
        reader.flags()
        with pytest.raises(FlagServiceError, match="PERMISSION_DENIED"):
            reader.toggle("a", True)
    with FlagClient(served.process.address, tls=tls, token=TokenFile(served.token), timeout_s=5) as admin:
        admin.toggle("a", True)
        assert admin.is_enabled("a")


async def test_ofrep_takes_tokens_over_tls(served: Served) -> None:
    port, context = served.process.ofrep_port, SERVER.trusting()
    assert (await exchange(port, context, OFREP)).startswith(b"HTTP/1.1 401")
    bearer = f"Authorization: Bearer {served.token.read_text().strip()}\r\nContent-Length".encode()
    assert b'"value":true' in await exchange(port, context, OFREP.replace(b"Content-Length", bearer))


def test_the_command_line_sends_a_token_to_others_encrypted_only() -> None:
    given = {"FLAGSVC_TOKEN": "fsv_a"}
    assert token_for("flags:8013", given, encrypted=True) == "fsv_a"
    assert token_for("127.0.0.1:8013", given, encrypted=False) == "fsv_a"
    with pytest.raises(UsageError, match=r"in plain text; use TLS \(--tls-ca\)"):
        token_for("flags:8013", given, encrypted=False)
