"""What P1 to P5 and P7 require of one flag's evaluations. The definitions are in `checker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.faults.answers import STRANGE, Answers, Column, floors, says_stale
from tests.faults.calm import Calm
from tests.faults.poison import STRANGERS
from tests.faults.record import NEVER, TOKEN, Story, Write

TOLERANCE_S = 0.1
FOREIGN_S = 1.0
BEFORE_FOREIGN_S = 2.0
APPLIED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Evaluations of one flag that break a promise, and the oldest version that each was allowed to show."""

    promise: str
    answers: Answers
    wanted: Column
    about: str

    def __len__(self) -> int:
        return len(self.answers.rows)


Named = Callable[[str], int | None]
"""Returns the number of the incarnation that has this name."""


def findings(answers: Answers, story: Story, named: Named, calm: Calm) -> Iterator[Finding]:
    """Look for every promise that one flag's evaluations can break."""
    others = answers.rows["value"] > STRANGERS
    yield Finding("P11", answers.where(others), np.zeros(int(others.sum()), "i8"), "another store's content")
    answers = answers.where(~others)
    strange = answers.high == STRANGE
    yield Finding("P6", answers.where(strange), answers.high[strange], "a content that it never had at this revision")
    answers = answers.where(~strange)
    lost = _lost(answers, story)
    yield Finding("P6", answers.where(lost), np.ones(int(lost.sum()), "i8"), "said not to be there; it always was")
    answers = answers.where(~lost)
    yield _too_old(answers, story)
    yield _older_than_token(answers)
    own, applied = _acknowledged(answers, named)
    for number, mine in answers.by_incarnation():
        yield _older_than(mine, "P1", own.get(number, []), "acknowledged here before")
        yield _older_than(mine, "P2", applied.get(number, []), "reported as applied here before")
        yield _backwards(mine)
        yield from _foreign_late(mine, story, number, calm)


def _lost(answers: Answers, story: Story) -> Column:
    """Which evaluations miss a flag that was created longer ago than the bound and never deleted."""
    versions = answers.timeline.versions
    made = versions[1].known if len(versions) > 1 and len(answers.timeline.absent) == 1 else NEVER
    late = answers.rows["start"] > made + story.bound_s + TOLERANCE_S
    return answers.absent & late & ~says_stale(answers.rows, story.bound_s)


def _too_old(answers: Answers, story: Story) -> Finding:
    rows = answers.rows
    known = np.array(answers.timeline.next_known())
    bad = (known[answers.high] < rows["start"] - story.bound_s - TOLERANCE_S) & ~says_stale(rows, story.bound_s)
    return Finding("P3", answers.where(bad), answers.high[bad] + 1, f"known longer than {story.bound_s:g} s; not STALE")


def _older_than_token(answers: Answers) -> Finding:
    tokens = np.where(answers.rows["kind"] == TOKEN, answers.rows["token"], 0)
    kinds, kind = np.unique(tokens, return_inverse=True)
    wanted = np.array([answers.timeline.up_to(int(token)) for token in kinds], "i8")[kind]
    bad = answers.high < wanted
    return Finding("P4", answers.where(bad), wanted[bad], "the token asks for it")


def _acknowledged(answers: Answers, named: Named) -> tuple[dict[int, list[tuple[float, int]]], ...]:
    """Return by incarnation what it acknowledged, and what it was reported to have applied, each with when."""
    own: dict[int, list[tuple[float, int]]] = {}
    applied: dict[int, list[tuple[float, int]]] = {}
    for place, version in enumerate(answers.timeline.versions):
        write = version.write
        if write is None or not write.acknowledged:
            continue
        own.setdefault(write.incarnation, []).append((write.end, place))
        for number in _applied_by(write, named):
            applied.setdefault(number, []).append((write.end, place))
    return own, applied


def _applied_by(write: Write, named: Named) -> list[int]:
    """A replica that is named has applied the write, whichever level was reached."""
    return [number for name in write.applied_by if (number := named(name)) is not None]


def _older_than(answers: Answers, promise: str, known: Sequence[tuple[float, int]], about: str) -> Finding:
    wanted = floors([end for end, _ in known], [place for _, place in known], answers.rows["start"])
    bad = answers.high < wanted
    return Finding(promise, answers.where(bad), wanted[bad], about)


def _backwards(answers: Answers) -> Finding:
    """Of two evaluations, one after the other, the later shows an older version or returns a smaller revision."""
    rows = answers.rows
    low = _settled(answers) if answers.absent.any() else answers.low
    wanted = floors(rows["end"], low, rows["start"])
    revisions = np.where(answers.absent & (rows["revision"] == 0), -1, rows["revision"])
    before = floors(rows["end"], revisions, rows["start"])
    bad = (answers.high < wanted) | ((revisions >= 0) & (revisions < before))
    return Finding("P5", answers.where(bad), wanted[bad], "shown here before")


def _settled(answers: Answers) -> Column:
    """Take for each "no such flag" the oldest version that does not go back, so that later ones can be judged."""
    low = answers.low.copy()
    absent = np.array(answers.timeline.absent)
    starts, ends = answers.rows["start"].tolist(), answers.rows["end"].tolist()
    by_end = sorted(range(len(ends)), key=ends.__getitem__)
    floor, done = 0, 0
    for place, start in enumerate(starts):
        while done < len(by_end) and ends[by_end[done]] < start:
            floor = max(floor, int(low[by_end[done]]))
            done += 1
        if answers.absent[place] and low[place] < floor:
            later = absent[absent >= floor]
            low[place] = min(int(later[0]) if len(later) else int(low[place]), int(answers.high[place]))
    return low


def _foreign_late(answers: Answers, story: Story, number: int, calm: Calm) -> Iterator[Finding]:
    """Answers that are still older more than a second after a foreign change in a calm time."""
    rows, incarnation = answers.rows, story.incarnations[number]
    for place, version in enumerate(answers.timeline.versions):
        write = version.foreign
        if write is None or not write.done:
            continue
        quiet_until = calm.until(write.start - BEFORE_FOREIGN_S)
        due = write.end + FOREIGN_S
        due += sum(each.starved_s(write.start, due) for each in story.incarnations)
        if quiet_until <= due or incarnation.disturbed(write.start - BEFORE_FOREIGN_S, write.end):
            continue
        first, last = np.searchsorted(rows["start"], [due, quiet_until])
        late = np.zeros(len(rows), bool)
        late[first:last] = (answers.high[first:last] < place) & (rows["end"][first:last] < incarnation.ended)
        yield Finding("P7", answers.where(late), np.full(int(late.sum()), place), f"foreign, {FOREIGN_S:g} s before")
