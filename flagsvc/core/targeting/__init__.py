"""Targeting rules: JsonLogic with flagd's operators, validated and compiled once, evaluated without JSON parsing."""

from .check import problems_of
from .compiler import RuleProblem
from .nodes import OverBudget, RuleError, Step, brief
from .rule import MAX_RULE_BYTES, Rule, WrongRule, compile_rule, compile_texts

__all__ = [
    "MAX_RULE_BYTES",
    "OverBudget",
    "Rule",
    "RuleError",
    "RuleProblem",
    "Step",
    "WrongRule",
    "brief",
    "compile_rule",
    "compile_texts",
    "problems_of",
]
