"""The whole rule of a flag: its targeting rule and its rollout as one."""

from __future__ import annotations

from ..evaluation import has_targeting, read_rollout
from ..json_values import NotJson, strict_loads
from ..model import Flag, JsonValue
from ..rollouts import BadRollout, after_targeting, rule_of


def whole_rule(flag: Flag) -> JsonValue:
    """Return the rule of a flag that has one, with its rollout as a part of it. Raises NotJson."""
    rule = strict_loads(flag.targeting or "") if has_targeting(flag) else None
    if flag.rollout is None:
        return rule
    try:
        moves = rule_of(read_rollout(flag), flag.key)
    except BadRollout as error:
        raise NotJson(f"the rollout is invalid: {error}") from None
    return moves if rule is None else after_targeting(rule, moves)
