"""The cases that are one step simpler than a case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.property.rules import Case


def smaller(case: Case) -> Iterator[Case]:
    """Yield the cases that are one step simpler."""
    for name in case.evaluators:
        yield replace(case, evaluators={n: r for n, r in case.evaluators.items() if n != name})
    for name in case.context:
        yield replace(case, context={n: v for n, v in case.context.items() if n != name})
    for rule in _reduced(case.rule):
        if isinstance(rule, dict) and rule:
            yield replace(case, rule=rule)
    for name, evaluator in case.evaluators.items():
        for rule in _reduced(evaluator):
            yield replace(case, evaluators={**case.evaluators, name: rule})
    for name, value in case.context.items():
        for less in _reduced(value):
            yield replace(case, context={**case.context, name: less})


def _reduced(value: Any) -> Iterator[Any]:
    """Yield the parts of a value, then the value with one part reduced or removed."""
    if isinstance(value, dict):
        yield from value.values()
        for key, item in value.items():
            for less in _reduced(item):
                yield {**value, key: less}
            if len(value) > 2:
                yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, list):
        yield from value
        for index, item in enumerate(value):
            yield [*value[:index], *value[index + 1 :]]
            for less in _reduced(item):
                yield [*value[:index], less, *value[index + 1 :]]
    elif value not in (None, "", 0):
        yield None
