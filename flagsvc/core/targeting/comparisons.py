"""Compiles comparisons. Those with a constant, by far the most common, become specialized closures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..model import JsonValue
from . import jsonlogic
from .nodes import Compiled, Node, Run

_NUMBERS: frozenset[Any] = frozenset({int, float})


def equality(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Specialize a comparison with a constant string: most conditions are such comparisons."""
    operand, constant = (nodes[0], nodes[1]) if nodes[1].constant else (nodes[1], nodes[0])
    if constant.value.__class__ is not str:
        return _comparison(function, nodes)
    wanted, operand_of, field, comparable = constant.value, operand.run, operand.field, jsonlogic.comparable
    if_equal = bool(function("", ""))  # False for != and !==
    converts = bool(function("0", 0)) is if_equal  # not === and !==
    number = jsonlogic.number(wanted) if converts else math.nan

    def not_a_string(value: JsonValue) -> JsonValue:
        return (value is not None and comparable(value) == number) is if_equal

    if field is not None:

        def of_field(data: Any, _run: Run) -> JsonValue:
            value = data.get(field)
            return (value == wanted) is if_equal if value.__class__ is str else not_a_string(value)

        return of_field

    def of_rule(data: Any, run: Run) -> JsonValue:
        value = operand_of(data, run)
        return (value == wanted) is if_equal if value.__class__ is str else not_a_string(value)

    return of_rule


def ordering(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Specialize an ordering of a context field against a constant number."""
    if len(nodes) != 2 or nodes[0].field is None or nodes[1].value.__class__ not in _NUMBERS:  # noqa: PLR2004
        return _comparison(function, nodes)
    field, limit = nodes[0].field, nodes[1].value
    if not abs(limit) < jsonlogic.EXACT:  # beyond, integers are compared as floats; every ordering with NaN is false
        return _comparison(function, nodes)
    below, equal, above = (bool(function(a, 1)) for a in (0, 1, 2))

    def ordered(data: Any, run: Run) -> JsonValue:
        value = data.get(field)
        if value.__class__ in _NUMBERS and value == value:  # noqa: PLR0124  NaN differs from itself
            return below if value < limit else equal if value == limit else above
        run.charge_number(value)
        return function(value, limit)

    return ordered


def _comparison(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile a comparison. Only of texts does it take longer: where they are long, or converted to numbers."""
    runs = tuple(node.run for node in nodes)

    def charge(run: Run, *values: JsonValue) -> None:
        are_converted = any(value.__class__ is not str for value in values)
        for value in values:
            if value.__class__ is str:
                run.charge(value)
                if are_converted:
                    run.charge_number(value)

    if len(runs) == 2:  # noqa: PLR2004  two arguments are by far the most common
        first, second = runs

        def of_two(data: Any, run: Run) -> JsonValue:
            a, b = first(data, run), second(data, run)
            if a.__class__ is str or b.__class__ is str:
                charge(run, a, b)
            return function(a, b)

        return of_two

    def of_any(data: Any, run: Run) -> JsonValue:
        arguments = [each(data, run) for each in runs]
        charge(run, *arguments)
        return function(*arguments)

    return of_any
