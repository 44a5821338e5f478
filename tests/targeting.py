"""Rules for tests: compiled and evaluated at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagsvc.core.targeting import compile_rule

NOW = 1_700_000_000.9
FAILS = {"cat": ["x" * 40_000] * 2}
"""A rule that has no result for any context."""


def result(rule: Any, context: Mapping[str, Any] | None = None, **evaluators: Any) -> Any:
    return compile_rule(rule, "my-flag", evaluators).evaluate(context or {}, NOW)


def var(name: Any) -> dict[str, Any]:
    return {"var": name}
