"""Where the segments of flag sets are kept. Definitions carry those that they refer to, so nothing else reads these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, Self

from flagsvc.core.documents import json_safe, times_from_json
from flagsvc.core.errors import InvalidRequest, Violation
from flagsvc.core.model import Change, Flag
from flagsvc.core.requests import Form, WriteRequest
from flagsvc.core.segment_names import direct
from flagsvc.core.segments import Segment, SegmentDecide, SegmentId
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports.changes import Entry, WrittenFlag

MAX_AFFECTED = 1_000
"""Flags that one change of a segment may write."""
MAX_AFFECTED_MEMORY = 33_554_432
"""Memory of these flags, as estimated: they are written in one transaction."""


def check_size(flags: Iterable[Flag | None]) -> None:
    """Raise InvalidRequest if a change of a segment would write too many flags, or too large ones."""
    number = size = 0
    for flag in flags:
        number, size = number + 1, size + estimated_memory(flag)
    if number > MAX_AFFECTED:
        wanted = f"used by at most {MAX_AFFECTED} when it is changed: split it"
        raise InvalidRequest([Violation("segment", f"used by more than {MAX_AFFECTED} flags", wanted)])
    if size > MAX_AFFECTED_MEMORY:
        wanted = f"used by flags of at most {MAX_AFFECTED_MEMORY} bytes when it is changed: split it"
        raise InvalidRequest([Violation("segment", f"used by flags that take {size} bytes of memory", wanted)])


class Users(NamedTuple):
    """The flags and the segments of a set that use a segment, sorted; flags also through other segments."""

    flags: Sequence[str]
    segments: Sequence[str]

    @classmethod
    def of(cls, name: str, rules: Mapping[str, str], keys: Iterable[str]) -> Self:
        """Return the users of a segment among these flags, and among the rules of its set's segments, by name."""
        return cls(sorted(keys), sorted(each for each, text in rules.items() if name in direct(text)))


@dataclass(frozen=True, slots=True)
class SegmentWritten:
    """A stored change of a segment (None: deleted), and the flags that were changed with it.

    `entries`: the flags after it; none unless it was stored just now.
    """

    segment: Segment | None
    flags: Sequence[WrittenFlag] = ()
    entries: Sequence[Entry] = ()


def _to_json(done: SegmentWritten) -> Any:
    if done.segment is None:
        return {"flags": done.flags}
    fields = asdict(done.segment)
    times = {"createdAt": fields.pop("created_at"), "updatedAt": fields.pop("updated_at")}
    return {"flags": done.flags, "segment": json_safe(fields | times)}


def _from_json(kept: dict[str, Any]) -> SegmentWritten:
    flags = [WrittenFlag(*each) for each in kept["flags"]]
    if "segment" not in kept:
        return SegmentWritten(None, flags)
    fields = times_from_json(kept["segment"])
    times = {"created_at": fields.pop("createdAt"), "updated_at": fields.pop("updatedAt")}
    return SegmentWritten(Segment(**fields, **times), flags)


WRITTEN = Form(_to_json, _from_json)
"""How a change of a segment is remembered."""
CheckAll = Callable[[Sequence[Change]], None]
"""Raises FlagsvcError to refuse the changes of flags that a change of a segment makes."""


class SegmentStore(Protocol):
    """The segments of a store. Every method raises StoreUnavailable when the store cannot be asked in time."""

    async def get(self, segment_id: SegmentId) -> Segment:
        """Read one segment. Raises SegmentNotFound."""

    async def of_set(self, flag_set: str) -> list[Segment]:
        """Read all segments of a set, by name."""

    async def users(self, segment_id: SegmentId) -> Users:
        """Read who uses a segment."""

    async def write(
        self,
        segment_id: SegmentId,
        decide: SegmentDecide,
        *,
        check: CheckAll = lambda _: None,
        request: WriteRequest | None = None,
        dry_run: bool = False,
    ) -> SegmentWritten:
        """Decide and store a segment, and all flags that carry it, with history and definitions, as one atomic step.

        `check`: called with the changes of these flags. `request`: as in `FlagStore.write`. `dry_run`: store nothing.
        Raises what `decide`, `check` and `check_segments` raise, InvalidRequest also for a flag that the segment would
        break and for more than MAX_AFFECTED flags, and WritesUnsupported.
        """
