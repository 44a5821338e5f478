"""json-logic-js in one long-lived Node process, asked in batches over a pipe."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.providers import node_app

Result = tuple[str, Any]
"""`value` and the rule's result, or `error` and its message."""


class Reference:
    """`with Reference() as reference`: evaluates with json-logic-js, as it is or with the documented choices."""

    def __enter__(self) -> Self:
        node_app.install()
        command = [str(Path(sys.executable).with_name("node")), str(Path(__file__).with_name("runner.mjs"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=node_app.FOLDER, text=True, encoding="utf-8", **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def results(self, cases: list[tuple[Any, Any]], *, choices: bool) -> list[Result]:
        """Evaluate (rule, data) pairs. `choices`: with the differences that docs/targeting.md names."""
        assert self._process.stdin
        assert self._process.stdout
        question = {"choices": choices, "cases": [{"rule": rule, "data": data} for rule, data in cases]}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return [_result(answer) for answer in json.loads(self._process.stdout.readline())]


def _result(answer: dict[str, Any]) -> Result:
    return ("error", answer["error"]) if "error" in answer else ("value", _decoded(answer["value"]))


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    return float(value["$number"]) if "$number" in value else {name: _decoded(item) for name, item in value.items()}


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in JSON type and value, numbers as doubles. NaN equals NaN."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return float(a) == float(b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    return type(a) is type(b) and bool(a == b)
