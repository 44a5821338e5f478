"""Checks a rule before it is stored: that it compiles, and that what it can choose is there to be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..json_values import Path, kind
from ..model import JsonValue
from .compiler import Compiler, RuleProblem, as_json
from .forms import FORMS
from .rule import A_RULE

Named = Callable[[JsonValue], str | None]


def problems_of(
    rule: JsonValue,
    flag_key: str,
    evaluators: Mapping[str, JsonValue],
    variants: Mapping[str, JsonValue],
    variant_name: Named,
) -> list[RuleProblem]:
    """Give what is wrong with a rule (None: there is none) and its evaluators. Choices are checked when all compile."""
    compiler = Compiler(FORMS, flag_key, evaluators)
    for name in evaluators:
        compiler.root({"$ref": name})
    if rule is not None and not isinstance(rule, dict):
        compiler.problems.append(RuleProblem((), f"the rule is of type {kind(rule)}; {A_RULE}"))
    compiler.root(rule)
    if compiler.problems:
        return compiler.problems
    known = ", ".join(sorted(variants)[:20])
    return [
        RuleProblem(path, f"{as_json(value)} is none of the flag's variants; they are {known}", evaluator)
        for value, path, evaluator in _choices(rule, (), None, evaluators)
        if value is not None and variant_name(value) not in variants
    ]


def _choices(
    rule: JsonValue, path: Path, evaluator: str | None, evaluators: Mapping[str, JsonValue]
) -> Iterator[tuple[JsonValue, Path, str | None]]:
    """Give the constants that a rule can come to, with where they stand; computed ones are not known."""
    if not isinstance(rule, dict) or len(rule) != 1:
        yield rule, path, evaluator
        return
    [(name, raw)] = rule.items()
    arguments = raw if isinstance(raw, list) else [raw]
    if name == "$ref":
        yield from _choices(evaluators[raw], (), raw, evaluators)
    elif name in ("if", "?:"):
        for index, argument in enumerate(arguments):
            if index % 2 or index == len(arguments) - 1:
                yield from _choices(argument, (*path, name, index), evaluator, evaluators)
    elif name == "fractional":
        for index, share in enumerate(arguments):
            if isinstance(share, list):
                yield from _choices(share[0], (*path, name, index, 0), evaluator, evaluators)
