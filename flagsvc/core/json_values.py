"""Plain JSON values: strict equality, bounds, and one-line problems for wrong ones."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any, NoReturn

from .model import JsonValue

Path = tuple[str | int, ...]
"""Where something stands in a JSON value: names of fields and indexes of elements."""

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "float",
    str: "string",
    list: "list",
    tuple: "list",
    dict: "object",
}
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
    named = _KINDS.get(value.__class__)
    if named is not None:
        return named
    return next((kind for of, kind in _KINDS.items() if isinstance(value, of)), type(value).__name__)


HALF = "half a surrogate pair, which no text can hold"


def is_text(value: str) -> bool:
    """Whether a text can be written down as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(value: JsonValue, depth: int = 0) -> str | None:
    """Say what makes this not a storable JSON value, or None."""
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    match value:
        case None | bool():
            return None
        case str():
            return None if is_text(value) else HALF
        case int():
            return None if value in INT64 else "a whole number outside -2^63 to 2^63-1"
        case float():
            return None if math.isfinite(value) else "NaN or infinite"
        case list():
            return next((p for v in value if (p := problem(v, depth + 1))), None)
        case dict():
            if (named := _names_problem(value)) is not None:
                return named
            return next((p for v in value.values() if (p := problem(v, depth + 1))), None)
        case _:
            return f"a {type(value).__name__}, which JSON does not have"


def _names_problem(fields: dict[Any, JsonValue]) -> str | None:
    if any(not isinstance(name, str) for name in fields):
        return "an object with a field name that is no text"
    if any("\0" in name for name in fields):
        return "an object with a field name that holds a NUL character"
    return None if all(map(is_text, fields)) else f"an object with a field name that holds {HALF}"


def json_path(path: Path) -> str:
    """Show a path as JSONPath (RFC 9535), such as `$.flags["my-flag"].targeting.if[0]`."""
    return "$" + "".join(_shown_step(step) for step in path)


def _shown_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NotJson(ValueError):
    """A text is not JSON; `line` and `column` count from 1, 0 where they are not known."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def strict_loads(text: str) -> JsonValue:
    """Read JSON that every reader understands alike. Raises NotJson, also for a field that stands twice and for NaN."""
    try:
        value = _STRICT.decode(text)
        if _SURROGATE.search(text):
            compact(value).encode()
    except UnicodeEncodeError:
        raise NotJson("half of a surrogate pair stands alone, which no UTF-8 can hold") from None
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise NotJson("nested too deep") from None
    except NotJson:
        raise
    except ValueError:
        raise NotJson(f"a whole number of more than {sys.get_int_max_str_digits()} digits") from None
    return value


def compact(value: JsonValue) -> str:
    """Write JSON without spaces, its fields in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotJson(f"the field {json.dumps(twice)} stands twice in one object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"{text[:40]} is beyond what a number can hold")
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
