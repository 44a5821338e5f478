"""Evaluates a flag together with the flags that it depends on: in one order, at one time, from one work budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .errors import short_repr
from .evaluation import DISABLED, NO_FLAG, ErrorCode, Outcome, Prepared, Reason
from .model import Attributes
from .prerequisites import NoOrder, Prerequisite, order_of
from .targeting import MAX_WORK, OverBudget

FLAG_STEPS = 20
"""Work of finding and ordering one flag, or one mention of it, in the steps that rules are counted in."""

MAX_MEMBERS = MAX_WORK // FLAG_STEPS
"""More flags than this are never evaluated together."""

Members = Callable[[str], Prepared | None]
"""From a key to the definition of this flag in the same set, at the one moment of the evaluation; None: no such flag.
"""


def evaluate_family(key: str, members: Members, context: Attributes, now: float) -> Outcome:
    """Evaluate a flag for a context. `now` is in seconds since 1970. Never raises."""
    return outcomes_of(key, members, context, now)[key]


def outcomes_of(key: str, members: Members, context: Attributes, now: float) -> Mapping[str, Outcome]:
    """Evaluate a flag and, unless it has no order, all that it depends on. Return the outcomes by key. Never raises."""
    work = _Work()
    known: dict[str, Prepared] = {}

    def member(name: str) -> Prepared:
        found = known.get(name)
        if found is None:
            found = known[name] = members(name) or NO_FLAG
        return found

    try:
        order = order_of(key, lambda name: member(name).parents, work.visit)
    except NoOrder as error:
        return {key: _error(f"The flag's prerequisites cannot be evaluated: {error}")}
    except OverBudget as error:
        return {key: replace(_error(f"The flag's prerequisites take too much work: {error}"), over_budget=True)}
    outcomes: dict[str, Outcome] = {}
    for name in order:
        prepared = known[name]
        failed = next((each for each in prepared.prerequisites if not is_met(each, outcomes[each.flag_key])), None)
        if failed is None:
            outcomes[name], work.spent = prepared.evaluate_within(context, now, work.spent)
        else:
            outcomes[name] = _unmet(failed, outcomes[failed.flag_key])
    return outcomes


class _Work:
    """What an evaluation has spent, in steps."""

    def __init__(self) -> None:
        self.spent = 0

    def visit(self) -> None:
        """Count a flag. Raises OverBudget."""
        self.spent += FLAG_STEPS
        if self.spent > MAX_WORK:
            raise OverBudget(f"more than {MAX_MEMBERS} flags that depend on one another")


def is_met(wanted: Prerequisite, outcome: Outcome) -> bool:
    """Whether a flag has one of the variants that another one asks for."""
    return outcome.error_code is None and outcome.variant is not None and outcome.variant in wanted.variants


def _unmet(failed: Prerequisite, outcome: Outcome) -> Outcome:
    """Return the outcome of a flag whose prerequisite is not met. Where that flag has an error, so has this one."""
    if outcome.error_code in (None, ErrorCode.FLAG_NOT_FOUND):
        return replace(DISABLED, failed_prerequisite=failed.flag_key)
    text = f"The prerequisite {short_repr(failed.flag_key)} cannot be evaluated: {outcome.message}"
    return replace(_error(text), over_budget=outcome.over_budget)


def _error(message: str) -> Outcome:
    return Outcome(Reason.ERROR, error_code=ErrorCode.GENERAL, message=message)
