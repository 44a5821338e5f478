"""The protocol as a state machine: where it begins, and every step that can come next."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.model import faults, following, readers, shared, writers
from tests.model.promises import agreement, claims, vouching, watched
from tests.model.state import NEVER, Commit, Mark, Reader, Replica, Setup, Shared, State

Step = tuple[str, State]
END = "nothing is left to do"
BEFORE = -9
"""When what was there at first was made: long ago."""


def initial(setup: Setup) -> Iterator[State]:
    """Give the states in which everybody knows the first content; one for each way to place who takes part."""
    flags = 1 + max((writer.flag for writing in setup.writers for writer in writing), default=0)
    store = (Commit(0, BEFORE), *(Commit(1 + flag, BEFORE, flag=flag) for flag in range(flags)))
    start = len(store) - 1
    now = start if setup.exact else 0
    knowing = Replica(
        held=tuple(range(1, flags + 1)) if setup.holds else (1,),
        loaded=setup.holds,
        known=flags,
        as_of=now,
        told=start,
        told_until=now if setup.stream else NEVER,
        since=now if setup.stream else NEVER,
        heard=0 if "looks" in setup.without else NEVER,
    )
    callers = tuple(Reader() for _ in range(setup.readers))
    for writing, at, holder in product(setup.writers, setup.reads_at, setup.keepers or (0,)):
        replicas = [knowing if i in setup.followed else Replica() for i in (0, 1)]
        redis = Shared()
        if setup.cache:
            mark = Mark(holder, 0, now, now)
            redis = Shared(entry=1, as_of=now, mark=mark)
            replicas[holder] = replicas[holder]._replace(mark=mark)
        yield State(store, tuple(replicas), writing, callers, setup.left, shared=redis, reads_at=at)


def successors(setup: Setup, s: State) -> list[Step]:
    """Give every step that can come next, with what it breaks. Where only faults are left, everybody must agree."""
    done = [*writers.steps(setup, s), *readers.steps(setup, s), *following.steps(setup, s), *faults.repairs(setup, s)]
    if setup.keepers:
        done += shared.steps(setup, s)
    steps = [(label, _checked(setup, after)) for label, after in (*done, *faults.steps(setup, s))]
    if not done:
        steps.append((END, s._replace(broken=agreement(setup, s))))
    return steps


def _checked(setup: Setup, s: State) -> State:
    if s.broken:
        return s
    if setup.cache and (broken := vouching(setup, s)):
        return s._replace(broken=broken)
    if setup.exact and (broken := claims(setup, s)):
        return s._replace(broken=broken)
    return watched(setup, s)
