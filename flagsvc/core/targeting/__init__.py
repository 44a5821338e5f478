"""Targeting rules: JsonLogic with flagd's operators, checked and compiled once, then evaluated without reading JSON."""

from flagsvc.core.targeting.check import problems_of
from flagsvc.core.targeting.compiler import RuleProblem
from flagsvc.core.targeting.nodes import RuleError, Step, brief
from flagsvc.core.targeting.rule import FRACTIONAL_VERSION, MAX_RULE_BYTES, Rule, WrongRule, compile_rule, compile_texts

__all__ = [
    "FRACTIONAL_VERSION",
    "MAX_RULE_BYTES",
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
