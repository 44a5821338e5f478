"""Decides from a record alone whether the promises were kept.

Words. A *write* goes through a replica; a *foreign* change goes straight into MongoDB, without a revision. A *version*
is a flag's state after either. It is committed between the start and the answer of the call that made it. If the answer
was lost, it is committed between the start and the first moment at which a client saw it, or never: the history at the
end shows which. A version is *known* from the first moment at which it, or a newer version of that flag, was
acknowledged or seen in an answer. An evaluation *shows* the version that has its revision, value and status (each
value is written by one write only); where several versions match, the best one for the replica counts. A *process* is
one life of a replica, from start to end. It is *disturbed* before it is ready, while it is frozen, and once it is being
ended. It is *calm* while no fault is active; a fault is active until what it broke answers again. An election of
MongoDB that no fault caused counts as a fault.

P1   An evaluation that starts after the answer of a write on the same process shows that write or something newer.
P2   The same for every process that a write's answer names in `applied_by`. Answers name only replicas that existed,
     and name none as lagging when they report APPLIED.
P3   For an answer that is not STALE, nothing newer was known earlier than the staleness bound and 0.1 s before its
     start. An answer that there is no such flag cannot be marked STALE: its age counts instead.
P4   An answer to a token has every change with a revision up to the token's. Otherwise the call fails: with
     REVISION_UNAVAILABLE or STORE_UNAVAILABLE, by its own deadline, or on a disturbed process. It does not fail when it
     had been calm for the bound and 1 s.
P5   Of two evaluations on one process, one after the other, the later shows no older version and returns no smaller
     revision.
P6   Evaluations on undisturbed processes do not fail, return no error except that there is no such flag, and take no
     longer than 1 s (those with a token may), less their wait for a CPU; no call there fails with INTERNAL. A flag that
     was never deleted is not reported missing once it was known for the bound. What is shown was really the flag's
     state at the returned revision. A process is ready within 15 s of its start and does not end by itself.
P7   This is about a foreign change made when it had been calm for 2 s. While it stays calm, answers show the change if
     they start more than 1 s after it, and after the replicas' wait for a CPU, on processes undisturbed since then.
P8   Cannot be seen in a record; tests that count store reads cover it.
P9   In the history, revisions are unique, and each row's previous value is what the row before left. Foreign changes
     have no rows; their place is after the revision that they found. Acknowledged writes are in the history exactly
     once, others at most once. Every document matches the end of its history. Acknowledged changes of tokens have an
     audit entry.
P10  No text that a server sent has an address, a port, a URL of a store or a traceback; failed calls have an ErrorInfo.
P11  No evaluation shows a value of the second deployment on the same Redis, or of a poisoned message; the second
     deployment answers what was written there, and its calls do not fail.
P12  A caller that sends more than its rate gets no more than that rate and one burst. While Redis does not reach all
     replicas it may get two thirds more, and another burst where Redis lost its memory. Nobody else is limited: P6.
P13  Once an answer names a process as having applied the end of a credential (its token was revoked, disabled or
     narrowed, or its secret replaced), no call there with it is accepted. Neither is one on a process that refused it
     before, one later than 1 s where nothing kept the replica from MongoDB for the bound and 1 s, and, wherever it is,
     one that reads definitions later than the bound. On a process that began later none is accepted either, but an
     evaluation where something kept the process from MongoDB since it began: its snapshot may have the token.
     Streams end by then, too. A change that is reported as applied by all names every live process. Valid credentials
     are not refused, by the same words. No replica says that it does not know the rights of callers while nothing
     keeps it from MongoDB.
P15  A planned change whose call was answered is executed once: its row in the history is there once, and has the
     revision that the schedule has. Or it is MISSED, FAILED or HELD, without a row in the history, and with an audit
     entry; MISSED only if it came later than it may, HELD never where only plans change the flag. None is pending at
     the end. No schedule ends before its time by MongoDB's clock, and no answer shows its value before. Schedules of a
     flag are executed by time, then by creation. One is at most 3 s late where it had been calm for 6 s before its
     time, and later by the replicas' wait for a CPU. On a process, a caller of a flag with a rollout who had the new
     variant does not get the old one: with the same revision, and, where the clock is right, with a later one, if it
     had the new one before the edit was asked for. At the end of a rollout nobody has the old one. What is kept of a
     revision is what was answered under it, where no other program changes the flag.
END  With everything healed: within the bound every replica answers what MongoDB has, without STALE; none lags; Redis
     holds nothing else either, after its next audit; every foreign change got a revision. Whenever it was calm for the
     bound and 1 s, no answer is STALE and no write is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults import calls
from tests.faults.answers import STRANGE, Answers, answers_of, says_stale
from tests.faults.calls import Mismatch, where
from tests.faults.calm import Calm
from tests.faults.exact_time import Lateness, kept, lateness_of, moved_back, never_moved, plans, seen_early
from tests.faults.history import broken_link, changes_of, double_or_lost, half_done
from tests.faults.promises import Finding, findings
from tests.faults.rates import over_rate
from tests.faults.record import Record
from tests.faults.revocation import revoked_and_valid, without_entry
from tests.faults.staleness import Staleness, lags_of
from tests.faults.timeline import Timeline

PROMISES = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P9", "P10", "P11", "P12", "P13", "P15", "END")
_EXPLAINED = 5
_AROUND = 5


@dataclass(slots=True)
class Verdict:
    """What the checker found."""

    counts: Counter[str] = field(default_factory=Counter)
    explained: dict[str, list[str]] = field(default_factory=dict)
    staleness: Staleness = field(default_factory=Staleness)
    latencies: dict[str, tuple[float, float]] = field(default_factory=dict)
    stale_answers: int = 0
    lateness: Lateness = field(default_factory=lambda: Lateness({}, []))

    @property
    def kept(self) -> bool:
        """Whether no promise was broken."""
        return not self.counts


def check(record: Record) -> Verdict:
    """Judge a run."""
    return _Judge(record).verdict


class _Judge:
    def __init__(self, record: Record) -> None:
        self._story, self._rows = record.story, record.rows()
        self._calm = Calm(self._story.faults)
        self._names = {incarnation.name: incarnation.number for incarnation in self._story.incarnations}
        self.verdict = Verdict(latencies=calls.latencies(self._rows, self._story))
        self.verdict.stale_answers = int(says_stale(self._rows, self._story.bound_s).sum())
        for wrong in self._of_calls():
            self._add(wrong)
        lines = {}
        for answers in answers_of(record):
            lines[answers.timeline.flag] = answers.timeline
            self._flag(answers)
        for text in (*self._of_history(lines), *without_entry(self._story)):
            self._add(Mismatch("P9", 0.0, 0.0, text))
        for wrong in (*over_rate(self._story), *revoked_and_valid(self._story, self._named)):
            self._add(wrong)
        for wrong in (*plans(self._story, self._calm), *moved_back(self._story), *never_moved(self._story)):
            self._add(wrong)
        self.verdict.lateness = lateness_of(self._story, self._calm)
        for text in self._story.neighbour_wrong:
            self._add(Mismatch("P11", 0.0, 0.0, f"the second deployment: {text}"))
        for text in self._of_ending():
            self._add(Mismatch("END", 0.0, 0.0, text))

    def _of_calls(self) -> Iterator[Mismatch]:
        story = self._story
        yield from calls.failed(story, self._calm)
        yield from calls.error_answers(story, self._rows)
        yield from calls.slow(story, self._rows)
        yield from calls.started_late(story)
        yield from calls.spread(story, self._named)

    def _named(self, name: str) -> int | None:
        """Find a process by its name; one that ended before its name was known, by the process id in the name."""
        if name in self._names:
            return self._names[name]
        parts = set(re.split(r"\W+", name))
        return next((i.number for i in self._story.incarnations if not i.name and str(i.pid) in parts), None)

    def _flag(self, answers: Answers) -> None:
        for finding in findings(answers, self._story, self._named, self._calm):
            if len(finding):
                self._add(self._explained(finding))
        self._stale_in_calm(answers)
        for wrong in (*seen_early(self._story, answers), *kept(self._story, answers)):
            self._add(wrong)
        real = answers.where(answers.high != STRANGE)  # the others show no state of the flag, so not an old one either
        self.verdict.staleness.lags += lags_of(real, self._story, self._calm)

    def _stale_in_calm(self, answers: Answers) -> None:
        bound = self._story.bound_s + calls.SETTLED_S
        rows = answers.rows[says_stale(answers.rows, self._story.bound_s)]
        for row in rows:
            start, end = float(row["start"]), float(row["end"])
            incarnation = self._story.incarnations[int(row["incarnation"])]
            if self._calm.between(start - bound, end) and not incarnation.disturbed(start - bound, end):
                text = f"{answers.timeline.flag} on {where(incarnation)} says STALE at {self._at(start)}; all was well"
                self._add(Mismatch("END", start, end, text))

    def _of_history(self, lines: dict[str, Timeline]) -> Iterator[str]:
        changes = changes_of(self._story.ending.history)
        yield from double_or_lost(self._story, changes)
        documents = {document["key"]: document for document in self._story.ending.documents}
        for flag, line in lines.items():
            links = zip(line.versions, line.before, strict=True)
            yield from filter(None, (broken_link(v.change, before) for v, before in links if v.change))
            newest = max((change.revision for change in changes.get(flag, [])), default=0)
            if wrong := _without_revision(line, documents.get(flag)):
                self._add(Mismatch("END", 0.0, 0.0, wrong))
            if wrong := half_done(flag, documents.get(flag), line.versions[-1].state, newest):
                yield wrong

    def _of_ending(self) -> Iterator[str]:
        ending = self._story.ending
        for replica, seconds in ending.recovered_s.items():
            if seconds > self._story.bound_s:
                yield f"{replica} did not answer as MongoDB within {self._story.bound_s:g} s, but after {seconds:.1f} s"
        yield from ending.differences
        yield from ending.lagging
        if ending.drifted:
            yield f"{ending.drifted} of {ending.compared} entries in Redis are not what MongoDB has"

    def _explained(self, finding: Finding) -> Mismatch:
        """Describe the first answer in full."""
        answers, row = finding.answers, finding.answers.rows[0]
        start, end = float(row["start"]), float(row["end"])
        incarnation = self._story.incarnations[int(row["incarnation"])]
        parts = [
            f"{answers.timeline.flag} on {where(incarnation)}",
            f"asked at {self._at(start)}, answered {end - start:.3f} s later",
            f"revision {row['revision']}, value {row['value']}, reason {row['reason']}, source {row['source']}",
            f"age {row['age_ms']} ms, token {row['token']}",
        ]
        if 0 <= (wanted := int(finding.wanted[0])) < len(answers.timeline.versions):
            version = answers.timeline.versions[wanted]
            parts.append(f"wanted {version.description} at {version.place}, known since {self._at(version.known)}")
        text = f"{finding.about}: {'; '.join(parts)}; {len(finding)} such answers"
        return Mismatch(finding.promise, start, end, text, len(finding))

    def _add(self, wrong: Mismatch) -> None:
        self.verdict.counts[wrong.promise] += wrong.count
        explained = self.verdict.explained.setdefault(wrong.promise, [])
        if len(explained) < _EXPLAINED:
            around = self._calm.during(wrong.start - self._story.bound_s, wrong.end) if wrong.end else []
            names = [f"{f.kind} {f.target} ({self._at(f.begin)} to {self._at(f.end)})" for f in around[-_AROUND:]]
            explained.append(wrong.text + (f"; faults around: {', '.join(names)}" if names else ""))

    def _at(self, moment: float) -> str:
        return f"{moment - self._story.began:.3f} s"


def _without_revision(line: Timeline, document: Mapping[str, Any] | None) -> str:
    """Describe a flag whose last change is foreign and never got a revision; empty: there is none."""
    last = line.versions[-1]
    if document is None or last.foreign is None:
        return ""
    revision = int(document.get("revision") or 0)
    if revision > last.foreign.base:
        return ""
    return f"{line.flag}: {last.description} still has the revision {revision} that it found"
