"""How replicas of the model learn of changes: the channel, looks at the store, the store's stream, peers' words."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.near import content, take
from tests.model.state import (
    NEVER,
    Beat,
    Commit,
    Look,
    Numbering,
    Replica,
    Setup,
    State,
    counter,
    moment,
    newest,
    revision,
    with_replica,
)

Step = tuple[str, State]


def announced(setup: Setup, s: State, sender: int, entry: int) -> State:
    """Put an entry into the channel: it comes to the other replica in order, some time. Its own is no news to it."""
    if not setup.channel or 1 - sender not in setup.followed:
        return s
    other = s.replicas[1 - sender]
    if not other.up or (not setup.without and _is_old(s, other, entry)):
        return s
    return with_replica(s, 1 - sender, other._replace(inbox=(*other.inbox, entry)))


def _is_old(s: State, r: Replica, entry: int) -> bool:
    """Whether an announcement can change nothing any more; such are not followed further, to keep the search small."""
    commit = s.store[entry]
    return commit.revision <= r.known or (commit.revision in r.ahead and r.held[commit.flag] >= entry)


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that following can do next."""
    for i in setup.followed:
        r = s.replicas[i]
        if not r.up:
            continue
        name = f"replica {i}"
        if r.inbox:
            yield f"{name} hears {_told(r.inbox[0])}", with_replica(s, i, _hear(setup, s, r))
        if i in setup.beats:
            yield from _beat(setup, s, i, name)
        if i in setup.looks and not r.cut_off:
            yield from _look(setup, s, i, name)
        if i in setup.stream and not r.cut_off:
            yield from _stream(setup, s, i, name)
        if s.left.forgets and r.loaded and r.held[0] and not r.look and not s.flight and _is_tombstone(s, r):
            left = s.left._replace(forgets=s.left.forgets - 1)
            forgetful = with_replica(s, i, r._replace(held=(0, *r.held[1:]), held_as_of=NEVER))
            yield f"{name} forgets the tombstone", forgetful._replace(left=left)


def _is_tombstone(s: State, r: Replica) -> bool:
    """Whether a whole view says by itself that there is no such flag."""
    commit = s.store[r.held[0]]
    return commit.kind == "delete" and commit.revision <= r.known


def _told(message: int | Beat) -> str:
    return f"a beat: has {message.known}" if isinstance(message, Beat) else f"content {message}"


def _hear(setup: Setup, s: State, r: Replica) -> Replica:
    message, r = r.inbox[0], r._replace(inbox=r.inbox[1:])
    if "looks" in setup.without:
        r = r._replace(heard=0)
    if not isinstance(message, Beat):
        r = take(setup, s, r, message, NEVER, news=True)
        if r.inbox and not setup.without:
            r = r._replace(inbox=tuple(m for m in r.inbox if isinstance(m, Beat) or not _is_old(s, r, m)))
        return r
    return _proven_by_peer(setup, r, message) if r.loaded else r


def _proven_by_peer(setup: Setup, r: Replica, beat: Beat) -> Replica:
    """A view that was the store's once, and has had every numbered change since, lacks only what has no number.

    The sender has seen all of that since its stream began, and it has numbers, no larger than `known`.
    """
    if r.known < beat.known and "a peer's revisions are all here" not in setup.without:
        return r
    if beat.since > r.as_of and "a peer's stream goes back to the view" not in setup.without:
        return r
    if "a proof needs no stream of its own" in setup.without:
        return r if r.numbering else r._replace(as_of=max(r.as_of, min(beat.as_of, r.told_until)))
    return r._replace(as_of=max(r.as_of, beat.as_of))


def _confirmed(setup: Setup, r: Replica, as_of: int) -> Replica:
    """The view is the store's as of then; of foreign changes only what the stream has told and what has a number."""
    if setup.stream and "the stream's word" not in setup.without:
        if r.numbering and "pending numbers" not in setup.without:
            return r
        as_of = min(as_of, r.told_until)
    return r._replace(as_of=max(r.as_of, as_of))


def _beat(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r, other = s.replicas[i], s.replicas[1 - i]
    beat = _heartbeat(setup, r)
    useful = (beat and _can_prove(setup, other, beat)) or "looks" in setup.without
    if r.loaded and other.up and useful and not any(isinstance(m, Beat) for m in other.inbox):
        yield f"{name} beats", with_replica(s, 1 - i, other._replace(inbox=(*other.inbox, beat)))


def _can_prove(setup: Setup, r: Replica, beat: Beat) -> bool:
    """Whether a heartbeat makes a view younger, once all that it asks for is there. Others need not be followed."""
    return _proven_by_peer(setup, r._replace(known=beat.known), beat).as_of > r.as_of


def _heartbeat(setup: Setup, r: Replica) -> Beat | None:
    """One that proves something: every change of other programs until then has a number, and this replica has it."""
    if r.numbering and "a heartbeat waits for pending changes" not in setup.without:
        return None
    if r.ahead and "a heartbeat waits for gaps" not in setup.without:
        return None
    as_of = r.as_of
    if setup.stream and "a heartbeat reaches as far as its stream" not in setup.without:
        as_of = min(as_of, r.told_until)
    return Beat(r.known, as_of, r.since)


def _look(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.look is None:
        due = not r.loaded or r.as_of < moment(setup, s) or counter(s) > r.known
        if due and not setup.slow_looks:
            yield f"{name} looks and reads everything", with_replica(s, i, _merged(setup, s, i, _everything(setup, s)))
        elif due:
            if r.loaded and not r.reload:
                look = Look(moment(setup, s), counter(s))
                yield f"{name} asks for the counter: {look.counter}", with_replica(s, i, r._replace(look=look))
            if not r.loaded or i in setup.stream:
                yield from _reads(setup, s, i, name)
    elif r.look.contents:
        yield f"{name} takes what it read", with_replica(s, i, _merged(setup, s, i, r.look))
    elif r.look.counter <= r.known:
        as_of = moment(setup, s) if "a look counts from when it was asked" in setup.without else r.look.asked
        confirmed = _confirmed(setup, r._replace(look=None), as_of)
        yield f"{name} has all that the counter said: confirmed", with_replica(s, i, confirmed)
    else:
        yield from _reads(setup, s, i, name)


def _everything(setup: Setup, s: State) -> Look:
    flags = len(s.replicas[0].held)
    return Look(moment(setup, s), counter(s), tuple(newest(s, flag) for flag in range(flags)))


def _reads(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r, look = s.replicas[i], _everything(setup, s)
    yield f"{name} reads everything: {look.contents}", with_replica(s, i, r._replace(look=look))
    if s.left.old_reads and look.contents[0] > 1:
        before = s._replace(store=s.store[:-1])
        old = _everything(setup, before)._replace(asked=moment(setup, s))
        left = s.left._replace(old_reads=s.left.old_reads - 1)
        state = with_replica(s, i, r._replace(look=old))._replace(left=left)
        yield f"{name} reads everything from a replaced primary: {old.contents}", state


def _merged(setup: Setup, s: State, i: int, look: Look) -> Replica:
    """Take everything that was read; what is found changed without a new revision gets one.

    Who did not hold everything does not know what this changes, and so cannot go on vouching.
    """
    r = s.replicas[i]._replace(look=None)
    if not r.loaded and "a gap in the view ends a word" not in setup.without:
        r = r._replace(mark=None, keeping=None)
    for entry in look.contents:
        commit = s.store[entry]
        before = r.held[commit.flag]
        if commit.kind == "delete" and not before:
            continue
        r = take(setup, s, r, entry, look.asked)
        same = r.loaded and revision(s, before) == commit.revision <= r.known  # else it may be a change that counted
        if i in setup.stream and same and r.held[commit.flag] == entry != before:
            r = _numbers(setup, s, r, entry)
    number = counter(s) if "a load reads counters first" in setup.without else look.counter
    known = max(r.known, number)
    while known + 1 in r.ahead:
        known += 1
    ahead = tuple(n for n in r.ahead if n > known)
    as_of, reload = max(r.as_of, look.asked), r.reload and look.asked < r.since
    return r._replace(loaded=True, known=known, ahead=ahead, as_of=as_of, reload=reload)


def _stream(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.told < len(s.store) - 1:
        entry = r.told + 1
        told = r._replace(told=entry)
        if s.store[entry].kind == "foreign" and revision(s, newest(s)) > revision(s, entry):
            if "what overtook a change is told at once" not in setup.without:
                told = take(setup, s, told, newest(s), NEVER, news=True)
            change = f"a change which content {newest(s)} overtook"
            yield f"the stream tells {name} of {change}", with_replica(s, i, told)
        elif s.store[entry].kind == "foreign":
            numbers = _numbers(setup, s, told, entry)
            yield f"the stream tells {name} of a change without a number", with_replica(s, i, numbers)
        else:
            news = take(setup, s, told, entry, NEVER, news=True)
            yield f"the stream tells {name} of content {entry}", with_replica(s, i, news)
    if not r.numbering or "pending numbers" in setup.without:
        if setup.exact and not setup.timed:  # it may be told later how far it was
            if r.told_until < r.told:
                until = f"the stream has told {name} all until content {r.told}"
                yield until, with_replica(s, i, r._replace(told_until=r.told))
        elif r.told == len(s.store) - 1 and r.told_until < moment(setup, s):
            until = f"the stream has told {name} all until now"
            yield until, with_replica(s, i, r._replace(told_until=moment(setup, s)))
    if r.numbering:
        yield from _number(setup, s, i, name)


def _numbers(setup: Setup, s: State, r: Replica, entry: int) -> Replica:
    """Begin to number a foreign change; one that comes meanwhile is numbered after."""
    if r.held[s.store[entry].flag] == entry and "what a load finds is numbered" in setup.without:
        return r
    if r.numbering is None:
        return r._replace(numbering=Numbering(revision(s, entry)))
    if "a foreign change during numbering" in setup.without:
        return r
    return r._replace(numbering=r.numbering._replace(again=revision(s, entry)))


def _number(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    """Give the change a number, or find that it has one; it is pending until everything up to that is applied."""
    r = s.replicas[i]
    assert r.numbering is not None
    held, pending = content(s, r), r.numbering
    if pending.entry:
        if r.known >= revision(s, pending.entry) or "pending until the watermark has it" in setup.without:
            done = r._replace(numbering=Numbering(pending.again) if pending.again else None)
            yield f"{name} is done with numbering", with_replica(s, i, done)
    elif revision(s, held) > pending.revision:
        has = r._replace(numbering=pending._replace(entry=held))
        yield f"{name} sees that the change has a number", with_replica(s, i, has)
    elif revision(s, newest(s)) > pending.revision:
        got = take(setup, s, r, newest(s), moment(setup, s))
        has = got._replace(numbering=pending._replace(entry=newest(s)))
        yield f"{name} finds the change numbered in the store", with_replica(s, i, has)
    else:
        number = counter(s) + 1
        s = s._replace(store=(*s.store, Commit(number, 0, "number")))
        entry = len(s.store) - 1
        r = take(setup, s, r, entry, moment(setup, s), news=True)
        r = r._replace(numbering=r.numbering._replace(entry=entry)) if r.numbering else r
        yield f"{name} gives the change revision {number}", announced(setup, with_replica(s, i, r), i, entry)
