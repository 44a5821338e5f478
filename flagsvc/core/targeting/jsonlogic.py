"""JsonLogic's value semantics: equality, order, truthiness and coercions, as in openfeature-flagd-core 2.0.0.

Coercions are JavaScript's where JsonLogic adopts them, and Python's where flagd's Python engine uses those.
docs/targeting.md lists where flagd's engines disagree, and what flagsvc does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..model import JsonValue

NAN = math.nan
MAX_INDEX_DIGITS = 10
MAX_NUMBER_CHARS = 256
"""A longer string is not a number, so that every conversion takes microseconds."""


def equals(a: JsonValue, b: JsonValue) -> bool:
    """Compare with JsonLogic's `==`. Lists and objects are equal only to themselves."""
    kind = type(a)
    if kind is type(b):
        return a is b if kind in (list, dict) else bool(a == b)
    if isinstance(a, (int, float)):
        return bool(a == number(b))
    if isinstance(b, (int, float)):
        return bool(number(a) == b)
    if a is None or b is None:
        return False
    if isinstance(a, str):
        return bool(a == text(b))
    return isinstance(b, str) and text(a) == b


def compare(test: Callable[[Any, Any], bool], a: JsonValue, b: JsonValue) -> bool:
    """Apply `<`, `<=`, `>` or `>=`: as strings if one is a string and none a number; else as numbers."""
    if isinstance(a, (int, float)):
        return test(a, number(b))
    if isinstance(b, (int, float)):
        return test(number(a), b)
    if isinstance(a, str) or isinstance(b, str):
        return test(text(a), text(b))
    return test(number(a), number(b))


def number(value: JsonValue) -> int | float:
    """Convert to a number; NaN if there is no conversion."""
    match value:
        case bool() | int() | float():
            return value
        case None:
            return 0
        case str():
            return _parsed(value)
        case list():
            if not value:
                return 0
            return number(value[0]) if len(value) == 1 else NAN
        case _:
            return NAN


def _parsed(value: str) -> float:
    if len(value) > MAX_NUMBER_CHARS or value.strip().lower() in ("inf", "-inf", "+inf"):
        return NAN
    try:
        return float(value)
    except ValueError:
        return NAN


def text(value: JsonValue) -> str:
    """Convert to a string."""
    match value:
        case str():
            return value
        case float():
            return f"{value:.15g}"
        case int():
            return str(value)
        case None:
            return "null"
        case list():
            return ",".join(map(text, value))
        case _:
            return "[object Object]"


def truth(value: JsonValue) -> bool:
    """Whether a value is truthy, as in json-logic-js: "", [], 0, NaN and null are not; an empty object is."""
    if value is True or value is False:
        return value
    if isinstance(value, dict):
        return True
    if isinstance(value, float):
        return bool(value) and not math.isnan(value)
    return bool(value)


def contains(haystack: JsonValue, needle: JsonValue) -> bool:
    """Whether a list has an element, or a string has a substring."""
    if isinstance(haystack, list):
        return needle in haystack
    return isinstance(haystack, str) and text(needle) in haystack


def lookup(data: JsonValue, key: JsonValue, default: JsonValue = None) -> JsonValue:
    """Return the value at a dotted path or an index; `default` if there is none. Strings are indexed by character."""
    if key is None or key == "":
        return data
    if isinstance(key, (int, float)):
        if isinstance(data, (list, str)):
            within = math.isfinite(key) and key == int(key) and 0 <= key < len(data)
            return data[int(key)] if within else default
        return default  # An object's field names are never numbers.
    return follow(data, text(key).split("."), default)


def follow(data: JsonValue, path: list[str], default: JsonValue) -> JsonValue:
    """Return the value at a path given as its steps; `default` if there is none or it is null."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, (list, str)):
            if step == "length":
                return len(data)
            index = _index(step)
            if index is None or index >= len(data):
                return default
            data = data[index]
        else:
            return default
    return default if data is None else data


def _index(step: str) -> int | None:
    canonical = step.isascii() and step.isdigit() and (step == "0" or step[0] != "0")
    return int(step) if canonical and len(step) < MAX_INDEX_DIGITS else None


def substring(value: JsonValue, start: JsonValue, length: JsonValue = None) -> str:
    """Return a substring as JsonLogic's substr does: negative numbers count from the end."""
    full, first = text(value), number(start)
    size = len(full)
    if math.isnan(first):
        begin = 0
    elif first < 0:
        begin = 0 if -first >= size else size - int(-first)
    else:
        begin = size if first >= size else int(first)
    if length is None:
        return full[begin:]
    count = number(length)
    if math.isnan(count):
        return ""
    count = max(min(count, size), -size)
    end = max(size + int(count), begin) if int(count) < 0 else begin + int(count)
    return full[begin:end]
