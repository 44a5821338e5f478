"""What P15 requires of plans, rollouts, and what is kept of revisions. The definitions are in `checker`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from tests.faults.answers import STRANGE, Answers
from tests.faults.calls import Mismatch, where
from tests.faults.calm import Calm
from tests.faults.history import reason
from tests.faults.record import Story, Write
from tests.faults.timed import Moved, Plan
from tests.faults.timeline import ABSENT, Content

ON_TIME_S = 3.0
"""So late a plan is executed at most if it has been calm for `SETTLED_S`, less the replicas' wait for a CPU."""
SETTLED_S = 6.0
CLOCK_S = 0.1
"""How exactly moments of the wall clock and of the monotonic one are compared."""
ENDED = {"MISSED": "ScheduleMissed", "FAILED": "ScheduleFailed", "HELD": "ScheduleHeld", "SKIPPED": "ScheduleSkipped"}
"""States with an audit entry, and its action."""
_ONLY_PLANNED = "planned-"
_EDITS = ("pause", "resume", "edit")


class Late(NamedTuple):
    """How late a plan was executed, in seconds, and whether a fault was active between its time and its end."""

    seconds: float
    in_fault: bool


class Lateness(NamedTuple):
    """How the plans of a run ended, by state, and how late the executed ones were."""

    states: Mapping[str, int]
    late: Sequence[Late]


def lateness_of(story: Story, calm: Calm) -> Lateness:
    """Return how late plans were executed."""
    ended = [row for row in story.ending.schedules if row["state"] == "EXECUTED"]
    late = []
    for row in ended:
        due, end = (_seconds(row[name]) - story.clock for name in ("executeAt", "endedAt"))
        late.append(Late(end - due, bool(calm.during(due, end))))
    return Lateness(Counter(row["state"] for row in story.ending.schedules), late)


def plans(story: Story, calm: Calm) -> Iterator[Mismatch]:
    """Judge every plan by its schedule, the history, the audit log, and when its value was seen first."""
    schedules = {row["reason"]: row for row in story.ending.schedules}
    rows = defaultdict(list)
    for row in story.ending.history:
        rows[row.get("via") or ""].append(row)
    entries = Counter((row.get("action"), str(row.get("reason")).partition(":")[0]) for row in story.ending.audit)
    for plan in story.plans:
        schedule = schedules.get(reason(plan.number))
        if schedule is None:
            if plan.id:
                yield _wrong(plan, f"{plan} was answered as schedule {plan.id}, which is not there")
            continue
        via = f"schedule/{schedule['_id']}"
        for text in _of_plan(story, calm, plan, schedule, rows.get(via, [])):
            yield _wrong(plan, f"{plan} ({via}): {text}")
        action = ENDED.get(schedule["state"])
        if action and entries[action, via] != 1:
            yield _wrong(
                plan, f"{plan} ({via}) is {schedule['state']}; its audit entry is there {entries[action, via]} times"
            )
    yield from _out_of_order(story)


def seen_early(story: Story, answers: Answers) -> Iterator[Mismatch]:
    """Judge whether planned values of a flag were answered before their time."""
    due = {plan.number: plan.due - story.clock for plan in story.plans if plan.flag == answers.timeline.flag}
    for place, version in enumerate(answers.timeline.versions):
        if version.write is not None and version.write.number in due:
            shown = answers.rows["end"][(answers.low == place) & (answers.high != STRANGE)]
            first = float(shown.min(initial=np.inf))
            if first < due[version.write.number] - CLOCK_S:
                early_s = due[version.write.number] - first
                yield Mismatch(
                    "P15", first, first, f"{version.description} was answered {early_s:.3f} s before its time"
                )


def moved_back(story: Story) -> Iterator[Mismatch]:
    """Judge the callers of flags with a rollout: on a process, none goes back to the old variant.

    After an edit only those count who had moved before it was asked for. An edit goes by the clock of its replica: on
    one with another clock only answers with one revision are compared.
    """
    revisions = _revisions(story)
    found: dict[tuple[str, int, int], list[Moved]] = defaultdict(list)
    for each in story.moved:
        found[each.flag, each.user, each.incarnation].append(each)
    for (flag, user, number), answers in found.items():
        process = story.incarnations[number]
        edits = revisions.get(flag, [])
        moved: list[Moved] = []
        for answer in sorted(answers, key=lambda each: each.start):
            if answer.moved:
                moved.append(answer)
                continue
            for before in moved:
                between = [write for revision, write in edits if before.revision < revision <= answer.revision]
                has_right_clock = process.replica != story.skewed
                stays = not between or (has_right_clock and before.end < min(write.start for write in between))
                if before.end < answer.start and stays:
                    text = f"user {user} of {flag} went back on {where(process)}: the new variant at revision"
                    text += (
                        f" {before.revision}, the old one {answer.start - before.end:.3f} s later at {answer.revision}"
                    )
                    yield Mismatch("P15", before.start, answer.end, text)
                    break


def never_moved(story: Story) -> Iterator[Mismatch]:
    """Judge rollouts that have ended, by the last definition: everybody has moved, by every right clock."""
    finished = {
        row["key"]: (int(row["revision"]), _seconds(row["rollout"]["points"][-1]["time"]) - story.clock)
        for row in story.ending.documents
        if row.get("rollout") and not row["rollout"].get("pausedAt")
    }
    for each in story.moved:
        revision, end = finished.get(each.flag, (0, 0.0))
        has_right_clock = story.incarnations[each.incarnation].replica != story.skewed
        if each.revision == revision and not each.moved and has_right_clock and each.start > end + 1 + CLOCK_S:
            text = f"user {each.user} of {each.flag} had the old variant {each.start - end:.3f} s after the end"
            yield Mismatch("P15", each.start, each.end, text)


def kept(story: Story, answers: Answers) -> Iterator[Mismatch]:
    """Judge what is kept of a flag's revisions against the answers under them.

    A change of another program is answered under the revision that it found until it has one of its own.
    """
    flag = answers.timeline.flag
    definitions = {row["revision"]: row for row in story.ending.definitions if row["key"] == flag}
    if not story.ending.definitions or any(write.flag == flag for write in story.foreign):
        return
    rows = answers.rows[(answers.rows["revision"] > 0) & (answers.rows["error"] == 0)]
    shown = np.unique(np.stack([rows[name].astype("i8") for name in ("revision", "status", "value")], axis=1), axis=0)
    for revision, status, value in shown.tolist():
        row = definitions.get(revision)
        state = (row["status"], row["value"]) if row is not None and "value" in row else None
        if Content.of(state) != Content(status, value) or Content.of(state) == ABSENT:
            what = "nothing" if state is None else f"status {state[0]}, value {state[1]}"
            yield Mismatch(
                "P15", 0.0, 0.0, f"{flag}: revision {revision} was answered as {status}, {value}; kept is {what}"
            )


def _of_plan(
    story: Story, calm: Calm, plan: Plan, schedule: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    state = schedule["state"]
    if plan.id and schedule["_id"] != plan.id:
        yield f"it was answered as {plan.id}"
    if len(rows) != (state == "EXECUTED"):
        yield f"it is {state}, and stands in the history {len(rows)} times"
    if state == "PENDING":
        yield "it was never executed"
        return
    if state == "HELD" and plan.flag.startswith(_ONLY_PLANNED):
        yield f"it is held although only plans change the flag: {schedule.get('detail')}"
    if state == "EXECUTED" and rows and int(rows[0]["revision"]) != schedule.get("executedRevision"):
        yield f"it is executed as revision {schedule.get('executedRevision')}; the history says {rows[0]['revision']}"
    yield from _of_its_time(story, calm, plan, schedule)


def _of_its_time(story: Story, calm: Calm, plan: Plan, schedule: Mapping[str, Any]) -> Iterator[str]:
    state = schedule["state"]
    due, ended = _seconds(schedule["executeAt"]), _seconds(schedule.get("endedAt") or schedule["executeAt"])
    if ended < due:
        yield f"it is {state} {due - ended:.3f} s before its time"
    if state == "MISSED" and ended - due <= plan.max_lateness_s:
        yield f"it was {ended - due:.3f} s late, and is MISSED"
    if state != "EXECUTED":
        return
    if ended - due > plan.max_lateness_s:
        yield f"it was executed {ended - due:.3f} s late; {plan.max_lateness_s:g} s are allowed"
    since, until = due - story.clock - SETTLED_S, ended - story.clock
    starved_s = sum(each.starved_s(since, until) for each in story.incarnations)
    if ended - due > ON_TIME_S + starved_s and calm.between(since, until):
        yield f"it was executed {ended - due:.3f} s late although all was well"


def _out_of_order(story: Story) -> Iterator[Mismatch]:
    done = [row for row in story.ending.schedules if row["state"] == "EXECUTED"]
    last: dict[str, Mapping[str, Any]] = {}
    for row in sorted(done, key=lambda row: (_seconds(row["executeAt"]), row["number"])):
        before = last.get(row["flagKey"])
        if before is not None and before["executedRevision"] >= row["executedRevision"]:
            text = (
                f"{row['flagKey']}: schedule {row['_id']} was executed before {before['_id']}, which was due before it"
            )
            yield Mismatch("P15", 0.0, 0.0, text)
        last[row["flagKey"]] = row


def _revisions(story: Story) -> dict[str, list[tuple[int, Write]]]:
    """Return the edits of each flag with a rollout that were made, by revision, also those whose answer was lost."""
    edits = {reason(write.number): write for write in story.writes if write.kind in _EDITS}
    found: dict[str, list[tuple[int, Write]]] = defaultdict(list)
    for row in story.ending.history:
        if (write := edits.get(row.get("reason") or "")) is not None:
            found[write.flag].append((int(row["revision"]), write))
    return found


def _wrong(plan: Plan, text: str) -> Mismatch:
    return Mismatch("P15", plan.start, min(plan.end, plan.start + 60), text)


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
