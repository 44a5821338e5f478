"""Tokens, denials and their changes from and to messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.access.record_writer import Spread
from flagsvc.access.token_writer import Grant
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import Token
from flagsvc.core.errors import invalid
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as flags
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb

ROLES = {role: pb.Role.Value(f"ROLE_{role.name}") for role in Role}
_ROLES = {number: role for role, number in ROLES.items()}
_LEVELS = {1: flags.WRITE_LEVEL_STORED, 2: flags.WRITE_LEVEL_CACHED, 3: flags.WRITE_LEVEL_APPLIED}
MAX_OVERLAP_S = 30 * 86_400
DEFAULT_OVERLAP_S = 3_600


def grant_of(message: pb.Token) -> Grant:
    """Return what a new token is to be. Raises InvalidRequest."""
    sets, expires_at = tuple(message.flag_sets), expire_time(message, "token.expire_time")
    return Grant(
        message.name, _role(message), sets, expires_at, message.rate, message.for_others, message.context_headers
    )


def fields_of(message: pb.Token, mask: Sequence[str]) -> dict[str, Any]:
    """Return the fields that an update changes, by the names of `Token`. Raises InvalidRequest."""
    if not mask or not _FIELDS.keys() >= set(mask):
        wanted = f"fields among {', '.join(_FIELDS)}"
        raise invalid("update_mask", ", ".join(mask) or "empty", wanted, "INVALID_UPDATE_MASK")
    return dict(_FIELDS[name](message) for name in mask)


def overlap_s(request: pb.RotateTokenRequest) -> float:
    """Return how long a rotated secret stays valid, in seconds. Raises InvalidRequest."""
    if not request.HasField("overlap"):
        return DEFAULT_OVERLAP_S
    seconds = float(request.overlap.seconds + request.overlap.nanos / 1e9)
    if not 0 <= seconds <= MAX_OVERLAP_S:
        raise invalid("overlap", f"{seconds:g} s", f"0 to {MAX_OVERLAP_S} s")
    return seconds


def token_to_message(token: Token) -> pb.Token:
    """Pack a token."""
    message = pb.Token(
        id=token.id,
        name=token.name,
        role=ROLES[token.role],
        flag_sets=token.flag_sets,
        disabled=token.disabled,
        created_by=token.created_by,
        last_used_day=token.last_used_on,
        etag=f'"{token.revision}"',
        rate=token.rate,
        for_others=token.for_others,
        context_headers=token.context_headers,
    )
    message.create_time.FromDatetime(token.created_at)
    _put(message.expire_time, token.expires_at)
    _put(message.revoke_time, token.revoked_at)
    overlaps = [secret.expires_at for secret in token.secrets[:-1] if secret.expires_at is not None]
    _put(message.overlap_end_time, max(overlaps) if overlaps and max(overlaps) > datetime.now(UTC) else None)
    return message


def spread_to_message(spread: Spread) -> flags.WriteSpread:
    """Pack how far a change has spread."""
    return flags.WriteSpread(
        revision=spread.revision,
        reached=_LEVELS[spread.reached],
        applied_by=spread.applied_by,
        lagging=spread.lagging,
    )


def caller_to_message(caller: Identity) -> pb.GetCallerResponse:
    """Pack a caller."""
    message = pb.GetCallerResponse(
        kind=caller.kind, id=caller.id, name=caller.name, role=ROLES[caller.role], flag_sets=caller.scope.patterns
    )
    if caller.expires_at < _FOREVER:
        message.expire_time.FromDatetime(datetime.fromtimestamp(caller.expires_at, UTC))
    return message


def denied_to_message(denial: Denial) -> pb.DeniedIdentity:
    """Pack a denial."""
    message = pb.DeniedIdentity(
        identity=denial.name,
        reason=denial.reason,
        denied_by=denial.denied_by,
        lifted_by=denial.lifted_by,
        in_force=denial.is_in_force(datetime.now(UTC)),
    )
    message.deny_time.FromDatetime(denial.denied_at)
    _put(message.expire_time, denial.expires_at)
    _put(message.lift_time, denial.lifted_at)
    return message


def expire_time(message: pb.Token | pb.DenyIdentityRequest, field: str = "expire_time") -> datetime | None:
    """Return a message's expire_time; None if it has none. Raises InvalidRequest, which names the field."""
    if not message.HasField("expire_time"):
        return None
    try:
        found: datetime = message.expire_time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, message.expire_time.seconds, "a time until the year 9999") from None
    return found.replace(microsecond=found.microsecond // 1_000 * 1_000)


def _role(message: pb.Token) -> Role:
    if message.role not in _ROLES:
        raise invalid("token.role", message.role, f"a role among {', '.join(role.name for role in Role)}")
    return _ROLES[message.role]


def _put(field: Timestamp, at: datetime | None) -> None:
    if at is not None:
        field.FromDatetime(at)


_FOREVER = datetime.max.replace(tzinfo=UTC).timestamp()
_FIELDS: Mapping[str, Callable[[pb.Token], tuple[str, Any]]] = {
    "name": lambda token: ("name", token.name),
    "role": lambda token: ("role", _role(token)),
    "flag_sets": lambda token: ("flag_sets", tuple(token.flag_sets)),
    "expire_time": lambda token: ("expires_at", expire_time(token, "token.expire_time")),
    "disabled": lambda token: ("disabled", token.disabled),
    "rate": lambda token: ("rate", token.rate),
    "for_others": lambda token: ("for_others", token.for_others),
    "context_headers": lambda token: ("context_headers", token.context_headers),
}
