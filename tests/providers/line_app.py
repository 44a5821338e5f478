"""An application in any language, as a process that is driven by JSON lines: evaluations in, answers and events out."""

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

from tests.providers.events import Events, Seen

ANSWER_S = 60


def environment() -> dict[str, str]:
    """Without FLAGD_ settings, with this environment's node before any other."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FLAGD_")}
    folder = str(Path(sys.executable).parent)
    return {**plain, "PATH": f"{folder}{os.pathsep}{plain.get('PATH', '')}"}


class LineApp:
    """`with LineApp(command, folder) as app`. What it prints besides JSON becomes an event that begins with FAILED.

    `own`: variables of its environment.

    Its standard error is the test's, which pytest shows with a failure.
    """

    def __init__(self, command: list[str], folder: Path, **own: str) -> None:
        self._command, self._folder, self._own = command, folder, own
        self.events = Events()
        self._ids = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        variables = {**environment(), **self._own}
        self._process = subprocess.Popen(self._command, cwd=self._folder, env=variables, text=True, **pipes)
        self._reader = threading.Thread(target=self._read, name="app", daemon=True)
        self._reader.start()
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
                self.events.add(Seen(message["event"], tuple(message["flags"] or ()), int(message.get("at", 0))))
            else:
                self.events.add(Seen(f"FAILED: {message['failed']}", (), 0))

    def evaluate(self, kind: str, key: str, default: Any, context: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `value`, `reason`, `variant`, `errorCode` and `metadata` of an evaluation."""
        number = next(self._ids)
        self._answers[number] = answer = queue.SimpleQueue()
        question = {"id": number, "kind": kind, "key": key, "default": default, "context": context or {}}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return answer.get(timeout=ANSWER_S)

    def value(self, key: str, default: Any = None, kind: str = "string") -> Any:
        return self.evaluate(kind, key, default)["value"]
