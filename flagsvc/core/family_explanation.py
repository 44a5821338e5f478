"""Tells how the outcome of a flag with prerequisites comes about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .errors import short_repr
from .evaluation import ErrorCode, Explanation, Outcome, explain, prepare
from .family import is_met, outcomes_of
from .model import Attributes, Flag
from .prerequisites import Prerequisite


def explain_family(key: str, flags: Mapping[str, Flag], context: Attributes, now: float) -> Explanation:
    """Evaluate step by step, for people to read. `flags`: the flag and those that it depends on, by key.

    Slow: it compiles the rules again.
    """
    prepared = {name: prepare(flag) for name, flag in flags.items()}
    outcomes = outcomes_of(key, prepared.get, context, now)
    outcome, wanted = outcomes[key], prepared[key].prerequisites
    notes = tuple(_note(each, outcomes[each.flag_key]) for each in wanted if each.flag_key in outcomes)
    if outcome.failed_prerequisite is not None:
        failed = short_repr(outcome.failed_prerequisite)
        return Explanation(f"The prerequisite {failed} is not met: as if disabled", {}, (), notes)
    if not all(each.flag_key in outcomes and is_met(each, outcomes[each.flag_key]) for each in wanted):
        return Explanation(outcome.message, {}, (), notes)
    _, own = explain(replace(flags[key], prerequisites=None), context, now)
    return replace(own, notes=(*notes, *own.notes))


def _note(wanted: Prerequisite, outcome: Outcome) -> str:
    name, variants = short_repr(wanted.flag_key), " or ".join(map(short_repr, wanted.variants[:5]))
    if is_met(wanted, outcome):
        return f"The prerequisite {name} is met: its variant is {short_repr(outcome.variant)}"
    if outcome.error_code is ErrorCode.FLAG_NOT_FOUND:
        found = "there is no such flag"
    elif outcome.error_code is not None:
        found = f"it has an error: {outcome.message}"
    elif outcome.variant is None:
        found = f"it has no variant, since {_why(outcome)}"
    else:
        found = f"its variant is {short_repr(outcome.variant)}"
    return f"The prerequisite {name} is not met: {found}; needed is {variants}"


def _why(outcome: Outcome) -> str:
    if outcome.failed_prerequisite is not None:
        return f"its own prerequisite {short_repr(outcome.failed_prerequisite)} is not met"
    return f"its reason is {outcome.reason}"
