"""What P13 requires of calls and streams with tokens that are made and ended meanwhile.

A *credential* is one secret of a token. It is *ended* by the answer of the call that revokes, disables or narrows its
token, or replaces the secret. A replica is *reached* while nothing keeps it from MongoDB, where tokens are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from tests.faults.attempts import ACCEPTED, FAILED, READ, REFUSED, Attempt, Credential, OpenStream, TokenChange
from tests.faults.calls import SETTLED_S, Mismatch, held_up_s, where
from tests.faults.calm import Calm
from tests.faults.promises import APPLIED, TOLERANCE_S
from tests.faults.record import NEVER, Incarnation, Story

WITHIN_S = 1.0
"""After so long a replica that is reached refuses a credential that was ended, and has ended its streams."""
_UNKNOWN = "ACCESS_UNKNOWN"
Named = Callable[[str], int | None]


def reach(story: Story) -> list[Calm]:
    """Return for each replica when nothing kept it from the tokens."""
    replicas = {each.replica for each in story.incarnations}

    def keeps(kind: str, target: str, replica: int) -> bool:
        is_on_path = kind.startswith("mongo ") or kind == "replica pause"
        return kind.startswith("mongod ") or (is_on_path and target == f"replica {replica}")

    return [
        Calm(fault for fault in story.faults if keeps(fault.kind, fault.target, replica))
        for replica in range(max(replicas, default=-1) + 1)
    ]


def revoked_and_valid(story: Story, named: Named) -> Iterator[Mismatch]:
    """Judge every call and stream with a token, and the replicas that did not know the rights of callers."""
    judge = _Judge(story, named)
    for number, attempts in judge.by_credential():
        yield from judge.attempts(number, attempts)
    for stream in story.streams:
        yield from judge.stream(stream)
    yield from judge.unknown()
    yield from judge.not_asked()


def without_entry(story: Story) -> Iterator[str]:
    """Describe acknowledged changes of tokens that have no audit entry: both are stored together."""
    entries = {(row.get("action"), row.get("featureKey")) for row in story.ending.audit}
    for change in story.token_changes:
        if change.acknowledged and (change.method, change.token) not in entries:
            yield f"{change} of {change.token} has no audit entry"


def went_on(story: Story) -> dict[str, list[float]]:
    """Return for how long each process accepted calls after a credential's end was answered, in seconds.

    One sample for each ended credential and each process that was ready; 0 where it refused from the answer on.
    """
    found: dict[str, list[float]] = {"reached": [], "not reached, or frozen": []}
    calm, changes = reach(story), {change.number: change for change in story.token_changes}
    last: dict[tuple[int, int], float] = {}
    for attempt in story.attempts:
        if attempt.outcome == ACCEPTED:
            key = attempt.credential, attempt.incarnation
            last[key] = max(attempt.start, last.get(key, 0.0))
    for credential in story.credentials:
        change = changes.get(credential.ended_by)
        for process in story.incarnations if change is not None else ():
            if process.ready < change.end < process.ended:
                seconds = max(0.0, last.get((credential.number, process.number), 0.0) - change.end)
                since = calm[process.replica].since(change.end + seconds)
                is_reached = since + story.bound_s + SETTLED_S <= change.end
                found["reached" if is_reached else "not reached, or frozen"].append(seconds)
    return found


class _Judge:
    def __init__(self, story: Story, named: Named) -> None:
        self._story, self._named, self._reach = story, named, reach(story)
        self._changes = {change.number: change for change in story.token_changes}
        self._credentials = {credential.number: credential for credential in story.credentials}

    def by_credential(self) -> Iterator[tuple[Credential, list[Attempt]]]:
        """Yield the attempts with each credential by their starts."""
        found: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in self._story.attempts:
            found[attempt.credential].append(attempt)
        for number, attempts in found.items():
            yield self._credentials[number], sorted(attempts, key=lambda each: each.start)

    def attempts(self, credential: Credential, attempts: list[Attempt]) -> Iterator[Mismatch]:
        """Judge the attempts with one credential."""
        accepted: dict[int, float] = {}
        ended: dict[int, float] = {}
        for attempt in attempts:
            process, text = attempt.incarnation, ""
            was_accepted = accepted.get(process, NEVER) <= attempt.start
            if attempt.outcome == REFUSED:
                text = self._wrongly_refused(credential, attempt, was_accepted)
                if was_accepted and attempt.start >= credential.end_asked:
                    ended[process] = min(attempt.end, ended.get(process, NEVER))
            elif attempt.outcome == ACCEPTED:
                accepted[process] = min(attempt.end, accepted.get(process, NEVER))
                has_come_back = ended.get(process, NEVER) <= attempt.start
                text = "was refused here before" if has_come_back else self._wrongly_accepted(credential, attempt)
            if text:
                yield self._mismatch(credential, attempt, text)

    def stream(self, stream: OpenStream) -> Iterator[Mismatch]:
        """Judge when a stream ended."""
        credential, process = self._credentials[stream.credential], self._process(stream)
        change = self._changes.get(credential.ended_by)
        if stream.outcome == REFUSED and stream.ended < credential.end_asked:
            text = f"{stream.method} of credential {credential.number} on {where(process)} was ended; it is valid"
            yield Mismatch("P13", stream.opened, stream.ended, text)
        if change is None or stream.outcome == FAILED:
            return
        is_named = process.number in self._applied_by(change)
        due = change.end if is_named else self._due(process, change.end, stream.ended)
        late_s = self._late_s(process, due, stream.ended)
        if late_s > 0 and not process.disturbed(due, stream.ended):
            text = f"{stream.method} of credential {credential.number} on {where(process)} went on for {late_s:.2f} s"
            yield Mismatch("P13", change.start, stream.ended, f"{text} longer than it may after {change}")

    def unknown(self) -> Iterator[Mismatch]:
        """Judge the replicas that said they did not know the rights of callers."""
        for failure in self._story.failures:
            process = self._story.incarnations[failure.incarnation]
            if failure.reason != _UNKNOWN:
                continue
            reached = max(self._reach[process.replica].since(failure.start), process.ready) + self._settled_s
            is_late = reached < failure.start and self._late_s(process, reached - WITHIN_S, failure.start) > 0
            if is_late and not process.disturbed(reached, failure.end):
                text = f"{failure.what} on {where(process)}: {failure.text!r}, although nothing kept it from the tokens"
                yield Mismatch("P13", failure.start, failure.end, text)

    def not_asked(self) -> Iterator[Mismatch]:
        """Judge changes that are reported as applied by all, and not named for a replica that lives."""
        calm = Calm(self._story.faults)
        for change in self._story.token_changes:
            since = change.start - self._settled_s
            if change.reached != APPLIED or not calm.between(since, change.end):
                continue
            applied_by = self._applied_by(change)
            for process in self._story.incarnations:
                if process.number not in applied_by and process.name and not process.disturbed(since, change.end):
                    text = f"{change} is reported as applied by all, without {where(process)}"
                    yield Mismatch("P13", change.start, change.end, text)

    @property
    def _settled_s(self) -> float:
        return self._story.bound_s + SETTLED_S

    def _wrongly_accepted(self, credential: Credential, attempt: Attempt) -> str:
        """Return why a call should have been refused; empty if it may have been accepted."""
        process, change = self._process(attempt), self._changes.get(credential.ended_by)
        if change is None or attempt.start <= change.end:
            return ""
        if process.number in self._applied_by(change):
            return f"is named by {change} as refused here"
        if process.started > change.end and not self._may_be_from_snapshot(process, attempt):
            return f"ended before this process began, by {change}"
        if attempt.kind == READ and attempt.start > change.end + self._story.bound_s + TOLERANCE_S:
            return f"reads definitions although {change} is longer ago than the staleness bound"
        due = self._due(process, change.end, attempt.start)
        late_s = self._late_s(process, due, attempt.start)
        if late_s > 0 and not process.disturbed(due, attempt.end):
            return f"is accepted {late_s:.2f} s too long after {change}; nothing kept this replica from the tokens"
        return ""

    def _may_be_from_snapshot(self, process: Incarnation, attempt: Attempt) -> bool:
        """Whether the process may not have read the tokens so far. Those in its snapshot let callers evaluate."""
        return attempt.kind != READ and bool(self._reach[process.replica].during(process.started, attempt.start))

    def _wrongly_refused(self, credential: Credential, attempt: Attempt, was_accepted: bool) -> str:
        """Return why a call should have been accepted; empty if it may have been refused."""
        process, made = self._process(attempt), self._changes[credential.made_by]
        if attempt.end >= credential.end_asked:
            return ""
        if was_accepted:
            return "is valid, and was accepted here before"
        if process.number in self._applied_by(made) or process.started > made.end:
            return f"is valid, and known here since {made}"
        due = self._due(process, made.end, attempt.start)
        is_due = self._late_s(process, due, attempt.start) > 0 and not process.disturbed(due, attempt.end)
        return "is valid; nothing kept this replica from the tokens" if is_due else ""

    def _due(self, process: Incarnation, changed: float, seen: float) -> float:
        """Return from when on a process could know a change, as it was when it was seen; NEVER if it could not."""
        return max(changed, process.ready, self._reach[process.replica].since(seen) + self._settled_s)

    def _applied_by(self, change: TokenChange) -> set[int | None]:
        return {self._named(name) for name in change.applied_by}

    def _process(self, seen: Attempt | OpenStream) -> Incarnation:
        return self._story.incarnations[seen.incarnation]

    def _late_s(self, process: Incarnation, due: float, seen: float) -> float:
        """Return how much too late something was seen: the time without a CPU counts neither here nor there."""
        late_s = seen - due - WITHIN_S
        return late_s - process.starved_s(due, seen) - held_up_s(self._story, due, seen) if late_s > 0 else 0.0

    def _mismatch(self, credential: Credential, attempt: Attempt, text: str) -> Mismatch:
        who = f"credential {credential.number} on {where(self._process(attempt))}, {attempt.kind}"
        return Mismatch(
            "P13", attempt.start, attempt.end, f"{who} at {attempt.start - self._story.began:.3f} s: {text}"
        )
