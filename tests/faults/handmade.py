"""Records made by hand for tests of the checker: two replicas, and a MongoDB that works correctly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tests.faults.answers import DISABLED, ERROR, NOT_FOUND
from tests.faults.attempts import EVALUATE, Attempt, Credential, TokenChange
from tests.faults.checker import Verdict, check
from tests.faults.exact_time import ENDED
from tests.faults.history import STATUSES, reason
from tests.faults.record import (
    NO_VALUE,
    UNARY,
    Failure,
    FaultWindow,
    ForeignWrite,
    Incarnation,
    Record,
    Story,
    Write,
)
from tests.faults.timed import Moved, Plan

FLAG, PASSING, FOREIGN = "plain-0", "passing-0", "foreign-0"
ENABLED_WORD, DISABLED_WORD = "ENABLED", "DISABLED"
STATIC = 1
SHORT_S = 0.01


class Handmade:
    """What happened so far. Moments are in seconds; replicas 0 and 1 are ready at 0; the staleness bound is 5 s."""

    def __init__(self) -> None:
        self.story = Story(seed=1, seconds=100, bound_s=5.0, mongods=1, flags=[FLAG, PASSING, FOREIGN])
        self.record = Record(self.story)
        for number in (0, 1):
            self.story.incarnations.append(Incarnation(number, number, 100 + number, -2.0, f"host-{number}", 0.0))
        self.revision = 0
        self._value = 0
        self._documents: dict[str, dict[str, Any]] = {}

    def write(self, kind: str, flag: str, start: float, *, took: float = 0.1, on: int = 0, **given: Any) -> Write:
        """Change a flag through a replica; `acknowledged=False`: the answer was lost."""
        self.revision += 1
        write = Write(len(self.story.writes) + 1, kind, flag, on, 2, start)
        if kind in ("create", "update"):
            self._value += 1
            write.value = self._value
        write.end, write.acknowledged, write.revision = start + took, True, self.revision
        for name, value in given.items():
            setattr(write, name, value)
        self.story.writes.append(write)
        self._store(write)
        return write

    def foreign(self, kind: str, flag: str, start: float, *, took: float = 0.02, numbered: bool = True) -> ForeignWrite:
        """Change a flag straight in MongoDB; unless specified otherwise, it gets its next revision soon after."""
        document = self._documents.get(flag)
        write = ForeignWrite(len(self.story.foreign) + 1, kind, flag, start, end=start + took, done=True)
        write.base = document["revision"] if document else 0
        if kind == "delete":
            del self._documents[flag]
        else:
            self._value += 1
            write.value = self._value
            self._documents[flag] = _document(flag, ENABLED_WORD, write.value, write.base)
        self.story.foreign.append(write)
        if numbered:
            self.revision += 1
            if kind != "delete":
                self._documents[flag]["revision"] = self.revision
        return write

    def see(
        self, flag: str, start: float, *, took: float = SHORT_S, on: int = 0, kind: int = UNARY, **given: int
    ) -> None:
        """Evaluate a flag: it shows what MongoDB has now, except for the given fields."""
        document = self._documents.get(flag)
        given = _shown(document) | given
        if given["reason"] == DISABLED or given["error"]:
            given["value"] = NO_VALUE
        place = self.story.flags.index(flag)
        names = ("revision", "value", "token", "age_ms", "incarnation", "flag", "status", "reason", "error", "source")
        given |= {"incarnation": on, "flag": place, "source": 1}
        self.record.evaluated(start, start + took, *(given[name] for name in names), kind)

    def see_absent(self, flag: str, start: float, *, took: float = SHORT_S, on: int = 0, **given: int) -> None:
        """Evaluate a flag that does not exist."""
        absent = {"revision": 0, "value": NO_VALUE, "status": 0, "reason": ERROR, "error": NOT_FOUND}
        self.see(flag, start, took=took, on=on, **absent | given)

    def fail(self, what: str, start: float, code: str, reason: str, *, took: float = SHORT_S, text: str = "no") -> None:
        """Let a call on replica 0 fail."""
        self.story.failures.append(Failure(what, start, start + took, 0, code, reason, text, FLAG))

    def fault(self, begin: float, end: float, kind: str = "redis stall") -> None:
        """Add a fault that is active for a time."""
        self.story.faults.append(FaultWindow(len(self.story.faults), kind, "replica 0", begin, end))

    def token(self, start: float, *, took: float = 0.1, applied_by: Sequence[str] = ("host-0", "host-1")) -> Credential:
        """Make a token through replica 0."""
        change = self._changed("CreateToken", start, took, applied_by)
        credential = Credential(len(self.story.credentials) + 1, f"t{change.number}", change.number)
        self.story.credentials.append(credential)
        return credential

    def revoke(
        self, credential: Credential, start: float, *, took: float = 0.1, applied_by: Sequence[str] = ("host-0",)
    ) -> TokenChange:
        """End a credential through replica 0."""
        change = self._changed("RevokeToken", start, took, applied_by)
        credential.ended_by, credential.end_asked = change.number, start
        return change

    def attempt(self, credential: Credential, start: float, outcome: str, *, on: int = 0, kind: str = EVALUATE) -> None:
        """Make a call with a credential."""
        self.story.attempts.append(Attempt(credential.number, on, kind, start, start + SHORT_S, outcome))

    def plan(
        self, start: float, due: float, *, late: float = 0.05, state: str = "EXECUTED", flag: str = FLAG
    ) -> dict[str, Any]:
        """Plan a change through replica 0, which ends so much later than it is due; return its schedule."""
        number = len(self.story.writes) + 1
        self._value += 1
        self.story.writes.append(Write(number, "plan", flag, 0, 2, start, self._value))
        plan = Plan(number, flag, 0, due, 60.0, start, start + SHORT_S, f"s{number}")
        self.story.plans.append(plan)
        schedule = {"_id": plan.id, "flagKey": flag, "reason": reason(number), "number": number, "state": state}
        schedule |= {"executeAt": _moment(due), "endedAt": _moment(due + late)}
        self.story.ending.schedules.append(schedule)
        if state == "EXECUTED":
            self.execute(schedule, self._value)
        elif state in ENDED:
            entry = {"action": ENDED[state], "featureKey": flag, "reason": f"schedule/{plan.id}: why"}
            self.story.ending.audit.append(entry)
        return schedule

    def execute(self, schedule: dict[str, Any], value: int) -> None:
        """Make a planned change: with its row in the history."""
        self.revision += 1
        schedule["executedRevision"] = self.revision
        before, new = self._documents[schedule["flagKey"]], {"variants": {"v": value}}
        row = {"featureKey": schedule["flagKey"], "revision": self.revision, "reason": schedule["reason"]}
        row |= {"via": f"schedule/{schedule['_id']}", "action": "UPDATED", "newValue": new}
        self.story.ending.history.append(row | {"previousValue": {"variants": before["variants"]}})
        self._documents[schedule["flagKey"]] = before | new | {"revision": self.revision}

    def moved(self, start: float, revision: int, *, moved: bool = True, on: int = 0) -> None:
        """Let a caller ask for a flag with a rollout."""
        self.story.moved.append(Moved("rollout-0", 1, on, start, start + SHORT_S, revision, moved))

    def edit(self, start: float, revision: int) -> None:
        """Edit a rollout through replica 0."""
        write = Write(len(self.story.writes) + 1, "pause", "rollout-0", 0, 2, start, end=start + SHORT_S)
        write.acknowledged, write.revision = True, revision
        self.story.writes.append(write)
        row = {"featureKey": "rollout-0", "revision": revision, "reason": reason(write.number), "action": "UPDATED"}
        self.story.ending.history.append(row)

    def _changed(self, method: str, start: float, took: float, applied_by: Sequence[str]) -> TokenChange:
        number = len(self.story.token_changes) + 1
        change = TokenChange(number, method, f"t{number}", 0, start, start + took, True, 2, list(applied_by))
        self.story.token_changes.append(change)
        self.story.ending.audit.append({"action": method, "featureKey": change.token})
        return change

    def done(self) -> Record:
        """End the run: MongoDB is read."""
        self.story.ending.documents = list(self._documents.values())
        return self.record

    def _store(self, write: Write) -> None:
        before = self._documents.get(write.flag)
        row = {"featureKey": write.flag, "revision": write.revision, "reason": reason(write.number)}
        if write.kind == "delete":
            assert before
            del self._documents[write.flag]
            row |= {"action": "DELETED", "previousValue": before, "newValue": None}
        elif write.kind == "toggle":
            assert before
            status = ENABLED_WORD if write.enabled else DISABLED_WORD
            row |= {"action": status, "previousValue": {"status": before["status"]}, "newValue": {"status": status}}
            self._documents[write.flag] = before | {"status": status, "revision": write.revision}
        elif write.kind == "update":
            assert before
            new = {"variants": {"v": write.value}}
            row |= {"action": "UPDATED", "previousValue": {"variants": before["variants"]}, "newValue": new}
            self._documents[write.flag] = before | new | {"revision": write.revision}
        else:
            document = _document(write.flag, ENABLED_WORD, write.value, write.revision)
            row |= {"action": "CREATED", "previousValue": None, "newValue": document}
            self._documents[write.flag] = document
        write.status = STATUSES[self._documents.get(write.flag, {"status": "ENABLED"})["status"]]
        self.story.ending.history.append(row)


def _moment(seconds: float) -> str:
    return str(datetime.fromtimestamp(seconds, UTC))


def _document(flag: str, status: str, value: int, revision: int) -> dict[str, Any]:
    return {"key": flag, "status": status, "variants": {"v": value}, "revision": revision}


def _shown(document: dict[str, Any] | None) -> dict[str, int]:
    if document is None:
        return {"revision": 0, "value": NO_VALUE, "status": 0, "reason": ERROR, "error": NOT_FOUND} | _PLAIN
    on = document["status"] == ENABLED_WORD
    shown = {"revision": document["revision"], "value": document["variants"]["v"], "status": 1 if on else 2}
    return shown | {"reason": STATIC if on else DISABLED, "error": 0} | _PLAIN


_PLAIN = {"token": 0, "age_ms": 0}


def broken(made: Handmade) -> Verdict:
    """Return what the checker finds."""
    return check(made.done())


def only(promise: str, made: Handmade, count: int = 1) -> str:
    """Assert that only this promise is broken, so many times; return the explanation."""
    verdict = broken(made)
    assert dict(verdict.counts) == {promise: count}, verdict.explained
    return verdict.explained[promise][0]


def old(made: Handmade) -> dict[str, int]:
    """Return what the flag shows before the next write."""
    document = made._documents[FLAG]
    return {"revision": document["revision"], "value": document["variants"]["v"]}
