"""Snapshots for tests, and a process that writes them until its disk is full or it is killed, and says what is left.

python -m tests.snapshot_files killed PATH TIMES    a line of JSON after each kill
python -m tests.snapshot_files full PATH BYTES      no file can be larger; the error
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
from flagsvc.ports import Saved, StoreContents

STORE = "mongodb://store/flags"
NOW = datetime(2026, 11, 25, 12, 0, 0, 5, tzinfo=UTC)
FLAGS = 40
_WORDS = "some more of it " * 4_000
_LONGEST_LIFE_S = 0.06


def at(path: Path, *, store: str = STORE, max_age_s: float = 60.0) -> SnapshotFile:
    """Give a snapshot file whose clock stands still."""
    return SnapshotFile(path, store, max_age_s, lambda: NOW)


def saved(revision: int = 1, *, name: str = "", when: datetime = NOW, **revisions: int) -> Saved:
    """Give contents of one flag; `revisions` are those of other sets."""
    flag = Flag(key="a", name=name, revision=revision)
    return Saved(StoreContents([flag], {"default": revision, **revisions}), when)


def large(revision: int) -> Saved:
    """Give contents of a few megabytes in which every flag has this revision: a mixture would show."""
    held = [Flag(key=f"flag-{number}", config=_WORDS, revision=revision) for number in range(FLAGS)]
    return Saved(StoreContents(held, {"default": revision}), NOW)


class Near:
    """What a replica holds: one flag, confirmed now."""

    def __init__(self) -> None:
        self.complete, self.staleness_bound_s, self.changes, self.revision = True, 5.0, 0, 1
        self.verified_at = time.monotonic()

    def revisions(self) -> dict[str, int]:
        return {"default": self.revision}

    def contents(self) -> StoreContents:
        return saved(self.revision, name=f"change {self.changes}").contents


@dataclass
class Kept:
    """A snapshot in memory; a save begins, and ends when `open` is set, or fails."""

    open: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    all: list[Saved] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: Exception | None = None
    newer: bool = False

    def read(self) -> Saved | None:
        return self.all[-1] if self.all else None

    def write(self, offered: Saved) -> bool:
        self.acquired.set()
        assert self.open.wait(10)
        if self.error is not None:
            raise self.error
        if not self.newer:
            self.all.append(offered)
            self.times.append(time.monotonic())
        return not self.newer


def outcomes(mode: str, path: Path, number: int) -> list[dict[str, int]]:
    """Run this file as a process, and give what it says."""
    command = [sys.executable, "-m", "tests.snapshot_files", mode, str(path), str(number)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _write_for_ever(path: Path, revision: int, told: int) -> NoReturn:
    signal.alarm(10)  # should nobody be left to kill it
    while True:
        revision += 1
        at(path).write(large(revision))
        os.write(told, revision.to_bytes(8))


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
        heard, told = os.pipe()
        writer = os.fork()
        if writer == 0:
            _write_for_ever(path, found, told)
        os.close(told)
        if turn % 2:
            _await_file(temporary)
            time.sleep(chance.choice((0.0, 0.0005, 0.005, 0.01)) * chance.random())
        else:
            time.sleep(chance.uniform(0.0, _LONGEST_LIFE_S))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with os.fdopen(heard, "rb") as pipe:
            stored = int.from_bytes(pipe.read()[-8:]) or found
        midway = bool(turn % 2) and temporary.exists()
        saved = at(path).read()
        revisions = {flag.revision for flag in saved.contents.flags} if saved else set()
        found = max(revisions, default=0)
        told_of = {"stored": stored, "found": found, "kinds": len(revisions), "midway": midway}
        print(json.dumps(told_of | {"flags": len(saved.contents.flags) if saved else 0}), flush=True)  # noqa: T201


def _full(path: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        at(path).write(large(2))
    except OSError as error:
        print(json.dumps({"errno": error.errno}))  # noqa: T201


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"killed": _killed, "full": _full}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
