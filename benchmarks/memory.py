"""The server's memory under clients that do not read: `python -m benchmarks.memory [--rounds 10] [SCENARIO...]`.

Each scenario has a server of its own, with 10,000 flags. Its memory is read while the clients hold their calls, and
after they are gone. The exit status is 1 where it was over 300 MB, or where later rounds leave more behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from benchmarks.load import rss_mb
from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.documents import dumps
from flagsvc.core.model import Flag, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from tests.servers import free_port
from tests.unreading import Unreading

FLAGS, FAT_FLAGS, FAT_BYTES = 10_000, 4, 4_000_000
HOLD_S, GONE_S = 8.0, 8.0
LIMIT_MB = 300
GROWTH_SHARE, GROWTH_MB = 1.05, 8.0
"""After later rounds the memory may be so many times that after earlier ones, and this more."""
COMPILE_S = 5.0
"""After a load its rules are compiled, which takes memory too."""
RULE = '{"if":[{"ends_with":[{"var":"email"},"@flagsvc.example"]},"on",{"fractional":[["on",10],["off",90]]}]}'
WATCH, BATCH = "/flagsvc.v1.FlagService/WatchFlags", "/flagsvc.v1.FlagService/BatchEvaluateFlags"
SYNC, RESOLVE_ALL = "/flagd.sync.v1.FlagSyncService/SyncFlags", "/flagd.evaluation.v1.Service/ResolveAll"

Act = Callable[[int, contextlib.ExitStack], object]


def _calls(path: str, connections: int, calls: int, request: bytes | None = b"") -> Act:
    def act(port: int, stack: contextlib.ExitStack) -> None:
        for _ in range(connections):
            client = stack.enter_context(Unreading(port))
            with contextlib.suppress(OSError):  # the server may close a connection that asks for too much
                for _ in range(calls):
                    client.call(path, request)

    return act


def _fat_batch(port: int, _stack: contextlib.ExitStack) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
        try:
            answer = pb_grpc.FlagServiceStub(channel).BatchEvaluateFlags(
                pb.BatchEvaluateFlagsRequest(flag_keys=[f"fat-{number}" for number in range(FAT_FLAGS)] * 75)
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
    return f"{answer.ByteSize()} bytes"


SCENARIOS: dict[str, Act] = {
    "300 WatchFlags on one connection": _calls(WATCH, 1, 300),
    "300 WatchFlags on 30 connections": _calls(WATCH, 30, 10),
    "300 SyncFlags on one connection": _calls(SYNC, 1, 300),
    "300 SyncFlags on 30 connections": _calls(SYNC, 30, 10),
    "3,000 ResolveAll on 30 connections": _calls(RESOLVE_ALL, 30, 100),
    "45,000 calls without a message on 45 connections": _calls(RESOLVE_ALL, 45, 1_000, None),
    "one batch of 300 keys with values of 4 MB": _fat_batch,
}


@dataclass
class Measured:
    """A server's memory in MB: before, and at its peak and after each round; and what the scenario saw."""

    before: float
    peaks: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    seen: object = None

    @property
    def grows(self) -> bool:
        """Whether later rounds leave more behind than earlier ones. The first ones fill what is kept for the next."""
        half = len(self.after) // 2
        return half > 1 and max(self.after[half:]) > GROWTH_SHARE * max(self.after[:half]) + GROWTH_MB


def measure(act: Act, rounds: int) -> Measured:
    """Run a scenario's rounds, one after the other, against one server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _serving(Path(folder), FAT_FLAGS if act is _fat_batch else 0) as (port, pid),
    ):
        found = Measured(rss_mb(pid))
        for _ in range(rounds):
            peak, stop = [0.0], threading.Event()
            watching = threading.Thread(target=_watch, args=(pid, peak, stop), daemon=True)
            watching.start()
            with contextlib.ExitStack() as stack:
                found.seen = act(port, stack)
                time.sleep(HOLD_S)
            time.sleep(GONE_S)
            stop.set()
            watching.join()
            found.peaks.append(peak[0])
            found.after.append(rss_mb(pid))
        return found


def _watch(pid: int, peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        peak[0] = max(peak[0], rss_mb(pid))


@contextlib.contextmanager
def _serving(folder: Path, fat_flags: int) -> Iterator[tuple[int, int]]:
    path, port = folder / "flags.db", free_port()
    asyncio.run(_fill(path, fat_flags))
    command = [str(Path(sys.executable).with_name("flagsvc")), "serve", "--store", f"sqlite:///{path}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    command += [part for name in ("sync", "management", "ofrep") for part in (f"--{name}-port", "-1")]
    server = subprocess.Popen(command, env={k: v for k, v in os.environ.items() if not k.startswith("FLAGSVC_")})
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.FlagServiceStub(channel)
            while not stub.ListFlags(pb.ListFlagsRequest(page_size=1), wait_for_ready=True, timeout=30).flags:
                time.sleep(0.1)
        time.sleep(COMPILE_S)
        yield port, server.pid
    finally:
        server.terminate()
        server.wait()


async def _fill(path: Path, fat_flags: int) -> None:
    store = SqliteStore(f"sqlite:///{path}")
    await store.open()
    await store.close()
    flags = [Flag(key=f"flag-{n:05}", status=Status.ENABLED, targeting=RULE, revision=n) for n in range(1, FLAGS + 1)]
    fat = Flag(key="", status=Status.ENABLED, variants={"on": "x" * FAT_BYTES}, default_variant="on", revision=1)
    flags += [replace(fat, key=f"fat-{n}") for n in range(fat_flags)]
    with sqlite3.connect(path) as db:
        rows = [(flag.flag_set, flag.key, flag.revision, dumps(flag)) for flag in flags]
        db.executemany("INSERT INTO flags VALUES (?, ?, ?, ?)", rows)
        db.execute("INSERT INTO revisions VALUES ('default', ?)", (FLAGS,))


def main() -> int:
    """Measure, print, and return 1 where a server had too much or where its memory does not come back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="parts of their names (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is repeated against its server")
    args = parser.parse_args()
    is_good = True
    for name, act in SCENARIOS.items():
        if args.scenarios and not any(each in name for each in args.scenarios):
            continue
        found = measure(act, args.rounds)
        peaks, after = (" ".join(f"{mb:.0f}" for mb in each) for each in (found.peaks, found.after))
        wrong = ["over the limit"] * (max(found.peaks) > LIMIT_MB) + ["GROWS"] * found.grows
        notes = "; ".join(map(str, [*filter(None, [found.seen]), *wrong]))
        print(f"{name}: {found.before:.0f} -> {peaks} MB, after {after} MB  {notes}", flush=True)
        is_good = is_good and not wrong
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
