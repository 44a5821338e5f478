"""JsonLogic's and flagd's operators as functions of evaluated arguments. `forms` has those that branch or iterate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from ..model import JsonValue
from . import jsonlogic
from .nodes import RuleError
from .versions import sem_ver

MAX_TEXT = 65_536
MAX_LIST = 10_000
MAX_BITS = 1_024

Function = Callable[..., JsonValue]


def _equals(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.equals(a, b)


def _differs(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> bool:
    return not jsonlogic.equals(a, b)


def _same(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> bool:
    return bool(a == b)


def _not_same(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> bool:
    return bool(a != b)


def _less(a: JsonValue = None, b: JsonValue = None, c: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.less(a, b) and (c is None or jsonlogic.less(b, c))


def _less_or_equal(a: JsonValue = None, b: JsonValue = None, c: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.less_or_equal(a, b) and (c is None or jsonlogic.less_or_equal(b, c))


def _greater(a: JsonValue = None, b: JsonValue = None, c: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.less(b, a) and (c is None or jsonlogic.less(c, b))


def _greater_or_equal(a: JsonValue = None, b: JsonValue = None, c: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.less_or_equal(b, a) and (c is None or jsonlogic.less_or_equal(c, b))


def _not(a: JsonValue = None, *_: JsonValue) -> bool:
    return not jsonlogic.truth(a)


def _truth(a: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.truth(a)


def _add(*values: JsonValue) -> JsonValue:
    total: int | float = 0
    for value in values:
        total += jsonlogic.number(value)
    return _bounded(total)


def _multiply(*values: JsonValue) -> JsonValue:
    total: int | float = 1
    for value in values:
        total = _bounded(total * jsonlogic.number(value))
    return total


def _subtract(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> JsonValue:
    return -jsonlogic.number(a) if b is None else _bounded(jsonlogic.number(a) - jsonlogic.number(b))


def _divide(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> JsonValue:
    divisor = jsonlogic.number(b)
    if divisor == 0:
        raise RuleError("division by zero")
    return jsonlogic.number(a) / divisor


def _remainder(a: JsonValue = None, b: JsonValue = None, *_: JsonValue) -> JsonValue:
    divisor = jsonlogic.number(b)
    if divisor == 0:
        raise RuleError("remainder of division by zero")
    return jsonlogic.number(a) % divisor


def _minimum(*values: JsonValue) -> JsonValue:
    return min(map(jsonlogic.number, values)) if values else jsonlogic.NAN


def _maximum(*values: JsonValue) -> JsonValue:
    return max(map(jsonlogic.number, values)) if values else jsonlogic.NAN


def _in(needle: JsonValue = None, haystack: JsonValue = None, *_: JsonValue) -> bool:
    return jsonlogic.contains(haystack, needle)


def _cat(*values: JsonValue) -> str:
    joined = "".join(map(jsonlogic.text, values))
    if len(joined) > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} characters")
    return joined


def _substr(value: JsonValue = None, start: JsonValue = None, length: JsonValue = None, *_: JsonValue) -> str:
    return jsonlogic.substring(value, start, length)


def _merge(*values: JsonValue) -> JsonValue:
    items: list[JsonValue] = []
    for value in values:
        if isinstance(value, list):
            items.extend(value)
        else:
            items.append(value)
        if len(items) > MAX_LIST:
            raise RuleError(f"a list of more than {MAX_LIST} elements")
    return items


def _log(a: JsonValue = None, *_: JsonValue) -> JsonValue:
    return a


def _starts_with(*values: JsonValue) -> bool | None:
    return values[0].startswith(values[1]) if _two_texts(values) else None


def _ends_with(*values: JsonValue) -> bool | None:
    return values[0].endswith(values[1]) if _two_texts(values) else None


def _two_texts(values: tuple[JsonValue, ...]) -> bool:
    return len(values) == 2 and isinstance(values[0], str) and isinstance(values[1], str)  # noqa: PLR2004


def _bounded(value: float) -> int | float:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise RuleError(f"an integer of more than {MAX_BITS} bits")
    return value


class Operator(NamedTuple):
    """A function of evaluated arguments, and how many arguments it takes."""

    function: Function
    min_args: int
    max_args: int = sys.maxsize


OPERATORS: dict[str, Operator] = {
    "==": Operator(_equals, 2, 2),
    "!=": Operator(_differs, 2, 2),
    "===": Operator(_same, 2, 2),
    "!==": Operator(_not_same, 2, 2),
    "<": Operator(_less, 2, 3),
    "<=": Operator(_less_or_equal, 2, 3),
    ">": Operator(_greater, 2, 3),
    ">=": Operator(_greater_or_equal, 2, 3),
    "!": Operator(_not, 1, 1),
    "!!": Operator(_truth, 1, 1),
    "+": Operator(_add, 1),
    "*": Operator(_multiply, 1),
    "-": Operator(_subtract, 1, 2),
    "/": Operator(_divide, 2, 2),
    "%": Operator(_remainder, 2, 2),
    "min": Operator(_minimum, 1),
    "max": Operator(_maximum, 1),
    "in": Operator(_in, 2, 2),
    "cat": Operator(_cat, 1),
    "substr": Operator(_substr, 2, 3),
    "merge": Operator(_merge, 0),
    "log": Operator(_log, 1, 1),
    "starts_with": Operator(_starts_with, 2, 2),
    "ends_with": Operator(_ends_with, 2, 2),
    "sem_ver": Operator(sem_ver, 3, 3),
}
"""Operators whose result depends only on their arguments' values."""
