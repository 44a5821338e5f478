"""Validates a rule before it is stored: it must compile, and its constant results must be variants of the flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..json_values import Path, kind
from ..model import JsonValue
from .compiler import Compiler, RuleProblem, as_json
from .cost import too_expensive
from .forms import FORMS
from .rule import RULE_HINT

VariantName = Callable[[JsonValue], str | None]


def problems_of(
    rule: JsonValue,
    flag_key: str,
    evaluators: Mapping[str, JsonValue],
    variants: Mapping[str, JsonValue],
    variant_name: VariantName,
    *,
    limits_cost: bool = True,
    limits_results: bool = True,
) -> list[RuleProblem]:
    """Return the problems of a rule (None: no rule) and its evaluators. Results are checked only if all compile."""
    compiler = Compiler(FORMS, flag_key, evaluators)
    for name in evaluators:
        compiler.root({"$ref": name})
    if rule is not None and not isinstance(rule, dict):
        compiler.problems.append(RuleProblem((), f"the rule is of type {kind(rule)}; {RULE_HINT}"))
    compiler.root(rule)
    if compiler.problems:
        return compiler.problems
    if limits_cost and (problem := too_expensive(rule, evaluators)) is not None:
        return [problem]
    if not limits_results:
        return []
    known = ", ".join(sorted(variants)[:20])
    return [
        RuleProblem(path, f"{as_json(value)} is not one of the flag's variants: {known}", evaluator)
        for value, path, evaluator in _constant_results(rule, (), None, evaluators)
        if value is not None and variant_name(value) not in variants
    ]


def _constant_results(
    rule: JsonValue, path: Path, evaluator: str | None, evaluators: Mapping[str, JsonValue]
) -> Iterator[tuple[JsonValue, Path, str | None]]:
    """Yield the constants that a rule can return, with path and evaluator. Computed results are not known here."""
    if not isinstance(rule, dict) or len(rule) != 1:
        yield rule, path, evaluator
        return
    [(name, raw)] = rule.items()
    arguments = raw if isinstance(raw, list) else [raw]
    if name == "$ref":
        yield from _constant_results(evaluators[raw], (), raw, evaluators)
    elif name in ("if", "?:"):
        for index, argument in enumerate(arguments):
            if index % 2 or index == len(arguments) - 1:
                yield from _constant_results(argument, (*path, name, index), evaluator, evaluators)
    elif name == "fractional":
        for index, share in enumerate(arguments):
            if isinstance(share, list):
                yield from _constant_results(share[0], (*path, name, index, 0), evaluator, evaluators)
