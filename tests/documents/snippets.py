"""The Python snippets of a document, one after the other in one process with one namespace, as a reader types them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import forks

_LONGEST_S = 60


class Session:
    """A forked process that runs snippets; its clients may stay open until `close`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._link, theirs = forks.context.Pipe()
        run = (theirs, str(folder), dict(environment))
        self._process = forks.context.Process(target=_run, args=run, daemon=True)
        self._process.start()
        theirs.close()

    def run(self, code: str, name: str) -> str:
        """Run a snippet and return what it printed; one that raises fails the test."""
        self._link.send((code, name))
        assert self._link.poll(_LONGEST_S), f"{name} runs for more than {_LONGEST_S} s"
        output, problem = self._link.recv()
        assert not problem, f"{name}\n{problem}\n{output}"
        return str(output)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._link.close()


def _run(link: Connection, folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    while True:
        code, name = link.recv()
        output, problem = io.StringIO(), ""
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                if "def test_" in code:
                    _run_tests(code, Path(folder) / "test_snippet.py")
                else:
                    _execute(code, name, namespace)
            except BaseException:  # noqa: BLE001  whatever it is, the test shows it
                problem = traceback.format_exc()
        link.send((output.getvalue(), problem))


def _execute(code: str, name: str, namespace: dict[str, Any]) -> None:
    compiled = compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(compiled, namespace))
    else:
        exec(compiled, namespace)


def _run_tests(code: str, path: Path) -> None:
    import pytest  # noqa: PLC0415  only for snippets that are tests

    path.write_text(code)
    plain = ["--quiet", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull]
    status = pytest.main([*plain, "--rootdir", str(path.parent), str(path)])
    assert status == 0, f"pytest ended with {status!r}"
