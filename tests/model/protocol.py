"""The protocol as a state machine: where it begins, and every step that can come next."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.model import faults, following, readers, shared_cache, strangers, writers
from tests.model.promises import agreement, certified, claims, planned, watched
from tests.model.state import NEVER, STEPS, Commit, LeaseRecord, Reader, Replica, Setup, Shared, State

Step = tuple[str, State]
END = "nothing is left to do"
BEFORE = -9 * STEPS
"""The tick of the first content: long ago."""


def initial(setup: Setup) -> Iterator[State]:
    """Return the states in which every replica has the first content; one for each placement of who takes part."""
    flags = 1 + max((writer.flag for writing in setup.writers for writer in writing), default=0)
    store = (Commit(0, BEFORE), *(Commit(1 + flag, BEFORE, flag=flag) for flag in range(flags)))
    start = len(store) - 1
    now = start if setup.exact else 0
    knowing = Replica(
        held=tuple(range(1, flags + 1)) if setup.holds else (1,),
        loaded=setup.holds,
        watermark=flags,
        as_of=now,
        streamed=start,
        checkpoint=now if setup.stream else NEVER,
        stream_since=now if setup.stream else NEVER,
        heard_at=0 if "proof by polls" in setup.without else NEVER,
    )
    callers = tuple(Reader() for _ in range(setup.readers))
    for writing, at, holder in product(setup.writers, setup.reads_at, setup.holders or (0,)):
        replicas = [knowing if i in setup.followed else Replica() for i in (0, 1)]
        redis = Shared()
        if setup.cache:
            record = LeaseRecord(holder, 0, now, now)
            redis = Shared(entry=1, as_of=now, record=record)
            replicas[holder] = replicas[holder]._replace(record=record)
        yield State(store, tuple(replicas), writing, callers, setup.left, shared=redis, reads_at=at)


def successors(setup: Setup, s: State) -> list[Step]:
    """Return every step that can come next, with what it breaks."""
    return [(label, judged(setup, label, after)) for label, after in steps(setup, s)]


def steps(setup: Setup, s: State) -> list[Step]:
    """Return every step that can come next, not judged yet. Where only faults are left, all must agree."""
    done = [*writers.steps(setup, s), *readers.steps(setup, s), *following.steps(setup, s), *faults.repairs(setup, s)]
    if setup.holders:
        done += shared_cache.steps(setup, s)
    found = [*done, *faults.steps(setup, s), *strangers.steps(setup, s)]
    if not done:
        found.append((END, s._replace(broken=agreement(setup, s))))
    return found


def judged(setup: Setup, label: str, s: State) -> State:
    """Return the state after a step with what is broken in it; one that was judged before stays as it is."""
    if s.broken or label == END:
        return s
    if setup.cache and (broken := certified(setup, s)):
        return s._replace(broken=broken)
    if setup.exact and (broken := claims(setup, s)):
        return s._replace(broken=broken)
    if broken := planned(s):
        return s._replace(broken=broken)
    return watched(setup, s)
