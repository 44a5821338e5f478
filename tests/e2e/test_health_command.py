"""`flagsvc health` asks the server of its own settings, directly, as the probe of a container does."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from flagsvc.cli import health
from flagsvc.cli.channels import server_address
from flagsvc.cli.main import main
from flagsvc.cli.parser import build_parser
from flagsvc.cli.usage import UsageError
from flagsvc.urls import SettingsError
from tests.replicas import FLAGSVC, Client, Process, until_serving

KUBERNETES = {"FLAGSVC_PORT": "tcp://10.0.0.1:8013", "FLAGSVC_SERVICE_HOST": "10.0.0.1"}
ADDRESSES: dict[str, tuple[list[str], dict[str, str], str]] = {
    "nothing": ([], {}, "127.0.0.1:8013"),
    "the port of the settings": ([], {"FLAGSVC_PORT": "9013\n"}, "127.0.0.1:9013"),
    "a Service of Kubernetes": ([], KUBERNETES, "127.0.0.1:8013"),
    "the host of the settings": ([], {"FLAGSVC_HOST": "10.1.2.3", "FLAGSVC_PORT": "1"}, "10.1.2.3:1"),
    "all addresses": ([], {"FLAGSVC_HOST": "0.0.0.0", "FLAGSVC_PORT": "1"}, "127.0.0.1:1"),
    "all IPv6 addresses": ([], {"FLAGSVC_HOST": "::"}, "[::1]:8013"),
    "settings that do not matter": ([], {"FLAGSVC_STORE_ULR": "x", "FLAGSVC_STORE_URL_FILE": "/no"}, "127.0.0.1:8013"),
    "--port": (["--port", "7"], {"FLAGSVC_PORT": "9013", "FLAGSVC_ADDRESS": "a:1"}, "127.0.0.1:7"),
    "FLAGSVC_ADDRESS": ([], {"FLAGSVC_PORT": "9013", "FLAGSVC_ADDRESS": "a:1 "}, "a:1"),
    "--address": (["--address", "b:2"], {"FLAGSVC_PORT": "9013", "FLAGSVC_ADDRESS": "a:1"}, "b:2"),
}


@pytest.mark.parametrize(("words", "environ", "address"), ADDRESSES.values(), ids=ADDRESSES)
def test_which_server_is_asked(words: list[str], environ: dict[str, str], address: str) -> None:
    assert server_address(build_parser().parse_args(["health", *words]), environ) == address


def test_what_names_no_server_is_refused() -> None:
    with pytest.raises(UsageError, match="leave out --port"):
        server_address(build_parser().parse_args(["health", "--address", "a:1", "--port", "7"]), {})
    with pytest.raises(UsageError, match="FLAGSVC_PORT is 0"):
        server_address(build_parser().parse_args(["health"]), {"FLAGSVC_PORT": "0"})
    with pytest.raises(SettingsError, match="--port is 'x'; it must be a number"):
        server_address(build_parser().parse_args(["health", "--port", "x"]), {})


@pytest.mark.parametrize("service", ["", "readiness", "flagsvc.v1.FlagService", "ä", "x" * 127])
def test_the_request_is_what_protobuf_writes(service: str) -> None:
    expected: bytes = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert health._request(service.encode()) == expected


def test_the_response_is_what_protobuf_reads() -> None:
    for name, number in health_pb2.HealthCheckResponse.ServingStatus.items():
        assert health._state(health_pb2.HealthCheckResponse(status=number).SerializeToString()) == name
    for other in (b"\x08\x63", b"\x08\xff", b"\x08\x81\x00", b"SERVING", b"\x0a\x01"):
        assert health._state(other) == "UNKNOWN", "an answer that is not understood is not SERVING"


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """A listener that is named as HTTP proxy; it accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


async def test_the_configured_port_is_asked_without_a_proxy(tmp_path: Path, proxy: socket.socket) -> None:
    with Process("--store", f"sqlite:///{tmp_path}/flags.db") as server:
        client = Client(server.address)
        await until_serving(client)
        await client.channel.close()
        through = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
        environment |= {"FLAGSVC_PORT": str(server.port), "http_proxy": through, "https_proxy": through}
        environment |= {"no_proxy": "", "NO_PROXY": ""}
        for command, printed in ((["health"], "SERVING\n"), (["list", "--json"], "[]\n")):
            done = await asyncio.to_thread(
                subprocess.run,
                [FLAGSVC, *command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(printed)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_health_never_goes_through_a_proxy(proxy: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert main(["health", "--address", "server.invalid:1", "--timeout", "0.5"]) == 1
    with pytest.raises(BlockingIOError):
        proxy.accept()
