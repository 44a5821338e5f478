"""Packs and unpacks flag definitions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flagsvc_client._engine.model import BUCKETINGS, DEFAULT_BUCKETING, DEFAULT_SET, Flag, Status
from flagsvc_client._engine.needs import NEEDS, unknown_in
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_rollouts import rollout_message, rollout_of
from flagsvc_client.wire_values import from_value, to_value

_TIMES = ("created_at", "updated_at", "enabled_at", "disabled_at", "expires_at")
_OPTIONAL_TEXTS = ("description", "icon", "badge", "owner")
_STATUSES = {types.FlagStatus.Value(f"FLAG_STATUS_{status}"): status for status in Status}


def flag_of(message: types.Flag) -> Flag:
    """Unpack a flag. A status or bucketing of a newer release makes it one that cannot be evaluated (PARSE_ERROR)."""
    status = _STATUSES.get(message.status)
    bucketing = message.bucketing or DEFAULT_BUCKETING
    problem = "" if status else f"Status number {message.status} is unknown to this release"
    if bucketing not in BUCKETINGS:
        problem = f"Bucketing {bucketing} is unknown to this release"
    return Flag(
        key=message.key,
        flag_set=message.flag_set or DEFAULT_SET,
        name=message.name,
        category=message.category,
        status=status or Status.DISABLED,
        problem=problem,
        config=from_value(message.config) if message.HasField("config") else None,
        sort_order=message.sort_order,
        variants={name: from_value(value) for name, value in message.variants.items()},
        default_variant=message.default_variant or None,
        targeting=message.targeting or None,
        evaluators=dict(message.evaluators),
        metadata={name: from_value(value) for name, value in message.metadata.items()},
        revision=message.revision,
        bucketing=bucketing,
        rollout=rollout_of(message.rollout) if message.HasField("rollout") else None,
        prerequisites=[{"flagKey": each.flag_key, "variants": list(each.variants)} for each in message.prerequisites]
        or None,
        unknown=unknown_in({NEEDS: list(message.needs)}),
        **_optional(message),
    )


def _optional(message: Any) -> dict[str, Any]:
    texts = {name: getattr(message, name) for name in _OPTIONAL_TEXTS if message.HasField(name)}
    return texts | {name: _time(getattr(message, name)) for name in _TIMES if message.HasField(name)}


def flag_message(flag: Flag, etag: str = "") -> types.Flag:
    """Pack the fields that a caller may write. Raises TypeError or ValueError with the field if a value is not JSON."""
    message = types.Flag(
        key=flag.key,
        flag_set=flag.flag_set,
        name=flag.name,
        category=flag.category,
        status=types.FlagStatus.Value(f"FLAG_STATUS_{flag.status}"),
        sort_order=flag.sort_order,
        default_variant=flag.default_variant or "",
        targeting=flag.targeting or "",
        evaluators=dict(flag.evaluators),
        etag=etag,
    )
    for name in _OPTIONAL_TEXTS:
        if (text := getattr(flag, name)) is not None:
            setattr(message, name, text)
    if flag.expires_at is not None:
        message.expires_at.FromDatetime(flag.expires_at)
    if flag.rollout is not None:
        message.rollout.CopyFrom(rollout_message(flag.rollout))
    for each in flag.prerequisites or ():
        message.prerequisites.add(flag_key=each["flagKey"], variants=each["variants"])
    if flag.config is not None:
        message.config.CopyFrom(to_value(flag.config, "flag.config"))
    for field in ("variants", "metadata"):
        for name, value in getattr(flag, field).items():
            getattr(message, field)[name].CopyFrom(to_value(value, f"flag.{field}[{name}]"))
    return message


def _time(stamp: Any) -> datetime | None:
    try:
        moment: datetime = stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return moment
