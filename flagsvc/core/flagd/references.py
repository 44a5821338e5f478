"""References between targeting rules: where `$ref`s stand, and rules with the referred ones put in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..json_values import Path
from ..model import JsonValue

MAX_INLINED = 1_000_000
"""Parts that a rule may have once everything it refers to stands in it; more cannot be compiled anyway."""
MAX_LEVELS = 300
"""Levels of nesting that it may have; more cannot be compiled either, and Python's own limit differs by version."""


class NotInlined(ValueError):
    """A rule refers to itself, or becomes too large."""


def refs(rule: JsonValue) -> Iterator[tuple[str, Path]]:
    """Give every evaluator's name that a rule refers to with the place of its `$ref`, in the rule's order."""
    waiting: list[tuple[JsonValue, Path]] = [(rule, ())]
    while waiting:
        part, path = waiting.pop()
        if isinstance(part, dict):
            name = referred(part)
            if name is not None:
                yield name, (*path, "$ref")
            elif len(part) == 1:  # an object of several fields is a value, not a rule
                waiting += [(value, (*path, step)) for step, value in part.items()]
        elif isinstance(part, list):
            inner = [(item, (*path, index)) for index, item in enumerate(part) if isinstance(item, (dict, list))]
            waiting += reversed(inner)


def referred(part: JsonValue) -> str | None:
    """Give the evaluator's name if this part is a reference."""
    if isinstance(part, dict) and len(part) == 1 and isinstance(part.get("$ref"), str):
        return str(part["$ref"])
    return None


def inlined(rule: JsonValue, evaluators: Mapping[str, JsonValue], keep: frozenset[str] = frozenset()) -> JsonValue:
    """Give the rule with its references replaced by what they refer to, but for those to keep. Raises NotInlined."""
    return _Inlining(evaluators, keep).of(rule, 0)


class _Inlining:
    def __init__(self, evaluators: Mapping[str, JsonValue], keep: frozenset[str]) -> None:
        self._evaluators, self._keep = evaluators, keep
        self._inside: list[str] = []
        self._parts = 0

    def of(self, part: JsonValue, level: int) -> JsonValue:
        self._parts += 1
        if self._parts > MAX_INLINED:
            raise NotInlined(f"more than {MAX_INLINED} parts with what it refers to")
        if level > MAX_LEVELS:
            raise NotInlined("nested too deep")
        if isinstance(part, list):
            return [self.of(item, level + 1) for item in part]
        if not isinstance(part, dict) or len(part) != 1:
            return part
        name = referred(part)
        if name is None:
            return {step: self.of(value, level + 1) for step, value in part.items()}
        if name in self._keep or name not in self._evaluators:
            return part
        if name in self._inside:
            raise NotInlined(f"{name!r} refers to itself")
        self._inside.append(name)
        try:
            return self.of(self._evaluators[name], level + 1)
        finally:
            self._inside.pop()
