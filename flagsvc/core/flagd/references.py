"""References from targeting rules to evaluators: finding each `$ref`, and inlining what it refers to."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping

from ..json_values import Path
from ..model import JsonValue

MAX_INLINED = 1_000_000
"""Maximum number of parts of an inlined rule. The compiler's own limit is far lower."""
MAX_LEVELS = 300
"""Maximum nesting of an inlined rule. The compiler has a lower limit; Python's own limit depends on its version."""


class NotInlined(ValueError):
    """A rule's references cannot be inlined: it refers to itself, or becomes too large."""


def refs(rule: JsonValue) -> Iterator[tuple[str, Path]]:
    """Yield the evaluator name and the path of each `$ref` in a rule, in the rule's order."""
    pending: list[tuple[JsonValue, Path]] = [(rule, ())]
    while pending:
        part, path = pending.pop()
        if isinstance(part, dict):
            name = referred(part)
            if name is not None:
                yield name, (*path, "$ref")
            elif len(part) == 1:  # An object of several fields is a literal, not an operator.
                pending += [(value, (*path, step)) for step, value in part.items()]
        elif isinstance(part, list):
            inner = [(item, (*path, index)) for index, item in enumerate(part) if isinstance(item, (dict, list))]
            pending += reversed(inner)


def referred(part: JsonValue) -> str | None:
    """Return the evaluator's name if this part is a reference, else None."""
    if isinstance(part, dict) and len(part) == 1 and isinstance(part.get("$ref"), str):
        return str(part["$ref"])
    return None


def add_referred(
    rule: JsonValue, found: dict[str, JsonValue], load: Callable[[str], JsonValue], known: Container[str]
) -> None:
    """Add to `found` the known evaluators, by name, that a rule refers to, directly or through other evaluators."""
    pending = [rule]
    while pending:
        for name, _ in refs(pending.pop()):
            if name in known and name not in found:
                found[name] = load(name)
                pending.append(found[name])


def inlined(rule: JsonValue, evaluators: Mapping[str, JsonValue], keep: frozenset[str] = frozenset()) -> JsonValue:
    """Return the rule with all references, except those in `keep`, replaced by the evaluators. Raises NotInlined."""
    return _Inliner(evaluators, keep).inline(rule, 0)


class _Inliner:
    def __init__(self, evaluators: Mapping[str, JsonValue], keep: frozenset[str]) -> None:
        self._evaluators, self._keep = evaluators, keep
        self._open: list[str] = []
        self._parts = 0

    def inline(self, part: JsonValue, level: int) -> JsonValue:
        self._parts += 1
        if self._parts > MAX_INLINED:
            raise NotInlined(f"more than {MAX_INLINED} parts with its evaluators inlined")
        if level > MAX_LEVELS:
            raise NotInlined("nested too deeply")
        if isinstance(part, list):
            return [self.inline(item, level + 1) for item in part]
        if not isinstance(part, dict) or len(part) != 1:
            return part
        name = referred(part)
        if name is None:
            return {step: self.inline(value, level + 1) for step, value in part.items()}
        if name in self._keep or name not in self._evaluators:
            return part
        if name in self._open:
            raise NotInlined(f"{name!r} refers to itself")
        self._open.append(name)
        try:
            return self.inline(self._evaluators[name], level + 1)
        finally:
            self._open.pop()
