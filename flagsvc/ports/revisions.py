"""Where every revision of every flag is kept, written in the transaction of each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.requests import Form
from flagsvc.core.revisions.model import AsOf, Moment, Recorded
from flagsvc.core.segments import SegmentChange
from flagsvc.ports.changes import Entry, WrittenFlag


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has done: definitions recorded that no change had recorded, and revisions removed by retention."""

    recorded: int
    removed: int


MAX_CHANGED = 10_000
"""Flags that may have changed since the revision to which a set is rolled back."""
DecideAll = Callable[[Mapping[str, Recorded], Mapping[str, Flag]], Sequence[Change]]
"""From flags as they were and as they are, by key, to the changes to store. Raises FlagsvcError to reject them."""


class WrittenSegment(NamedTuple):
    """A segment that a rollback has changed."""

    name: str
    action: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback of a set has changed. `entries`: the flags after it; none unless it was stored just now."""

    flags: Sequence[WrittenFlag]
    segments: Sequence[WrittenSegment]
    entries: Sequence[Entry] = ()

    @classmethod
    def of(cls, changes: Sequence[Change], segments: Sequence[SegmentChange], entries: Sequence[Entry] = ()) -> Self:
        """Return what these changes have done."""
        named = [WrittenSegment(each.id.name, each.action.value) for each in segments]
        return cls(WrittenFlag.all_of(changes, entries), named, entries)


def _from_json(kept: Any) -> RolledBack:
    flags = [WrittenFlag(*each) for each in kept["flags"]]
    return RolledBack(flags, [WrittenSegment(*each) for each in kept["segments"]])


ROLLED_BACK: Form[RolledBack] = Form(lambda done: {"flags": done.flags, "segments": done.segments}, _from_json)
"""How a rollback of a set is remembered."""


class RevisionStore(Protocol):
    """The kept revisions of a store. Every method raises StoreUnavailable when the store cannot be asked in time.

    Those that read raise RevisionOutOfRange for a moment before the oldest one that is kept, and RevisionsMissing where
    the store cannot keep revisions.
    """

    async def moment(self, flag_set: str, as_of: AsOf) -> Moment:
        """Return the state that a set had then. Raises RevisionOutOfRange also where it was not reached yet."""

    async def newest(self, flag_set: str, keys: Sequence[str], moment: Moment) -> dict[str, Recorded]:
        """Read the definitions that some flags had at a moment; a key that did not exist then is missing or gone."""

    async def keys(self, flag_set: str, moment: Moment) -> list[str]:
        """Return the keys of all flags that the set may have had at a moment, sorted."""

    async def page(self, flag_id: FlagId, below: int, size: int) -> list[Recorded]:
        """Read a flag's newest revisions below one (0: below none), newest first, without their definitions."""

    async def sweep(self, keep_s: float) -> Swept:
        """Record what is there and was never recorded; then remove what is older than `keep_s` (0: nothing).

        Of each flag the newest definition at or before that time stays.
        """
