"""Changes of a flag's rollout, for stores to decide: by the writer's clock, from the share that stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from .errors import InvalidRequest, RolloutMissing
from .evaluation import read_rollout
from .model import Flag
from .rollouts import BadRollout, Rollout, continued, to_json


def with_rollout_continued(flag: Flag, before: Flag, at: datetime) -> Flag:
    """Return a flag whose rollout goes on from the share that stands in `before`. Raises InvalidRequest."""
    if flag.rollout is None or before.rollout is None or flag.rollout == before.rollout:
        return flag
    wanted = existing_rollout(flag)
    try:
        running: Rollout | None = read_rollout(before)
    except BadRollout:
        running = None  # nobody has moved by what cannot be evaluated
    return replace(flag, rollout=to_json(continued(wanted, running, at.timestamp())))


def with_rollout_changed(flag: Flag, at: datetime, change: Callable[[Rollout, float], Rollout]) -> Flag:
    """Return a flag whose rollout goes on otherwise. Raises RolloutMissing, and InvalidRequest for a malformed one."""
    return replace(flag, rollout=to_json(change(existing_rollout(flag), at.timestamp())))


def existing_rollout(flag: Flag) -> Rollout:
    """Return the rollout of a flag. Raises RolloutMissing, and InvalidRequest for a malformed one."""
    if flag.rollout is None:
        raise RolloutMissing(flag.key)
    try:
        return read_rollout(flag)
    except BadRollout as error:
        raise InvalidRequest(error.found) from None
