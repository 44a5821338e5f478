"""Every port on a unix socket: who may connect, what a file that is there already means, and what is left behind."""

from __future__ import annotations

import asyncio
import codecs
import os
import socket
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
from flagsvc_client import AsyncFlagClient

from flagsvc.grpc_paths import STRICT
from flagsvc.listening import Address
from tests.flagd_clients import Evaluator
from tests.replicas import FLAGSVC, Client, replica, until, until_serving
from tests.unreading import Unreading

NAMES = ("grpc", "sync", "ofrep", "management")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: a socket's path has 90 bytes at most."""
    return tmp_path_factory.mktemp("s")


def ports(folder: Path) -> dict[str, str]:
    return {"port" if name == "grpc" else f"{name}_port": f"unix:{folder}/{name}" for name in NAMES}


def sockets(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir() if each.is_socket()}


async def command(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command line of a client."""
    process = await asyncio.create_subprocess_exec(
        str(FLAGSVC), *arguments, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.grpcio
async def test_every_port_is_served_on_a_socket_of_its_own_user(folder: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    async with replica(store_url=f"sqlite:///{folder}/flags.db", **ports(folder)) as (client, server):
        await until_serving(client)
        assert sockets(folder) == {*NAMES, ".grpc-0"}
        assert stat.S_IMODE((folder / ".grpc-0").stat().st_mode) == 0o600, "where the front passes calls on to gRPC"
        assert server._front is not None
        assert server._front.inner.address == f"unix:{folder}/.grpc-0", "no socket that has no mode"
        for name in NAMES:
            mode = (folder / name).stat().st_mode
            assert stat.S_IMODE(mode) == 0o660 & ~mask
        await client.create("a", status=1)
        async with AsyncFlagClient(f"unix:{folder}/grpc") as flags:
            assert (await flags.flag("a")).key == "a"
        other = Client(f"unix:{folder}/sync")
        assert (await Evaluator("v2", other.channel).resolve("Boolean", "a"))["value"] is True
        await other.channel.close()
        for name, path in (("ofrep", "/ofrep/v1/evaluate/flags/a"), ("management", "/readyz")):
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=f"{folder}/{name}")) as http:
                answer = await http.request("POST" if name == "ofrep" else "GET", f"http://localhost{path}")
            assert answer.status_code == 200
        status, output = await command("evaluate", "a", "--address", f"unix:{folder}/grpc")
        assert (status, "STATIC" in output) == (0, True), output
        assert (await command("health", FLAGSVC_PORT=f"unix://{folder}/grpc"))[0] == 0
    assert sockets(folder) == set(), "removed at the end"


async def test_a_socket_in_use_is_refused_and_that_of_a_dead_server_is_replaced(folder: Path) -> None:
    path = folder / "grpc"
    for name in ("grpc", ".grpc-0"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / name))
    settings = {"store_url": f"sqlite:///{folder}/flags.db", "port": f"unix:{path}"}
    async with replica(**settings) as (client, _):
        await until_serving(client)
        inode = path.stat().st_ino
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: address already in use"):
            async with replica(**settings):
                pass
        assert path.stat().st_ino == inode, "and stays what it is"
        await until_serving(client)


def test_a_file_that_is_no_socket_is_refused_and_another_servers_is_left(folder: Path) -> None:
    path = folder / "grpc"
    path.write_text("mine")
    with pytest.raises(OSError, match="not a socket"):
        Address("", f"unix:{path}").socket()
    assert path.read_text() == "mine"
    path.unlink()
    first, second = Address("", f"unix:{path}"), Address("", f"unix:{path}")
    first.socket().close()
    listening = second.socket()
    first.remove()
    assert path.is_socket()
    second.remove()
    listening.close()
    assert list(folder.iterdir()) == []


@pytest.mark.grpcio
async def test_a_replaced_grpc_server_listens_on_its_socket_again(folder: Path) -> None:
    settings = {"port": f"unix:{folder}/grpc", "sync_port": 0}
    async with replica(store_url=f"sqlite:///{folder}/flags.db", **settings) as (client, server):
        await until_serving(client)
        with Unreading(f"{folder}/grpc") as raw:
            codecs.register_error("strict", STRICT)  # grpcio fails as it does by itself
            raw.call("/flagsvc.v1.FlagService/EvaluateFlag\xff")
            await until(lambda: server._grpc["grpc"].replaced == 1)
        await until_serving(client)
        other = Client(str(server.addresses["grpc"]))
        await until_serving(other)
        await other.channel.close()
        assert server._front is not None
        assert server._front.inner.address == f"unix:{folder}/.grpc-1"
    assert sockets(folder) == set()


@pytest.mark.parametrize("umask", [0o022, 0o007, 0])
def test_nobody_else_can_connect_whatever_the_umask_is(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        address = Address("", f"unix:{folder}/grpc")
        address.socket().close()
        assert stat.S_IMODE((folder / "grpc").stat().st_mode) == 0o660 & ~umask
        assert os.umask(umask) == umask, "the umask is what it was"
        address.remove()
    finally:
        os.umask(before)
