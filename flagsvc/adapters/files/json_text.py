"""Parses JSON text as flagd does. What other parsers read in another way, such as duplicate fields, is reported."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from flagsvc.adapters.files.json_places import JsonPlaces, too_deep
from flagsvc.adapters.files.text import MAX_DEPTH, FlagText, unreadable
from flagsvc.core.flagd.findings import Finding
from flagsvc.core.json_values import Path, is_text
from flagsvc.core.model import JsonValue

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_NUMBER_CHARS = 400
_LONG_NUMBER = re.compile(r"\d{400}")


def parse_json(text: str) -> FlagText:
    """Parse JSON. Never raises: see `FlagText.problems`. Of duplicate fields the last is used."""
    places = JsonPlaces(text)
    hooks = _Hooks()
    try:
        document = json.JSONDecoder(
            object_pairs_hook=hooks.fields,
            parse_int=hooks.integer if _LONG_NUMBER.search(text) else None,
            parse_float=hooks.number,
            parse_constant=hooks.constant,
        ).decode(text)
    except json.JSONDecodeError as error:
        return unreadable(error.lineno, f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return _too_deep(text)
    if _is_too_deep(document):
        return _too_deep(text)
    suspicious = hooks.suspicious or _ESCAPED_SURROGATE.search(text) is not None
    found = FlagText(document, parsed=True, lines=places.line)
    if suspicious:
        _examine(found)
    return found


def _too_deep(text: str) -> FlagText:
    path, line = too_deep(text, MAX_DEPTH)
    return unreadable(line, f"nested more than {MAX_DEPTH} deep", path)


class _WithDuplicates(dict[str, Any]):
    """An object with duplicate fields."""

    names: list[str]


class _Hooks:
    """The JSON decoder's hooks. They set `suspicious` if the document must be searched for problems."""

    def __init__(self) -> None:
        self.suspicious = False

    def fields(self, pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.suspicious = True
        marked, seen = _WithDuplicates(found), set[str]()
        marked.names = list(dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
        return marked

    def integer(self, text: str) -> JsonValue:
        return int(text) if len(text) < _MAX_NUMBER_CHARS else self.constant(text)

    def number(self, text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else self.constant(text)

    def constant(self, _text: str) -> float:
        self.suspicious = True
        return math.nan


def _is_too_deep(document: JsonValue) -> bool:
    level: list[Any] = [[document]]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _examine(found: FlagText) -> None:
    """Report numbers that are none, and what is read in another way than it is written."""
    has_surrogates = False
    pending: list[tuple[JsonValue, Path]] = [(found.document, ())]
    while pending:
        part, path = pending.pop()
        if isinstance(part, dict):
            if isinstance(part, _WithDuplicates):
                found.warnings += [Finding((*path, name), _DUPLICATE) for name in part.names]
            odd = [Finding((*path, name), _LONE_SURROGATE) for name in part if not is_text(name)]
            pending += [(value, (*path, name)) for name, value in reversed(part.items())]
        elif isinstance(part, list):
            odd = []
            pending += [(value, (*path, index)) for index, value in reversed([*enumerate(part)])]
        else:
            odd = [Finding(path, _LONE_SURROGATE)] if isinstance(part, str) and not is_text(part) else []
            if isinstance(part, float) and not math.isfinite(part):
                found.problems.append(Finding(path, "not a JSON number: NaN, infinite or out of range"))
        found.warnings += odd
        has_surrogates = has_surrogates or bool(odd)
    if has_surrogates:
        found.document = _without_surrogates(found.document)


def _without_surrogates(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value


_DUPLICATE = "duplicate field in one object, of which the last is used; keep one"
_LONE_SURROGATE = "a lone surrogate, which is read as U+FFFD; write the character itself, or both surrogates"
