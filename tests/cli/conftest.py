"""One server for the tests of commands."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.command_line import run_here
from tests.replicas import Process


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with an empty SQLite store."""
    with Process("--store", f"sqlite:///{tmp_path_factory.mktemp('cli')}/flags.db") as process:
        deadline = time.monotonic() + 60
        while run_here("health", FLAGSVC_ADDRESS=process.address).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process.address
