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
    age,
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
        if i in setup.looks:
            yield from _look(setup, s, i, name)
        if i in setup.stream:
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
    if not r.loaded or r.known < message.known:
        return r
    if "a peer's word covers numbered changes" not in setup.without:
        return _confirmed(setup, r, message.as_of)
    return r._replace(as_of=max(r.as_of, message.as_of))


def _confirmed(setup: Setup, r: Replica, as_of: int) -> Replica:
    """The view is the store's as of then; of foreign changes only what the stream has told and what has a number."""
    if setup.stream and "the stream's word" not in setup.without:
        if r.numbering and "pending numbers" not in setup.without:
            return r
        as_of = min(as_of, r.told_until)
    return r._replace(as_of=max(r.as_of, as_of))


def _beat(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r, other = s.replicas[i], s.replicas[1 - i]
    useful = r.as_of > other.as_of or "looks" in setup.without
    if r.loaded and other.up and useful and not any(isinstance(m, Beat) for m in other.inbox):
        beat = Beat(r.known, r.as_of)
        yield f"{name} beats", with_replica(s, 1 - i, other._replace(inbox=(*other.inbox, beat)))


def _look(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.look is None:
        due = not r.loaded or r.as_of < moment(setup, s) or counter(s) > r.known
        if due and not setup.slow_looks:
            yield f"{name} looks and reads everything", with_replica(s, i, _merged(setup, s, i, _everything(setup, s)))
        elif due:
            if r.loaded:
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
        if commit.kind == "foreign" and i in setup.stream and r.held[commit.flag] == entry != before and r.loaded:
            r = _numbers(setup, s, r, entry)
    number = counter(s) if "a load reads counters first" in setup.without else look.counter
    known = max(r.known, number)
    while known + 1 in r.ahead:
        known += 1
    ahead = tuple(n for n in r.ahead if n > known)
    return r._replace(loaded=True, known=known, ahead=ahead, as_of=max(r.as_of, look.asked))


def _stream(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.told < len(s.store) - 1:
        entry = r.told + 1
        told = r._replace(told=entry)
        if s.store[entry].kind == "foreign":
            numbers = _numbers(setup, s, told, entry)
            yield f"the stream tells {name} of a change without a number", with_replica(s, i, numbers)
        else:
            news = take(setup, s, told, entry, NEVER, news=True)
            yield f"the stream tells {name} of content {entry}", with_replica(s, i, news)
    elif age(r.told_until) and (not r.numbering or "pending numbers" in setup.without):
        yield f"the stream has told {name} all until now", with_replica(s, i, r._replace(told_until=moment(setup, s)))
    if r.numbering:
        yield from _number(setup, s, i, name)


def _numbers(setup: Setup, s: State, r: Replica, entry: int) -> Replica:
    """Begin to number a foreign change; one that comes meanwhile is numbered after."""
    if r.numbering is None:
        return r._replace(numbering=Numbering(revision(s, entry)))
    if "a foreign change during numbering" in setup.without:
        return r
    return r._replace(numbering=r.numbering._replace(again=revision(s, entry)))


def _number(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    assert r.numbering is not None
    done = r._replace(numbering=Numbering(r.numbering.again) if r.numbering.again else None)
    held = content(s, r)
    if r.numbering.entry:
        yield f"{name} is done with numbering", with_replica(s, i, done)
    elif revision(s, held) > r.numbering.revision:
        yield f"{name} sees that the change has a number", with_replica(s, i, done)
    elif revision(s, newest(s)) > r.numbering.revision:
        got = take(setup, s, done, newest(s), moment(setup, s))
        yield f"{name} finds the change numbered in the store", with_replica(s, i, got)
    else:
        number = counter(s) + 1
        s = s._replace(store=(*s.store, Commit(number, 0, "number")))
        entry = len(s.store) - 1
        r = take(setup, s, r, entry, moment(setup, s), news=True)
        r = r._replace(numbering=r.numbering._replace(entry=entry)) if r.numbering else r
        yield f"{name} gives the change revision {number}", announced(setup, with_replica(s, i, r), i, entry)
