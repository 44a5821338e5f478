"""A targeting rule, compiled when its definition is loaded and evaluated many times."""

from __future__ import annotations

from collections.abc import Mapping

from ..json_values import NotJson, kind, strict_loads
from ..model import Attributes, JsonValue
from .compiler import Compiler, RuleProblem
from .forms import FORMS
from .nodes import Compiled, RuleError, Run, Step

FRACTIONAL_VERSION = 3
MAX_RULE_BYTES = 262_144
"""What a rule and its evaluators may take together."""
A_RULE = 'it must be an object with one operator, such as {"if": [...]}'


class WrongRule(Exception):
    """A rule cannot be compiled; `problems` has everything that was found."""

    def __init__(self, problems: list[RuleProblem]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class Rule:
    """A compiled rule of one flag."""

    __slots__ = ("_run",)

    def __init__(self, run: Compiled) -> None:
        self._run = run

    def evaluate(self, context: Attributes, now: float) -> JsonValue:
        """Give the rule's result at a time in seconds since 1970. Raises RuleError when it has none."""
        return self._evaluate(Run(context, now))

    def explain(self, context: Attributes, now: float) -> tuple[JsonValue | RuleError, list[Step]]:
        """Give the result, or why there is none, and the steps taken; only a traced rule has steps."""
        run = Run(context, now)
        run.steps, run.depth = [], 0
        try:
            return self._evaluate(run), run.steps
        except RuleError as error:
            return error, run.steps

    def _evaluate(self, run: Run) -> JsonValue:
        try:
            return self._run(run.context, run)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise RuleError(f"a value that cannot be computed with ({type(error).__name__})") from error


def compile_rule(
    rule: JsonValue,
    flag_key: str,
    evaluators: Mapping[str, JsonValue] | None = None,
    *,
    fractional_version: int = FRACTIONAL_VERSION,
    traced: bool = False,
) -> Rule:
    """Compile a rule. Raises WrongRule. `traced`: it records its steps, for explanations, and is slower."""
    compiler = Compiler(FORMS, flag_key, evaluators or {}, fractional_version=fractional_version, traced=traced)
    try:
        node = compiler.root(rule)
    except RecursionError:
        raise WrongRule([RuleProblem((), "nested too deep")]) from None
    except UnicodeEncodeError:
        raise WrongRule([RuleProblem((), "the flag's key has half of a surrogate pair")]) from None
    if compiler.problems:
        raise WrongRule(compiler.problems)
    return Rule(node.run)


def compile_texts(
    targeting: str,
    flag_key: str,
    evaluators: Mapping[str, str],
    *,
    fractional_version: int = FRACTIONAL_VERSION,
    traced: bool = False,
) -> Rule:
    """Compile a rule from JSON texts. Raises WrongRule."""
    size = len(targeting) + sum(map(len, evaluators.values()))
    if size > MAX_RULE_BYTES:
        raise WrongRule([RuleProblem((), f"{size} characters with its evaluators; at most {MAX_RULE_BYTES} bytes")])
    parsed: dict[str, JsonValue] = {}
    for name, text in evaluators.items():
        parsed[name] = _parsed(text, name)
    rule = _parsed(targeting, None)
    if not isinstance(rule, dict):
        raise WrongRule([RuleProblem((), f"the rule is of type {kind(rule)}; {A_RULE}")])
    return compile_rule(rule, flag_key, parsed, fractional_version=fractional_version, traced=traced)


def _parsed(text: str, evaluator: str | None) -> JsonValue:
    try:
        return strict_loads(text)
    except NotJson as error:
        where = f" at line {error.line}, column {error.column}" if error.line else ""
        raise WrongRule([RuleProblem((), f"no JSON{where}: {error}", evaluator)]) from None
