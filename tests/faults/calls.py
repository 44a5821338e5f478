"""What P2, P4, P6 and P10 require of calls: no wrong failures, no slow ones, and no texts that leak details."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tests.faults.answers import NOT_FOUND, Column
from tests.faults.calm import Calm
from tests.faults.poison import PRETENDER
from tests.faults.record import TOKEN, Failure, Incarnation, Story

SLOW_S = 1.0
START_S = 15.0
SETTLED_S = 1.0
"""After a fault, nothing of it may show any more once this time and the staleness bound have passed."""
APPLIED = 3
EVALUATIONS = ("evaluate", "batch", "token")
_NOT_READY = 6
_LATE = ("DEADLINE_EXCEEDED", "CANCELLED")
_MAY_BE_UNAVAILABLE = ("REVISION_UNAVAILABLE", "STORE_UNAVAILABLE", "ACCESS_UNKNOWN")
_LEAKS = re.compile(
    r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|:\d{4,5}\b|mongodb://|redis://|Traceback|pymongo|motor|File \""
)


class Mismatch(NamedTuple):
    """Something that breaks a promise: when it happened and what it was."""

    promise: str
    start: float
    end: float
    text: str
    count: int = 1


def failed(story: Story, calm: Calm) -> Iterator[Mismatch]:
    """Judge the calls that failed."""
    for failure in story.failures:
        incarnation = story.incarnations[failure.incarnation]
        gone = incarnation.disturbed(failure.start, failure.end)
        named = (
            f"{failure.what} {failure.flag} on {where(incarnation)}: {failure.code} {failure.reason}: {failure.text!r}"
        )
        if failure.reason and (leak := _LEAKS.search(failure.text)):
            yield Mismatch("P10", failure.start, failure.end, f"{named} gives away {leak[0]!r}")
        if not failure.reason and failure.code not in _LATE and not gone:
            yield Mismatch("P10", failure.start, failure.end, f"{named} has no ErrorInfo")
        if not gone and (promise := _broken_by(failure, calm, story.bound_s)):
            yield Mismatch(promise, failure.start, failure.end, f"{named} after {failure.end - failure.start:.2f} s")


def _broken_by(failure: Failure, calm: Calm, bound_s: float) -> str:
    """Return the promise that this failure on a healthy process breaks; empty: none."""
    was_calm = calm.between(failure.start - bound_s - SETTLED_S, failure.end)
    unavailable = failure.reason in _MAY_BE_UNAVAILABLE or failure.code in _LATE
    if failure.what == "token":
        return "" if unavailable and not was_calm else "P4"
    if failure.what in EVALUATIONS or failure.reason == "INTERNAL":
        return "P6"
    return "END" if unavailable and was_calm else ""


def error_answers(story: Story, rows: Column) -> Iterator[Mismatch]:
    """Judge answers with an error other than that there is no such flag."""
    bad = rows[(rows["error"] != 0) & (rows["error"] != NOT_FOUND)]
    for incarnation, flag, error in sorted({(int(r["incarnation"]), int(r["flag"]), int(r["error"])) for r in bad}):
        same = bad[(bad["incarnation"] == incarnation) & (bad["flag"] == flag) & (bad["error"] == error)]
        name = "PROVIDER_NOT_READY" if error == _NOT_READY else f"error code {error}"
        text = f"{story.flags[flag]} on {where(story.incarnations[incarnation])}: {name}, {len(same)} times"
        yield Mismatch("P6", float(same["start"][0]), float(same["end"][-1]), text, len(same))
    for text, count in story.texts.items():
        if leak := _LEAKS.search(text):
            yield Mismatch("P10", 0.0, 0.0, f"an evaluation's text gives away {leak[0]!r}: {text!r}", count)


def slow(story: Story, rows: Column) -> Iterator[Mismatch]:
    """Judge evaluations without a token that took longer than a second, less the delays of the machine."""
    took = rows["end"] - rows["start"]
    late = rows[(took > SLOW_S) & (rows["kind"] != TOKEN)]
    seen: set[tuple[float, float]] = set()  # a batch has many rows
    for row in late:
        start, end, incarnation = float(row["start"]), float(row["end"]), story.incarnations[int(row["incarnation"])]
        if (start, end) in seen or incarnation.disturbed(start, end):
            continue
        seen.add((start, end))
        took_s = end - start - held_up_s(story, start, end) - incarnation.starved_s(start, end)
        if took_s > SLOW_S:
            yield Mismatch("P6", start, end, f"an evaluation on {where(incarnation)} took {took_s:.2f} s")


def held_up_s(story: Story, start: float, end: float) -> float:
    """Return for how much of a time span the clients' own process did not run."""
    return sum(max(0.0, min(end, until) - max(start, since)) for since, until in story.lags)


def started_late(story: Story) -> Iterator[Mismatch]:
    """Judge processes that were not ready in time, or that ended by themselves."""
    for incarnation in story.incarnations:
        if incarnation.crashed:
            text = f"{where(incarnation)} ended by itself"
            yield Mismatch("P6", incarnation.started, incarnation.ended, text)
        until = min(incarnation.ready, incarnation.ended)
        paused = sum(b - a for a, b in incarnation.pauses if a < until)
        if until - incarnation.started - paused > START_S:
            text = f"{where(incarnation)} was not ready {START_S:g} s after its start"
            yield Mismatch("P6", incarnation.started, until, text)


def spread(story: Story, named: Callable[[str], int | None]) -> Iterator[Mismatch]:
    """Judge what the answers to writes report about replicas."""
    for write in (*story.writes, *story.token_changes):
        # Who may publish can pretend to be a replica: only Redis's access rights prevent that.
        unknown = [name for name in (*write.applied_by, *write.lagging) if named(name) is None and name != PRETENDER]
        if unknown:
            text = f"{write} names a replica that never was: {', '.join(unknown)}"
            yield Mismatch("P2", write.start, write.end, text)
        if write.reached == APPLIED and write.lagging:
            text = f"{write} is reported as applied by all, and names {', '.join(write.lagging)} as lagging"
            yield Mismatch("P2", write.start, write.end, text)


def where(incarnation: Incarnation) -> str:
    """Name a process of a replica for people."""
    return f"replica {incarnation.replica} (process {incarnation.number})"


def latencies(rows: Column, story: Story) -> dict[str, tuple[float, float]]:
    """Return p99 and worst of undisturbed evaluations, in seconds: without and with a token."""
    found = {}
    for name, mask in (("plain", rows["kind"] != TOKEN), ("with a token", rows["kind"] == TOKEN)):
        mine = rows[mask]
        fine = np.ones(len(mine), bool)
        for incarnation in story.incarnations:
            here = mine["incarnation"] == incarnation.number
            fine &= ~(here & (mine["end"] > incarnation.ended))
            for since, until in incarnation.pauses:
                fine &= ~(here & (mine["start"] <= until) & (mine["end"] >= since))
        took = (mine["end"] - mine["start"])[fine]
        found[name] = (float(np.quantile(took, 0.99)), float(took.max())) if len(took) else (0.0, 0.0)
    return found
