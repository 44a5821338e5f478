"""Where places of a JSON text stand: looked up only when something is to be told about them."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator

from flagsvc.core.json_values import Path

_SPACE = re.compile(r"[ \t\n\r]*")
_SIGN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]')
_TOLD_STEPS = 3
"""Steps told of a place that is nested too deep: enough to name the flag and its field."""
_scan = json.JSONDecoder(parse_int=len).raw_decode

Children = dict[str | int, tuple[int, int]]
"""Step -> where it begins (an object's field: with its name) and where its value begins."""


class JsonPlaces:
    """Looks places up in a text that is JSON. Values that are not on the way are skipped at the decoder's speed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] = []
        self._children: dict[int, Children] = {}

    def line(self, path: Path) -> int:
        """Give the line, from 1, at which a place begins, or the nearest one around it."""
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
        """Give the elements of the array or object at a position; of a field that stands twice the last one counts."""
        opened = self._text[position : position + 1]
        if opened not in ("{", "["):
            return
        position, index = self._skip(position + 1), 0
        while self._text[position] not in "]}":
            begin, step = position, index
            if opened == "{":
                step, position = _scan(self._text, position)
                position = self._skip(self._skip(position) + 1)
            yield step, (begin, position)
            _, position = _scan(self._text, position)
            position, index = self._skip(position), index + 1
            if self._text[position] == ",":
                position = self._skip(position + 1)


def too_deep(text: str, limit: int) -> tuple[Path, int]:
    """Give the first steps to what is nested deeper than the limit, and the line where it goes beyond."""
    steps: list[str | int] = []
    kinds: list[str] = []
    named = False
    for match in _SIGN.finditer(text):
        sign = match[0]
        if sign in "{[":
            kinds.append(sign)
            if len(kinds) > limit:
                return tuple(steps[:_TOLD_STEPS]), text.count("\n", 0, match.start()) + 1
            steps.append(0 if sign == "[" else "")
            named = False
        elif sign in "]}":
            del kinds[-1:], steps[-1:]
        elif sign == ",":
            if kinds and kinds[-1] == "[":
                steps[-1] = int(steps[-1]) + 1
            named = False
        elif kinds and kinds[-1] == "{" and not named:
            steps[-1], named = json.loads(sign, strict=False), True
    return (), 1
