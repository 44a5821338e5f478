"""Which of a flag's versions each evaluation showed; where several are possible, the oldest and the newest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.faults.history import changes_of, known_fields
from tests.faults.record import NO_VALUE, Record, Story
from tests.faults.timeline import ABSENT, Content, Seen, Timeline, timeline

Column = np.ndarray[Any, Any]
STALE, ERROR, DISABLED = 7, 8, 6
NOT_FOUND = 1
STRANGE = -1
"""Instead of a version: the flag never had this content at this revision."""


@dataclass(slots=True)
class Answers:
    """A flag's evaluations by their start. `low` and `high`: the oldest and newest version that each may have shown."""

    timeline: Timeline
    rows: Column
    low: Column
    high: Column

    def by_incarnation(self) -> Iterator[tuple[int, Answers]]:
        """Return the evaluations of each process separately."""
        for number in np.unique(self.rows["incarnation"]):
            yield int(number), self.where(self.rows["incarnation"] == number)

    def where(self, mask: Column) -> Answers:
        """Return a selection."""
        return Answers(self.timeline, self.rows[mask], self.low[mask], self.high[mask])

    @property
    def absent(self) -> Column:
        """Which evaluations report that there is no such flag."""
        return self.rows["error"] == NOT_FOUND


def says_stale(rows: Column, bound_s: float) -> Column:
    """Which answers report that they may be old: by their reason, or, for a flag that does not exist, by their age."""
    return (rows["reason"] == STALE) | ((rows["error"] == NOT_FOUND) & (rows["age_ms"] > bound_s * 1000))


def answers_of(record: Record) -> Iterator[Answers]:
    """Return each flag's evaluations with its timeline, completed with when each version was certainly stored."""
    story, rows = record.story, record.rows()
    changes = changes_of(story.ending.history)
    order = np.argsort(rows["flag"], kind="stable")
    ends = np.searchsorted(rows["flag"][order], np.arange(len(story.flags) + 1))
    for place, flag in enumerate(story.flags):
        mine = rows[order[ends[place] : ends[place + 1]]]
        mine = mine[np.argsort(mine["start"], kind="stable")]
        line = timeline(flag, story, changes.get(flag, []), _seen(mine, story, flag))
        yield _of_flag(line, mine[~_broken(mine)])


def _broken(rows: Column) -> Column:
    """Answers that show no state of a flag: any error except that there is no such flag."""
    return (rows["error"] != 0) & (rows["error"] != NOT_FOUND)


def _seen(rows: Column, story: Story, flag: str) -> dict[int, Seen]:
    """Return how the values of foreign changes without an answer were first seen."""
    lost = [write.value for write in story.foreign if write.flag == flag and write.done is None]
    found = {}
    for value in lost:
        shown = rows["revision"][rows["value"] == value] if value != NO_VALUE else rows["revision"][:0]
        if len(shown):
            revision = int(shown.min())
            others = (rows["revision"] == revision) & (rows["value"] != value)
            found[value] = Seen(revision, bool(others.any()))
    for document in story.ending.documents:
        value = known_fields(document).get("value", NO_VALUE)
        if document["key"] == flag and value in lost:
            found.setdefault(value, Seen(int(document.get("revision") or 0)))
    return found


def _of_flag(line: Timeline, rows: Column) -> Answers:
    shown = np.stack([rows[name].astype("i8") for name in ("revision", "status", "value", "error")], axis=1)
    kinds, kind = np.unique(shown, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    low, high = np.zeros(len(kinds), "i8"), np.zeros(len(kinds), "i8")
    vague = np.zeros(len(kinds), bool)
    for number, (revision, status, value, error) in enumerate(kinds.tolist()):
        content = ABSENT if error == NOT_FOUND else Content.of((status, value))
        found = line.candidates(revision, content)
        low[number], high[number] = (found[0], found[-1]) if found else (STRANGE, STRANGE)
        vague[number] = content == ABSENT and len(found) > 1
    answers = Answers(line, rows, low[kind], high[kind])
    _not_before_its_time(answers, vague[kind])
    _note_when_seen(answers)
    line.settle()
    return answers


def _not_before_its_time(answers: Answers, vague: Column) -> None:
    """An answer of no such flag may match many versions; take the newest whose change had begun by its end."""
    versions = answers.timeline.versions
    absent = answers.timeline.absent
    starts = np.array([versions[n].start for n in absent])
    begun = np.searchsorted(np.maximum.accumulate(starts), answers.rows["end"][vague], side="right") - 1
    answers.high[vague] = np.array(absent)[np.maximum(begun, 0)]


def _note_when_seen(answers: Answers) -> None:
    """An evaluation that showed a version proves that it was stored by then."""
    sure = answers.low >= 0
    first = np.full(len(answers.timeline.versions), np.inf)
    np.minimum.at(first, answers.low[sure], answers.rows["end"][sure])
    for version, end in zip(answers.timeline.versions, first.tolist(), strict=True):
        version.known = min(version.known, end)


def floors(moments: Sequence[float], versions: Sequence[int], starts: Column) -> Column:
    """Return for each start the newest of the versions whose moment is before it; 0 where there is none."""
    order = np.argsort(np.array(moments, "f8"), kind="stable")
    newest = np.maximum.accumulate(np.array(versions, "i8")[order]) if len(order) else np.zeros(0, "i8")
    place = np.searchsorted(np.array(moments, "f8")[order], starts, side="left")
    return np.concatenate([[0], newest])[place]
