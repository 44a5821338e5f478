"""JsonLogic's values: equality, order, truth, numbers and texts, as openfeature-flagd-core 2.0.0 has them.

JavaScript's coercions where JsonLogic took them over, Python's where flagd's Python engine does; docs/targeting.md
lists where flagd's languages disagree and what was chosen.
"""

from __future__ import annotations

import math
from typing import Any

from ..model import JsonValue

NAN = math.nan
MAX_INDEX_DIGITS = 10


def equals(a: JsonValue, b: JsonValue) -> bool:
    """Compare with `==`."""
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


def less(a: JsonValue, b: JsonValue) -> bool:
    """Compare with `<`."""
    left, right = _comparable(a, b)
    return bool(left < right)


def less_or_equal(a: JsonValue, b: JsonValue) -> bool:
    """Compare with `<=`."""
    left, right = _comparable(a, b)
    return bool(left <= right)


def _comparable(a: JsonValue, b: JsonValue) -> tuple[Any, Any]:
    """Give both as numbers, unless one is a text and none a number."""
    if isinstance(a, (int, float)):
        return a, number(b)
    if isinstance(b, (int, float)):
        return number(a), b
    if isinstance(a, str) or isinstance(b, str):
        return text(a), text(b)
    return number(a), number(b)


def number(value: JsonValue) -> int | float:
    """Convert to a number; NaN for what is none."""
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
    if value.strip().lower() in ("inf", "-inf", "+inf"):
        return NAN
    try:
        return float(value)
    except ValueError:
        return NAN


def text(value: JsonValue) -> str:
    """Convert to a text."""
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
    """Say whether a condition holds: empty texts and lists, 0, NaN and null do not; an empty object does."""
    if value is True or value is False:
        return value
    if isinstance(value, dict):
        return True
    if isinstance(value, float):
        return bool(value) and not math.isnan(value)
    return bool(value)


def contains(haystack: JsonValue, needle: JsonValue) -> bool:
    """Look for an element in a list, or a text in a text."""
    if isinstance(haystack, list):
        return needle in haystack
    return isinstance(haystack, str) and text(needle) in haystack


def lookup(data: JsonValue, key: JsonValue, default: JsonValue = None) -> JsonValue:
    """Follow a dotted path (or an index) through objects, lists and texts."""
    if key is None or key == "":
        return data
    if isinstance(key, (int, float)):
        if isinstance(data, (list, str)):
            within = math.isfinite(key) and key == int(key) and 0 <= key < len(data)
            return data[int(key)] if within else default
        return default  # the fields of an object have no numbers for names
    return follow(data, text(key).split("."), default)


def follow(data: JsonValue, path: list[str], default: JsonValue) -> JsonValue:
    """Follow a path that is split already."""
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


def substring(value: JsonValue, start: JsonValue, length: JsonValue) -> str:
    """Cut a text as JsonLogic's substr does: negative numbers count from the end."""
    whole, first = text(value), number(start)
    size = len(whole)
    if math.isnan(first):
        begin = 0
    elif first < 0:
        begin = 0 if -first >= size else size - int(-first)
    else:
        begin = size if first >= size else int(first)
    if length is None:
        return whole[begin:]
    count = number(length)
    if math.isnan(count):
        return ""
    count = max(min(count, size), -size)
    end = max(size + int(count), begin) if int(count) < 0 else begin + int(count)
    return whole[begin:end]
