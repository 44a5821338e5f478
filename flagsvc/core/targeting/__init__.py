"""Targeting rules: JsonLogic with flagd's operators, validated and compiled once, evaluated without JSON parsing."""

from .check import problems_of
from .compiler import Effect, RuleProblem
from .nodes import MAX_WORK, OverBudget, RuleError, Step, Unparsable, brief
from .rule import MAX_RULE_BYTES, OTHERWISE, Rule, WrongRule, compile_rule, compile_texts

__all__ = [
    "MAX_RULE_BYTES",
    "MAX_WORK",
    "OTHERWISE",
    "Effect",
    "OverBudget",
    "Rule",
    "RuleError",
    "RuleProblem",
    "Step",
    "Unparsable",
    "WrongRule",
    "brief",
    "compile_rule",
    "compile_texts",
    "problems_of",
]
