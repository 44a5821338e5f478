"""The writes of segments: pure decisions that a store runs inside its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ..audit import AuditEntry
from ..changes import Author, restamp
from ..errors import InvalidRequest, SegmentConflict, SegmentExists, SegmentInUse, SegmentNotFound, Violation
from ..model import ANONYMOUS, Action, Change, Flag
from ..prerequisites.graph import Cycle, height_of
from ..segment_names import PREFIX, direct
from .model import MAX_SEGMENTS, MAX_SET_BYTES, Segment, SegmentId, validated
from .stamping import Rules, further, segments_of, with_segments

MAX_DEPTH = 10
"""The longest chain of segments that refer to one another."""


@dataclass(frozen=True, slots=True)
class SegmentChange:
    """A change to be stored: the segment before and after it (None: absent), and who makes it."""

    before: Segment | None
    after: Segment | None
    author: Author

    @property
    def id(self) -> SegmentId:
        """Which segment changes."""
        segment = self.after or self.before
        assert segment is not None  # noqa: S101  a change has one of both
        return segment.id

    @property
    def action(self) -> Action:
        """What the change does."""
        if self.before is None:
            return Action.CREATED
        return Action.UPDATED if self.after is not None else Action.DELETED

    def audit_entry(self) -> AuditEntry:
        """Return what the audit log has of it: the flags that change with it have entries of their own."""
        author, verb = self.author, _VERBS[self.action]
        return AuditEntry(
            at=author.at,
            actor=author.caller or author.actor or ANONYMOUS,
            on_behalf_of=author.actor if author.caller else "",
            action=f"{verb}Segment",
            flag_set=self.id.flag_set,
            subject=f"{PREFIX}{self.id.name}",
            reason=author.reason,
        )


_VERBS = {Action.CREATED: "Create", Action.UPDATED: "Update", Action.DELETED: "Delete"}
SegmentDecide = Callable[[Segment | None], SegmentChange | None]
"""From the current segment (None: absent) to the change to store (None: no change). Raises FlagsvcError to refuse."""


def create(segment: Segment, author: Author) -> SegmentDecide:
    """Create a segment. Raises InvalidRequest; the decision raises SegmentExists."""
    good = replace(
        validated(segment), version=0, revision=0, created_at=moment_of(author), updated_at=moment_of(author)
    )

    def decide(current: Segment | None) -> SegmentChange:
        if current is not None:
            raise SegmentExists(segment.name)
        return SegmentChange(None, good, author)

    return decide


def update(wanted: Segment, fields: Iterable[str], expected: int | None, author: Author) -> SegmentDecide:
    """Copy `rule` or `description` from `wanted`. The decision raises SegmentNotFound, SegmentConflict, InvalidRequest.

    It is None where nothing differs.
    """
    values = {field: getattr(wanted, field) for field in fields}

    def decide(current: Segment | None) -> SegmentChange | None:
        before = _expected(wanted.name, current, expected)
        after = validated(replace(before, **values))
        return None if after == before else SegmentChange(before, replace(after, updated_at=moment_of(author)), author)

    return decide


def delete(name: str, expected: int | None, author: Author) -> SegmentDecide:
    """Delete a segment that nothing uses. The decision raises SegmentNotFound or SegmentConflict."""
    return lambda current: SegmentChange(_expected(name, current, expected), None, author)


def check_segments(change: SegmentChange, rules: Rules, users: Iterable[str]) -> None:
    """Refuse a change that cannot be. `rules`: those of all segments of the set before the change.

    `users`: keys of the flags that have the segment. Raises SegmentInUse, and InvalidRequest for a segment that is
    missing, a cycle, a chain that is too long, and for too many segments.
    """
    name = change.id.name
    graph = {each: direct(text) for each, text in rules.items() if each != name}
    if change.after is None:
        referring = sorted(each for each, names in graph.items() if name in names)
        keys = sorted(users)
        if referring or keys:
            raise SegmentInUse(name, keys, referring)
        return
    if len(graph) >= MAX_SEGMENTS:
        raise InvalidRequest([Violation("segment", f"one more than {MAX_SEGMENTS} of its set", "one of fewer")])
    size = sum(len(text) for text in all_of(rules, change).values())
    if size > MAX_SET_BYTES:
        text = f"one of a set whose rules have {size} characters"
        raise InvalidRequest([Violation("segment.rule", text, f"one of a set with at most {MAX_SET_BYTES}")])
    graph[name] = direct(change.after.rule)
    if missing := [each for each in graph[name] if each not in graph]:
        known = ", ".join(sorted(graph)[:20])
        found = [Violation("segment.rule", f"'{PREFIX}{each}'", f"a segment of the set: {known}") for each in missing]
        raise InvalidRequest(found)
    try:
        too_deep = any(height_of(each, lambda key: graph.get(key, [])) > MAX_DEPTH for each in graph)
    except Cycle as error:
        found = [Violation("segment.rule", " -> ".join(error.path), "segments that do not refer to themselves")]
        raise InvalidRequest(found) from None
    if too_deep:
        text = f"a chain of at most {MAX_DEPTH} segments"
        raise InvalidRequest([Violation("segment.rule", "part of a longer chain of segments", text)])


def affected(change: SegmentChange, flags: Iterable[Flag]) -> list[Flag]:
    """Return the flags that have to be written for a change of a segment: those that carry it otherwise."""
    if change.after is None:
        return []
    name, text = PREFIX + change.after.name, change.after.rule
    return [flag for flag in flags if flag.evaluators.get(name) != text]


def refreshed(flag: Flag, rules: Rules, author: Author) -> Change:
    """Return the change that writes a flag with the set's segments as they are now. Raises InvalidRequest, naming it.

    `rules`: those of all segments of the set.
    """
    used: dict[str, str] = {}
    try:
        wanted = segments_of(flag)
        while wanted:
            used |= {name: rules[name] for name in wanted if name in rules}
            wanted = further(used, wanted)
        return with_segments(restamp(flag, author), used)
    except InvalidRequest as error:
        found = [replace(each, field=f"{each.field} of flag {flag.key!r}") for each in error.violations]
        raise InvalidRequest(found) from None


def all_of(rules: Mapping[str, str], change: SegmentChange) -> dict[str, str]:
    """Return the rules of a set's segments after a change."""
    others = {name: text for name, text in rules.items() if name != change.id.name}
    return others if change.after is None else others | {change.after.name: change.after.rule}


def moment_of(author: Author) -> datetime:
    """Return the time of a change as stores keep it, in milliseconds."""
    return author.at.replace(microsecond=author.at.microsecond // 1000 * 1000)


def _expected(name: str, current: Segment | None, expected: int | None) -> Segment:
    if current is None:
        raise SegmentNotFound(name)
    if expected is not None and current.version != expected:
        raise SegmentConflict(name, expected, current.version)
    return current
