"""How far a rollout is at a moment, for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .definition import Rollout
from .shares import next_step, share_at


class State(StrEnum):
    """How far a rollout is: its first point is to come, its share will change, it is paused, it has ended."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class Standing:
    """Shares are in percent. `next_time`: seconds since 1970 when the share changes, or evenly becomes `next_share`."""

    state: State
    share: float
    next_time: int | None = None
    next_share: float | None = None


def standing_at(rollout: Rollout, time: float) -> Standing:
    """Return how far a rollout is at a time in seconds since 1970."""
    share, later = _percent(rollout, time), next_step(rollout, time)
    if rollout.paused_at is not None:
        return Standing(State.PAUSED, share)
    if later is None:
        return Standing(State.FINISHED, share)
    state = State.PLANNED if time < rollout.points[0].time else State.RUNNING
    return Standing(state, share, later, _percent(rollout, later))


def _percent(rollout: Rollout, at: float) -> float:
    return round(float(share_at(rollout, at)) * 100, 3)
