"""Where the segments of flag sets are kept. Definitions carry those that they refer to, so nothing else reads these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from flagsvc.core.errors import InvalidRequest, Violation
from flagsvc.core.model import Change, Flag
from flagsvc.core.segment_names import direct
from flagsvc.core.segments import Segment, SegmentDecide, SegmentId
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports.changes import Entry

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
    """A stored change of a segment (None: deleted), and the flags that were written with it.

    `changes`: those of the flags; `entries`: the flags after each, none where nothing was to be stored.
    """

    segment: Segment | None
    changes: Sequence[Change]
    entries: Sequence[Entry]


class SegmentStore(Protocol):
    """The segments of a store. Every method raises StoreUnavailable when the store cannot be asked in time."""

    async def get(self, segment_id: SegmentId) -> Segment:
        """Read one segment. Raises SegmentNotFound."""

    async def of_set(self, flag_set: str) -> list[Segment]:
        """Read all segments of a set, by name."""

    async def users(self, segment_id: SegmentId) -> Users:
        """Read who uses a segment."""

    async def write(self, segment_id: SegmentId, decide: SegmentDecide, *, dry_run: bool = False) -> SegmentWritten:
        """Decide and store a segment, and all flags that carry it, with history and definitions, as one atomic step.

        `dry_run`: store nothing. Raises what `decide` and `check_segments` raise, InvalidRequest also for a flag that
        the segment would break and for more than MAX_AFFECTED flags, and WritesUnsupported.
        """
