"""Notes on rules that are valid, and most likely not what their author meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..json_values import Path
from ..model import JsonValue
from . import jsonlogic
from .compiler import RuleProblem, as_json
from .fractional import whole

MAX_NOTES = 20
_TIME = "$flagd.timestamp"
_STRICT = frozenset({"===", "<", "<=", ">", ">=", "=="})
_BODIES = frozenset({"filter", "all", "some", "none"})


def notes_of(rule: JsonValue, evaluators: Mapping[str, JsonValue], on: str | None = None) -> list[RuleProblem]:
    """Return the notes on a rule and the evaluators that it uses, at most MAX_NOTES.

    `on`: the name of the default variant where that switches something on, for callers whom a split leaves out.
    """
    linter = _Linter(evaluators, on)
    with suppress(_Enough):
        linter.part(rule, (), None)
        if on is not None:
            linter.result(rule, (), None)
    return linter.notes


class _Enough(Exception):
    """There are as many notes as are shown."""


@dataclass(slots=True)
class _Linter:
    evaluators: Mapping[str, JsonValue]
    on: str | None
    notes: list[RuleProblem] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _results: set[str] = field(default_factory=set)

    def note(self, message: str, path: Path, evaluator: str | None) -> None:
        self.notes.append(RuleProblem(path, message, evaluator))
        if len(self.notes) == MAX_NOTES:
            raise _Enough

    def part(self, rule: JsonValue, path: Path, evaluator: str | None) -> None:
        """Note what is odd in a part and in all within it, each evaluator once."""
        if isinstance(rule, list):
            for index, item in enumerate(rule):
                self.part(item, (*path, index), evaluator)
        if (call := _call(rule)) is None:
            return
        name, arguments = call
        if name == "$ref":
            self._reference(arguments)
            return
        inner = (*path, name)
        for index in _conditions(name, len(arguments)):
            self._condition(arguments[index], (*inner, index), evaluator)
        if name in ("if", "?:"):
            self._branches(arguments, inner, evaluator)
        elif name in _STRICT:
            self._comparison(name, arguments, inner, evaluator)
        elif name == "fractional":
            self._split(arguments, inner, evaluator)
        for index, argument in enumerate(arguments):
            self.part(argument, (*inner, index), evaluator)

    def _reference(self, arguments: list[Any]) -> None:
        name = arguments[0] if arguments else None
        if isinstance(name, str) and name in self.evaluators and name not in self._seen:
            self._seen.add(name)
            self.part(self.evaluators[name], (), name)

    def result(self, rule: JsonValue, path: Path, evaluator: str | None) -> None:
        """Note the splits by targeting key whose result is the rule's: callers without a key get the default."""
        if (call := _call(rule)) is None:
            return
        name, arguments = call
        if name == "$ref":
            referred = str(arguments[0]) if arguments else ""
            if referred in self.evaluators and referred not in self._results:
                self._results.add(referred)
                self.result(self.evaluators[referred], (), referred)
        elif name in ("if", "?:"):
            for index, argument in enumerate(arguments):
                if index % 2 or index == len(arguments) - 1:
                    self.result(argument, (*path, name, index), evaluator)
        elif name == "fractional" and arguments and isinstance(arguments[0], list):
            default = f"callers without a targeting key get the default variant, {as_json(self.on)}"
            text = default + '; {"or": [SPLIT, ELSE]} gives them another'
            self.note(text, (*path, name), evaluator)

    def _condition(self, condition: JsonValue, path: Path, evaluator: str | None) -> None:
        if _call(condition) is None and isinstance(condition, str | list | dict):
            held = "true" if jsonlogic.truth(condition) else "false"
            self.note(f"the condition {as_json(condition)} is constant: always {held}", path, evaluator)

    def _branches(self, arguments: list[Any], path: Path, evaluator: str | None) -> None:
        results = [*arguments[1::2], *(arguments[-1:] if len(arguments) % 2 else [None])]
        if len(results) > 1 and all(result == results[0] for result in results[1:]):
            self.note(f"every branch has the same result, {as_json(results[0])}", path, evaluator)

    def _comparison(self, name: str, arguments: list[Any], path: Path, evaluator: str | None) -> None:
        is_time = [_call(argument) == ("var", [_TIME]) for argument in arguments]
        for argument in arguments:
            if any(is_time) and isinstance(argument, str) and (name == "===" or _is_no_number(argument)):
                text = f"{_TIME} is a number, seconds since 1970: it is never {name} the text {as_json(argument)}"
                self.note(text, path, evaluator)

    def _split(self, arguments: list[Any], path: Path, evaluator: str | None) -> None:
        shares = arguments if arguments and isinstance(arguments[0], list) else arguments[1:]
        weights = [_weight(share) for share in shares]
        if None not in weights and sum(weight > 0 for weight in weights if weight is not None) == 1:
            index = next(i for i, weight in enumerate(weights) if weight)
            text = f"everybody is in one bucket: {as_json(shares[index][0])}"
            self.note(text, (*path, index + len(arguments) - len(shares)), evaluator)


def _call(rule: JsonValue) -> tuple[str, list[Any]] | None:
    """Return the operator and the arguments; None for a literal."""
    if not isinstance(rule, dict) or len(rule) != 1:
        return None
    [(name, raw)] = rule.items()
    return name, raw if isinstance(raw, list) else [raw]


def _conditions(name: str, count: int) -> Iterator[int]:
    """Yield the indexes of the arguments that are conditions. The last one of `and` and `or` may be a result."""
    if name in ("if", "?:"):
        yield from range(0, count - 1, 2)
    elif name in ("and", "or"):
        yield from range(count - 1)
    elif name in ("!", "!!"):
        yield from range(min(count, 1))
    elif name in _BODIES and count > 1:
        yield 1


def _is_no_number(text: str) -> bool:
    found = jsonlogic.number(text)
    return found != found  # noqa: PLR0124  NaN differs from itself


def _weight(share: JsonValue) -> int | None:
    """Return a share's constant weight; None if it is computed or invalid."""
    if not isinstance(share, list) or not share:
        return None
    return 1 if len(share) == 1 else whole(share[1])
