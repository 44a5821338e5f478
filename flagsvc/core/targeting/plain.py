"""Compiles operators that need only their arguments' values. Common shapes become specialized closures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..model import JsonValue
from . import jsonlogic, versions
from .comparisons import equality, ordering
from .compiler import Call, as_json
from .nodes import TEXT_STEP, Compiled, ConstantSet, Node, RuleError, Run, literal, search_steps
from .operators import Operator

_SIZED = frozenset({list, dict, str})
_NESTED = frozenset({list, dict})
_NUMBERS: frozenset[Any] = frozenset({int, float})
_PARSED = frozenset({str, list})
"""Types whose conversion to a number takes time."""
_WRITTEN: frozenset[Any] = frozenset({float, list, dict})
"""Types whose conversion to a text takes time."""
_NOTHING = object()
FREE_SEARCH = 128
"""Longest text in which a search is free of charge: it takes no longer than calling the function that charges."""
FOLDED_SEARCH = 4_096
"""Pairs of characters of two constants up to which a search is done when the rule is compiled."""


def plain(operator: Operator, call: Call) -> Node:
    """Compile a call. Constant arguments are folded into a constant result."""
    if not call.expect(operator.min_args, operator.max_args):
        return literal(None)
    _check_sem_ver(call)
    nodes = call.arguments()
    size = 1 + sum(node.size for node in nodes)
    if all(node.constant for node in nodes) and not (call.name == "in" and _is_long_search(nodes)):
        try:
            return literal(call.compiler.fold(operator.function, [node.value for node in nodes]), size)
        except (RuleError, ArithmeticError, ValueError, TypeError):
            pass  # Raised at evaluation instead: an error in a branch that is never taken must not matter.
    specialize = _SPECIALIZED.get(call.name)
    run = specialize(operator.function, nodes) if specialize else None
    return Node(run or _generic(operator.function, nodes), size)


def _generic(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile the general case: large arguments are charged for."""
    return _charged(function, nodes, _SIZED, _charge_large)


def _charge_large(run: Run, value: JsonValue) -> None:
    if value.__class__ is not str or len(value) > TEXT_STEP:
        run.charge(value)


def _charged(
    function: Callable[..., JsonValue],
    nodes: list[Node],
    types: frozenset[Any],
    charge: Callable[[Run, JsonValue], None],
) -> Compiled:
    """Evaluate the arguments, charge for those of some types, apply the function."""
    runs = tuple(node.run for node in nodes)
    if len(runs) == 2:  # noqa: PLR2004  two arguments are by far the most common
        first, second = runs

        def of_two(data: Any, run: Run) -> JsonValue:
            a, b = first(data, run), second(data, run)
            if a.__class__ in types:
                charge(run, a)
            if b.__class__ in types:
                charge(run, b)
            return function(a, b)

        return of_two

    def of_any(data: Any, run: Run) -> JsonValue:
        arguments = [each(data, run) for each in runs]
        for argument in arguments:
            if argument.__class__ in types:
                charge(run, argument)
        return function(*arguments)

    return of_any


def _text(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile an operator that makes a text: it takes as long as that is, and as the conversion of its arguments."""
    made = _charged(function, nodes, _WRITTEN, Run.charge_text)

    def text(data: Any, run: Run) -> JsonValue:
        result = made(data, run)
        run.charge(result)
        return result

    return text


def _substring(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile `substr`, whose positions are numbers."""
    value, *positions = nodes

    def converted(position: Compiled) -> Compiled:
        def number(data: Any, run: Run) -> JsonValue:
            found = position(data, run)
            if found.__class__ in _PARSED:
                run.charge_number(found)
            return found

        return number

    return _text(
        function, [value, *(node if node.value.__class__ is int else Node(converted(node.run)) for node in positions)]
    )


def _membership(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Specialize `in` for a constant list, which becomes a set, and for a constant string."""
    needle, haystack = nodes
    needle_of, haystack_of, search = needle.run, haystack.run, _search(function)
    if haystack.constant and isinstance(haystack.value, list):
        texts, others = _constant_set(haystack)
        if not others:
            return lambda data, run: (value := needle_of(data, run)).__class__ is str and value in texts
        return lambda data, run: (
            value in texts if (value := needle_of(data, run)).__class__ is str else _identity(value) in others
        )
    if needle.value.__class__ is not str:
        return lambda data, run: search(needle_of(data, run), haystack_of(data, run), run)
    wanted = needle.value

    def contained(data: Any, run: Run) -> JsonValue:
        text = haystack_of(data, run)
        return wanted in text if text.__class__ is str and len(text) <= FREE_SEARCH else search(wanted, text, run)

    return contained


def _affix(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled | None:
    """Specialize a test for a constant prefix or suffix: it takes as long as that is, however long the text."""
    if nodes[1].value.__class__ is not str:
        return None
    text_of, affix = nodes[0].run, nodes[1].value
    return lambda data, run: function(text_of(data, run), affix)


def _arithmetic(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Compile an operator that converts its arguments to numbers."""
    return _charged(function, nodes, _PARSED, Run.charge_number)


def _search(function: Callable[..., JsonValue]) -> Callable[[JsonValue, JsonValue, Run], JsonValue]:
    """Return a membership test that charges for its work: a string search may compare every pair of characters."""

    def search(needle: JsonValue, haystack: JsonValue, run: Run) -> JsonValue:
        run.charge_text(needle)
        if haystack.__class__ is not str:
            run.charge(haystack)
            return function(needle, haystack)
        wanted = jsonlogic.text(needle)
        run.spend(search_steps(len(wanted), len(haystack)))
        return wanted in haystack

    return search


def _is_long_search(nodes: list[Node]) -> bool:
    sizes = [len(node.value) for node in nodes if isinstance(node.value, str)]
    return len(sizes) == len(nodes) and math.prod(sizes) > FOLDED_SEARCH


def _constant_set(haystack: Node) -> ConstantSet:
    """Return a constant list as a set, built once, without lists and objects: they equal only themselves."""
    if haystack.elements is None:
        texts = frozenset(item for item in haystack.value if item.__class__ is str)
        others = [_identity(item) for item in haystack.value if item.__class__ not in _SIZED]
        haystack.elements = ConstantSet(texts, frozenset(others))
    return haystack.elements


def _identity(value: JsonValue) -> object:
    """Return what is equal for values that are `===`; text is not among them. NaN and lists equal nothing."""
    if value.__class__ in _NUMBERS and value == value:  # noqa: PLR0124  NaN differs from itself
        return jsonlogic.double(value)
    return (value,) if value is None or value.__class__ is bool else _NOTHING


def _version_test(function: Callable[..., JsonValue], nodes: list[Node]) -> Compiled:
    """Specialize a comparison with a constant version, which is parsed here once."""
    operand, name, wanted = nodes
    first, named, second = operand.run, name.run, wanted.run

    def computed(data: Any, run: Run) -> JsonValue:
        a, comparison, b = first(data, run), named(data, run), second(data, run)
        run.charge_version(a)
        run.charge_version(b)
        return function(a, comparison, b)

    if not (name.constant and wanted.constant):
        return computed
    test = versions.TESTS.get(name.value) if isinstance(name.value, str) else None
    limit = versions.version(wanted.value)
    if test is None or limit is None:
        return computed  # The result is null, but the operand must still be evaluated: it may raise.
    operand_of, version = operand.run, versions.version

    def compared(data: Any, run: Run) -> JsonValue:
        value = operand_of(data, run)
        if value.__class__ in _NESTED:
            return None
        run.charge_version(value)
        parsed = version(value)
        return None if parsed is None else test(parsed, limit)

    return compared


def _check_sem_ver(call: Call) -> None:
    if call.name != "sem_ver":
        return
    first, name, second = call.raw
    if not isinstance(name, dict) and (not isinstance(name, str) or name not in versions.TESTS):
        known = " ".join(versions.TESTS)
        call.refuse(f"{as_json(name)} is not a version comparison; it must be one of {known}", 1)
    for index, value in ((0, first), (2, second)):
        if isinstance(value, str | int | float) and versions.version(value) is None:
            call.refuse(f"{as_json(value)} is not a semantic version such as 1.2.3", index)


_SPECIALIZED: dict[str, Callable[[Callable[..., JsonValue], list[Node]], Compiled | None]] = {
    **dict.fromkeys(("==", "!=", "===", "!=="), equality),
    **dict.fromkeys(("<", "<=", ">", ">="), ordering),
    **dict.fromkeys(("+", "-", "*", "/", "%", "min", "max"), _arithmetic),
    "cat": _text,
    "substr": _substring,
    "in": _membership,
    "starts_with": _affix,
    "ends_with": _affix,
    "sem_ver": _version_test,
}
