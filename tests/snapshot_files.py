"""Snapshots for tests, and a process that writes them until it is killed or its disk is full.

python -m tests.snapshot_files killed PATH TIMES    kills a writer TIMES times; prints a line of JSON after each
python -m tests.snapshot_files full PATH BYTES      limits the file size to BYTES; prints the error
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from flagsvc.adapters.snapshot.file import SnapshotFile
from flagsvc.core.model import Flag
from flagsvc.ports import Entry, Saved, StoreContents
from flagsvc.view.entries import CacheEntry

STORE = "mongodb://store/flags"
NOW = datetime(2026, 11, 25, 12, 0, 0, 5, tzinfo=UTC)
FLAGS = 40
_WORDS = "some more of it " * 4_000
_MAX_LIFETIME_S = 0.06
_ACKNOWLEDGED_TURN = 20
"""The writer of this turn lives until it has written once, so that later ones find something on any machine."""


def at(path: Path, *, store: str = STORE, max_age_s: float = 60.0) -> SnapshotFile:
    """Return a snapshot file whose clock always shows NOW."""
    return SnapshotFile(path, store, max_age_s, lambda: NOW)


def saved(revision: int = 1, *, name: str = "", when: datetime = NOW, **revisions: int) -> Saved:
    """Return contents with one flag. `revisions` are those of other flag sets."""
    flag = Flag(key="a", name=name, revision=revision)
    return Saved(StoreContents([flag], {"default": revision, **revisions}), when)


def large(revision: int) -> Saved:
    """Return contents of a few megabytes. All flags have the same revision, so that a mixture would be noticed."""
    held = [Flag(key=f"flag-{number}", config=_WORDS, revision=revision) for number in range(FLAGS)]
    return Saved(StoreContents(held, {"default": revision}), NOW)


class Near:
    """A replica's view: one flag, verified now."""

    def __init__(self) -> None:
        self.complete, self.staleness_bound_s, self.replacements, self.revision = True, 5.0, 0, 1
        self.changelogs = self  # `watermarks` is the only method that the snapshot writer uses of them.
        self.verified_at = time.monotonic()

    def watermarks(self) -> dict[str, int]:
        return {"default": self.revision}

    def flags(self) -> list[CacheEntry]:
        return [CacheEntry(Entry.of(flag), 0.0, 0.0) for flag in self.contents().flags]

    def contents(self) -> StoreContents:
        return saved(self.revision, name=f"change {self.replacements}").contents


@dataclass
class Kept:
    """A snapshot in memory. A save ends when `open` is set, and fails if `error` is set."""

    open: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    all: list[Saved] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: Exception | None = None
    newer: bool = False

    def read(self) -> Saved | None:
        return self.all[-1] if self.all else None

    def write(self, offered: Saved) -> bool:
        self.started.set()
        assert self.open.wait(10)
        if self.error is not None:
            raise self.error
        if not self.newer:
            self.all.append(offered)
            self.times.append(time.monotonic())
        return not self.newer


def outcomes(mode: str, path: Path, *numbers: int) -> list[dict[str, int]]:
    """Run this file as a process, and return its output."""
    command = [sys.executable, "-m", "tests.snapshot_files", mode, str(path), *map(str, numbers)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _write_forever(path: Path, revision: int, acknowledged: int) -> NoReturn:
    signal.alarm(10)  # In case nobody is left to kill it.
    while True:
        revision += 1
        at(path).write(large(revision))
        os.write(acknowledged, revision.to_bytes(8))


def _await_file(path: Path) -> None:
    give_up_at = time.monotonic() + 5.0
    while not path.exists() and time.monotonic() < give_up_at:
        time.sleep(0.0001)


def _killed(path: Path, times: int) -> None:
    chance, found = random.Random(5), 0
    temporary = path.with_name(path.name + ".new")
    for turn in range(times):
        if turn % 2:
            temporary.unlink(missing_ok=True)
        reading, writing = os.pipe()
        acknowledged = b""
        writer = os.fork()
        if writer == 0:
            _write_forever(path, found, writing)
        os.close(writing)
        if turn % 2:
            _await_file(temporary)
            time.sleep(chance.choice((0.0, 0.0005, 0.005, 0.01)) * chance.random())
        elif turn == _ACKNOWLEDGED_TURN:
            acknowledged = os.read(reading, 8)
        else:
            time.sleep(chance.uniform(0.0, _MAX_LIFETIME_S))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with os.fdopen(reading, "rb") as pipe:
            stored = int.from_bytes((acknowledged + pipe.read())[-8:]) or found
        midway = bool(turn % 2) and temporary.exists()
        saved = at(path).read()
        revisions = {flag.revision for flag in saved.contents.flags} if saved else set()
        found = max(revisions, default=0)
        flags = len(saved.contents.flags) if saved else 0
        result = {"stored": stored, "found": found, "kinds": len(revisions), "midway": midway, "flags": flags}
        print(json.dumps(result), flush=True)  # noqa: T201


def _full(path: Path, *limits: int) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            at(path).write(large(2))
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)  # what is printed may go to a file
            [flag] = at(path).read().contents.flags
            print(json.dumps({"errno": error.errno, "revision": flag.revision}))  # noqa: T201


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"killed": _killed, "full": _full}[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
