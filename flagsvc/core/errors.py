"""The domain's error types. `api.common.failures` is the only place that maps them to gRPC statuses.

FlagsvcError
├── InvalidRequest      one or more fields are invalid; names each, its value and what is valid
├── FlagNotFound
├── TokenNotFound
├── DenialNotFound      this identity was never denied
├── TokenFixed          the token comes from a file
├── TokenRevoked        a revoked token cannot be changed any more
├── ScheduleNotFound
├── ScheduleEnded       it was executed, cancelled or missed, or has failed
├── ScheduleConflict    the schedule was changed by somebody else
├── SchedulesMissing    the store cannot plan changes
├── FlagExists
├── RolloutMissing      the flag has no rollout
├── FlagInUse           other flags depend on this one
├── SegmentNotFound
├── SegmentExists
├── SegmentInUse        flags or segments refer to it
├── SegmentConflict     the segment was changed by somebody else
├── SegmentsMissing     the store keeps no segments
├── RevisionConflict    the flag's current revision is not the one that the caller expected
├── StoreUnavailable    the source of truth cannot be reached; safe to retry
│   ├── StoreForbidden  it answers, but flagsvc's user has no right to do this; retrying does not help
│   └── ChangeRefused   it answers, and will never take this change
├── RevisionUnavailable no reachable source has the revision that the caller requires; safe to retry
├── RevisionOutOfRange  the moment asked about is before what is kept, or not made yet
├── RevisionsMissing    the store keeps no revisions
├── NotRestorable       what is kept of a revision cannot be restored
├── CacheUnavailable    the call needs the shared cache, which cannot be reached
├── CacheMissing        the call needs a shared cache, and none is configured
├── WritesUnsupported   the store cannot store a change and its history entry atomically
├── EvaluationFailed    an evaluation failed, and the protocol reports that as a status
├── Overloaded          the server is at its limit; retry later
├── DeadlinePassed      the call's time was over before any work was done
├── AnswerTooLarge      the answer is over its limit; ask for less at a time
├── QuotaExceeded       the flag set is at a limit that its operator has set
├── RateLimited         the caller is over its rate; retry later
├── Unauthenticated     no credential, or one that is not valid
├── AuditMissing        the store keeps no audit entries
├── PermissionDenied    the caller is known, and has no right to this
├── AuthOff             the call is about tokens, and callers are not authenticated here
├── RightsChanged       the caller has other rights than when it opened this stream; reconnect
├── AccessUnknown       whether the caller has a right to this cannot be known now; safe to retry
├── Stopping            this replica is shutting down; retry on another
├── StreamEnded         the stream reached its maximum duration; reconnect
├── ChangesMissed       the stream cannot name the changes that this replica missed; reconnect
└── SetNotCovered       the stream does not cover a flag set that its client uses; reconnect
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .shown_text import visible


class FlagsvcError(Exception):
    """Base class of all errors that a caller may see. Messages never contain addresses or driver messages."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field: its path, its value (shortened) and what is valid. Without `wanted`, `found` says it all.

    `is_odd`: flagd serves a flag that has it, so files and stores may contain it. Writes through the API may not.
    """

    field: str
    found: str
    wanted: str = ""
    is_odd: bool = False

    def __str__(self) -> str:
        """Return the violation as one line."""
        wanted = f"{self.field} is {self.found}; it must be {self.wanted}"
        return wanted if self.wanted else f"{self.field}: {self.found}"


class InvalidRequest(FlagsvcError):
    """One or more fields are invalid. Nothing was changed."""

    def __init__(self, violations: list[Violation], reason: str = "INVALID_FLAG") -> None:
        super().__init__("; ".join(str(v) for v in violations))
        self.violations = violations
        self.reason = reason


def invalid(field: str, found: object, wanted: str, reason: str = "INVALID_ARGUMENT") -> InvalidRequest:
    """Return an error for one invalid field. `found` is shortened to 80 characters."""
    return InvalidRequest([Violation(field, short_repr(found), wanted)], reason)


def short_repr(value: object) -> str:
    """Return a value's repr for an error message: control characters escaped, cut after 80 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    limit = 80
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


_MAX_LISTED = 20


def _listed(names: Sequence[str]) -> str:
    """Return names for a message: the first ones, and how many more there are."""
    shown = ", ".join(f'"{visible(name[:100])}"' for name in names[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{shown} and {more} more" if more > 0 else shown


class FlagNotFound(FlagsvcError):
    """The flag set has no flag with this key. The message is the existing system's."""

    def __init__(self, key: str) -> None:
        super().__init__(f'Feature flag with key "{visible(key)}" not found')
        self.key = key


class RolloutMissing(FlagsvcError):
    """The flag has no rollout."""

    def __init__(self, key: str) -> None:
        super().__init__(f'Feature flag "{visible(key)}" has no rollout: set the field rollout to begin one')
        self.key = key


class FlagInUse(FlagsvcError):
    """Flags of the set have the flag as a prerequisite. `variants`: those that the change would remove; none: all."""

    def __init__(self, key: str, users: Sequence[str], variants: Collection[str] = ()) -> None:
        lost = f" and its variants {_listed(sorted(variants))}" if variants else ""
        super().__init__(
            f'Feature flag "{visible(key)}"{lost} cannot be removed: it is a prerequisite of {_listed(users)}; change'
            " the prerequisites of those flags first"
        )
        self.key, self.users = key, tuple(users)


class SegmentNotFound(FlagsvcError):
    """The flag set has no segment of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f'Segment "{visible(name[:200])}" not found')


class SegmentExists(FlagsvcError):
    """The flag set has a segment of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f'Segment "{visible(name[:200])}" already exists')


class SegmentInUse(FlagsvcError):
    """Flags or segments refer to the segment."""

    def __init__(self, name: str, flags: Sequence[str], segments: Sequence[str]) -> None:
        users = [f"the flags {_listed(flags)}"] if flags else []
        users += [f"the segments {_listed(segments)}"] if segments else []
        super().__init__(f'Segment "{visible(name)}" cannot be deleted: it is used by {" and ".join(users)}')
        self.flags, self.segments = tuple(flags), tuple(segments)


class SegmentConflict(FlagsvcError):
    """The segment was changed since the caller read it."""

    def __init__(self, name: str, expected: int, found: int) -> None:
        super().__init__(f'Segment "{visible(name)}" has version {found}, not {expected}: read it again')


class SegmentsMissing(FlagsvcError):
    """The store keeps no segments, because it takes no writes."""

    def __init__(self) -> None:
        super().__init__("this store keeps no segments: write rules that flags share as $evaluators of the file")


class TokenNotFound(FlagsvcError):
    """The store has no token with this id."""

    def __init__(self, token_id: str) -> None:
        super().__init__(f'Token "{token_id[:64]}" not found')
        self.token_id = token_id


class TokenFixed(FlagsvcError):
    """The token comes from a file, which flagsvc only reads."""

    def __init__(self, token_id: str) -> None:
        super().__init__(
            f'Token "{token_id[:64]}" is in the file of tokens of the server (FLAGSVC_TOKENS_FILE); change it there'
        )


class DenialNotFound(FlagsvcError):
    """The store has no denial of this identity."""

    def __init__(self, name: str) -> None:
        super().__init__(f'Identity "{visible(name[:200])}" is not denied')


class TokenRevoked(FlagsvcError):
    """A revoked token cannot be changed any more."""


class ScheduleNotFound(FlagsvcError):
    """The flag set has no schedule with this id."""

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f'Schedule "{visible(schedule_id[:64])}" not found')
        self.schedule_id = schedule_id


class ScheduleEnded(FlagsvcError):
    """The schedule has ended, and cannot be changed any more."""


class ScheduleConflict(FlagsvcError):
    """The schedule was changed since the caller read it."""


class SchedulesMissing(FlagsvcError):
    """The store cannot plan changes."""

    def __init__(self) -> None:
        super().__init__("flags are served from files, which are read-only here: changes of them cannot be planned")


class FlagExists(FlagsvcError):
    """The flag set already has a flag with this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f'Feature flag with key "{visible(key)}" already exists')
        self.key = key


class RevisionConflict(FlagsvcError):
    """The flag's current revision is not the one that the caller expected."""

    def __init__(self, key: str, expected: int, current: int) -> None:
        state = f'Feature flag "{visible(key)}" is at etag "{current}", not "{expected}"'
        super().__init__(f"{state}: read it again, then repeat the change")
        self.key, self.expected, self.current = key, expected, current


class StoreUnavailable(FlagsvcError):
    """The store cannot be reached or did not answer in time. No change is known to have been stored.

    `cause` and `cure` are for logs and status: why that is so, and what to do about it.
    """

    def __init__(
        self, message: str = "the flag store cannot be reached; try again", *, cause: str = "", cure: str = ""
    ) -> None:
        super().__init__(message)
        self.cause, self.cure = cause, cure


class StoreForbidden(StoreUnavailable):
    """The store answers, but flagsvc's user has no right to do this. To whoever only reads, that is an outage."""


class ChangeRefused(StoreUnavailable):
    """The store answers, and will never take this change. Nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the flag store refuses this change: {reason}", cause=reason)


class RevisionUnavailable(FlagsvcError):
    """No reachable source has the revision that the caller requires."""

    def __init__(self, flag_set: str, revision: int) -> None:
        super().__init__(
            f'revision {revision} of flag set "{visible(flag_set)}" is not available: it does not exist,'
            " or no reachable source has it yet; retry"
        )
        self.flag_set, self.revision = flag_set, revision


class RevisionOutOfRange(FlagsvcError):
    """The moment that a caller asks about is before the oldest one that is kept, or was not reached yet."""

    def __init__(self, flag_set: str, text: str) -> None:
        super().__init__(f'flag set "{visible(flag_set)}": {text}')
        self.flag_set = flag_set


class RevisionsMissing(FlagsvcError):
    """The store keeps no revisions."""


class NotRestorable(FlagsvcError):
    """What is kept of a revision cannot be restored as it was. Nothing was changed."""


class CacheUnavailable(FlagsvcError):
    """The shared cache does not respond. No change is known to have been made."""

    def __init__(self) -> None:
        super().__init__("the shared cache cannot be reached; try again")


class CacheMissing(FlagsvcError):
    """No shared cache is configured."""

    def __init__(self) -> None:
        super().__init__("this server has no shared cache: start it with --cache redis://HOST:PORT")


class WritesUnsupported(FlagsvcError):
    """The store has no transactions, so a change could be stored without its history entry."""


class EvaluationFailed(FlagsvcError):
    """An evaluation ended with an OpenFeature error code, and the caller's protocol maps these to statuses.

    The message is the cause, for the caller; empty if there is nothing to add to the code.
    """

    def __init__(self, code: str, cause: str = "") -> None:
        super().__init__(cause)
        self.code = code


class Overloaded(FlagsvcError):
    """The server has as many calls as it can serve. Retry later."""


class DeadlinePassed(FlagsvcError):
    """The call's time was over before any work was done: its deadline, or the time for its message to arrive."""


class AnswerTooLarge(FlagsvcError):
    """The answer would be over its limit. `advice` says how to ask for less."""

    def __init__(self, limit: int, advice: str) -> None:
        super().__init__(f"the answer would be over {limit} bytes: {advice}")
        self.limit = limit


class QuotaExceeded(FlagsvcError):
    """The change would take the flag set over a limit that its operator has set. Nothing was changed."""


class RateLimited(FlagsvcError):
    """The caller sends more than its rate. `kind`: the class of its calls; `retry_s`: when one may pass, in seconds."""

    def __init__(self, caller: str, kind: str, rate: float, retry_s: float) -> None:
        super().__init__(
            f"{caller} is over its rate of {rate:g} {kind} calls a second (a call for many flags counts for several);"
            f" retry after {retry_s:.1f} s"
        )
        self.caller, self.kind, self.rate, self.retry_s = caller, kind, rate, retry_s


class Unauthenticated(FlagsvcError):
    """The caller sent no credential, or one that is not valid. The message never repeats it."""


class PermissionDenied(FlagsvcError):
    """The caller is known, and has no right to this. Nothing was read or changed."""

    def __init__(self, message: str, caller: object = "") -> None:
        super().__init__(message)
        self.caller = str(caller)


class AuditMissing(FlagsvcError):
    """The store keeps no audit entries."""

    def __init__(self) -> None:
        super().__init__("a served file keeps no audit entries: use a store that takes writes")


class AuthOff(FlagsvcError):
    """Callers are not authenticated here."""

    def __init__(self) -> None:
        super().__init__(
            "this server does not authenticate callers (FLAGSVC_AUTH=off), and whoever connects could make a token;"
            " make tokens on the store: flagsvc token create NAME --role ROLE --store URL"
        )


class RightsChanged(FlagsvcError):
    """The caller has other rights now than when it opened the stream."""

    def __init__(self) -> None:
        super().__init__("the rights of the caller have changed; reconnect")


class AccessUnknown(FlagsvcError):
    """The present rights of callers are not known on this replica. Another one may know them, and this one later."""


class Stopping(FlagsvcError):
    """The server is shutting down and accepts no more calls."""

    def __init__(self) -> None:
        super().__init__("this server is shutting down; retry, another replica will answer")


class StreamEnded(FlagsvcError):
    """The stream reached its maximum duration. Reconnecting spreads clients over replicas that were added later."""

    def __init__(self) -> None:
        super().__init__("this stream reached its maximum duration; reconnect")


class ChangesMissed(FlagsvcError):
    """A replica missed changes of a flag set, so a stream cannot name them. Providers drop all values and reconnect."""

    def __init__(self) -> None:
        super().__init__("this replica missed changes of a flag set of this stream; evaluate again, and reconnect")


class SetNotCovered(FlagsvcError):
    """The client selected a flag set on another connection, which its stream does not cover."""

    def __init__(self) -> None:
        super().__init__("this stream does not cover a flag set that its client selected since; reconnect")
