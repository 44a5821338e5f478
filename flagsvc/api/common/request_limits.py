"""What a request may weigh, by method: checked on its bytes, before they are parsed.

Parsing takes time in proportion to the number of fields, during which no other call is served. The transports refuse
what is over MAX_REQUEST_BYTES by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flagsvc.core.errors import EvaluationFailed, FlagsvcError, invalid

MAX_REQUEST_BYTES = 1_048_576
"""Largest request of all: a write."""
MAX_EVALUATION_BYTES = 131_072
"""Largest request of every other method: 1,000 keys with an evaluation context of 64 kB."""
MAX_WRITE_VALUES = 20_000
"""Most fields and list elements of a write."""
_OWN = "/flagsvc.v1.FlagService/"
_PLANS = "/flagsvc.v1.ScheduleService/"
_SEGMENTS = "/flagsvc.v1.SegmentService/"
_WRITES = frozenset(
    {
        *(f"{_OWN}{verb}Flag" for verb in ("Create", "Update")),
        *(f"{_PLANS}{verb}Schedule" for verb in ("Create", "Update")),
        *(f"{_SEGMENTS}{verb}Segment" for verb in ("Create", "Update")),
    }
)
_FLAGDS = ("/flagd.evaluation.", "/schema.")
_FIRST_FIELD = b"\x0a"
"""The tag of a message's first field. Every field of an object and every element of a list begins with it."""
_PER_VALUE = 2
"""An object's field has the tag twice, because its name is the first field of its entry."""

Parse = Callable[[bytes], Any]


class _Refused:
    """A request that is not passed on. The transport itself would send the parser's own text to the caller."""

    def __init__(self, error: FlagsvcError) -> None:
        self.error = error


def parse_within_limits(method: str, parse: Parse | None) -> Parse | None:
    """Return the method's parser, which parses nothing that is over the method's limits."""
    if parse is None:
        return None
    limit = limit_of(method)

    def parsed(data: bytes) -> Any:
        if len(data) > limit:
            return _Refused(too_large(method, len(data)))
        if len(data) > MAX_EVALUATION_BYTES and data.count(_FIRST_FIELD) > _PER_VALUE * MAX_WRITE_VALUES:
            return _Refused(too_large(method))
        try:
            return parse(data)
        except Exception:  # noqa: BLE001  no text of the parser reaches the caller
            wanted = "a message of the method's type, strings in UTF-8, nested less than 100 levels (a list takes two)"
            return _Refused(invalid("request", "bytes that cannot be parsed", wanted, "INVALID_REQUEST"))

    return parsed


def check_readable(request: Any) -> None:
    """Raise InvalidRequest for a request that was not parsed."""
    if request.__class__ is _Refused:
        raise request.error


def limit_of(method: str) -> int:
    """Return how many bytes a method's request may have."""
    return MAX_REQUEST_BYTES if method in _WRITES else MAX_EVALUATION_BYTES


def too_large(method: str, size: int | None = None) -> FlagsvcError:
    """Return the error for a request over its method's limits: of so many bytes, or with too many values."""
    if method.startswith(_FLAGDS):  # its providers take INVALID_ARGUMENT for a mismatch of types
        return EvaluationFailed("INVALID_CONTEXT")
    unit, limit = ("fields and list elements", MAX_WRITE_VALUES) if size is None else ("bytes", limit_of(method))
    found = "more" if size is None else size
    return invalid("request", f"{found} {unit}", f"at most {limit} {unit}", "REQUEST_TOO_LARGE")
