"""`flagsvc` in processes forked from one that has imported it already: importing is most of what a start costs.

From `flagsvc.__main__.main` on, all happens as in a process of its own. Tests of the start itself run the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

from flagsvc.__main__ import main

_IMPORTED = __name__, "flagsvc.cli.main", "flagsvc.cli.run", "flagsvc.server", "flagsvc.adapters.mongo.store", "uvloop"
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(list(_IMPORTED))


class Fork:
    """One run of `flagsvc`, with those methods of a `subprocess.Popen` that tests use. `stderr`: what it writes."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        read, write = context.Pipe(duplex=False)
        run = (list(arguments), dict(environment), write)
        self._process = context.Process(target=_run, args=run, daemon=True)
        self._process.start()
        write.close()
        self.stderr: TextIO = os.fdopen(os.dup(read.fileno()), encoding="utf-8")
        read.close()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("flagsvc", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait for the end; return nothing for the standard output, and what is left of the standard error."""
        self.wait(timeout)
        return None, self.stderr.read()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its status is not here yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop its threads; return when all have stopped, which takes a while on a busy machine."""
        self.send_signal(signal.SIGSTOP)
        while self.returncode is None and not all(map(_is_stopped, Path(f"/proc/{self.pid}/task").iterdir())):
            time.sleep(0.001)


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _run(arguments: list[str], environment: dict[str, str], errors: Connection) -> None:
    """Become `flagsvc`, in the forked process."""
    if sys.platform == "linux":  # the parent ends with the process that runs the tests
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(errors.fileno(), 2)
    errors.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["flagsvc", *arguments]
    sys.exit(main())
