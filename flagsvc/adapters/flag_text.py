"""JSON and YAML texts as values, with the line of each place; duplicates, NaN and the like are listed, not guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flagsvc.adapters.json_places import JsonPlaces, too_deep
from flagsvc.core.flagd_file import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 200
"""Rules may be 100 deep; a text is refused where it goes far beyond all that could be right in it."""
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST_NUMBER = 400
_LONG_NUMBER = re.compile(r"\d{400}")
NEWLINE = b"\n"


@dataclass(slots=True)
class FlagText:
    """A parsed text. `problems` makes its document unfit for use, though the rest of it may be looked at still."""

    document: JsonValue = None
    parsed: bool = False
    """Whether there is a document at all."""
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    lines: Callable[[Path], int] = lambda _path: 1
    """Gives the line, from 1, of a place; of the nearest one around it for something that is not there."""


def parse(name: str, raw: bytes) -> FlagText:
    """Parse a text, as YAML where the file's name says so, else as JSON."""
    if len(raw) > MAX_BYTES:
        return _unreadable(1, f"{len(raw)} bytes; it must be at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(NEWLINE, 0, error.start) + 1
        return _unreadable(line, f"the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")
    if is_yaml(name):
        from flagsvc.adapters.yaml_text import parse_yaml  # noqa: PLC0415  only YAML needs its parser

        return parse_yaml(text)
    return parse_json(text)


def is_yaml(name: str) -> bool:
    """Whether a file's name says that it is YAML."""
    return name.lower().endswith((".yaml", ".yml"))


def parse_json(text: str) -> FlagText:
    """Parse strict JSON."""
    places = JsonPlaces(text)
    reading = _Reading()
    try:
        document = json.JSONDecoder(
            object_pairs_hook=reading.fields,
            parse_int=reading.whole if _LONG_NUMBER.search(text) else None,
            parse_float=reading.number,
            parse_constant=reading.constant,
        ).decode(text)
    except json.JSONDecodeError as error:
        return _unreadable(error.lineno, f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return _too_deep(text)
    problems = _deep_problems(document, doubtful=reading.doubtful or _ESCAPED_SURROGATE.search(text) is not None)
    if problems is None:
        return _too_deep(text)
    return FlagText(document, parsed=True, problems=problems, lines=places.line)


def _unreadable(line: int, text: str, path: Path = ()) -> FlagText:
    return FlagText(problems=[Finding(path, text)], lines=lambda _path: line)


def _too_deep(text: str) -> FlagText:
    path, line = too_deep(text, MAX_DEPTH)
    return _unreadable(line, f"nested more than {MAX_DEPTH} deep", path)


class _Twice(dict[str, Any]):
    """An object in which fields stood twice."""

    names: list[str]


class _Reading:
    """What the decoder is told to do; `doubtful` once something is to be looked for in the whole document."""

    def __init__(self) -> None:
        self.doubtful = False

    def fields(self, pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.doubtful = True
        twice, seen = _Twice(found), set[str]()
        twice.names = list(dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
        return twice

    def whole(self, text: str) -> JsonValue:
        return int(text) if len(text) < _LONGEST_NUMBER else self.constant(text)

    def number(self, text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else self.constant(text)

    def constant(self, _text: str) -> float:
        self.doubtful = True
        return math.nan


def _deep_problems(document: JsonValue, *, doubtful: bool) -> list[Finding] | None:
    """Give what is wrong inside of a document that was decoded; None when it is nested too deep to be looked at."""
    level: list[Any] = [[document]]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return _findings(document) if doubtful else []
    return None


def _findings(document: JsonValue) -> list[Finding]:
    found: list[Finding] = []
    waiting: list[tuple[JsonValue, Path]] = [(document, ())]
    while waiting:
        part, path = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part, _Twice):
                found += [
                    Finding((*path, name), "this field stands twice in one object; keep one") for name in part.names
                ]
            found += [Finding((*path, name), _HALF) for name in part if _is_half(name)]
            waiting += [(value, (*path, name)) for name, value in reversed(part.items())]
        elif isinstance(part, list):
            waiting += [(value, (*path, index)) for index, value in reversed([*enumerate(part)])]
        elif isinstance(part, str) and _is_half(part):
            found.append(Finding(path, _HALF))
        elif isinstance(part, float) and not math.isfinite(part):
            found.append(Finding(path, "no number that JSON has (NaN, or beyond what a number can hold)"))
    return found


_TWICE = "this field stands twice in one object; keep one"
_HALF = "a half of a surrogate pair; write the character itself or both halves"


def _is_half(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
