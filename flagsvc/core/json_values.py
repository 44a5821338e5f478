"""Plain JSON values: strict equality, bounds, and one-line problems for wrong ones."""

from __future__ import annotations

import math

from flagsvc.core.model import JsonValue

MAX_DEPTH = 24
"""An object costs three levels of a protobuf message, whose parsers stop at a hundred."""
INT64 = range(-(2**63), 2**63)


def same(a: JsonValue, b: JsonValue) -> bool:
    """Equal in value and in JSON type: 1, 1.0 and true are three different values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return kind(a) == kind(b) and bool(a == b)


def kind(value: JsonValue) -> str:
    """Name the JSON type; whole numbers are `integer`, others `float`."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "float"
        case str():
            return "string"
        case list() | tuple():
            return "list"
        case dict():
            return "object"
        case _:
            return type(value).__name__


def problem(value: JsonValue, depth: int = 0) -> str | None:
    """Say what makes this not a storable JSON value, or None."""
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    match value:
        case None | bool() | str():
            return None
        case int():
            return None if value in INT64 else "a whole number outside -2^63 to 2^63-1"
        case float():
            return None if math.isfinite(value) else "NaN or infinite"
        case list():
            return next((p for v in value if (p := problem(v, depth + 1))), None)
        case dict():
            if any(not isinstance(k, str) for k in value):
                return "an object with a field name that is no text"
            if any("\0" in k for k in value):
                return "an object with a field name that holds a NUL character"
            return next((p for v in value.values() if (p := problem(v, depth + 1))), None)
        case _:
            return f"a {type(value).__name__}, which JSON does not have"
