"""A targeting rule: compiled once, when its definition is loaded, and evaluated many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..json_values import LONE_SURROGATE, NotJson, strict_loads
from ..model import DEFAULT_BUCKETING, Attributes, JsonValue
from .compiler import Compiler, Effect, RuleProblem
from .forms import FORMS
from .nodes import MAX_WORK, NODE_STEPS, Node, OverBudget, RuleError, Run, Step

MAX_RULE_BYTES = 262_144
"""Maximum size of a rule and its evaluators together, in bytes of JSON."""
OTHERWISE = "rollout"
"""The first step of the paths into what decides where the rule gives null."""
RULE_HINT = 'it must be an object with one operator, such as {"if": [...]}'


class WrongRule(Exception):
    """A rule cannot be compiled. `problems` lists all problems found."""

    def __init__(self, problems: list[RuleProblem]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class Rule:
    """A compiled rule of one flag. `problems`: what is odd in it, where it was compiled all the same.

    `reads_clock`: its result may depend on the time, and not only on the context.
    """

    __slots__ = ("_run", "_work", "problems", "reads_clock")

    def __init__(self, node: Node, problems: Sequence[RuleProblem] = (), *, reads_clock: bool = False) -> None:
        self._run, self.problems, self.reads_clock = node.run, tuple(problems), reads_clock
        self._work = MAX_WORK - NODE_STEPS * node.size  # what evaluating each of its nodes once leaves for data

    def evaluate(self, context: Attributes, now: float) -> JsonValue:
        """Return the rule's result. `now` is in seconds since 1970. Raises RuleError if the rule has no result."""
        return self._evaluate(Run(context, now, self._work))

    def evaluate_within(self, context: Attributes, now: float, spent: int) -> tuple[JsonValue, int]:
        """Return the result, and what is spent then, where so many steps are spent already. Raises RuleError."""
        run = Run(context, now, self._work - spent)
        if run.work < 0:
            raise OverBudget(f"more than {MAX_WORK} steps together with the flags that it depends on")
        return self._evaluate(run), MAX_WORK - run.work

    def explain(self, context: Attributes, now: float) -> tuple[JsonValue | RuleError, list[Step]]:
        """Return the result (or the error) and the evaluation's steps. Only a rule compiled with `traced` has steps."""
        run = Run(context, now, self._work)
        run.steps, run.depth = [], 0
        try:
            return self._evaluate(run), run.steps
        except RuleError as error:
            return error, run.steps

    def _evaluate(self, run: Run) -> JsonValue:
        try:
            return self._run(run.context, run)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise RuleError(f"an operator cannot be applied to its arguments ({type(error).__name__})") from error


def compile_rule(
    rule: JsonValue,
    flag_key: str,
    evaluators: Mapping[str, JsonValue] | None = None,
    *,
    fractional_version: int = DEFAULT_BUCKETING,
    traced: bool = False,
    lenient: bool = False,
    otherwise: JsonValue = None,
) -> Rule:
    """Compile a rule. Raises WrongRule. `otherwise`: the rule that decides where this one gives null.

    With `traced` it records its steps, for explanations, and is slower.

    `lenient`: what is odd evaluates as in flagd. WrongRule is then only for rules that are ambiguous or too big.
    """
    version = fractional_version
    compiler = Compiler(FORMS, flag_key, evaluators or {}, fractional_version=version, traced=traced, lenient=lenient)
    try:
        node = compiler.root(rule)
        if otherwise is not None:
            node = _first_result(node, compiler.at(OTHERWISE, otherwise, at_root=True))
    except RecursionError:
        raise WrongRule([RuleProblem((), "nested too deeply")]) from None
    except UnicodeEncodeError:
        raise WrongRule([RuleProblem((), f"the flag key contains {LONE_SURROGATE}")]) from None
    is_ambiguous = any(problem.effect is Effect.AMBIGUOUS for problem in compiler.problems)
    if compiler.problems and (not lenient or compiler.is_too_big or is_ambiguous):
        raise WrongRule(compiler.problems)
    return Rule(node, compiler.problems, reads_clock=compiler.reads_clock)


def compile_texts(
    targeting: str,
    flag_key: str,
    evaluators: Mapping[str, str],
    *,
    fractional_version: int = DEFAULT_BUCKETING,
    traced: bool = False,
    lenient: bool = False,
    otherwise: JsonValue = None,
) -> Rule:
    """Compile a rule from JSON text like `compile_rule`. Raises WrongRule, also if it is too long or not JSON."""
    size = len(targeting) + sum(map(len, evaluators.values()))
    if size > MAX_RULE_BYTES:
        raise WrongRule([RuleProblem((), f"{size} characters with its evaluators; at most {MAX_RULE_BYTES} bytes")])
    parsed = {name: _parsed(text, name) for name, text in evaluators.items()}
    rule = _parsed(targeting, None)  # as in flagd, one that is no object is its own result
    return compile_rule(
        rule,
        flag_key,
        parsed,
        fractional_version=fractional_version,
        traced=traced,
        lenient=lenient,
        otherwise=otherwise,
    )


def _first_result(rule: Node, otherwise: Node) -> Node:
    """Return the node that evaluates a rule, and another one where that gives null."""
    first, second = rule.run, otherwise.run
    if rule.constant:
        return otherwise if rule.value is None else rule

    def run_both(data: Any, run: Run) -> JsonValue:
        result = first(data, run)
        return second(data, run) if result is None else result

    return Node(run_both, rule.size + otherwise.size)


def _parsed(text: str, evaluator: str | None) -> JsonValue:
    try:
        return strict_loads(text)
    except NotJson as error:
        where = f" at line {error.line}, column {error.column}" if error.line else ""
        raise WrongRule([RuleProblem((), f"not JSON{where}: {error}", evaluator)]) from None
