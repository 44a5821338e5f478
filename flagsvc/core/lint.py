"""Notes on a whole flag: its rule and evaluators, where they are valid and most likely not what their author meant."""

from __future__ import annotations

from .evaluation import has_targeting
from .json_values import NotJson, strict_loads
from .model import Flag
from .targeting import RuleProblem
from .targeting.lint import notes_of


def lint(flag: Flag) -> list[RuleProblem]:
    """Return the notes on a flag; none for rules that are not JSON."""
    if flag.problem or not has_targeting(flag):
        return []
    try:
        evaluators = {name: strict_loads(text) for name, text in flag.evaluators.items()}
        return notes_of(strict_loads(flag.targeting or ""), evaluators, switches_on(flag))
    except (NotJson, RecursionError):
        return []


def switches_on(flag: Flag) -> str | None:
    """Return the default variant if it is `on` or true, and what targeting does not match gets it."""
    if flag.rollout is not None:
        return None
    default = flag.effective_default
    is_on = default is not None and (default == "on" or flag.effective_variants.get(default) is True)
    return default if is_on else None
