"""Evaluation of a flag in flagd's order: disabled, static, targeting, default, then the type check.

A definition is prepared once, when it is first needed. Evaluating a prepared definition parses no JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from . import json_values
from .errors import short_repr
from .model import Attributes, Flag, JsonValue, Status, Unknown
from .prerequisites import BadPrerequisites, Prerequisite, prerequisites_of
from .rollouts import BadRollout, Rollout, rollout_of, rule_of
from .sizes import MAX_SERVED_BYTES, is_too_large
from .targeting import (
    OTHERWISE,
    OverBudget,
    Rule,
    RuleError,
    Step,
    Unparsable,
    WrongRule,
    brief,
    compile_texts,
)

RULES = "rules-1"
"""Names what rules mean. Whoever changes the result of any rule counts on: clients that evaluate compare it."""


class Reason(StrEnum):
    """The OpenFeature reasons that flagsvc returns."""

    STATIC = "STATIC"
    DEFAULT = "DEFAULT"
    TARGETING_MATCH = "TARGETING_MATCH"
    DISABLED = "DISABLED"
    STALE = "STALE"
    ERROR = "ERROR"


class ErrorCode(StrEnum):
    """The OpenFeature error codes that an evaluation can return."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    PARSE_ERROR = "PARSE_ERROR"
    PROVIDER_NOT_READY = "PROVIDER_NOT_READY"
    GENERAL = "GENERAL"


class ValueType(StrEnum):
    """The value type that a caller requests."""

    BOOLEAN = "boolean"
    STRING = "string"
    INTEGER = "integer"
    FLOAT = "float"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an evaluation. Without a variant there is no value, and the caller's own default applies.

    `over_budget`: the rule needed more work for this context than an evaluation may take.
    `failed_prerequisite`: the key of the flag because of which this one is as if disabled.
    """

    reason: Reason
    variant: str | None = None
    value: JsonValue = None
    error_code: ErrorCode | None = None
    message: str = ""
    over_budget: bool = False
    failed_prerequisite: str | None = None


def _error(code: ErrorCode, message: str) -> Outcome:
    return Outcome(Reason.ERROR, error_code=code, message=message)


DISABLED = Outcome(Reason.DISABLED)
NOT_FOUND = _error(ErrorCode.FLAG_NOT_FOUND, "Flag not found in this flag set")
NOT_READY = _error(ErrorCode.PROVIDER_NOT_READY, "The flag's definition has not been loaded yet; retry")
NULL_VALUE = _error(ErrorCode.GENERAL, "The variant's value is null, which is of no type")
_NULL_MISMATCH = _error(ErrorCode.TYPE_MISMATCH, NULL_VALUE.message)
TOO_LARGE = _error(ErrorCode.GENERAL, f"The stored flag is over {MAX_SERVED_BYTES} bytes")


class Prepared:
    """A definition ready to be evaluated. `fixed` is its outcome for every context; None if it has targeting.

    `problem`: what is wrong or odd in its rule; empty if nothing is. `prerequisites`: with any, it is evaluated by
    `family.evaluate_family`, and by nothing else. `parents`: their keys.
    """

    __slots__ = ("_matches", "_rule", "_unmatched", "fixed", "parents", "prerequisites", "problem")
    prerequisites: tuple[Prerequisite, ...]
    parents: tuple[str, ...]

    def __init__(
        self,
        fixed: Outcome | None,
        rule: Rule | None = None,
        variants: Mapping[str, JsonValue] | None = None,
        unmatched: Outcome = DISABLED,
        problem: str = "",
    ) -> None:
        self.fixed, self._rule, self._unmatched, self.problem = fixed, rule, unmatched, problem
        self.prerequisites, self.parents = (), ()
        self._matches = {name: _match(name, value) for name, value in (variants or {}).items() if name or value}

    @property
    def reads_clock(self) -> bool:
        """Whether its outcome may depend on the time. Whatever of a definition uses `now` has to say so here."""
        return self._rule is not None and self._rule.reads_clock

    def evaluate(self, context: Attributes, now: float) -> Outcome:
        """Evaluate for a context. `now` is the time in seconds since 1970, for `$flagd.timestamp`. Never raises."""
        if self._rule is None:
            return self.fixed or DISABLED
        try:
            chosen = self._rule.evaluate(context, now)
        except RuleError as error:
            return _no_result(error)
        return self.outcome_of(chosen)

    def evaluate_within(self, context: Attributes, now: float, spent: int) -> tuple[Outcome, int]:
        """Evaluate its own rule where so much work is spent already. Return what is spent then, too. Never raises."""
        if self._rule is None:
            return self.fixed or DISABLED, spent
        try:
            chosen, spent = self._rule.evaluate_within(context, now, spent)
        except RuleError as error:
            return _no_result(error), spent
        return self.outcome_of(chosen), spent

    def outcome_of(self, chosen: JsonValue) -> Outcome:
        """Return the outcome for a rule's result: the name of a variant, or None for the default variant."""
        if chosen.__class__ is str and chosen in self._matches:
            return self._matches[chosen]
        if chosen is None:
            return self._unmatched
        name = variant_name(chosen)
        if name in self._matches:
            return self._matches[name]
        text = short_repr(brief(chosen))
        return _error(ErrorCode.GENERAL, f"The targeting rule chose {text}, which is not one of the flag's variants")


class Dependent(Prepared):
    """A definition with prerequisites: its outcome depends on other flags. `own`: the definition without them."""

    __slots__ = ("own",)

    def __init__(self, own: Prepared, prerequisites: tuple[Prerequisite, ...]) -> None:
        super().__init__(None, problem=own.problem)
        if own.fixed is not None and own.fixed.reason is Reason.STATIC:
            own = Prepared(replace(own.fixed, reason=Reason.DEFAULT))  # callers keep what is STATIC for every context
        self.own, self.prerequisites = own, prerequisites
        self.parents = tuple(each.flag_key for each in prerequisites)

    @property
    def reads_clock(self) -> bool:
        """Whether its outcome may depend on the time; its parents' may, too."""
        return True

    def evaluate(self, context: Attributes, now: float) -> Outcome:  # noqa: ARG002
        """Return an error, and never a wrong value: who evaluates a flag alone cannot know."""
        return _ALONE

    def evaluate_within(self, context: Attributes, now: float, spent: int) -> tuple[Outcome, int]:
        """Evaluate its own rule, once its prerequisites are met."""
        return self.own.evaluate_within(context, now, spent)


_ALONE = _error(ErrorCode.GENERAL, "The flag has prerequisites, which are not known here; ask a server")


def _match(name: str, value: JsonValue) -> Outcome:
    return NULL_VALUE if value is None else Outcome(Reason.TARGETING_MATCH, name, value)


def _no_result(error: RuleError) -> Outcome:
    if isinstance(error, Unparsable):
        return _error(ErrorCode.PARSE_ERROR, f"The targeting rule is invalid: {error}")
    text = f"The targeting rule has no result for this context: {error}"
    return replace(_error(ErrorCode.GENERAL, text), over_budget=isinstance(error, OverBudget))


NO_FLAG = Prepared(NOT_FOUND)
_MAX_EMPTY_CHARS = 100


def prepare(flag: Flag) -> Prepared:
    """Compile a definition. A malformed one evaluates to PARSE_ERROR, and affects no other flag."""
    if flag.unknown is not None:
        return Prepared(_error(ErrorCode.GENERAL, needs_more(flag.unknown)))
    if flag.problem:
        return Prepared(_error(ErrorCode.PARSE_ERROR, flag.problem))
    if flag.status in (Status.DISABLED, Status.DEPRECATED):
        return Prepared(DISABLED)
    try:
        prerequisites = prerequisites_of(flag.prerequisites)
    except BadPrerequisites as error:
        message = f"The prerequisites are invalid: {error}"
        return Prepared(_error(ErrorCode.PARSE_ERROR, message), problem=message)
    own = _prepared_alone(flag)
    return Dependent(own, prerequisites) if prerequisites and _may_have_value(own) else own


def _may_have_value(own: Prepared) -> bool:
    return own.fixed is None or (own.fixed.error_code is None and own.fixed is not DISABLED)


def _prepared_alone(flag: Flag) -> Prepared:
    """Compile the definition of a flag that is not disabled, apart from its prerequisites."""
    variants = flag.effective_variants
    if not has_rule(flag):
        if is_too_large(flag):
            return Prepared(TOO_LARGE)
        return Prepared(DISABLED if flag.status is Status.BETA else _default(flag, variants, Reason.STATIC))
    try:
        rule = _compiled(flag)
    except WrongRule as error:
        message = f"The targeting rule is invalid: {error.problems[0]}"
        return Prepared(_error(ErrorCode.PARSE_ERROR, message), problem=message)
    except BadRollout as error:
        message = f"The rollout is invalid: {error}"
        return Prepared(_error(ErrorCode.PARSE_ERROR, message), problem=message)
    if is_too_large(flag):  # a rule that is too large itself has the more precise error
        return Prepared(TOO_LARGE)
    unmatched = DISABLED if flag.status is Status.BETA else _default(flag, variants, Reason.DEFAULT)
    odd = str(rule.problems[0]) if rule.problems else ""
    return Prepared(None, rule, variants, unmatched, odd and f"The targeting rule is odd: {odd}")


def _compiled(flag: Flag, *, traced: bool = False) -> Rule:
    """Compile a flag's rule as it is served: what is odd in it evaluates as in flagd. Raises WrongRule and BadRollout.

    A rollout is the rule of a flag without targeting, and decides where targeting gives null.
    """
    return compile_texts(
        (flag.targeting or "") if has_targeting(flag) else "null",
        flag.key,
        flag.evaluators,
        otherwise=None if flag.rollout is None else rule_of(read_rollout(flag), flag.key),
        fractional_version=flag.bucketing,
        traced=traced,
        lenient=True,
    )


def read_rollout(flag: Flag) -> Rollout:
    """Return the rollout of a flag that has one. Raises BadRollout."""
    return rollout_of(flag.rollout, flag.effective_variants)


def has_rule(flag: Flag) -> bool:
    """Whether the flag's own rule depends on the context: it has a targeting rule or a rollout."""
    return flag.rollout is not None or has_targeting(flag)


def needs_more(unknown: Unknown) -> str:
    """Return the error of a flag that this release cannot evaluate."""
    names = ", ".join(map(short_repr, unknown.needs))
    return f"The flag needs {names}, which this release of flagsvc does not know: upgrade it"


def has_targeting(flag: Flag) -> bool:
    """Whether the flag has a targeting rule. As in flagd, `{}` is none, and null is one that never matches."""
    text = flag.targeting
    return text is not None and (len(text) > _MAX_EMPTY_CHARS or "".join(text.split()) not in ("", "{}"))


def variant_name(chosen: JsonValue) -> str | None:
    """Return the variant name for a rule's result: true is "true", 1 and 1.0 are "1"; None for all else."""
    match chosen:
        case str():
            return chosen
        case bool():
            return "true" if chosen else "false"
        case float() if chosen.is_integer():
            return str(int(chosen))
        case int() | float() if math.isfinite(chosen):
            return str(chosen)
        case _:
            return None


def check_type(outcome: Outcome, wanted: ValueType | None) -> Outcome:
    """Return the outcome, or TYPE_MISMATCH if its value is not of the wanted type.

    A whole number of 64 bits is an integer, also when it is written 10.0, and an integer is valid as a float.
    """
    if wanted is None or outcome.variant is None:
        return _NULL_MISMATCH if wanted is not None and outcome is NULL_VALUE else outcome
    kind = json_values.kind(outcome.value)
    if kind == wanted:
        return outcome
    if wanted is ValueType.FLOAT and kind == "integer":
        return replace(outcome, value=float(outcome.value))
    if wanted is ValueType.INTEGER and kind == "float" and json_values.is_whole(outcome.value):
        return replace(outcome, value=int(outcome.value))
    return _error(ErrorCode.TYPE_MISMATCH, f"The flag's value is of type {kind}, not {wanted}")


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an outcome came about. `read` has the context fields that the rule read; null for absent ones.

    `notes`: what is valid in the rule and most likely not meant.
    """

    summary: str
    read: Mapping[str, JsonValue]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def explain(flag: Flag, context: Attributes, now: float) -> tuple[Outcome, Explanation]:
    """Evaluate step by step, for people to read. Slow: it compiles the rule again, with tracing."""
    prepared = prepare(flag)
    if prepared.fixed is not None:
        return prepared.fixed, Explanation(prepared.fixed.message or _summary_of_fixed(flag, prepared.fixed), {}, ())
    if prepared.prerequisites:
        return _ALONE, Explanation(_ALONE.message, {}, ())
    rule = _compiled(flag, traced=True)
    recording = _RecordingContext(context)
    result, steps = rule.explain(recording, now)
    outcome = _no_result(result) if isinstance(result, RuleError) else prepared.outcome_of(result)
    by = "rollout" if any(step.path[:1] == (OTHERWISE,) for step in steps) else "targeting rule"
    summary = outcome.message or _summary(flag, result, outcome, by)
    return outcome, Explanation(summary, recording.read, tuple(steps))


def _summary_of_fixed(flag: Flag, outcome: Outcome) -> str:
    if outcome is not DISABLED:
        variant = f"variant {outcome.variant!r}" if outcome.variant is not None else "no default variant"
        return f"The flag has no targeting: {variant} for everybody"
    if flag.status is Status.BETA:
        return "The flag is BETA and has no targeting: disabled for everybody"
    return f"The flag is {flag.status}: no value, the caller's own default applies"


def _summary(flag: Flag, result: JsonValue, outcome: Outcome, by: str) -> str:
    if result is not None:
        return f"The {by} chose variant {outcome.variant!r}"
    if flag.status is Status.BETA:
        return "The targeting rule did not match and the flag is BETA: as if disabled"
    variant = f"the default variant {outcome.variant!r}" if outcome.variant is not None else "no default variant"
    return f"The targeting rule did not match: {variant}"


class _RecordingContext(Mapping[str, JsonValue]):
    """A context that records which fields are read."""

    def __init__(self, context: Attributes) -> None:
        self._context = context
        self.read: dict[str, JsonValue] = {}

    def __getitem__(self, name: str) -> JsonValue:
        self.read[name] = self._context.get(name)
        return self._context[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._context)

    def __len__(self) -> int:
        return len(self._context)


def _default(flag: Flag, variants: Mapping[str, JsonValue], reason: Reason) -> Outcome:
    variant = flag.effective_default
    if variant is None:
        return Outcome(Reason.DEFAULT)
    if variant in variants and variants[variant] is None:
        return NULL_VALUE
    if variant not in variants:
        text = f"The default variant {short_repr(variant)} is not one of the flag's variants"
        return _error(ErrorCode.GENERAL, text)
    return Outcome(reason, variant, variants[variant])
