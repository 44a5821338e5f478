"""What the front of the native transport does not bound. When a test here passes, docs/native.md has to change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from flagsvc.native.direct import EVALUATE
from tests.replicas import Client, Process, until_serving

BYTES = 60_000_000
ALLOWED_KB = 20_000
REASON = "the front has no limit on messages: it has all of one in memory before anybody can look at it"

Served = tuple[Client, Process]


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    store = tmp_path_factory.mktemp("unbounded") / "flags.db"
    settings = {"FLAGSVC_TRANSPORT": "native", "FLAGSVC_DRAIN_S": "0"}
    with Process("--store", f"sqlite:///{store}", "--cache", "none", **settings) as process:
        client = Client(process.address)
        await until_serving(client)
        yield client, process
        await client.channel.close()


async def memory_taken_kb(served: Served, compression: grpc.Compression) -> int:
    """Return by how much the server's memory grows while it refuses a message of BYTES."""
    client, process = served
    assert process.process is not None
    folder = Path(f"/proc/{process.process.pid}")

    def of(kind: str) -> int:
        return int(
            next(line for line in (folder / "status").read_text().splitlines() if line.startswith(kind)).split()[1]
        )

    (folder / "clear_refs").write_text("5")  # the peak begins here
    before = of("VmRSS")
    call = client.channel.unary_unary(EVALUATE)(bytes(BYTES), timeout=60, compression=compression)
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return of("VmHWM") - before


@pytest.mark.xfail(reason=REASON, strict=True, raises=AssertionError)
async def test_a_gzip_bomb_takes_no_memory(served: Served) -> None:
    assert await memory_taken_kb(served, grpc.Compression.Gzip) < ALLOWED_KB


@pytest.mark.xfail(reason=REASON, strict=True, raises=AssertionError)
async def test_a_message_over_the_limit_takes_no_memory(served: Served) -> None:
    assert await memory_taken_kb(served, grpc.Compression.NoCompression) < ALLOWED_KB
