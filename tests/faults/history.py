"""The history in MongoDB at the end of a run, and what P9 requires of it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.record import NO_VALUE, Story, Write

STATUSES = {"ENABLED": 1, "DISABLED": 2, "BETA": 3, "DEPRECATED": 4}
_ACTIONS = {"create": ("CREATED",), "update": ("UPDATED",), "delete": ("DELETED",), "toggle": ("ENABLED", "DISABLED")}
_ACTIONS |= dict.fromkeys(("plan", "pause", "resume", "edit"), ("UPDATED",))
_NUMBER = re.compile(r"write (\d+)")
State = tuple[int, int]
"""Status and value of a flag's document."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the history. `previous` and `new` have its `status` and `value`, as far as the row has them."""

    flag: str
    revision: int
    action: str
    number: int
    """The number of the write that made it; 0 when no client did."""
    previous: Mapping[str, int] = field(default_factory=dict)
    new: Mapping[str, int] = field(default_factory=dict)

    def after(self, before: State | None) -> State | None:
        """Return the flag's state after this change; None: no flag."""
        if self.action == "DELETED":
            return None
        status, value = before or (0, NO_VALUE)
        return self.new.get("status", status), self.new.get("value", value)


def reason(number: int) -> str:
    """The reason that a write carries, so that its row can be found."""
    return f"write {number}"


def changes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Change]]:
    """Return each flag's changes that have a revision, in order."""
    found: dict[str, list[Change]] = defaultdict(list)
    for row in rows:
        if row.get("revision"):
            match = _NUMBER.fullmatch(row.get("reason") or "")
            number = int(match[1]) if match else 0
            change = Change(
                *(row["featureKey"], int(row["revision"]), row["action"], number),
                previous=known_fields(row.get("previousValue")),
                new=known_fields(row.get("newValue")),
            )
            found[change.flag].append(change)
    for changes in found.values():
        changes.sort(key=lambda change: change.revision)
    return found


def known_fields(document: Mapping[str, Any] | None) -> dict[str, int]:
    """Return status and value as far as a document, or a part of one, has them."""
    found = {}
    if document and document.get("status") in STATUSES:
        found["status"] = STATUSES[document["status"]]
    if document and "v" in (document.get("variants") or {}):
        found["value"] = int(document["variants"]["v"])
    return found


def double_or_lost(story: Story, changes: Mapping[str, list[Change]]) -> list[str]:
    """Describe acknowledged writes that are not in the history exactly once, and others that are there twice."""
    rows: dict[int, list[Change]] = defaultdict(list)
    for each in changes.values():
        for change in each:
            rows[change.number].append(change)
    wrong = [problem for write in story.writes for problem in _of_write(write, rows.get(write.number, []))]
    revisions = Counter(change.revision for each in changes.values() for change in each)
    return wrong + [
        f"revision {revision} stands in the history {n} times" for revision, n in revisions.items() if n > 1
    ]


def _of_write(write: Write, rows: list[Change]) -> list[str]:
    named = f"write {write.number} ({write.kind} of {write.flag})"
    if len(rows) > 1:
        return [f"{named} stands in the history {len(rows)} times"]
    if not rows:
        return [f"{named} was acknowledged and is not in the history"] if write.acknowledged else []
    row = rows[0]
    wrong = []
    if write.acknowledged and row.revision != write.revision:
        wrong.append(f"{named} was acknowledged as revision {write.revision}; the history says {row.revision}")
    if row.flag != write.flag or row.action not in _ACTIONS[write.kind]:
        wrong.append(f"{named} stands in the history as {row.action} of {row.flag}")
    if write.value != NO_VALUE and row.new.get("value") != write.value:
        wrong.append(f"{named} gave the value {write.value}; the history says {row.new.get('value')}")
    return wrong


def broken_link(change: Change, before: State | None) -> str:
    """Describe how a row does not follow from what was there before; empty: it does."""
    named = f"{change.flag}: revision {change.revision} ({change.action})"
    if change.action == "CREATED":
        return f"{named} although the flag was there" if before else ""
    if before is None:
        return f"{named} although the flag was not there"
    held = {"status": before[0], "value": before[1]}
    wrong = {name: value for name, value in change.previous.items() if held[name] != value}
    return f"{named} says it found {wrong}; the one before left {held}" if wrong else ""


def half_done(flag: str, document: Mapping[str, Any] | None, state: State | None, revision: int) -> str:
    """Describe how a document differs from what the history ends with; `revision`: at least this one."""
    if document is None:
        return f"{flag}: the history ends with {state}; there is no document" if state else ""
    held = known_fields(document)
    if state is None:
        return f"{flag}: there is a document {held}; the history ends without one"
    if (held.get("status"), held.get("value")) != state:
        return f"{flag}: the document has {held}; the history ends with {state}"
    if int(document.get("revision") or 0) < revision:
        return f"{flag}: the document has revision {document.get('revision')}; the history ends with {revision}"
    return ""
