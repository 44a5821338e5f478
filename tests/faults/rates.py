"""What P12 requires of a caller that sends more than its rate: it gets no more, and others get what they ask for.

While Redis works for all, the replicas together grant a caller its rate. A replica that Redis does not reach grants a
third by itself, so two of them add two thirds. A process begins with a float, and a Redis that lost its memory lends
what it has lent once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flagsvc.limits.share import BURST_S, CAPACITY_S, FLOAT_S
from tests.faults.calls import SETTLED_S, Mismatch
from tests.faults.record import FaultWindow, Story

_REPLICAS = 3
_DIVIDED = 1 + (_REPLICAS - 1) / _REPLICAS
"""How much of a rate is granted at most while Redis does not reach all replicas."""
_FORGETS = ("redis kill", "redis flush", "redis empty restart", "redis old dump", "redis slow start")
_SLACK = 3
"""Calls whose answers were under way."""
_CLOSE = 0.05
"""A caller at many times its rate is to get its rate within this share of it, on a busy machine too."""
Moment = tuple[float, float]
"""When, and how many calls may be accepted beyond the rate from then on."""


def over_rate(story: Story) -> Iterator[Mismatch]:
    """Judge how many calls of the greedy caller were accepted, in every time span."""
    most, rate = 0.0, story.greedy.rate
    if not rate:
        return
    divided = _divided(story.faults, story.bound_s)
    extra, given = sorted(_extra(story)), 0
    allowed, at, lowest, began, before = 0.0, story.began, 0.0, story.began, 0.0
    for count, accepted in enumerate(sorted(story.greedy.accepted)):
        allowed += rate * _granted_s(divided, at, accepted)
        at = accepted
        while given < len(extra) and extra[given][0] <= accepted:
            allowed += rate * extra[given][1]
            given += 1
        beyond = count - allowed
        if beyond < lowest:
            lowest, began, before = beyond, accepted, allowed
        over = beyond + 1 - lowest - rate * BURST_S - _CLOSE * (allowed - before)
        if over > max(_SLACK, most):
            most = over
            text = f"{over:.0f} calls more than a rate of {rate:g} a second allows were accepted"
            since = began - story.began
            yield Mismatch("P12", began, accepted, f"{text} from {since:.1f} to {accepted - story.began:.1f} s")


def _divided(faults: Iterable[FaultWindow], bound_s: float) -> list[list[float]]:
    """Return the times in which Redis may not reach every replica, ordered and apart."""
    found: list[list[float]] = []
    for fault in sorted(faults, key=lambda each: each.begin):
        if not fault.kind.startswith(("redis ", "replica ")):
            continue
        if found and fault.begin <= found[-1][1]:
            found[-1][1] = max(found[-1][1], fault.end + bound_s + SETTLED_S)
        else:
            found.append([fault.begin, fault.end + bound_s + SETTLED_S])
    return found


def _granted_s(divided: Iterable[list[float]], start: float, end: float) -> float:
    """Return for how many seconds of its rate a caller may be granted calls in this time."""
    within = sum(max(0.0, min(end, until) - max(start, since)) for since, until in divided)
    return end - start + within * (_DIVIDED - 1)


def _extra(story: Story) -> Iterator[Moment]:
    yield from ((process.started, FLOAT_S / _REPLICAS) for process in story.incarnations)
    yield from ((fault.begin, CAPACITY_S) for fault in story.faults if fault.kind in _FORGETS)
