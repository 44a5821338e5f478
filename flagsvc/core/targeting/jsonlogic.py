"""JsonLogic's value semantics: equality, order, truthiness and coercions, as in json-logic-js.

Numbers are JavaScript's, 64-bit floats: an integer beyond 2^53 counts as the nearest one, as it does over gRPC.
docs/targeting.md lists where flagd's engines disagree with json-logic-js, and what flagsvc does.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

from ..model import JsonValue

NAN = math.nan
EXACT = 2**53
"""Integers up to this size are exact as 64-bit floats."""
MAX_INDEX_DIGITS = 10
MAX_NUMBER_CHARS = 256
"""A longer string is not a number, so that every conversion takes microseconds."""
SPACES = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What JavaScript trims."""
_ADDENDS = frozenset({int, float, str})
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?(?:Infinity|(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)")
"""Its digits are taken once (`++`): tried in every division, those of one text would take a millisecond."""


def equals(a: JsonValue, b: JsonValue) -> bool:
    """Compare with JsonLogic's `==`: null equals only null, a list or object nothing but `[]` 0, false and ""."""
    if a is None or b is None:
        return a is b
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    return bool(comparable(a) == comparable(b)) and not (isinstance(a, list) and isinstance(b, list))


def comparable(value: JsonValue) -> int | float:
    """Return the number by which `==` compares a value that is not null with one of another type."""
    if isinstance(value, list):
        return NAN if value else 0
    return number(value)


def same(a: JsonValue, b: JsonValue) -> bool:
    """Compare with JsonLogic's `===`, without conversion. A list or object equals only itself."""
    if a is None or a is True or a is False or b is True or b is False:
        return a is b
    if isinstance(a, (int, float)):
        return isinstance(b, (int, float)) and double(a) == double(b)
    return a == b if isinstance(a, str) else a is b


def compare(test: Callable[[Any, Any], bool], a: JsonValue, b: JsonValue) -> bool:
    """Apply `<` or `>`: two strings as strings, else as numbers. Nothing is below or above a list or object."""
    if isinstance(a, str) and isinstance(b, str):
        return test(a, b)
    if isinstance(a, (list, dict)) or isinstance(b, (list, dict)):
        return False
    return test(number(a), number(b))


def ordering(test: Callable[[Any, Any], bool], *, or_equal: bool) -> Callable[[JsonValue, JsonValue], bool]:
    """Return an ordering. As in flagd `<=` is `<` or `==`, so that null is not at least 0."""
    if or_equal:
        return lambda a, b: compare(test, a, b) or equals(a, b)
    return lambda a, b: compare(test, a, b)


BELOW, AT_MOST = ordering(operator.lt, or_equal=False), ordering(operator.lt, or_equal=True)
ABOVE, AT_LEAST = ordering(operator.gt, or_equal=False), ordering(operator.gt, or_equal=True)


def double(value: float) -> int | float:
    """Return a number as JavaScript has it: an integer beyond 2^53 as the nearest 64-bit float."""
    if isinstance(value, float) or -EXACT <= value <= EXACT:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number(value: JsonValue) -> int | float:
    """Convert to a number; NaN if there is no conversion."""
    kind = value.__class__
    if kind is float or kind is int:
        return double(value)
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, list):
        return _of_list(value)
    return NAN if isinstance(value, dict) else int(value or 0)


def _of_list(value: JsonValue) -> int | float:
    """Convert a list by its only element, as text: null and [] are empty, true and false are no numbers."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        return NAN if value else 0
    return NAN if isinstance(value, bool) else number(value)


def addend(value: JsonValue) -> int | float:
    """Convert for `+` and `*`, which read numbers and texts, also as the first element of a list, but nothing else."""
    while value.__class__ is list and value:
        value = value[0]
    return number(value) if value.__class__ in _ADDENDS else NAN


def _parsed(value: str) -> int | float:
    if len(value) > MAX_NUMBER_CHARS:
        return NAN
    trimmed = value.strip(SPACES)
    if not trimmed:
        return 0
    if _INTEGER.fullmatch(trimmed):
        return int(trimmed) or float(trimmed)  # "-0" has a sign
    return float(trimmed) if _NUMBER.fullmatch(trimmed) else NAN


def text(value: JsonValue) -> str:
    """Convert to a string."""
    kind = value.__class__
    if isinstance(value, str):
        return value
    if kind is float or kind is int:
        return number_text(value)
    if isinstance(value, list):
        return ",".join(map(joined, value))
    if isinstance(value, dict):
        return "[object Object]"
    return "null" if value is None else "true" if value else "false"


def joined(value: JsonValue) -> str:
    """Convert an element that is joined with others: null is empty."""
    if value.__class__ is str:
        return value
    return "" if value is None else text(value)


def number_text(value: float) -> str:
    """Return a number in the notation of JavaScript: the shortest that is exact, plain from 1e-6 up to 1e21."""
    value = double(value)
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if not value:
        return "0"
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:  # Python's plain notation ends sooner than JavaScript's
        return mantissa.removesuffix(".0")
    digits = mantissa.lstrip("-").replace(".", "")
    return ("-" if value < 0 else "") + _notation(digits, int(exponent) + 1)


def _notation(digits: str, point: int) -> str:
    """Write significant digits, one before the point of their exponent, with the point after `point` of them."""
    if len(digits) <= point <= 21:  # noqa: PLR2004  the bounds of JavaScript's plain notation
        return digits + "0" * (point - len(digits))
    if -6 < point <= 0:  # noqa: PLR2004
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def truth(value: JsonValue) -> bool:
    """Whether a value is truthy: null, false, 0, NaN, "", [] and, as in flagd, {} are not."""
    if isinstance(value, float):
        return bool(value) and not math.isnan(value)
    return bool(value)


def contains(haystack: JsonValue, needle: JsonValue) -> bool:
    """Whether a list has an element (by `===`), or a string has a substring."""
    if isinstance(haystack, list):
        return any(same(item, needle) for item in haystack)
    return isinstance(haystack, str) and text(needle) in haystack


def lookup(data: JsonValue, key: JsonValue, default: JsonValue = None) -> JsonValue:
    """Return the value at a dotted path; `default` if there is none or it is null. Strings are indexed by character."""
    if key is None or key == "":
        return default if data is None else data
    return follow(data, text(key).split("."), default)


def follow(data: JsonValue, path: list[str], default: JsonValue) -> JsonValue:
    """Return the value at a path given as its steps; `default` if there is none or it is null."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, (list, str)):
            if step == "length":
                data = len(data)
                continue
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


_NO_LENGTH = object()


def substring(value: JsonValue, start: JsonValue, length: Any = _NO_LENGTH) -> str:
    """Return a substring as JsonLogic's substr does: negative numbers count from the end. As in flagd null is ""."""
    full = joined(value)
    size = len(full)
    first = _whole(start, size)
    begin = max(0, size + first) if first < 0 else first
    if length is _NO_LENGTH:
        return full[begin:]
    count = _whole(length, size)
    return full[begin : max(size + count, begin) if count < 0 else begin + count]


def _whole(value: JsonValue, size: int) -> int:
    """Return a position or length as an integer between -size and size: NaN is 0, fractions are cut off."""
    given = number(value)
    return 0 if math.isnan(given) else int(max(-size, min(given, size)))
