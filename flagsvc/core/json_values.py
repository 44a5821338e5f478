"""JSON values: strict equality, limits, strict parsing, and paths into them."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any, NoReturn

from .model import JsonValue

Path = tuple[str | int, ...]
"""A location in a JSON value: field names and element indexes, from the root."""

_KINDS: dict[type, str] = {
    type(None): "null", bool: "boolean", int: "integer", float: "float", str: "string",
    list: "list", tuple: "list", dict: "object",
}  # fmt: skip
MAX_DEPTH = 24
"""Protobuf parsers stop at 100 nested messages, and a google.protobuf.Struct nests three for each JSON object."""
INT64 = range(-(2**63), 2**63)
MAX_WHOLE = 1e21
"""From here on Go and JavaScript write whole numbers with an exponent."""


def same(a: JsonValue, b: JsonValue) -> bool:
    """Whether two values are equal in value and in JSON type: 1, 1.0 and true are three different values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return kind(a) == kind(b) and bool(a == b)


def kind(value: JsonValue) -> str:
    """Return the name of the JSON type. An int is `integer`, a float is `float`."""
    name = _KINDS.get(value.__class__)
    if name is not None:
        return name
    return next((kind for of, kind in _KINDS.items() if isinstance(value, of)), type(value).__name__)


def is_whole(value: float) -> bool:
    """Whether a number has no fraction and fits into 64 bits, so that it can be served as an integer."""
    return value.is_integer() and int(value) in INT64


LONE_SURROGATE = "a lone surrogate, which UTF-8 cannot encode"


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode the string: it cannot encode lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_more_values(value: JsonValue, limit: int) -> bool:
    """Whether a value has more fields and list elements, at all depths. It takes no longer where it has many more."""
    pending: list[JsonValue] = [value]
    while pending:
        item = pending.pop()
        limit -= len(item)
        if limit < 0:
            return True
        values = item.values() if item.__class__ is dict else item
        pending += [each for each in values if each.__class__ in (list, dict)]
    return False


def problem(value: JsonValue, depth: int = 0) -> str | None:
    """Return why this is not a JSON value that can be stored; None if it is one."""
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    match value:
        case None | bool():
            return None
        case str():
            return None if is_text(value) else LONE_SURROGATE
        case int():
            return None if value in INT64 else "an integer outside -2^63 to 2^63-1"
        case float():
            return None if math.isfinite(value) else "NaN or infinite"
        case list():
            return next((p for v in value if (p := problem(v, depth + 1))), None)
        case dict():
            if (name_problem := _names_problem(value)) is not None:
                return name_problem
            return next((p for v in value.values() if (p := problem(v, depth + 1))), None)
        case _:
            return f"a {type(value).__name__}, which JSON does not have"


def _names_problem(fields: dict[Any, JsonValue]) -> str | None:
    if any(not isinstance(name, str) for name in fields):
        return "an object with a field name that is not a string"
    if any("\0" in name for name in fields):
        return "an object with a field name that contains a NUL character"
    return None if all(map(is_text, fields)) else f"an object with a field name that contains {LONE_SURROGATE}"


def whole_as_float(value: JsonValue) -> JsonValue:
    """Return the value with each integer outside of 64 bits as a float, as most parsers read it; else the value."""
    match value:
        case bool():
            return value
        case int() if value not in INT64:
            return float(value) if value.bit_length() < sys.float_info.max_exp else value
        case list():
            items = [whole_as_float(item) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        case dict():
            fields = {name: whole_as_float(item) for name, item in value.items()}
            return fields if any(new is not value[name] for name, new in fields.items()) else value
        case _:
            return value


def with_whole_numbers(value: JsonValue) -> JsonValue:
    """Return a value whose floats without a fraction are integers: 10 as JSON, as Go and JavaScript write it."""
    match value:
        case float():
            return int(value) if value.is_integer() and abs(value) < MAX_WHOLE else value
        case dict():
            return {name: with_whole_numbers(each) for name, each in value.items()}
        case list():
            return [with_whole_numbers(each) for each in value]
        case _:
            return value


def json_path(path: Path) -> str:
    """Return a path as JSONPath (RFC 9535), such as `$.flags["my-flag"].targeting.if[0]`."""
    return "$" + "".join(map(_step_text, path))


def _step_text(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NotJson(ValueError):
    """A text is not JSON. `line` and `column` count from 1; 0 where they are not known."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def strict_loads(text: str) -> JsonValue:
    """Parse JSON that all parsers read alike. Raises NotJson, also for duplicate fields, NaN and lone surrogates."""
    try:
        value = _STRICT.decode(text)
        if _SURROGATE.search(text):
            compact(value).encode()
    except UnicodeEncodeError:
        raise NotJson(f"it contains {LONE_SURROGATE}") from None
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except NotJson:
        raise
    except ValueError:
        raise NotJson(f"an integer of more than {sys.get_int_max_str_digits()} digits") from None
    return value


def compact(value: JsonValue) -> str:
    """Return JSON text without spaces, fields in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotJson(f"duplicate field {json.dumps(duplicate)} in one object")
    return fields


def no_constant(name: str) -> NoReturn:
    """Reject NaN and the infinities, as a JSON decoder's `parse_constant`. Raises NotJson."""
    raise NotJson(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"{text[:40]} is out of range for a 64-bit float")
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=no_constant, parse_float=_finite)
