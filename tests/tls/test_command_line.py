"""`flagsvc` against servers with TLS: who is trusted, which certificate is shown, and what is said of a failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from flagsvc.cli.tls import failure
from tests.certificates import DAY, Authority, put
from tests.command_line import Done, run_here
from tests.replicas import Process

SERVER, CLIENTS = Authority(), Authority("clients")


class Served(NamedTuple):
    process: Process
    environment: dict[str, str]
    """The server's own, as a probe in its container has it."""
    ca: str
    own: tuple[str, str]


@pytest.fixture(scope="module", params=["tls", "mtls"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`flagsvc serve` with TLS, without and with client certificates."""
    folder = tmp_path_factory.mktemp(request.param)
    certificate, key = SERVER.sign().put(folder)
    settings = {"FLAGSVC_TLS_CERT": str(certificate), "FLAGSVC_TLS_KEY": str(key)}
    if request.param == "mtls":
        put(folder / "clients.crt", CLIENTS.own.pem + SERVER.own.pem)
        settings["FLAGSVC_TLS_CLIENT_CA"] = str(folder / "clients.crt")
    own = CLIENTS.sign("shop").put(folder, "own")
    with Process("--store", f"sqlite:///{folder}/flags.db", **settings) as process:
        environment = {**settings, "FLAGSVC_PORT": str(process.port)}
        deadline = time.monotonic() + 20
        while run_here("health", **environment).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Served(process, environment, str(SERVER.put(folder)), (str(own[0]), str(own[1])))


def test_the_probe_of_a_container_needs_no_option(served: Served) -> None:
    done = run_here("health", **served.environment)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert run_here("list", **served.environment).returncode == 0
    environment = served.environment | {"FLAGSVC_PORT": "1"}
    assert run_here("health", "--port", str(served.process.port), **environment).returncode == 0


def test_a_broken_file_does_not_fail_the_probe_of_a_server_that_goes_on(served: Served, tmp_path: Path) -> None:
    put(tmp_path / "tls.crt", b"broken")
    environment = served.environment | {"FLAGSVC_TLS_CERT": str(tmp_path / "tls.crt")}
    if "FLAGSVC_TLS_CLIENT_CA" not in served.environment:  # else it is shown, too
        assert run_here("health", **environment).returncode == 0


@pytest.mark.parametrize("times", [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
def test_a_certificate_of_another_time_is_a_warning_of_the_probe(
    tmp_path: Path, times: tuple[timedelta, timedelta]
) -> None:
    """A probe that failed for it would kill a server that serves on."""
    certificate, key = SERVER.sign(begins=times[0], ends=times[1]).put(tmp_path)
    settings = {"FLAGSVC_TLS_CERT": str(certificate), "FLAGSVC_TLS_KEY": str(key)}
    with Process("--store", f"sqlite:///{tmp_path}/flags.db", **settings) as process:
        environment = settings | {"FLAGSVC_PORT": str(process.port)}
        deadline = time.monotonic() + 20
        while (done := run_here("health", **environment)).returncode:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05)
        assert done.stdout == "SERVING\n"
        assert "warning: the server's certificate" in done.stderr
        assert run_here("health", "--service", "nope", **environment).returncode == 1
        ca = ("--tls-ca", str(SERVER.put(tmp_path)))
        assert run_here("health", *ca, **environment).returncode == 1, "who names a CA wants it verified"
        assert run_here("list", **environment).returncode == 1


def ask(served: Served, *options: str, **environment: str) -> Done:
    return run_here("list", "--address", served.process.address, *options, **environment)


def test_another_machine_names_the_ca_and_its_certificate(served: Served) -> None:
    certificate, key = served.own
    shown = ("--tls-client-cert", certificate, "--tls-client-key", key)
    assert ask(served, "--tls-ca", served.ca, *shown).returncode == 0
    names = {"FLAGSVC_TLS_CA": served.ca, "FLAGSVC_TLS_CLIENT_CERT": certificate, "FLAGSVC_TLS_CLIENT_KEY": key}
    assert ask(served, **names, FLAGSVC_TLS_NAME="localhost").returncode == 0
    if "FLAGSVC_TLS_CLIENT_CA" in served.environment:
        refused = ask(served, "--tls-ca", served.ca)
        assert refused.returncode == 1
        assert "with TLS: the server closes it; if it requires client certificates, show" in refused.stderr


def test_what_fails_is_said(served: Served, tmp_path: Path) -> None:
    plain = ask(served)
    assert plain.returncode == 1
    assert "closes the connection; if it serves TLS, name its CA with --tls-ca" in plain.stderr
    for options in (("--tls",), ("--tls-ca", str(Authority("another").put(tmp_path)))):
        refused = ask(served, *options)
        assert refused.returncode == 1
        assert "with TLS: the server's certificate is not of a CA that is trusted; name its CA" in refused.stderr
    elsewhere = ask(served, "--tls-ca", served.ca, "--tls-name", "elsewhere")
    assert elsewhere.returncode == 1
    assert "with TLS: the server's certificate has another name than this address; say which" in elsewhere.stderr
    certificate, key = served.own
    for options in (("--tls-ca", key), ("--tls-ca", served.ca, "--tls-client-cert", key, "--tls-client-key", key)):
        refused = ask(served, *options)
        assert (refused.returncode, "is not a PEM file with a certificate" in refused.stderr) == (2, True)
    swapped = ask(served, "--tls-ca", served.ca, "--tls-client-cert", certificate, "--tls-client-key", certificate)
    assert (swapped.returncode, "is not a PEM file with a private key" in swapped.stderr) == (2, True)


def test_a_certificate_out_of_its_time_is_said() -> None:
    text = "SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: {}: OK"
    assert failure(text.format("certificate has expired")) == "the server's certificate has expired"
    assert "not valid yet" in failure(text.format("certificate is not yet valid"))
    assert failure("Connection refused") is None


def test_what_makes_no_sense_is_a_usage_error() -> None:
    for options, said in (
        (("--tls-client-cert", "a"), "--tls-client-cert and --tls-client-key go together"),
        (("--tls-name", "a"), "need --tls-ca, or --tls for a public CA"),
        (("--tls-ca", "/no/such"), "--tls-ca: cannot read '/no/such': FileNotFoundError"),
    ):
        done = run_here("list", "--address", "127.0.0.1:1", *options)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_the_servers_own_machine_without_a_server(tmp_path: Path) -> None:
    done = run_here("health", "--port", "1", FLAGSVC_TLS_CERT="/c", FLAGSVC_TLS_KEY="/k")
    assert done.returncode == 1
    assert "no server is reachable at 127.0.0.1:1" in done.stderr
