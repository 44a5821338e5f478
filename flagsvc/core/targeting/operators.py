"""JsonLogic's and flagd's operators as functions of evaluated arguments. `forms` has those that branch or iterate."""

from __future__ import annotations

import operator
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


def _ordering(test: Function) -> Function:
    """Return an ordering of two values or, as in `{"<": [1, x, 5]}`, of three."""
    compare = jsonlogic.compare
    return lambda a, b, c=None: compare(test, a, b) and (c is None or compare(test, b, c))


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


def _subtract(a: JsonValue, b: JsonValue = None) -> JsonValue:
    return -jsonlogic.number(a) if b is None else _bounded(jsonlogic.number(a) - jsonlogic.number(b))


def _divide(a: JsonValue, b: JsonValue) -> JsonValue:
    divisor = jsonlogic.number(b)
    if divisor == 0:
        raise RuleError("division by zero")
    return jsonlogic.number(a) / divisor


def _remainder(a: JsonValue, b: JsonValue) -> JsonValue:
    divisor = jsonlogic.number(b)
    if divisor == 0:
        raise RuleError("remainder of division by zero")
    return jsonlogic.number(a) % divisor


def _cat(*values: JsonValue) -> str:
    joined = "".join(map(jsonlogic.text, values))
    if len(joined) > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} characters")
    return joined


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


def _starts_with(value: JsonValue, prefix: JsonValue) -> bool | None:
    return value.startswith(prefix) if isinstance(value, str) and isinstance(prefix, str) else None


def _ends_with(value: JsonValue, suffix: JsonValue) -> bool | None:
    return value.endswith(suffix) if isinstance(value, str) and isinstance(suffix, str) else None


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
    "==": Operator(jsonlogic.equals, 2, 2),
    "!=": Operator(lambda a, b: not jsonlogic.equals(a, b), 2, 2),
    "===": Operator(operator.eq, 2, 2),
    "!==": Operator(operator.ne, 2, 2),
    "<": Operator(_ordering(operator.lt), 2, 3),
    "<=": Operator(_ordering(operator.le), 2, 3),
    ">": Operator(_ordering(operator.gt), 2, 3),
    ">=": Operator(_ordering(operator.ge), 2, 3),
    "!": Operator(lambda a: not jsonlogic.truth(a), 1, 1),
    "!!": Operator(jsonlogic.truth, 1, 1),
    "+": Operator(_add, 1),
    "*": Operator(_multiply, 1),
    "-": Operator(_subtract, 1, 2),
    "/": Operator(_divide, 2, 2),
    "%": Operator(_remainder, 2, 2),
    "min": Operator(lambda *values: min(map(jsonlogic.number, values)), 1),
    "max": Operator(lambda *values: max(map(jsonlogic.number, values)), 1),
    "in": Operator(lambda needle, haystack: jsonlogic.contains(haystack, needle), 2, 2),
    "cat": Operator(_cat, 1),
    "substr": Operator(jsonlogic.substring, 2, 3),
    "merge": Operator(_merge, 0),
    "log": Operator(lambda a: a, 1, 1),
    "starts_with": Operator(_starts_with, 2, 2),
    "ends_with": Operator(_ends_with, 2, 2),
    "sem_ver": Operator(sem_ver, 3, 3),
}
"""Operators whose result depends only on their arguments' values."""
