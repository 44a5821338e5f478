"""JsonLogic's and flagd's operators as functions of evaluated arguments. `forms` has those that branch or iterate."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

from ..model import JsonValue
from . import jsonlogic
from .nodes import RuleError
from .versions import sem_ver

MAX_TEXT = 65_536
MAX_LIST = 10_000

Function = Callable[..., JsonValue]


def _ordering(holds: Callable[[JsonValue, JsonValue], bool]) -> Function:
    """Return an ordering of two values or, as in `{"<": [1, x, 5]}`, of three."""

    def ordered(a: JsonValue, b: JsonValue, *third: JsonValue) -> bool:
        return holds(a, b) and (not third or holds(b, third[0]))

    return ordered


def _add(*values: JsonValue) -> JsonValue:
    total: int | float = 0
    for value in values:
        total = jsonlogic.double(total + jsonlogic.addend(value))
    return total


def _multiply(*values: JsonValue) -> JsonValue:
    total: int | float = 1
    for value in values:
        factor = jsonlogic.addend(value)
        total = jsonlogic.double(total * factor) or float(total) * factor  # a product of 0 has a sign
    return total


def _subtract(a: JsonValue, *b: JsonValue) -> JsonValue:
    if b:
        return jsonlogic.double(jsonlogic.number(a) - jsonlogic.number(b[0]))
    value = jsonlogic.number(a)
    return -value if value else -float(value)  # 0 has a sign


def _divide(a: JsonValue, b: JsonValue) -> JsonValue:
    dividend, divisor = jsonlogic.number(a), jsonlogic.number(b)
    if divisor:
        return dividend / divisor
    is_undefined = not dividend or math.isnan(dividend)
    return math.nan if is_undefined else math.copysign(math.inf, dividend) * math.copysign(1, divisor)


def _remainder(a: JsonValue, b: JsonValue) -> JsonValue:
    dividend, divisor = jsonlogic.number(a), jsonlogic.number(b)
    if not divisor or math.isinf(dividend):
        return math.nan
    rest = math.fmod(dividend, divisor)
    return int(rest) if rest and isinstance(dividend, int) and isinstance(divisor, int) else rest


def _extreme(choose: Callable[[list[int | float]], int | float]) -> Function:
    """Return `min` or `max`: NaN where one of the values is no number."""

    def extreme(*values: JsonValue) -> JsonValue:
        numbers = [jsonlogic.number(value) for value in values]
        return math.nan if any(map(math.isnan, numbers)) else choose(numbers)

    return extreme


def _cat(*values: JsonValue) -> str:
    texts = list(map(jsonlogic.joined, values))
    if sum(map(len, texts)) > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} characters")
    return "".join(texts)


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


class Operator(NamedTuple):
    """A function of evaluated arguments, and how many arguments it takes."""

    function: Function
    min_args: int
    max_args: int = sys.maxsize


OPERATORS: dict[str, Operator] = {
    "==": Operator(jsonlogic.equals, 2, 2),
    "!=": Operator(lambda a, b: not jsonlogic.equals(a, b), 2, 2),
    "===": Operator(jsonlogic.same, 2, 2),
    "!==": Operator(lambda a, b: not jsonlogic.same(a, b), 2, 2),
    "<": Operator(_ordering(jsonlogic.BELOW), 2, 3),
    "<=": Operator(_ordering(jsonlogic.AT_MOST), 2, 3),
    ">": Operator(_ordering(jsonlogic.ABOVE), 2, 3),
    ">=": Operator(_ordering(jsonlogic.AT_LEAST), 2, 3),
    "!": Operator(lambda a: not jsonlogic.truth(a), 1, 1),
    "!!": Operator(jsonlogic.truth, 1, 1),
    "+": Operator(_add, 1),
    "*": Operator(_multiply, 1),
    "-": Operator(_subtract, 1, 2),
    "/": Operator(_divide, 2, 2),
    "%": Operator(_remainder, 2, 2),
    "min": Operator(_extreme(min), 1),
    "max": Operator(_extreme(max), 1),
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
