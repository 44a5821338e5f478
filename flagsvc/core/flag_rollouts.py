"""Changes of a flag's rollout, for stores to decide: by the writer's clock, from the share that stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from .errors import InvalidRequest, RolloutMissing
from .evaluation import read_rollout
from .model import Flag
from .rollouts import BadRollout, Rollout, continued, goes_on_alike, to_json


def with_rollout_continued(flag: Flag, before: Flag, at: datetime) -> Flag:
    """Return a flag whose rollout goes on from the share that stands in `before`. Raises InvalidRequest."""
    if _has_kept_rollout(flag, before):
        return flag
    wanted = existing_rollout(flag)
    try:
        running: Rollout | None = read_rollout(before)
    except BadRollout:
        running = None  # nobody has moved by what cannot be evaluated
    return replace(flag, rollout=to_json(continued(wanted, running, at.timestamp())))


def with_rollout_copied(flag: Flag, before: Flag, at: datetime) -> Flag:
    """Return a flag that was stored before, whose rollout goes on from the share that stands in `before`.

    One that leads where that in `before` leads anyway is left as it is there: a copy of a copy changes nothing. Another
    rollout altogether, of other variants or people, is taken as it was.
    """
    if _has_kept_rollout(flag, before):
        return flag
    try:
        wanted, running = read_rollout(flag), read_rollout(before)
    except BadRollout:
        return flag
    if wanted.moves != running.moves:
        return flag
    copied = continued(wanted, running, at.timestamp())
    is_alike = goes_on_alike(copied, running, at.timestamp())
    return replace(flag, rollout=before.rollout if is_alike else to_json(copied))


def _has_kept_rollout(flag: Flag, before: Flag) -> bool:
    return flag.rollout is None or before.rollout is None or flag.rollout == before.rollout


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
