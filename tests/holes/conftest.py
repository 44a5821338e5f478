"""Separate stores for tests that try several things at once, since most of their time is spent waiting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from motor.frameworks import asyncio as motor_asyncio

from tests.databases import Databases
from tests.holes.pings import Pinging
from tests.replicas import Process
from tests.servers import Mongod, RedisServer


@pytest.fixture(scope="session", autouse=True)
def threads() -> Iterator[None]:
    """Enough threads for many replicas in one process: the driver uses some, and each change stream blocks one."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(100) as executor:
        patch.setattr(motor_asyncio, "_EXECUTOR", executor)
        yield


@pytest.fixture(scope="session", autouse=True)
def _early(request: pytest.FixtureRequest) -> None:
    """Start early what takes long and needs no attention, if a test of this run uses it.

    Not where tests run in parallel: there each process has all tests, and others go on while one waits.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    for name in wanted & {"pinging", "hanging"}:
        request.getfixturevalue(name)


@pytest.fixture(scope="session")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process in which MongoDB hangs for long, and the file of its results; `errors` beside it says why it failed."""
    report = tmp_path_factory.mktemp("hang") / "report"
    with report.with_name("errors").open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-m", "tests.holes.hang_scene", str(report)], stderr=errors)
    yield process, report
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def pinging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pinging]:
    """Clients of a separate server that ping it all the time."""
    store = tmp_path_factory.mktemp("pings") / "flags.db"
    with Process("--store", f"sqlite:///{store}") as process:
        await_port(process.port)
        with Pinging(("127.0.0.1", process.port)) as clients:
            yield clients


def await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def new_database_url(databases: Databases) -> Iterator[Callable[[], str]]:
    """Returns the URL of another empty database at each call."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(databases.one())


@pytest.fixture
def new_redis() -> Iterator[Callable[[], RedisServer]]:
    """Starts another Redis at each call: all databases of one Redis share a channel."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(RedisServer())


@pytest.fixture(scope="session")
def frozen_mongod() -> Iterator[Mongod]:
    """A replica set for tests that freeze and resume it."""
    with Mongod(durable=False) as server:
        yield server
