"""Compiles operators that only need their arguments' values, the common shapes of them into closures of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..model import JsonValue
from . import jsonlogic, versions
from .compiler import Call, CallProblem, as_json
from .nodes import SEARCH_STEP, TEXT_STEP, Among, Compiled, Node, RuleError, Run, literal
from .operators import Operator

_SIZED = frozenset({list, dict, str})
_NESTED = frozenset({list, dict})
_NUMBERS: frozenset[Any] = frozenset({int, float})


def plain(operator: Operator, call: Call) -> Node:
    """Compile a call; folded when nothing in it depends on the context."""
    call.expect(operator.least, operator.most)
    _check_sem_ver(call)
    nodes = call.arguments()
    size = 1 + sum(node.size for node in nodes)
    if all(node.constant for node in nodes) and not (call.name == "in" and _is_long_search(nodes)):
        try:
            return literal(call.compiler.fold(operator.function, [node.value for node in nodes]), size)
        except (RuleError, ArithmeticError, ValueError, TypeError):
            pass  # told when it is evaluated: a branch that is never reached does no harm
    quick = _QUICK.get(call.name)
    run = quick(operator.function, nodes) if quick else None
    return Node(run or _applied(operator.function, nodes), size)


def _applied(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile the general case: evaluate, pay for what is big, apply."""
    runs = tuple(node.run for node in nodes)
    if len(runs) == 2:  # noqa: PLR2004  by far the most common
        first, second = runs

        def of_two(data: Any, run: Run) -> JsonValue:
            a, b = first(data, run), second(data, run)
            if a.__class__ in _SIZED and (a.__class__ is not str or len(a) > TEXT_STEP):
                run.charge(a)
            if b.__class__ in _SIZED and (b.__class__ is not str or len(b) > TEXT_STEP):
                run.charge(b)
            return function(a, b)

        return of_two

    def of_any(data: Any, run: Run) -> JsonValue:
        arguments = [each(data, run) for each in runs]
        for argument in arguments:
            if argument.__class__ in _SIZED and (argument.__class__ is not str or len(argument) > TEXT_STEP):
                run.charge(argument)
        return function(*arguments)

    return of_any


def _equality(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled | None:
    """Compare something with a constant text: most conditions are that."""
    asked, constant = (nodes[0], nodes[1]) if nodes[1].constant else (nodes[1], nodes[0])
    if constant.value.__class__ is not str:
        return None
    wanted, of, field = constant.value, asked.run, asked.field
    met = bool(function("", ""))  # whether equal texts satisfy the operator: it may be a negated one

    def otherwise(value: JsonValue, run: Run) -> JsonValue:
        run.charge(value)
        return function(value, wanted)

    if field is not None:

        def of_field(data: Any, run: Run) -> JsonValue:
            value = data.get(field)
            return (value == wanted) is met if value.__class__ is str else otherwise(value, run)

        return of_field

    def of_rule(data: Any, run: Run) -> JsonValue:
        value = of(data, run)
        return (value == wanted) is met if value.__class__ is str else otherwise(value, run)

    return of_rule


def _order(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled | None:
    """Compare a field with a constant number."""
    if len(nodes) != 2 or nodes[0].field is None or nodes[1].value.__class__ not in _NUMBERS:  # noqa: PLR2004
        return None
    field, limit = nodes[0].field, nodes[1].value
    if limit != limit:  # noqa: PLR0124  NaN differs from itself, and is neither below nor above anything
        return None
    below, equal, above = (bool(function(a, 1)) for a in (0, 1, 2))

    def ordered(data: Any, run: Run) -> JsonValue:
        value = data.get(field)
        if value.__class__ in _NUMBERS and value == value:  # noqa: PLR0124  NaN differs from itself
            return below if value < limit else equal if value == limit else above
        run.charge(value)
        return function(value, limit)

    return ordered


def _membership(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Look for something in a list of constants, or for a constant text in a text."""
    needle, haystack = nodes
    of, within, search = needle.run, haystack.run, _search(function)
    if haystack.constant and isinstance(haystack.value, list):
        among, texts = _elements(haystack)
        if among is not None and texts:
            return lambda data, run: (found := of(data, run)).__class__ is str and found in among
        if among is not None:
            return lambda data, run: (found := of(data, run)).__class__ not in _NESTED and found in among
    if needle.value.__class__ is not str:
        return lambda data, run: search(of(data, run), within(data, run), run)
    wanted, short = needle.value, SEARCH_STEP // max(1, len(needle.value))

    def found_in(data: Any, run: Run) -> JsonValue:
        text = within(data, run)
        return wanted in text if text.__class__ is str and len(text) <= short else search(wanted, text, run)

    return found_in


def _search(function: Callable[..., JsonValue]) -> Callable[[JsonValue, JsonValue, Run], JsonValue]:
    """Make a membership test that pays for what it takes: looking for a text may compare all with all."""

    def search(part: JsonValue, whole: JsonValue, run: Run) -> JsonValue:
        run.charge(part)
        if whole.__class__ is not str:
            run.charge(whole)
            return function(part, whole)
        wanted = jsonlogic.text(part)
        run.spend(len(wanted) * len(whole) // SEARCH_STEP)
        return wanted in whole

    return search


def _is_long_search(nodes: list[Node]) -> bool:
    sizes = [len(node.value) for node in nodes if isinstance(node.value, str)]
    return len(sizes) == len(nodes) and math.prod(sizes) > SEARCH_STEP


def _elements(haystack: Node) -> Among:
    """Give a constant list as a set, once. Lists and objects cannot be in one."""
    if haystack.among is None:
        plain = all(item.__class__ not in _NESTED for item in haystack.value)
        values = frozenset(haystack.value) if plain else None
        haystack.among = Among(values, all(item.__class__ is str for item in haystack.value))
    return haystack.among


def _version_test(_function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled | None:
    """Compare with a constant version, which is parsed here."""
    asked, name, wanted = nodes
    if not (name.constant and wanted.constant):
        return None
    test = versions.TESTS.get(name.value) if isinstance(name.value, str) else None
    limit = versions.version(wanted.value)
    if test is None or limit is None:
        return None  # null, but for an argument that has no result
    of, version = asked.run, versions.version

    def compared(data: Any, run: Run) -> JsonValue:
        value = of(data, run)
        if value.__class__ in _NESTED:
            return None
        found = version(value)
        return None if found is None else test(found, limit)

    return compared


def _check_sem_ver(call: Call) -> None:
    if call.name != "sem_ver":
        return
    first, name, second = call.raw
    if not isinstance(name, dict) and (not isinstance(name, str) or name not in versions.TESTS):
        raise CallProblem(f"{as_json(name)} is no comparison of versions; known are {' '.join(versions.TESTS)}", 1)
    for index, value in ((0, first), (2, second)):
        if isinstance(value, str | int | float) and versions.version(value) is None:
            raise CallProblem(f"{as_json(value)} is no semantic version such as 1.2.3", index)


_QUICK: dict[str, Callable[[Callable[..., JsonValue], list[Node]], Compiled | None]] = {
    **dict.fromkeys(("==", "!=", "===", "!=="), _equality),
    **dict.fromkeys(("<", "<=", ">", ">="), _order),
    "in": _membership,
    "sem_ver": _version_test,
}
