"""The command line in this process: output and exit status as `flagsvc`, without a process for each command."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Iterator
from unittest.mock import patch

from flagsvc.cli.main import main

Done = subprocess.CompletedProcess[str]


def run_here(*arguments: str, **environment: str) -> Done:
    """Run a command and return what a process would have left; what a process prints as a traceback is raised.

    Only for tests in which nothing else of this process prints meanwhile.
    """
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        patch.dict("os.environ", environment),
    ):
        try:
            status = main(arguments)
        except SystemExit as ended:  # the parser's way out
            status = int(ended.code or 0)
    return Done(arguments, status, output.getvalue(), errors.getvalue())


class Terminal(io.StringIO):
    """A terminal of so many columns, without colours unless `colours` is true; `keys`: what is typed into it."""

    def __init__(self, columns: int, *, colours: bool = False, keys: str = "") -> None:
        super().__init__()
        self._environment = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "" if colours else "1"}
        self._keys = _Keys(keys, self)

    def isatty(self) -> bool:
        """It is one."""
        return True

    @property
    def text(self) -> str:
        """What was printed."""
        return self.getvalue()

    @contextlib.contextmanager
    def is_standard_output(self) -> Iterator[None]:
        """Print here, errors too, and read what was typed."""
        with (
            contextlib.redirect_stdout(self),
            contextlib.redirect_stderr(self),
            patch("sys.stdin", self._keys),
            patch.dict("os.environ", self._environment),
        ):
            yield

    def run(self, *arguments: str, **environment: str) -> int:
        """Run a command and return its exit status."""
        with self.is_standard_output(), patch.dict("os.environ", environment):
            return main(arguments)


class _Keys(io.StringIO):
    """What is typed, which a terminal shows."""

    def __init__(self, keys: str, terminal: Terminal) -> None:
        super().__init__(keys)
        self._terminal = terminal

    def readline(self, *size: int) -> str:  # type: ignore[override]
        line = super().readline(*size)
        self._terminal.write(line)
        return line

    def isatty(self) -> bool:
        return True
