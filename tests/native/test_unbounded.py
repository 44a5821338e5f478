"""What the front of the native transport does not bound. When a test here passes, docs/native.md has to change."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagsvc.native.direct import EVALUATE
from tests.replicas import Process
from tests.servers import HOST
from tests.unreading import PREFACE, field, frame

BYTES = 60_000_000
ALLOWED_KB = 20_000
DATA, HEADERS, SETTINGS, ACK, END_HEADERS, END_STREAM, PORTION = 0, 1, 4, 1, 4, 1, 16_384
REASON = "the front has no limit on messages: it has all of one in memory before anybody can look at it"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    store = tmp_path_factory.mktemp("unbounded") / "flags.db"
    settings = {"FLAGSVC_TRANSPORT": "native", "FLAGSVC_DRAIN_S": "0"}
    with Process("--store", f"sqlite:///{store}", "--cache", "none", **settings) as process:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, process.port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process


def peak_kb(process: Process) -> int:
    """Return the most memory that the server has ever had."""
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def send(process: Process, fields: dict[str, str], message: bytes, *, ends: bool) -> None:
    """Send a call with a message, in the portions that every server takes, and read until the server is silent."""
    fields = {":method": "POST", ":scheme": "http", ":path": EVALUATE, ":authority": "flagsvc", **fields}
    block = b"".join(field(name.encode(), value.encode()) for name, value in fields.items())
    portions = [message[start : start + PORTION] for start in range(0, len(message), PORTION)]
    with socket.create_connection((HOST, process.port), timeout=0.5) as caller:
        caller.sendall(PREFACE + frame(SETTINGS, 0, 0))
        caller.recv(1 << 16)  # the front's windows, which are larger than these messages
        caller.sendall(frame(SETTINGS, ACK, 0) + frame(HEADERS, END_HEADERS, 1, block))
        for portion in portions[:-1]:
            caller.sendall(frame(DATA, 0, 1, portion))
        caller.sendall(frame(DATA, END_STREAM if ends else 0, 1, portions[-1]))
        try:
            while caller.recv(1 << 16):
                pass
        except TimeoutError:
            return


@pytest.mark.xfail(reason=REASON, strict=True)
def test_a_gzip_bomb_takes_no_memory(process: Process) -> None:
    before = peak_kb(process)
    bomb = gzip.compress(bytes(BYTES), 1)
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-encoding": "gzip"}
    send(process, headers, struct.pack(">BI", 1, len(bomb)) + bomb, ends=True)
    assert peak_kb(process) - before < ALLOWED_KB


@pytest.mark.xfail(reason=REASON, strict=True)
def test_a_message_that_never_ends_takes_no_memory(process: Process) -> None:
    before = peak_kb(process)
    headers = {"content-type": "application/grpc", "te": "trailers"}
    send(process, headers, struct.pack(">BI", 0, 2**31) + bytes(BYTES), ends=False)
    assert peak_kb(process) - before < ALLOWED_KB
