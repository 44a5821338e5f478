"""The command line in this process: output and exit status as `flagsvc`, without a process for each command."""

from __future__ import annotations

import contextlib
import io
import subprocess
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
