"""A flag's definition to and from protobuf messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.api.common.values import from_value, to_value
from flagsvc.api.flag_service.rollout_messages import rollout_json, rollout_to_message
from flagsvc.core.errors import invalid
from flagsvc.core.model import DEFAULT_BUCKETING, DEFAULT_SET, Exposure, Flag, JsonValue, Status
from flagsvc.core.needs import NEEDS, needs_of, unknown_in
from flagsvc.core.prerequisites import BadPrerequisites, prerequisites_of
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

_TIMES = ("created_at", "updated_at", "enabled_at", "disabled_at", "expires_at")
_OPTIONAL_TEXTS = ("description", "icon", "badge", "owner")


def flag_to_message(flag: Flag) -> types.Flag:
    """Pack a flag, with its etag."""
    return types.Flag(
        key=flag.key,
        flag_set=flag.flag_set,
        name=flag.name,
        category=flag.category,
        status=types.FlagStatus.Value(f"FLAG_STATUS_{flag.status}"),
        sort_order=flag.sort_order,
        default_variant=flag.default_variant or "",
        revision=flag.revision,
        etag=flag.etag,
        targeting=flag.targeting or "",
        evaluators=flag.evaluators,
        bucketing=flag.bucketing,
        exposure=types.EXPOSURE_PUBLIC if flag.is_public else types.EXPOSURE_UNSPECIFIED,
        rollout=rollout_to_message(flag),
        prerequisites=_prerequisites_to_messages(flag),
        needs=needs_of(flag),
        config=None if flag.config is None else to_value(flag.config),
        variants={name: to_value(value) for name, value in flag.variants.items()},
        metadata={name: to_value(value) for name, value in flag.metadata.items()},
        **{name: getattr(flag, name) for name in (*_OPTIONAL_TEXTS, *_TIMES)},
    )


def flag_from_message(message: types.Flag) -> Flag:
    """Unpack the fields a caller may write; output-only ones are ignored. Raises InvalidRequest, naming the field."""
    return Flag(
        key=message.key,
        flag_set=message.flag_set or DEFAULT_SET,
        name=message.name,
        description=message.description if message.HasField("description") else None,
        category=message.category or "addon",
        status=_status(message.status),
        config=from_value(message.config, "flag.config") if message.HasField("config") else None,
        icon=message.icon if message.HasField("icon") else None,
        badge=message.badge if message.HasField("badge") else None,
        sort_order=message.sort_order,
        variants=_values("flag.variants", message.variants),
        default_variant=message.default_variant or None,
        targeting=message.targeting or None,
        evaluators=dict(message.evaluators),
        metadata=_values("flag.metadata", message.metadata),
        owner=message.owner if message.HasField("owner") else None,
        expires_at=_time(message.expires_at) if message.HasField("expires_at") else None,
        exposure=_exposure(message.exposure),
        rollout=rollout_json(message.rollout) if message.HasField("rollout") else None,
        prerequisites=[{"flagKey": each.flag_key, "variants": list(each.variants)} for each in message.prerequisites]
        or None,
    )


def received(message: types.Flag) -> Flag:
    """Unpack a flag from a server's response, with its output-only fields."""
    return replace(
        flag_from_message(message),
        revision=message.revision,
        bucketing=message.bucketing or DEFAULT_BUCKETING,
        created_at=_optional_time(message, "created_at"),
        updated_at=_optional_time(message, "updated_at"),
        enabled_at=_optional_time(message, "enabled_at"),
        disabled_at=_optional_time(message, "disabled_at"),
        unknown=unknown_in({NEEDS: list(message.needs)}),
    )


def _prerequisites_to_messages(flag: Flag) -> list[types.Prerequisite]:
    """Pack a flag's prerequisites; one empty message for stored ones that are malformed."""
    try:
        found = prerequisites_of(flag.prerequisites)
    except BadPrerequisites:
        return [types.Prerequisite()]
    return [types.Prerequisite(flag_key=each.flag_key, variants=each.variants) for each in found]


def _optional_time(message: types.Flag, name: str) -> datetime | None:
    stamp: Timestamp = getattr(message, name)
    return _time(stamp) if stamp.ByteSize() else None


def _status(number: int) -> Status:
    if number == types.FLAG_STATUS_UNSPECIFIED:
        return Status.DISABLED
    if number not in types.FlagStatus.values():
        raise invalid("flag.status", number, "a value of FlagStatus")
    return Status(types.FlagStatus.Name(types.FlagStatus.ValueType(number)).removeprefix("FLAG_STATUS_"))


def _exposure(number: int) -> Exposure:
    if number not in types.Exposure.values():
        raise invalid("flag.exposure", number, "a value of Exposure")
    return Exposure.PUBLIC if number == types.EXPOSURE_PUBLIC else Exposure.INTERNAL


def _values(field: str, messages: Mapping[str, types.Value]) -> dict[str, JsonValue]:
    return {name: from_value(messages[name], f"{field}[{name}]") for name in sorted(messages)}


def _time(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("flag.expires_at", stamp.seconds, "a time from year 1 to 9999") from None
