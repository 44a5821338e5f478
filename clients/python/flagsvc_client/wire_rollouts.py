"""Packs and unpacks rollouts, which are JSON in a flag: `{"from", "to", "points": [{"time", "share"}], ...}`."""

from __future__ import annotations

from typing import Any

from flagsvc_client._engine import rollouts
from flagsvc_client.details import JsonValue
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types


def rollout_of(message: types.Rollout) -> dict[str, Any]:
    """Unpack a rollout as JSON, right or wrong: who evaluates it says what is wrong."""
    unpacked: dict[str, Any] = {
        "from": message.from_variant,
        "to": message.to_variant,
        "points": [{"time": _text(point.time), "share": point.share} for point in message.points],
    }
    if message.linear:
        unpacked["linear"] = True
    if message.bucket_by not in ("", rollouts.DEFAULT_BUCKET_BY):
        unpacked["bucketBy"] = message.bucket_by
    if message.start_share:
        unpacked["startShare"] = message.start_share
    if message.HasField("paused_at"):
        unpacked["pausedAt"] = _text(message.paused_at)
    return unpacked


def rollout_message(value: JsonValue) -> types.Rollout:
    """Pack a rollout. Raises ValueError naming the field that is wrong."""
    try:
        rollout = rollouts.rollout_of(value, None)
    except rollouts.BadRollout as error:
        raise ValueError(str(error)) from None
    message = types.Rollout(
        from_variant=rollout.from_variant,
        to_variant=rollout.to_variant,
        linear=rollout.linear,
        bucket_by=rollout.bucket_by,
        start_share=rollouts.percent(rollout.start_share),
    )
    for time, share in rollout.points:
        point = message.points.add(share=rollouts.percent(share))
        point.time.seconds = time
    if rollout.paused_at is not None:
        message.paused_at.seconds = rollout.paused_at
    return message


def _text(stamp: Any) -> str:
    try:
        return str(stamp.ToJsonString())
    except ValueError:
        return f"{stamp.seconds} s"
