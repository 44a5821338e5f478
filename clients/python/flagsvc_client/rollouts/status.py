"""Rollouts as callers see them, from and to messages."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from flagsvc_client._engine.rollouts import DEFAULT_BUCKET_BY
from flagsvc_client.stubs.flagsvc.v1 import rollout_service_pb2 as pb

Step = tuple[datetime | timedelta, float]
"""When a share begins, as a time with a zone or from now on, and the share in percent."""


class RolloutState(StrEnum):
    """How far a rollout is. UNKNOWN: a state of a newer release."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FINISHED = "FINISHED"
    UNKNOWN = "UNKNOWN"


_STATES = {
    pb.RolloutState.Value(f"ROLLOUT_STATE_{state}"): state for state in RolloutState if state != RolloutState.UNKNOWN
}


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout at a moment, by the clock of the replica that answered. Shares are in percent.

    `next_time`, `next_share`: what the share becomes next; None if it does not change any more. `enabled`: whether the
    flag is switched on; while it is not, nobody gets a variant.
    """

    state: RolloutState
    from_variant: str
    to_variant: str
    share: float
    time: datetime
    next_time: datetime | None
    next_share: float | None
    points: tuple[tuple[datetime, float], ...]
    linear: bool
    start_share: float
    paused_at: datetime | None
    bucket_by: str
    enabled: bool


def status_of(message: pb.RolloutStatus) -> RolloutStatus:
    """Unpack a status."""
    of, has_next = message.rollout, message.HasField("next_time")
    return RolloutStatus(
        state=_STATES.get(message.state, RolloutState.UNKNOWN),
        from_variant=of.from_variant,
        to_variant=of.to_variant,
        share=message.share,
        time=_time(message.time),
        next_time=_time(message.next_time) if has_next else None,
        next_share=message.next_share if has_next else None,
        points=tuple((_time(point.time), point.share) for point in of.points),
        linear=of.linear,
        start_share=of.start_share,
        paused_at=_time(of.paused_at) if of.HasField("paused_at") else None,
        bucket_by=of.bucket_by or DEFAULT_BUCKET_BY,
        enabled=message.enabled,
    )


def rollout_json(
    from_variant: str, to_variant: str, over: timedelta | None, steps: Sequence[Step], bucket_by: str
) -> dict[str, Any]:
    """Return a rollout that begins now. Raises ValueError unless it has one of both ways, TypeError for a bad time."""
    if (over is None) == (not steps):
        raise ValueError("give either over, such as timedelta(days=3), or steps, such as [(timedelta(0), 1)]")
    now = math.floor(time.time())
    if over is not None:
        end = now + max(1, math.floor(over.total_seconds()))
        points = [(now, 0.0), (end, 100.0)]
    else:
        points = [(_seconds(moment, now), share) for moment, share in steps]
    wanted: dict[str, Any] = {
        "from": from_variant,
        "to": to_variant,
        "points": [{"time": _text(at), "share": share} for at, share in points],
    }
    if over is not None:
        wanted["linear"] = True
    return wanted if bucket_by == DEFAULT_BUCKET_BY else {**wanted, "bucketBy": bucket_by}


def _seconds(moment: datetime | timedelta, now: int) -> int:
    if isinstance(moment, timedelta):
        return now + math.floor(moment.total_seconds())
    if moment.tzinfo is None:
        raise ValueError(f"a step is at {moment!r}; a time must have a zone, such as datetime.UTC")
    return math.floor(moment.timestamp())


def _text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(stamp: Any) -> datetime:
    moment: datetime = stamp.ToDatetime(tzinfo=UTC)
    return moment
