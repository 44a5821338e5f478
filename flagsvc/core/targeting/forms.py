"""The table of all operators' compilers, and those of operators that branch, look up fields, or iterate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

from ..model import JsonValue
from . import jsonlogic
from .compiler import Call, Form
from .nodes import KEY_STEPS, NODE_STEPS, Compiled, Node, Run, literal
from .operators import OPERATORS
from .plain import plain
from .splits import fractional

truth = jsonlogic.truth
_ABSENT = object()


def _if(call: Call) -> Node:
    call.expect(1, sys.maxsize)
    nodes = call.arguments()
    size = 1 + sum(node.size for node in nodes)
    pairs = list(zip(nodes[0::2], nodes[1::2], strict=False))
    otherwise = nodes[-1] if len(nodes) % 2 else literal(None)
    if all(node.constant for node in nodes):
        return literal(next((r.value for c, r in pairs if truth(c.value)), otherwise.value), size)
    if len(pairs) == 1:
        return Node(_choice(*pairs[0], otherwise), size)
    runs, last = tuple((condition.run, result.run) for condition, result in pairs), otherwise.run

    def chain(data: Any, run: Run) -> JsonValue:
        for condition, result in runs:
            met = condition(data, run)
            if met if met.__class__ is bool else truth(met):
                return result(data, run)
        return last(data, run)

    return Node(chain, size)


def _choice(condition: Node, result: Node, otherwise: Node) -> Compiled:
    """Compile an `if` with one condition. Most of them choose between two constants."""
    condition_of, then, otherwise_of = condition.run, result.run, otherwise.run
    if result.constant and otherwise.constant:
        then_value, otherwise_value = result.value, otherwise.value

        def constants(data: Any, run: Run) -> JsonValue:
            met = condition_of(data, run)
            return then_value if (met if met.__class__ is bool else truth(met)) else otherwise_value

        return constants

    def rules(data: Any, run: Run) -> JsonValue:
        met = condition_of(data, run)
        return then(data, run) if (met if met.__class__ is bool else truth(met)) else otherwise_of(data, run)

    return rules


def _junction(call: Call, *, stop_at: bool) -> Node:
    """Compile `and` (stops at the first falsy value) or `or` (the first truthy one). The last value is the result."""
    call.expect(1, sys.maxsize)
    nodes = call.arguments()
    runs = tuple(node.run for node in nodes)

    def junction(data: Any, run: Run) -> JsonValue:
        value = None
        for each in runs:
            value = each(data, run)
            if (value if value.__class__ is bool else truth(value)) is stop_at:
                return value
        return value

    size = 1 + sum(node.size for node in nodes)
    if all(node.constant for node in nodes):
        deciding = (node.value for node in nodes if truth(node.value) is stop_at)
        return literal(next(deciding, nodes[-1].value), size)
    return Node(junction, size)


def _var(call: Call) -> Node:
    call.expect(0, 2)
    key, default = call.argument(0), call.argument(1)
    size = 1 + key.size + default.size
    find, key_of, default_of = _finder(call), key.run, default.run
    name = key.value if key.constant else None
    if call.at_root and name == "$flagd.flagKey":
        return literal(call.compiler.flag_key)
    if call.at_root and not _is_field(name):
        call.compiler.reads_clock = True  # as the whole context and computed paths may
    if call.at_root and isinstance(name, str) and name and "." not in name and name != "$flagd":
        if not default.constant or default.value is not None:
            return Node(lambda data, run: default_of(data, run) if (v := data.get(name)) is None else v, size)
        return Node(lambda data, _run: data.get(name), size, field=name)
    if isinstance(name, str):
        return Node(_constant_path(call, name, default_of), size + name.count("."))

    def variable(data: Any, run: Run) -> JsonValue:
        found = find(data, run, key_of(data, run), _ABSENT)
        return default_of(data, run) if found is _ABSENT else found

    return Node(variable, size)


def _is_field(name: JsonValue) -> bool:
    """Whether a constant path leads into a field of the caller's context, and not to `$flagd`."""
    return isinstance(name, str) and name.split(".")[0] not in ("", "$flagd")


def _constant_path(call: Call, name: str, default_of: Compiled) -> Compiled:
    """Compile a look-up with a constant path, which is split here once."""
    find, path, follow = _finder(call), name.split("."), jsonlogic.follow

    def at_root(data: Any, run: Run) -> JsonValue:
        found = find(data, run, name, _ABSENT)
        return default_of(data, run) if found is _ABSENT else found

    def in_element(data: Any, run: Run) -> JsonValue:
        found = follow(data, path, None) if name else data
        return default_of(data, run) if found is None else found

    def in_field(data: Any, run: Run) -> JsonValue:
        found = follow(data.get(first), rest, None)
        return default_of(data, run) if found is None else found

    if not call.at_root:
        return in_element
    first, *rest = path
    return in_field if name and first != "$flagd" else at_root


def _finder(call: Call) -> Callable[[Any, Run, JsonValue, JsonValue], JsonValue]:
    """Return the look-up function: in the context and `$flagd` at the root, in the element inside a loop."""
    flag_key = call.compiler.flag_key

    def in_element(data: Any, run: Run, key: JsonValue, otherwise: JsonValue) -> JsonValue:
        run.charge_path(key)
        return jsonlogic.lookup(data, key, otherwise)

    def in_context(data: Any, run: Run, key: JsonValue, otherwise: JsonValue) -> JsonValue:
        run.charge_path(key)
        if key is None or key == "":
            return run.whole(flag_key)
        first, *rest = jsonlogic.text(key).split(".")
        found = run.flagd(flag_key) if first == "$flagd" else data.get(first)
        return jsonlogic.follow(found, rest, otherwise)

    return in_context if call.at_root else in_element


def _missing(call: Call) -> Node:
    nodes, find = call.arguments(), _finder(call)

    def missing(data: Any, run: Run) -> JsonValue:
        keys = [node.run(data, run) for node in nodes]
        return _absent(find, data, run, keys[0] if keys and isinstance(keys[0], list) else keys)

    return Node(missing, 1 + sum(node.size for node in nodes))


def _missing_some(call: Call) -> Node:
    call.expect(2, 2)
    needed, keys, find = call.argument(0), call.argument(1), _finder(call)

    def missing_some(data: Any, run: Run) -> JsonValue:
        count, wanted = needed.run(data, run), keys.run(data, run)
        run.charge_number(count)
        if not isinstance(wanted, list):
            return []
        absent = _absent(find, data, run, wanted)
        return [] if len(wanted) - len(absent) >= jsonlogic.number(count) else absent

    return Node(missing_some, 1 + needed.size + keys.size)


def _absent(
    find: Callable[[Any, Run, JsonValue, JsonValue], JsonValue], data: Any, run: Run, keys: list[JsonValue]
) -> list[Any]:
    run.spend(KEY_STEPS * len(keys))
    return [key for key in keys if find(data, run, key, None) is None]


def _loop(
    call: Call, *, otherwise: JsonValue, finish: Callable[[list[JsonValue], Iterator[JsonValue]], JsonValue]
) -> Node:
    """Compile a loop. `finish` combines elements and the body's results; `otherwise` is the result for non-lists."""
    call.expect(2, 2)
    items, body = call.argument(0), call.argument(1, at_root=False)
    items_of, each, cost = items.run, body.run, NODE_STEPS * body.size

    def loop(data: Any, run: Run) -> JsonValue:
        elements = items_of(data, run)
        if not isinstance(elements, list):
            return list(otherwise) if isinstance(otherwise, list) else otherwise
        run.spend(1 + len(elements) * cost)
        return finish(elements, map(each, elements, repeat(run)))  # Lazy: `some` stops at the first match.

    return Node(loop, 1 + items.size + body.size)


def _reduce(call: Call) -> Node:
    call.expect(2, 3)
    items, body, start = call.argument(0), call.argument(1, at_root=False), call.argument(2)
    items_of, each, start_of = items.run, body.run, start.run
    cost = NODE_STEPS * body.size + 1

    def reduce(data: Any, run: Run) -> JsonValue:
        elements, accumulator = items_of(data, run), start_of(data, run)
        if not isinstance(elements, list):
            return accumulator
        run.spend(1 + len(elements) * cost)
        for element in elements:
            accumulator = each({"accumulator": accumulator, "current": element}, run)
        return accumulator

    return Node(reduce, 1 + items.size + body.size + start.size)


FORMS: dict[str, Form] = {
    **{name: partial(plain, operator) for name, operator in OPERATORS.items()},
    "if": _if,
    "?:": _if,
    "and": partial(_junction, stop_at=False),
    "or": partial(_junction, stop_at=True),
    "var": _var,
    "missing": _missing,
    "missing_some": _missing_some,
    "map": partial(_loop, otherwise=[], finish=lambda _items, results: list(results)),
    "filter": partial(
        _loop, otherwise=[], finish=lambda items, results: [i for i, r in zip(items, results, strict=True) if truth(r)]
    ),
    "all": partial(_loop, otherwise=False, finish=lambda items, results: bool(items) and all(map(truth, results))),
    "some": partial(_loop, otherwise=False, finish=lambda _items, results: any(map(truth, results))),
    "none": partial(_loop, otherwise=True, finish=lambda _items, results: not any(map(truth, results))),
    "reduce": _reduce,
    "fractional": fractional,
}
"""Every operator that a rule may use, with its compiler."""
