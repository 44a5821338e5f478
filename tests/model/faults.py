"""What happens to the model from outside: time, crashes, lost messages, lost Redis data, other programs' changes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.clock import passed
from tests.model.following import announced
from tests.model.state import (
    Commit,
    Left,
    Reader,
    Replica,
    Setup,
    Shared,
    State,
    Writer,
    counter,
    lost,
    moment,
    newest,
    revision,
    with_replica,
)

Step = tuple[str, State]


def repairs(setup: Setup, s: State) -> Iterator[Step]:
    """A replica that is down comes back with empty memory."""
    for i, r in enumerate(s.replicas):
        if not r.up:
            new = Replica(held=r.held, cut_off=r.cut_off)
            if i in setup.stream:  # it reports what comes from now on
                new = new._replace(streamed=len(s.store) - 1, stream_since=moment(setup, s))
            yield f"replica {i} restarts with empty memory", with_replica(s, i, new)


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that may go wrong next, and the next tick."""
    left = s.left
    if setup.timed:
        yield "--- a tick passes", passed(setup, s)
    elif s.shared.record:
        yield "the lease expires", s._replace(shared=s.shared._replace(record=None))
    for i, r in enumerate(s.replicas):
        if r.up and left.crashes:
            yield f"replica {i} is killed", _killed(s, i)._replace(left=left._replace(crashes=left.crashes - 1))
        if r.inbox and left.lost:
            yield f"a message to replica {i} is lost", lost(with_replica(s, i, r._replace(inbox=r.inbox[1:])))
    yield from _of_redis(s, left)
    yield from _of_the_store(setup, s, left)


def _of_redis(s: State, left: Left) -> Iterator[Step]:
    if left.saves:
        yield "Redis saves a dump", s._replace(saved=s.shared, left=left._replace(saves=left.saves - 1))
    if left.losses:
        what = "emptied" if s.saved == Shared() else "restored from the dump"
        yield f"Redis is {what}", s._replace(shared=s.saved, left=left._replace(losses=left.losses - 1))
    if left.evictions and s.shared.entry:
        empty = s.shared._replace(entry=0, as_of=Shared().as_of)
        yield "Redis evicts the entry", s._replace(shared=empty, left=left._replace(evictions=left.evictions - 1))


def _of_the_store(setup: Setup, s: State, left: Left) -> Iterator[Step]:
    if left.foreign:
        kept = revision(s, newest(s))
        stored = s._replace(store=(*s.store, Commit(kept, 0, "foreign")))
        change = f"another program stores content {len(s.store)} and keeps revision {kept}"
        yield change, stored._replace(left=left._replace(foreign=left.foreign - 1))
    if left.others:
        yield from _another(setup, s, left._replace(others=left.others - 1))
    for i in setup.stream:
        if left.breaks and s.replicas[i].up:
            broken = with_replica(s, i, _interrupted(setup, s, s.replicas[i]))
            state = broken._replace(left=left._replace(breaks=left.breaks - 1))
            yield f"the stream of replica {i} misses what it has not reported yet", state
    if left.cuts and not s.replicas[1].cut_off:
        r = s.replicas[1]._replace(cut_off=True, poll=None)
        yield "replica 1 loses MongoDB", with_replica(s, 1, r)._replace(left=left._replace(cuts=left.cuts - 1))


def _interrupted(setup: Setup, s: State, r: Replica) -> Replica:
    """A poll under way that has read only the counter proves nothing any more: it does not count foreign changes."""
    poll = r.poll if r.poll and r.poll.contents else None
    return r._replace(streamed=len(s.store) - 1, stream_since=moment(setup, s), reload=True, poll=poll)


def _another(setup: Setup, s: State, left: Left) -> Iterator[Step]:
    """A third replica, of which only its changes to the store and its announcements are modelled."""
    there, new = s.store[newest(s)], counter(s) + 1
    kinds = ("write", "assigned") if there.kind == "foreign" else ("write",)
    for kind in kinds:
        entry = len(s.store)
        after = s._replace(store=(*s.store, Commit(new, 0, kind)), left=left)
        for sender in (0, 1):
            after = announced(setup, after, sender, entry)
        what = f"writes content {entry}" if kind == "write" else f"assigns revision {new} to the change"
        yield f"another replica {what}", after


def _killed(s: State, i: int) -> State:
    flags = len(s.replicas[i].held)
    s = with_replica(s, i, Replica(up=False, held=(0,) * flags, cut_off=s.replicas[i].cut_off))
    writers = tuple(_stopped(writer) if writer.replica == i else writer for writer in s.writers)
    if s.reads_at == i:
        s = s._replace(flight=None, readers=tuple(Reader() for _ in s.readers))
    return s._replace(writers=writers)


def _stopped(writer: Writer) -> Writer:
    return writer if writer.step in ("begin", "done") else Writer(writer.replica, writer.kind, writer.flag, "done")
