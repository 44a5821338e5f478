"""What calls about revisions take and return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flagsvc_client.results import WriteResult, write_result_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class FlagRevision:
    """One revision of a flag, without its definition. `restored_revision`: the one that it restored; 0 for none."""

    flag_key: str
    revision: int
    time: datetime
    action: str
    actor: str
    reason: str
    restored_revision: int
    deleted: bool
    on_behalf_of: str = ""


@dataclass(frozen=True, slots=True)
class RolledBackFlag:
    """One change of a rollback of a flag set. `revision`: 0 if nothing was written. `fields`: stored names."""

    flag_key: str
    action: str
    revision: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolledBackSegment:
    """One segment that a rollback of a flag set changes."""

    name: str
    action: str


@dataclass(frozen=True, slots=True)
class SetRollback:
    """The changes of a rollback. `written`: how far the last one had spread; None if nothing was written."""

    flags: Sequence[RolledBackFlag]
    written: WriteResult | None
    segments: Sequence[RolledBackSegment] = ()


def as_of(at: int | datetime) -> pb.AsOf:
    """Return the moment as a message. Raises ValueError for a revision below 1 or a time without a zone."""
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError(f"at is {at!r}; a time must have a zone, such as datetime.UTC")
        found = pb.AsOf()
        found.time.FromDatetime(at)
        return found
    if isinstance(at, bool) or at < 1:
        raise ValueError(f"at is {at!r}; a revision is at least 1")
    return pb.AsOf(revision=at)


def revision_of(message: pb.FlagRevision) -> FlagRevision:
    """Unpack one revision."""
    return FlagRevision(
        flag_key=message.flag_key,
        revision=message.revision,
        time=message.time.ToDatetime(tzinfo=UTC),
        action=message.action,
        actor=message.actor,
        reason=message.reason,
        restored_revision=message.restored_revision,
        deleted=message.deleted,
        on_behalf_of=message.on_behalf_of,
    )


def set_rollback_of(response: pb.RollbackFlagSetResponse) -> SetRollback:
    """Unpack the response to a rollback of a flag set."""
    flags = [RolledBackFlag(each.flag_key, each.action, each.revision, tuple(each.fields)) for each in response.flags]
    segments = [RolledBackSegment(each.name, each.action) for each in response.segments]
    if not response.HasField("spread"):
        return SetRollback(flags, None, segments)
    deletion = pb.DeleteFlagResponse(revision=response.spread.revision, spread=response.spread)
    return SetRollback(flags, write_result_of(deletion), segments)
