"""How long a rule can take at most: its worst case over the largest evaluation context, in steps of 0.1 microseconds.

A static bound for rules that are written. Texts count with the size of the whole context, and a loop over the context
with LOOP_ELEMENTS. Longer lists, and rules from before this limit, are bounded when they are evaluated (`nodes.Run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..json_values import Path
from ..model import JsonValue
from .compiler import RuleProblem
from .nodes import (
    BYTES_PER_STEP,
    ELEMENT_STEPS,
    HASHED_PER_STEP,
    KEY_STEPS,
    MAX_WORK,
    NODE_STEPS,
    STEPS_PER_MS,
    search_steps,
)

CONTEXT_CHARS = 65_536
"""Characters of the largest text in an evaluation context: all of its 64 kB."""
MOST_BYTES = 4
"""Bytes of a character in memory where one of the text's characters needs so many."""
ELEMENT_CHARS = 64
"""Characters of a text inside a loop: the elements share the context's size."""
LOOP_ELEMENTS = 1_000
"""Elements of a list in the context that a rule is checked for."""
LOOPS = frozenset({"map", "filter", "all", "some", "none", "reduce"})
_COMPARISONS = frozenset({"==", "!=", "===", "!==", "<", "<=", ">", ">="})


class Cost(NamedTuple):
    """Steps of a part of a rule, and where most of them are spent."""

    steps: int
    path: Path
    evaluator: str | None


def too_expensive(rule: JsonValue, evaluators: Mapping[str, JsonValue]) -> RuleProblem | None:
    """Return the problem of a rule that compiles and whose worst case is over the limit; None if it is within."""
    cost = _Costs(evaluators).of(rule, (), None, at_root=True)
    if cost.steps <= MAX_WORK:
        return None
    worst_ms, most_ms = cost.steps / STEPS_PER_MS, MAX_WORK / STEPS_PER_MS
    message = (
        f"it can take {worst_ms:.0f} ms where the context has 64 kB of text; at most {most_ms:.0f} ms. Use fewer"
        ' searches in texts; compare with one list ({"in": [x, ["a", "b"]]}) instead of one condition for each value'
    )
    return RuleProblem(cost.path, message, cost.evaluator)


class _Costs:
    """The costs of one rule's parts. A part is expensive by itself where no single argument has half of its steps."""

    def __init__(self, evaluators: Mapping[str, JsonValue]) -> None:
        self._evaluators = evaluators
        self._known: dict[tuple[str, bool], Cost] = {}

    def of(self, rule: JsonValue, path: Path, evaluator: str | None, *, at_root: bool) -> Cost:
        if isinstance(rule, list):
            parts = [self.of(item, (*path, i), evaluator, at_root=at_root) for i, item in enumerate(rule)]
            return _sum(parts, len(rule) // ELEMENT_STEPS, path, evaluator)
        if not isinstance(rule, dict) or len(rule) != 1:
            return Cost(0, path, evaluator)
        [(name, raw)] = rule.items()
        if name == "$ref":
            return self._evaluator(raw, at_root=at_root)
        listed = isinstance(raw, list)
        arguments: list[Any] = raw if listed else [raw]
        path = (*path, name)
        parts = [
            self.of(
                argument,
                (*path, i) if listed else path,
                evaluator,
                at_root=at_root and not (name in LOOPS and i == 1),
            )
            for i, argument in enumerate(arguments)
        ]
        if name in LOOPS and len(parts) > 1:
            times = _elements(arguments[0], at_root=at_root)
            parts[1] = parts[1]._replace(steps=times * (parts[1].steps + 1))
        chars = CONTEXT_CHARS if at_root else ELEMENT_CHARS
        own = NODE_STEPS * (1 + len(arguments)) + _own(name, arguments, chars)
        return _sum(parts, own, path, evaluator, one_of=_results(name, parts))

    def _evaluator(self, name: str, *, at_root: bool) -> Cost:
        if (name, at_root) not in self._known:
            self._known[name, at_root] = self.of(self._evaluators[name], (), name, at_root=at_root)
        return self._known[name, at_root]


def _results(name: str, parts: list[Cost]) -> list[Cost]:
    """Return the parts of which only one is evaluated: the results of an `if`."""
    return [*parts[1::2], *(parts[-1:] if len(parts) % 2 else [])] if name in ("if", "?:") else []


def _sum(parts: list[Cost], own: int, path: Path, evaluator: str | None, one_of: Sequence[Cost] = ()) -> Cost:
    steps = own + sum(part.steps for part in parts)
    if one_of:
        steps += max(part.steps for part in one_of) - sum(part.steps for part in one_of)
    worst = max(parts, key=lambda part: part.steps, default=None)
    if worst is not None and worst.steps * 2 > steps:
        return Cost(steps, worst.path, worst.evaluator)
    return Cost(steps, path, evaluator)


def _elements(items: JsonValue, *, at_root: bool) -> int:
    """Return how many elements a loop runs over. Lists inside the elements share the context's size."""
    if isinstance(items, list):
        return len(items)
    return LOOP_ELEMENTS if at_root else 1


def _own(name: str, arguments: list[Any], chars: int) -> int:
    """Return the steps of one operator's own work, without its arguments'."""
    text_steps = MOST_BYTES * chars // BYTES_PER_STEP
    computed = sum(isinstance(each, dict) for each in arguments)
    if name == "in":
        return _search(arguments[0], arguments[1], chars)
    if name in _COMPARISONS:
        return text_steps if computed == len(arguments) else 0  # it ends where the shorter text does
    if name in ("cat", "substr"):
        return text_steps if computed else sum(map(_scan, arguments))
    if name == "merge":
        return text_steps * computed + sum(map(_scan, arguments))
    if name == "fractional":
        return chars // HASHED_PER_STEP + NODE_STEPS * len(arguments)
    if name in ("missing", "missing_some"):
        return KEY_STEPS * sum(len(each) if isinstance(each, list) else 1 for each in arguments)
    return 0


def _search(needle: JsonValue, haystack: JsonValue, chars: int) -> int:
    if isinstance(haystack, list):
        return 0 if not any(isinstance(each, (list, dict)) for each in haystack) else len(haystack)
    wanted = len(needle) if isinstance(needle, str) else chars
    length = len(haystack) if isinstance(haystack, str) else chars
    return max(search_steps(wanted, size) for size in (length, min(length, 29_999), min(length, 2_499)))


def _scan(constant: JsonValue) -> int:
    if isinstance(constant, str):
        return MOST_BYTES * len(constant) // BYTES_PER_STEP
    return ELEMENT_STEPS * len(constant) if isinstance(constant, list) else 0
