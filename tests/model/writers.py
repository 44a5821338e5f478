"""Writes of the model: store, this replica, Redis, channel; each is a step of its own and may be the last."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.following import announced
from tests.model.near_cache import take
from tests.model.shared_cache import put
from tests.model.state import (
    AS_PLANNED,
    NEVER,
    PLANNED,
    Commit,
    Setup,
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


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that writers can do next."""
    for k, writer in enumerate(s.writers):
        if s.replicas[writer.replica].up:
            yield from _write(setup, s, k, writer)


def _write(setup: Setup, s: State, k: int, w: Writer) -> Iterator[Step]:
    if w.kind == PLANNED and w.step in ("begin", "commit"):
        yield _executes(setup, s, k, w)
    elif w.step == "begin" and "announcements follow commits" in setup.without:
        sent = announced(setup, s, w.replica, len(s.store))
        yield f"writer {k} announces content {len(s.store)}", _wrote(sent, k, w._replace(step="commit"))
    elif w.step == "begin" and setup.slow_writers:
        began = w._replace(step="commit", as_of=moment(setup, s))
        yield f"writer {k} begins on replica {w.replica}", _wrote(s, k, began)
    elif w.step in ("begin", "commit") and _may_commit(s, k, w):
        yield _commits(setup, s, k, w)
    elif w.step == "apply":
        yield _applies(setup, s, k, w)
    elif w.step == "put":
        after = w._replace(step="announce" if setup.channel else "done")
        yield f"writer {k} puts content {w.entry}", _wrote(put(setup, s, w.entry, w.as_of), k, after)
        if s.left.lost:
            yield f"writer {k} does not reach Redis", _wrote(lost(s), k, after)
    elif w.step == "announce":
        done = w._replace(step="done", as_of=NEVER, entry=0)
        sent = s if "announcements follow commits" in setup.without else announced(setup, s, w.replica, w.entry)
        yield f"writer {k} announces content {w.entry}", _wrote(sent, k, done)


def _executes(setup: Setup, s: State, k: int, w: Writer) -> Step:
    """A replica executes a planned change: it takes the schedule, reads the flag, and commits both or neither."""
    if any(commit.kind == PLANNED for commit in s.store) and w.step == "begin":
        return f"replica {w.replica} finds nothing due", _wrote(s, k, w._replace(step="done"))
    if w.step == "begin":
        took = w._replace(step="commit", as_of=moment(setup, s), entry=newest(s))
        return f"replica {w.replica} takes the schedule, and reads content {newest(s)}", _wrote(s, k, took)
    if newest(s) != w.entry and "a transaction conflicts" not in setup.without:
        again = w._replace(step="begin", as_of=NEVER, entry=0)
        return f"replica {w.replica} conflicts, and begins again", _wrote(s, k, again)
    if w.entry != AS_PLANNED and "later changes are conflicts" not in setup.without:
        held = w._replace(step="done", as_of=NEVER, entry=0)
        return f"replica {w.replica} holds the schedule, as content {w.entry} came after it", _wrote(s, k, held)
    return _commits(setup, s, k, w)


def _commits(setup: Setup, s: State, k: int, w: Writer) -> Step:
    """A write that begins at its commit has the latest true `as_of`, and so claims the most."""
    as_of = moment(setup, s) if w.step == "begin" else w.as_of
    entry = len(s.store)
    stored = s._replace(store=(*s.store, Commit(counter(s) + 1, 0, w.kind, w.flag)))
    label = f"writer {k} commits content {entry} ({w.kind})"
    if "toggles put" in setup.without:
        return f"{label}; every cache drops the flag", _dropped(_wrote(stored, k, w._replace(step="done")))
    return label, _wrote(stored, k, w._replace(step="apply", as_of=as_of, entry=entry))


def _applies(setup: Setup, s: State, k: int, w: Writer) -> Step:
    """From here on the caller may be answered; an answer later changes nothing for the others."""
    r = s.replicas[w.replica]
    if w.replica in setup.followed:
        r = take(setup, s, r, w.entry, w.as_of, news=True)
        if w.flag == 0:
            r = r._replace(owed=w.entry)
    after = "put" if setup.cache else "announce" if setup.channel else "done"
    applied = with_replica(s, w.replica, r)._replace(answered=max(s.answered, revision(s, w.entry)))
    writer = w._replace(step=after, as_of=w.as_of if setup.cache else NEVER)
    return f"writer {k} applies content {w.entry} and may answer", _wrote(applied, k, writer)


def _dropped(s: State) -> State:
    """Delete-on-toggle at its best: no cache has the flag any more, the next one to ask reads through."""
    replicas = tuple(r._replace(held=(0, *r.held[1:]), held_as_of=NEVER, loaded=False) for r in s.replicas)
    return s._replace(replicas=replicas, shared=s.shared._replace(entry=0, as_of=NEVER))


def _may_commit(s: State, k: int, w: Writer) -> bool:
    """Of writers that differ only in their names the first commits first; only a missing flag is created."""
    if any(_alike(other, w) and other.step in ("begin", "commit") for other in s.writers[:k]):
        return False
    there = s.store[newest(s, w.flag)].kind != "delete"
    return there if w.kind in ("delete", "write") else not there


def _alike(one: Writer, other: Writer) -> bool:
    return one.kind == other.kind and one.flag == other.flag and one.replica == other.replica


def _wrote(s: State, k: int, writer: Writer) -> State:
    return s._replace(writers=(*s.writers[:k], writer, *s.writers[k + 1 :]))
