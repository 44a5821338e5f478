"""Line numbers of paths in a JSON text. They are looked up only for findings."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator

from flagsvc.core.json_values import Path

_SPACE = re.compile(r"[ \t\n\r]*")
_SYMBOL = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]')
_REPORTED_STEPS = 3
"""Path steps reported for a value that is nested too deeply: enough to name the flag and its field."""
_scan = json.JSONDecoder(parse_int=len).raw_decode

Children = dict[str | int, tuple[int, int]]
"""Path step -> offsets at which it begins (for a field: its name) and at which its value begins."""


class JsonPlaces:
    """Finds the lines of paths in valid JSON text. Values off the path are skipped at the JSON decoder's speed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] = []
        self._children: dict[int, Children] = {}

    def line(self, path: Path) -> int:
        """Return the line, from 1, at which a path's value begins; for a path without value, its nearest parent's."""
        begin = value = self._skip(0)
        for step in path:
            if value not in self._children:
                self._children[value] = dict(self._walk(value))
            found = self._children[value].get(step)
            if found is None:
                break
            begin, value = found
        if not self._starts:
            self._starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        return bisect.bisect_right(self._starts, begin)

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self._text, position)
        return match.end() if match else position

    def _walk(self, position: int) -> Iterator[tuple[str | int, tuple[int, int]]]:
        """Yield the children of the array or object at a position."""
        bracket = self._text[position : position + 1]
        if bracket not in ("{", "["):
            return
        position, index = self._skip(position + 1), 0
        while self._text[position] not in "]}":
            begin, step = position, index
            if bracket == "{":
                step, position = _scan(self._text, position)
                position = self._skip(self._skip(position) + 1)
            yield step, (begin, position)
            _, position = _scan(self._text, position)
            position, index = self._skip(position), index + 1
            if self._text[position] == ",":
                position = self._skip(position + 1)


def too_deep(text: str, limit: int) -> tuple[Path, int]:
    """Return the first path steps and the line at which a text exceeds the nesting limit."""
    steps: list[str | int] = []
    brackets: list[str] = []
    has_name = False
    for match in _SYMBOL.finditer(text):
        symbol = match[0]
        if symbol in "{[":
            brackets.append(symbol)
            if len(brackets) > limit:
                return tuple(steps[:_REPORTED_STEPS]), text.count("\n", 0, match.start()) + 1
            steps.append(0 if symbol == "[" else "")
            has_name = False
        elif symbol in "]}":
            del brackets[-1:], steps[-1:]
        elif symbol == ",":
            if brackets and brackets[-1] == "[":
                steps[-1] = int(steps[-1]) + 1
            has_name = False
        elif brackets and brackets[-1] == "{" and not has_name:
            steps[-1], has_name = json.loads(symbol, strict=False), True
    return (), 1
