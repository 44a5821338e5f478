"""Compares the engine with openfeature-flagd-core 2.0.0. Each difference is a documented choice or a defect."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from json_logic import jsonLogic
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.contrib.tools.flagd.core.targeting import custom_ops
from openfeature.contrib.tools.flagd.core.targeting import targeting as oracle_targeting
from openfeature.contrib.tools.flagd.core.targeting.targeting import OPERATORS
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ParseError, TypeMismatchError

from flagsvc.core.evaluation import Prepared, ValueType, check_type, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting import Rule, RuleError, WrongRule, compile_rule, jsonlogic
from flagsvc.core.targeting.operators import OPERATORS as OUR_OPERATORS
from tests.property.rules import Case
from tests.property.smaller import smaller
from tests.property.values import KINDS

DEFAULTS: dict[ValueType, Any] = {
    ValueType.BOOLEAN: True,
    ValueType.STRING: "caller's",
    ValueType.INTEGER: -77,
    ValueType.FLOAT: -77.5,
    ValueType.OBJECT: {"callers": 1},
}
Result = tuple[str, Any]
"""`value` and the rule's result, or `error` and its message if there is no result for this context."""


class Quiet(io.TextIOBase):
    """Discards what the oracle's `log` operator prints."""

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress the oracle's logging and printing, which take most of its time."""
    logger = logging.getLogger("openfeature.contrib")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with contextlib.redirect_stdout(Quiet()):
        yield
    logger.setLevel(level)


class Pair:
    """One flag in both engines."""

    def __init__(self, case: Case) -> None:
        self.key = case.flag_key
        definition = {"state": case.state, "variants": KINDS[case.kind], "targeting": case.rule}
        if case.default_variant is not None:
            definition["defaultVariant"] = case.default_variant
        self.oracle = FlagdCore()
        self.oracle.set_flags(json.dumps({"flags": {case.flag_key: definition}, "$evaluators": case.evaluators}))
        self.oracle_rule = self.oracle._flag_store.get_flag(case.flag_key).targeting
        self.refusal = ""
        self.rule: Rule | None = None
        try:
            self.rule = compile_rule(case.rule, case.flag_key, case.evaluators, fractional_version=3)
        except WrongRule as error:
            self.refusal = str(error)
        self.prepared: Prepared = prepare(
            Flag(
                key=case.flag_key,
                status=Status(case.state),
                variants=KINDS[case.kind],
                default_variant=case.default_variant,
                targeting=json.dumps(case.rule),
                bucketing=3,  # the oracle's
                evaluators={name: json.dumps(rule) for name, rule in case.evaluators.items()},
            )
        )

    def ours(self, context: dict[str, Any], now: float) -> Result:
        assert self.rule is not None
        try:
            return "value", self.rule.evaluate(context, now)
        except RuleError as error:
            return "error", str(error)

    def theirs(self, context: dict[str, Any]) -> Result:
        return outcome_of(lambda: oracle_targeting(self.key, self.oracle_rule, openfeature_context(context)))

    def ours_resolved(self, wanted: ValueType, context: dict[str, Any], now: float) -> tuple[Any, ...]:
        outcome = check_type(self.prepared.fixed or self.prepared.evaluate(context, now), wanted)
        return str(outcome.reason), outcome.variant, outcome.value, outcome.error_code and str(outcome.error_code)

    def theirs_resolved(self, wanted: ValueType, context: EvaluationContext) -> tuple[Any, ...]:
        resolve = getattr(self.oracle, f"resolve_{wanted}_value")
        try:
            found = resolve(self.key, DEFAULTS[wanted], context)
        except ParseError:
            return "ERROR", None, None, "PARSE_ERROR"
        except TypeMismatchError:
            return "ERROR", None, None, "TYPE_MISMATCH"
        except Exception:  # noqa: BLE001  any other exception of the oracle is a GENERAL error to its caller
            return "ERROR", None, None, "GENERAL"
        value = found.value if found.variant is not None else None
        return str(found.reason), found.variant, value, None


def openfeature_context(context: dict[str, Any]) -> EvaluationContext:
    attributes = {name: value for name, value in context.items() if name != "targetingKey"}
    return EvaluationContext(context.get("targetingKey"), attributes)


def outcome_of(evaluate: Callable[[], Any]) -> Result:
    try:
        return "value", evaluate()
    except Exception as error:  # noqa: BLE001  the oracle does not catch arithmetic errors and others
        return "error", repr(error)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in value and type. NaN equals NaN, and 0.0 does not equal -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return bool(a == b)


def same_result(a: Result, b: Result) -> bool:
    try:
        return a[0] == b[0] and (a[0] == "error" or same(a[1], b[1]))
    except RecursionError:  # A reduce whose body returns its data makes the oracle's result contain itself.
        return False


# ---- the documented choices


REFUSED = ("unknown operator", " arguments; it must have ", "the weight is ", "the share is ")
REFUSED += ("fractional has no variants", "the sum of the weights exceeds", "unknown evaluator")
REFUSED += ("an operator must be its object's only field", "is not a version comparison", "is not a semantic version")


def documented(pair: Pair, case: Case, ours: Result, theirs: Result) -> str | None:
    """Return the name of the choice that explains a difference from the oracle's result; None for a defect."""
    # A limit was exceeded; the oracle has none.
    if ours[0] == "error" and "more than" in ours[1]:
        return "bounds"
    # An infinite index or length: the oracle raises OverflowError; ours treats it as beyond the end.
    if theirs[0] == "error" and "OverflowError('cannot convert float infinity" in theirs[1]:
        return "infinite index"
    # Ours evaluates the default of var only if it is needed; the oracle always does, and may fail.
    if theirs[0] == "error" and default_is_a_rule(case.rule, case.evaluators):
        return "default of var"
    # The third argument of reduce is a rule like any other argument; the oracle does not evaluate it.
    if reduce_start_is_a_rule(case.rule, case.evaluators):
        return "start of reduce"
    # The body of a reduce returns its whole data: the oracle modifies that object in the next iteration.
    if reduce_gives_its_data(case.rule, case.evaluators):
        return "data of reduce"
    # Evaluate again with the oracle's interpreter, with only our choices applied to its operators and data.
    return "choices of operators" if same_result(ours, with_our_choices(pair, case)) else None


def with_our_choices(pair: Pair, case: Case) -> Result:
    root = {**case.context, "$flagd": {"flagKey": case.flag_key, "timestamp": int(time.time())}}

    def fractional(_data: Any, *args: Any) -> Any:
        # Integral floats are valid weights: over gRPC all numbers of a context are floats.
        # Inside a loop the context's targeting key and the flag key are hashed, not the element's fields.
        return custom_ops.fractional(root, *(whole_weight(share) for share in args))

    def variable(data: Any, path: Any = None, default: Any = None, *_more: Any) -> Any:
        return jsonlogic.lookup(data, path, default)

    def missing(data: Any, *names: Any) -> list[Any]:
        wanted = names[0] if names and isinstance(names[0], list) else names
        return [name for name in wanted if variable(data, name) is None]

    def missing_some(data: Any, needed: Any, names: Any) -> list[Any]:
        absent = missing(data, names) if isinstance(names, list) else []
        return [] if not absent or len(names) - len(absent) >= jsonlogic.number(needed) else absent

    # JsonLogic's own operators are json-logic-js's, which tests/jsonlogic_js compares; the oracle's are Python's.
    ours = {name: _without_data(operator.function) for name, operator in OUR_OPERATORS.items() if name not in OF_FLAGD}
    ours |= {"var": variable, "missing": missing, "missing_some": missing_some, "fractional": fractional}
    # The whole context (`var ""`) has a targetingKey only if the caller sent one.
    with _our_truth():
        return outcome_of(lambda: jsonLogic(pair.oracle_rule, root, {**OPERATORS, **ours}))


OF_FLAGD = frozenset({"sem_ver", "starts_with", "ends_with"})


def _without_data(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _data, *arguments: function(*arguments)


@contextlib.contextmanager
def _our_truth() -> Iterator[None]:
    """Let the oracle's interpreter take {} for false."""
    module = sys.modules["json_logic.apply"]
    theirs = module.to_bool, module.not_
    module.to_bool, module.not_ = jsonlogic.truth, lambda value: not jsonlogic.truth(value)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.to_bool, module.not_ = theirs  # type: ignore[attr-defined]


def whole_weight(share: Any) -> Any:
    if isinstance(share, list) and len(share) == 2 and isinstance(share[1], float) and share[1].is_integer():
        return [share[0], int(share[1])]
    return share


def documented_resolution(
    case: Case, wanted: ValueType, ours: tuple[Any, ...], theirs: tuple[Any, ...], raw: Any
) -> str | None:
    """Return the choice that explains a different resolution of the same rule result; None for a defect."""
    # The oracle's float accessor accepts true and false; flagd itself does not.
    if wanted is ValueType.FLOAT and case.kind == "boolean" and ours[3] == "TYPE_MISMATCH":
        return "boolean as float"
    # A whole float is an integer too, as in flagd, whose numbers have one type.
    if wanted is ValueType.INTEGER and theirs[3] == "TYPE_MISMATCH" and ours[2].__class__ is int:
        return "whole float as integer"
    # An evaluator {} evaluates to {}, which names no variant; the oracle treats a rule of only it as no rule.
    if isinstance(raw, dict) and not raw and "$ref" in case.rule:
        return "reference to nothing"
    # NaN and the infinities, which JSON does not have, name no variant; in the oracle they are "nan" and "inf".
    if isinstance(raw, float) and not math.isfinite(raw):
        return "no finite number"
    # 1.0 names the variant "1", as 1 does: over gRPC all numbers of a context are floats.
    if isinstance(raw, float) and raw.is_integer():
        return "whole float names a variant"
    return None


def default_is_a_rule(rule: Any, evaluators: dict[str, Any]) -> bool:
    return any(len(read) == 2 and has_operator(read[1]) for read in calls("var", [rule, *evaluators.values()]))


def reduce_start_is_a_rule(rule: Any, evaluators: dict[str, Any]) -> bool:
    return any(
        len(arguments) == 3 and has_operator(arguments[2])
        for arguments in calls("reduce", [rule, *evaluators.values()])
    )


def reduce_gives_its_data(rule: Any, evaluators: dict[str, Any]) -> bool:
    reduces = calls("reduce", [rule, *evaluators.values()])
    return any(
        any(not read or read[0] in (None, "") or has_operator(read[0]) for read in calls("var", arguments[1]))
        for arguments in reduces
        if len(arguments) > 1
    )


def calls(name: str, rule: Any) -> Iterator[list[Any]]:
    """Yield the arguments of every call of an operator."""
    if isinstance(rule, list):
        for item in rule:
            yield from calls(name, item)
    elif isinstance(rule, dict):
        for operator, arguments in rule.items():
            if operator == name and len(rule) == 1:
                yield arguments if isinstance(arguments, list) else [arguments]
            yield from calls(name, arguments)


def has_operator(rule: Any) -> bool:
    if isinstance(rule, list):
        return any(map(has_operator, rule))
    return isinstance(rule, dict) and len(rule) == 1


# ---- the comparison


def difference(case: Case, pair: Pair | None = None, seen: Counter[str] | None = None) -> str | None:
    """Describe how the engines differ on a case; None if they agree or the difference is a choice."""
    found = _difference(case, pair or Pair(case), seen if seen is not None else Counter())
    # The oracle reads the clock itself: a difference because a second has passed does not occur again.
    return found and _difference(case, pair or Pair(case), Counter())


def _difference(case: Case, pair: Pair, seen: Counter[str]) -> str | None:
    if pair.refusal:
        # An invalid rule is refused as a whole; the oracle notices only the parts that it evaluates.
        seen["refused"] += 1
        expected = any(part in pair.refusal for part in REFUSED)
        return None if expected else f"refused: {pair.refusal}"
    now = time.time()
    ours, theirs = pair.ours(case.context, now), pair.theirs(case.context)
    seen[ours[0]] += 1
    if not same_result(ours, theirs):
        choice = documented(pair, case, ours, theirs)
        if choice is None:
            return f"the rule gives {ours}, the oracle {theirs}"
        seen[choice] += 1
        return None
    context = openfeature_context(case.context)
    for wanted in ValueType:
        mine, other = pair.ours_resolved(wanted, case.context, now), pair.theirs_resolved(wanted, context)
        if not same(mine, other):
            choice = documented_resolution(case, wanted, mine, other, ours[1])
            if choice is None:
                return f"as {wanted} it is {mine}, the oracle's {other}"
            seen[choice] += 1
        seen[str(mine[3] or mine[0])] += 1
    return None


def shrunk(case: Case) -> Case:
    """Return a small case that still differs."""
    for _ in range(200):
        for candidate in smaller(case):
            with contextlib.suppress(Exception):  # A smaller case may no longer be a valid flag.
                if difference(candidate):
                    case = candidate
                    break
        else:
            break
    return case
