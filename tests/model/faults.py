"""What befalls the model: time, crashes, lost messages, a Redis that loses its memory, foreign writers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.clock import passed
from tests.model.state import (
    Commit,
    Reader,
    Replica,
    Setup,
    Shared,
    State,
    Writer,
    lost,
    newest,
    revision,
    with_replica,
)

Step = tuple[str, State]


def repairs(setup: Setup, s: State) -> Iterator[Step]:
    """A replica that is down comes back, with nothing."""
    for i, r in enumerate(s.replicas):
        if not r.up:
            yield f"replica {i} starts again, with nothing", with_replica(s, i, Replica(held=r.held))


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that may go wrong next, and the next tick."""
    left = s.left
    if setup.timed:
        yield "--- a tick passes", passed(setup, s)
    elif s.shared.mark:
        yield "the mark's time is over", s._replace(shared=s.shared._replace(mark=None))
    for i, r in enumerate(s.replicas):
        if r.up and left.crashes:
            yield f"replica {i} is killed", _killed(s, i)._replace(left=left._replace(crashes=left.crashes - 1))
        if r.inbox and left.lost:
            yield f"a message to replica {i} is lost", lost(with_replica(s, i, r._replace(inbox=r.inbox[1:])))
    if left.saves:
        yield "Redis saves its memory", s._replace(saved=s.shared, left=left._replace(saves=left.saves - 1))
    if left.losses:
        what = "emptied" if s.saved == Shared() else "put back to what it saved"
        yield f"Redis is {what}", s._replace(shared=s.saved, left=left._replace(losses=left.losses - 1))
    if left.evictions and s.shared.entry:
        empty = s.shared._replace(entry=0, as_of=Shared().as_of)
        yield "Redis evicts the entry", s._replace(shared=empty, left=left._replace(evictions=left.evictions - 1))
    if left.foreign:
        number = revision(s, newest(s))
        stored = s._replace(store=(*s.store, Commit(number, 0, "foreign")))
        change = f"another program makes content {len(s.store)}, revision {number} still"
        yield change, stored._replace(left=left._replace(foreign=left.foreign - 1))


def _killed(s: State, i: int) -> State:
    flags = len(s.replicas[i].held)
    s = with_replica(s, i, Replica(up=False, held=(0,) * flags))
    writers = tuple(_stopped(writer) if writer.replica == i else writer for writer in s.writers)
    if s.reads_at == i:
        s = s._replace(flight=None, readers=tuple(Reader() for _ in s.readers))
    return s._replace(writers=writers)


def _stopped(writer: Writer) -> Writer:
    return writer if writer.step in ("begin", "done") else Writer(writer.replica, writer.kind, writer.flag, "done")
