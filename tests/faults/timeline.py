"""The order of a flag's states, derived from writes, history and answers, and when each was certainly stored.

A state is a version. Versions of one flag are ordered by revision. A foreign change has none: its place is after the
revision that it found in the document. Where only the foreign writer changes a flag, its own order counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.faults.history import STATUSES, Change, State
from tests.faults.record import NEVER, NO_VALUE, ForeignWrite, Story, Write

ENABLED = STATUSES["ENABLED"]
FOREIGN_ONLY = "foreign-"
Place = tuple[int, int]
"""The revision, and for a version without one of its own, its position after that revision."""


class Content(NamedTuple):
    """What an evaluation shows of a state."""

    status: int
    value: int

    @staticmethod
    def of(state: State | None) -> Content:
        """A flag that is not enabled shows no value; one that does not exist shows nothing."""
        status, value = state or (0, NO_VALUE)
        return Content(status, value if status == ENABLED else NO_VALUE)


ABSENT = Content.of(None)


class Seen(NamedTuple):
    """The smallest revision with which answers showed a value, and whether they showed another value with it too."""

    revision: int
    crowded: bool = False


@dataclass(slots=True)
class Version:
    """One state of a flag. It was stored at some moment in [start, known]."""

    place: Place
    start: float
    known: float
    description: str
    """What made it, for people."""
    change: Change | None = None
    write: Write | None = None
    foreign: ForeignWrite | None = None
    state: State | None = None
    content: Content = ABSENT


class Timeline:
    """All versions of one flag in order; in the first the flag does not exist."""

    def __init__(self, flag: str, versions: Iterable[Version]) -> None:
        self.flag = flag
        self.by_turn = flag.startswith(FOREIGN_ONLY)
        nothing = Version((0, -1), -NEVER, -NEVER, "nothing yet")
        self.versions = [nothing, *sorted(versions, key=lambda version: version.place)]
        self.before: list[State | None] = []
        """For each version, the state before it."""
        state: State | None = None
        for version in self.versions:
            self.before.append(state)
            version.state = state = _after(version, state)
            version.content = Content.of(state)
        self.absent = [n for n, version in enumerate(self.versions) if version.content == ABSENT]

    def candidates(self, revision: int, content: Content) -> list[int]:
        """Return the versions that an answer with this content and revision may have shown."""
        if self.by_turn or (content == ABSENT and not revision):
            return [n for n, version in enumerate(self.versions) if version.content == content]
        last, after = 0, []
        for n, version in enumerate(self.versions):
            if version.place <= (revision, 0):
                last = n
            elif version.place[0] == revision and version.content == content:
                after.append(n)
        return [last, *after] if self.versions[last].content == content else after

    def up_to(self, revision: int) -> int:
        """Return the newest version whose own revision is not above this one."""
        return max((n for n, v in enumerate(self.versions) if v.change and v.place <= (revision, 0)), default=0)

    def settle(self) -> None:
        """Whatever is older than a known version is known too."""
        known = NEVER
        for version in reversed(self.versions):
            version.known = known = min(version.known, known)

    def next_known(self) -> list[float]:
        """Return for each version when something newer was certainly stored."""
        return [*(version.known for version in self.versions[1:]), NEVER]


def timeline(flag: str, story: Story, changes: Sequence[Change], seen: Mapping[int, Seen]) -> Timeline:
    """Build a flag's timeline. `seen`: how values were first seen whose writer got no answer."""
    writes = {write.number: write for write in story.writes if write.flag == flag}
    foreign = [write for write in story.foreign if write.flag == flag and write.done is not False]
    own = [_own(change, writes.get(change.number)) for change in changes]
    places = _in_turn(foreign) if flag.startswith(FOREIGN_ONLY) else _places(foreign, changes, seen)
    others = [
        Version(place, write.start, write.end if write.done else NEVER, name_of(write), foreign=write)
        for write, place in zip(foreign, places, strict=True)
        if place is not None
    ]
    return Timeline(flag, [*own, *others])


def name_of(write: ForeignWrite) -> str:
    """Name a change for people."""
    return f"foreign {write.kind} {write.number}"


def _after(version: Version, before: State | None) -> State | None:
    if version.change is not None:
        return version.change.after(before)
    if version.foreign is None or version.foreign.kind == "delete":
        return None
    return ENABLED, version.foreign.value


def _own(change: Change, write: Write | None) -> Version:
    """A change with a revision. When an unacknowledged one was stored is known only from evaluations that showed it."""
    place = (change.revision, 0)
    if write is None:
        return Version(place, -NEVER, NEVER, f"revision {change.revision} of no client", change)
    known = write.end if write.acknowledged else NEVER
    return Version(place, write.start, known, f"write {write.number} ({write.kind})", change, write)


def _in_turn(foreign: Sequence[ForeignWrite]) -> list[Place | None]:
    """Only one client writes here, and at its next change it knows the outcome of the one before."""
    return [(0, order) if write.done else None for order, write in enumerate(foreign, 1)]


def _places(foreign: Sequence[ForeignWrite], changes: Sequence[Change], seen: Mapping[int, Seen]) -> list[Place | None]:
    """After the revision that it found, or, if the answer was lost, where it was first seen; None: nowhere.

    One writer makes them all, each only while its previous one is still there, so they are in its order.
    """
    made = {change.revision: change for change in changes}
    replaced = {change.previous["value"]: change.revision for change in reversed(changes) if "value" in change.previous}
    places: list[Place | None] = []
    for order, write in enumerate(foreign, 1):
        if write.done:
            places.append((write.base, order))
            continue
        if (sight := seen.get(write.value)) is not None:
            base = sight.revision if _found_there(sight, made.get(sight.revision)) else sight.revision - 1
        elif (revision := replaced.get(write.value)) is not None:
            base = revision - 1
        else:
            places.append(None)
            continue
        before = max((each.base for each in foreign[: order - 1] if each.done), default=0)
        after = min((each.base for each in foreign[order:] if each.done), default=base)
        places.append((max(before, min(base, after)), order))
    return places


def _found_there(sight: Seen, change: Change | None) -> bool:
    """Whether the revision with which a foreign change was first seen is the one that it found, not its own."""
    if sight.crowded:
        return True
    return change is not None and ("value" in change.new or change.new.get("status", ENABLED) != ENABLED)
