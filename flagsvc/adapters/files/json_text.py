"""JSON texts as values; duplicates, NaN and the like are listed with their places, not guessed."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from flagsvc.adapters.files.json_places import JsonPlaces, too_deep
from flagsvc.adapters.files.text import MAX_DEPTH, FlagText, unreadable
from flagsvc.core.flagd.reading import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST_NUMBER = 400
_LONG_NUMBER = re.compile(r"\d{400}")


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
        return unreadable(error.lineno, f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return _too_deep(text)
    problems = _deep_problems(document, doubtful=reading.doubtful or _ESCAPED_SURROGATE.search(text) is not None)
    if problems is None:
        return _too_deep(text)
    return FlagText(document, parsed=True, problems=problems, lines=places.line)


def _too_deep(text: str) -> FlagText:
    path, line = too_deep(text, MAX_DEPTH)
    return unreadable(line, f"nested more than {MAX_DEPTH} deep", path)


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
                found += [Finding((*path, name), _TWICE) for name in part.names]
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
