"""A flag's rollout to and from protobuf messages. In the core it is JSON, which validation checks."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.core.model import Flag
from flagsvc.core.rollouts import DEFAULT_BUCKET_BY, BadRollout, Rollout, percent, rollout_of
from flagsvc.generated.flagsvc.v1 import types_pb2 as types


def rollout_to_message(flag: Flag) -> types.Rollout | None:
    """Pack a flag's rollout; an empty message for a stored one that is malformed."""
    if flag.rollout is None:
        return None
    try:
        return packed(rollout_of(flag.rollout, None))
    except BadRollout:
        return types.Rollout()


def packed(rollout: Rollout) -> types.Rollout:
    """Pack a rollout."""
    points = [types.RolloutPoint(time=timestamp(time), share=percent(share)) for time, share in rollout.points]
    return types.Rollout(
        from_variant=rollout.from_variant,
        to_variant=rollout.to_variant,
        points=points,
        linear=rollout.linear,
        bucket_by=rollout.bucket_by,
        start_share=percent(rollout.start_share),
        paused_at=None if rollout.paused_at is None else timestamp(rollout.paused_at),
    )


def timestamp(seconds: int) -> Timestamp:
    """Pack a time in seconds since 1970."""
    return Timestamp(seconds=seconds)


def rollout_json(message: types.Rollout) -> dict[str, Any]:
    """Unpack a rollout as JSON, right or wrong: validation names the fields that are not."""
    unpacked: dict[str, Any] = {
        "from": message.from_variant,
        "to": message.to_variant,
        "points": [{"time": _time_text(point.time), "share": point.share} for point in message.points],
    }
    if message.linear:
        unpacked["linear"] = True
    if message.bucket_by not in ("", DEFAULT_BUCKET_BY):
        unpacked["bucketBy"] = message.bucket_by
    if message.start_share:
        unpacked["startShare"] = message.start_share
    if message.HasField("paused_at"):
        unpacked["pausedAt"] = _time_text(message.paused_at)
    return unpacked


def _time_text(stamp: Timestamp) -> str:
    try:
        return stamp.ToJsonString()
    except ValueError:
        return f"{stamp.seconds} s"
