"""The server that is fuzzed: a process on SQLite, or on Redis and MongoDB, with its log and its memory."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.replicas import Process
from tests.servers import Mongod, RedisServer

_SETTINGS = {
    "FLAGSVC_LOG_FORMAT": "json",
    "FLAGSVC_DRAIN_S": "0",
    "FLAGSVC_LOG_LOOP_LAG_S": "1",
    "FLAGSVC_FIRST_MESSAGE_S": "1",
    "FLAGSVC_CONTEXT_FROM_HEADERS": "x-user=user",
    "FLAGSVC_CORS_ORIGINS": "https://a.example",
    # Flags are created all the time: their memory has a bound that is reached soon.
    "FLAGSVC_MAX_FLAGS_PER_SET": "200",
    "FLAGSVC_MAX_BYTES_PER_SET": "4000000",
    "FLAGSVC_NEAR_CACHE_BYTES": "16000000",
}
_OF_THE_TRANSPORT = re.compile(r"[IWE]\d{4} [\d:.]+ +\d+ \w+\.cc:\d+\]")
"""A line of gRPC's own about bytes that are no gRPC."""


class Target:
    """A running server."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log: list[str] = []
        """Every line so far."""
        self._read = 0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def ports(self) -> dict[str, int]:
        """Every port by its name."""
        return {name: getattr(self.process, name) for name in ("port", "sync_port", "ofrep_port", "management_port")}

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.process is not None and self.process.process.poll() is None

    def resident_mb(self) -> float:
        """Return the memory that the process has, in megabytes; 0 where the system does not say."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.process.pid}/status").read_text() if self.process.process else ""
            return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)
        return 0.0

    def tracebacks(self) -> list[str]:
        """Return what the log shows of exceptions since the last time."""
        lines, self._read = self.log[self._read :], len(self.log)
        found: list[str] = []
        for is_json, entries in groupby(lines, lambda line: line.startswith("{")):
            if is_json:
                found += filter(_has_exception, entries)
            else:  # what Python prints by itself, over several lines
                text = "".join(line for line in entries if not _OF_THE_TRANSPORT.match(line))
                found += [text] if "Traceback" in text or "Error" in text else []
        return found

    def _follow(self) -> None:
        """Read the log to its end: a server whose log nobody reads stands still once the pipe is full."""
        stream = self.process.process.stderr if self.process.process else None
        with contextlib.suppress(ValueError):  # closed at the end
            for line in getattr(stream, "buffer", ()):
                self.log.append(line.decode(errors="replace"))  # gRPC logs bytes of callers as they are

    def stop(self) -> None:
        """Stop in order, and read the log to its end."""
        if self.alive:
            self.process.terminate()
        self._thread.join(20)


@contextlib.contextmanager
def target(*, cache: bool, program: tuple[str, ...] = ()) -> Iterator[Target]:
    """Start a server; with `cache` on a MongoDB and a Redis of its own. `program` is what starts it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stores = ["--store", f"sqlite:///{folder}/flags.db", "--cache", "none"]
        if cache:
            mongod, redis = stack.enter_context(Mongod()), stack.enter_context(RedisServer())
            stores = ["--store", mongod.database_url("fuzz"), "--cache", redis.url]
        settings = {**_SETTINGS, "FLAGSVC_SNAPSHOT_FILE": f"{folder}/snapshot"}
        process = stack.enter_context(Process(*stores, program=program, **settings))
        found = Target(process)
        stack.callback(found.stop)
        yield found


def _has_exception(line: str) -> bool:
    try:
        return "exception" in json.loads(line)
    except ValueError:
        return True
