"""Everything that can go wrong, as the domain sees it; `rpc.status` is the one place that maps it to gRPC.

FlagsvcError
├── InvalidRequest      a field is wrong: says which, what it was, what would be right
├── FlagNotFound
├── FlagExists
├── RevisionConflict    the caller meant another revision than the current one
├── StoreUnavailable    the source of truth cannot be reached; safe to retry
├── RevisionUnavailable the caller wants a revision that cannot be had now; safe to retry
├── CacheUnavailable    the shared cache cannot be reached, where it is what the call is about
├── CacheMissing        the same, but there is none
├── WritesUnsupported   the store cannot keep a change and its history together
├── EvaluationFailed    an evaluation has no outcome, and the protocol tells that by a status
├── Overloaded          try again later
├── Stopping            this replica goes away; ask another
└── StreamEnded         a stream has lasted as long as one may; connect again
"""

from __future__ import annotations

from dataclasses import dataclass


class FlagsvcError(Exception):
    """Base of every error that a caller may see; the message never carries addresses or driver texts."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its path, what it held (shortened) and what would be right; or all of that in `found`."""

    field: str
    found: str
    wanted: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        if not self.wanted:
            return f"{self.field}: {self.found}"
        return f"{self.field} is {self.found}; it must be {self.wanted}"


class InvalidRequest(FlagsvcError):
    """One or more fields are wrong; nothing was changed."""

    def __init__(self, violations: list[Violation], reason: str = "INVALID_FLAG") -> None:
        super().__init__("; ".join(str(v) for v in violations))
        self.violations = violations
        self.reason = reason


def invalid(field: str, found: object, wanted: str, reason: str = "INVALID_ARGUMENT") -> InvalidRequest:
    """One wrong field as an error; `found` is shown with at most 80 characters."""
    return InvalidRequest([Violation(field, shown(found), wanted)], reason)


def shown(value: object) -> str:
    """Show a value in an error text: repr, control characters escaped, at most 80 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    limit = 80
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class FlagNotFound(FlagsvcError):
    """No such flag in this set. The text is the existing system's."""

    def __init__(self, key: str) -> None:
        super().__init__(f'Feature flag with key "{key}" not found')
        self.key = key


class FlagExists(FlagsvcError):
    """The key is taken."""

    def __init__(self, key: str) -> None:
        super().__init__(f'Feature flag with key "{key}" already exists')
        self.key = key


class RevisionConflict(FlagsvcError):
    """The flag is no longer at the revision the caller meant."""

    def __init__(self, key: str, meant: int, current: int) -> None:
        super().__init__(
            f'Feature flag "{key}" is at etag "{current}", not "{meant}": read it again, then repeat the change'
        )
        self.key, self.meant, self.current = key, meant, current


class StoreUnavailable(FlagsvcError):
    """The store cannot be reached or did not answer in time; nothing was changed as far as is known."""

    def __init__(self, message: str = "the flag store cannot be reached; try again") -> None:
        super().__init__(message)


class RevisionUnavailable(FlagsvcError):
    """Nothing that can be reached has the revision that the caller insists on."""

    def __init__(self, flag_set: str, revision: int) -> None:
        super().__init__(
            f'revision {revision} of flag set "{flag_set}" is not available: it does not exist,'
            " or no reachable source has it yet; retry"
        )
        self.flag_set, self.revision = flag_set, revision


class CacheUnavailable(FlagsvcError):
    """The shared cache does not answer; nothing was changed as far as is known."""

    def __init__(self) -> None:
        super().__init__("the shared cache cannot be reached; try again")


class CacheMissing(FlagsvcError):
    """There is no shared cache."""

    def __init__(self) -> None:
        super().__init__("this server has no shared cache: start it with --cache redis://HOST:PORT")


class WritesUnsupported(FlagsvcError):
    """The store has no transactions, so a change could be stored without its history."""


class EvaluationFailed(FlagsvcError):
    """An evaluation gave an OpenFeature error code, to a caller whose protocol has statuses for them."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Overloaded(FlagsvcError):
    """The server has as many calls as it can serve; try again later."""


class Stopping(FlagsvcError):
    """The server takes no more calls; another replica will."""

    def __init__(self) -> None:
        super().__init__("this server is stopping; try again, another replica will answer")


class StreamEnded(FlagsvcError):
    """A stream has lasted as long as one may, so that clients spread over replicas that came later."""

    def __init__(self) -> None:
        super().__init__("this stream has lasted as long as one may; connect again")
