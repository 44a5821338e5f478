"""Rollouts: a share of callers that grows, or shrinks, with time. Pure, without jobs: the time decides.

`definition` reads and checks the field of a flag, `shares` says which share stands at a moment, `rule` writes it as a
targeting rule, `standing` says for people how far it is, and `changes` edits, pauses and rolls back, each from the
share that stands.
"""

from .changes import continued, goes_on_alike, paused, resumed, rolled_back
from .definition import (
    DEFAULT_BUCKET_BY,
    FIELD,
    MAX_SHARE,
    BadRollout,
    Point,
    Rollout,
    percent,
    rollout_of,
    time_text,
    to_json,
    violations,
)
from .rule import after_targeting, rule_of
from .shares import next_step, next_visible_step, share_at
from .standing import Standing, State, standing_at

__all__ = [
    "DEFAULT_BUCKET_BY",
    "FIELD",
    "MAX_SHARE",
    "BadRollout",
    "Point",
    "Rollout",
    "Standing",
    "State",
    "after_targeting",
    "continued",
    "goes_on_alike",
    "next_step",
    "next_visible_step",
    "paused",
    "percent",
    "resumed",
    "rolled_back",
    "rollout_of",
    "rule_of",
    "share_at",
    "standing_at",
    "time_text",
    "to_json",
    "violations",
]
