"""How replicas of the model learn of changes: announcements, polls, the change stream, heartbeats of peers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.near_cache import content, take
from tests.model.state import (
    NEVER,
    Commit,
    Heartbeat,
    Poll,
    Replica,
    Setup,
    State,
    Unversioned,
    counter,
    moment,
    newest,
    revision,
    with_replica,
)
from tests.model.strangers import STRANGER

Step = tuple[str, State]


def announced(setup: Setup, s: State, sender: int, entry: int) -> State:
    """Publish an entry: the other replica receives it in order, at some time. The sender ignores its own."""
    if not setup.channel or 1 - sender not in setup.followed:
        return s
    other = s.replicas[1 - sender]
    if not other.up or (not setup.without and _is_old(s, other, entry)):
        return s
    return with_replica(s, 1 - sender, other._replace(inbox=(*other.inbox, entry)))


def _is_old(s: State, r: Replica, entry: int) -> bool:
    """Whether an announcement can change nothing any more; it is dropped to keep the search small."""
    commit = s.store[entry]
    return commit.revision <= r.watermark or (commit.revision in r.ahead and r.held[commit.flag] >= entry)


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that following can do next."""
    for i in setup.followed:
        r = s.replicas[i]
        if not r.up:
            continue
        name = f"replica {i}"
        if r.inbox:
            yield f"{name} receives {_named(r.inbox[0])}", with_replica(s, i, _hear(setup, s, r))
        if i in setup.heartbeats:
            yield from _send_heartbeat(setup, s, i, name)
        if i in setup.polls and not r.cut_off:
            yield from _poll(setup, s, i, name)
        if i in setup.stream and not r.cut_off:
            yield from _stream(setup, s, i, name)
        if s.left.forgets and r.loaded and r.held[0] and not r.poll and not s.flight and _is_tombstone(s, r):
            left = s.left._replace(forgets=s.left.forgets - 1)
            forgetful = with_replica(s, i, r._replace(held=(0, *r.held[1:]), held_as_of=NEVER))
            yield f"{name} forgets the tombstone", forgetful._replace(left=left)


def _is_tombstone(s: State, r: Replica) -> bool:
    """Whether a complete view shows by itself that there is no such flag."""
    commit = s.store[r.held[0]]
    return commit.kind == "delete" and commit.revision <= r.watermark


def _named(message: int | Heartbeat) -> str:
    if isinstance(message, Heartbeat):
        return f"a heartbeat with watermark {message.watermark}"
    return "another store's announcement" if message == STRANGER else f"the announcement of content {message}"


def _hear(setup: Setup, s: State, r: Replica) -> Replica:
    message, r = r.inbox[0], r._replace(inbox=r.inbox[1:])
    if message == STRANGER and "messages name their store" not in setup.without:
        return r
    if "proof by polls" in setup.without:
        r = r._replace(heard_at=0)
    if not isinstance(message, Heartbeat):
        r = take(setup, s, r, message, NEVER, news=True)
        if r.inbox and not setup.without:
            r = r._replace(
                inbox=tuple(m for m in r.inbox if isinstance(m, Heartbeat) or m == STRANGER or not _is_old(s, r, m))
            )
        return r
    return _proven_by_peer(setup, r, message) if r.loaded else r


def _proven_by_peer(setup: Setup, r: Replica, heartbeat: Heartbeat) -> Replica:
    """The receiver's view was the store's as of its own moment, and it has applied all revisions up to `watermark`.

    What it may lack are foreign changes since then. The sender's stream has reported all of those, and each has got a
    revision up to `watermark`: so the receiver has them too. It needs no stream and no store of its own for that.
    """
    if r.watermark < heartbeat.watermark and "a peer's revisions are all here" not in setup.without:
        return r
    if heartbeat.stream_since > r.as_of and "a peer's stream goes back to the view" not in setup.without:
        return r
    if "a peer's proof needs no stream here" in setup.without:
        return r if r.unversioned else r._replace(as_of=max(r.as_of, min(heartbeat.as_of, r.checkpoint)))
    return r._replace(as_of=max(r.as_of, heartbeat.as_of))


def _verified(setup: Setup, r: Replica, as_of: int) -> Replica:
    """The view is the store's as of then; of foreign changes only up to the stream's checkpoint."""
    if setup.stream and "polls reach as far as the checkpoint" not in setup.without:
        if r.unversioned and "pending changes hold back the checkpoint" not in setup.without:
            return r
        as_of = min(as_of, r.checkpoint)
    return r._replace(as_of=max(r.as_of, as_of))


def _send_heartbeat(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r, other = s.replicas[i], s.replicas[1 - i]
    heartbeat = _heartbeat(setup, r)
    useful = (heartbeat and _can_prove(setup, other, heartbeat)) or "proof by polls" in setup.without
    if r.loaded and other.up and useful and not any(isinstance(m, Heartbeat) for m in other.inbox):
        yield f"{name} sends a heartbeat", with_replica(s, 1 - i, other._replace(inbox=(*other.inbox, heartbeat)))


def _can_prove(setup: Setup, r: Replica, heartbeat: Heartbeat) -> bool:
    """Whether a heartbeat makes a view younger, once all its revisions are there. No other one is sent."""
    return _proven_by_peer(setup, r._replace(watermark=heartbeat.watermark), heartbeat).as_of > r.as_of


def _heartbeat(setup: Setup, r: Replica) -> Heartbeat | None:
    """Return one that proves something: up to its moment each foreign change has a revision within the watermark."""
    if r.unversioned and "a heartbeat waits for pending changes" not in setup.without:
        return None
    if r.ahead and "a heartbeat waits for gaps" not in setup.without:
        return None
    as_of = r.as_of
    if setup.stream and "a heartbeat reaches as far as the checkpoint" not in setup.without:
        as_of = min(as_of, r.checkpoint)
    return Heartbeat(r.watermark, as_of, r.stream_since)


def _poll(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.poll is None:
        due = not r.loaded or r.as_of < moment(setup, s) or counter(s) > r.watermark
        if due and not setup.slow_polls:
            yield f"{name} polls and loads everything", with_replica(s, i, _merged(setup, s, i, _everything(setup, s)))
        elif due:
            if r.loaded and not r.reload:
                poll = Poll(moment(setup, s), counter(s))
                yield f"{name} polls the counter: {poll.counter}", with_replica(s, i, r._replace(poll=poll))
            if not r.loaded or i in setup.stream:
                yield from _reads(setup, s, i, name)
    elif r.poll.contents:
        yield f"{name} applies the load", with_replica(s, i, _merged(setup, s, i, r.poll))
    elif r.poll.counter <= r.watermark:
        as_of = moment(setup, s) if "a poll counts from when it was asked" in setup.without else r.poll.asked
        verified = _verified(setup, r._replace(poll=None), as_of)
        yield f"{name} has every revision up to the counter: verified", with_replica(s, i, verified)
    else:
        yield from _reads(setup, s, i, name)


def _everything(setup: Setup, s: State) -> Poll:
    flags = len(s.replicas[0].held)
    return Poll(moment(setup, s), counter(s), tuple(newest(s, flag) for flag in range(flags)))


def _reads(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r, poll = s.replicas[i], _everything(setup, s)
    yield f"{name} loads everything: {poll.contents}", with_replica(s, i, r._replace(poll=poll))
    if s.left.old_reads and poll.contents[0] > 1:
        before = s._replace(store=s.store[:-1])
        old = _everything(setup, before)._replace(asked=moment(setup, s))
        left = s.left._replace(old_reads=s.left.old_reads - 1)
        state = with_replica(s, i, r._replace(poll=old))._replace(left=left)
        yield f"{name} loads everything from a replaced primary: {old.contents}", state


def _merged(setup: Setup, s: State, i: int, poll: Poll) -> Replica:
    """Apply a load; a flag that changed within its revision needs a new one.

    A replica that did not hold everything cannot know what the load changes, and so gives up its lease.
    """
    r = s.replicas[i]._replace(poll=None)
    if not r.loaded and "a gap in the view ends the lease" not in setup.without:
        r = r._replace(record=None, renewal=None)
    for entry in poll.contents:
        commit = s.store[entry]
        before = r.held[commit.flag]
        if commit.kind == "delete" and not before:
            continue
        r = take(setup, s, r, entry, poll.asked)
        same = r.loaded and revision(s, before) == commit.revision <= r.watermark  # else it may be an own write
        if i in setup.stream and same and r.held[commit.flag] == entry != before:
            r = _to_assign(setup, s, r, entry)
    number = counter(s) if "a load reads counters first" in setup.without else poll.counter
    watermark = max(r.watermark, number)
    while watermark + 1 in r.ahead:
        watermark += 1
    ahead = tuple(n for n in r.ahead if n > watermark)
    as_of, reload = max(r.as_of, poll.asked), r.reload and poll.asked < r.stream_since
    return r._replace(loaded=True, watermark=watermark, ahead=ahead, as_of=as_of, reload=reload)


def _stream(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    r = s.replicas[i]
    if r.streamed < len(s.store) - 1:
        entry = r.streamed + 1
        reported = r._replace(streamed=entry)
        if s.store[entry].kind == "foreign" and revision(s, newest(s)) > revision(s, entry):
            if "what overtook a change is applied at once" not in setup.without:
                reported = take(setup, s, reported, newest(s), NEVER, news=True)
            change = f"a change that content {newest(s)} overtook"
            yield f"the stream of {name} reports {change}", with_replica(s, i, reported)
        elif s.store[entry].kind == "foreign":
            pending = _to_assign(setup, s, reported, entry)
            yield f"the stream of {name} reports an unversioned change", with_replica(s, i, pending)
        else:
            news = take(setup, s, reported, entry, NEVER, news=True)
            yield f"the stream of {name} reports content {entry}", with_replica(s, i, news)
    if not r.unversioned or "pending changes hold back the checkpoint" in setup.without:
        if setup.exact and not setup.timed:  # a checkpoint may come late
            if r.checkpoint < r.streamed:
                label = f"the checkpoint of {name} reaches content {r.streamed}"
                yield label, with_replica(s, i, r._replace(checkpoint=r.streamed))
        elif r.streamed == len(s.store) - 1 and r.checkpoint < moment(setup, s):
            label = f"the checkpoint of {name} reaches now"
            yield label, with_replica(s, i, r._replace(checkpoint=moment(setup, s)))
    if r.unversioned:
        yield from _assign(setup, s, i, name)


def _to_assign(setup: Setup, s: State, r: Replica, entry: int) -> Replica:
    """Begin to give a foreign change a revision; one that comes meanwhile is next."""
    if r.held[s.store[entry].flag] == entry and "what a load finds gets a revision" in setup.without:
        return r
    if r.unversioned is None:
        return r._replace(unversioned=Unversioned(revision(s, entry)))
    if "a foreign change while one is pending" in setup.without:
        return r
    return r._replace(unversioned=r.unversioned._replace(again=revision(s, entry)))


def _assign(setup: Setup, s: State, i: int, name: str) -> Iterator[Step]:
    """Assign a revision, or find that the change has one; it is pending until the watermark covers that revision."""
    r = s.replicas[i]
    assert r.unversioned is not None
    held, pending = content(s, r), r.unversioned
    if pending.entry:
        if r.watermark >= revision(s, pending.entry) or "pending until the watermark covers it" in setup.without:
            done = r._replace(unversioned=Unversioned(pending.again) if pending.again else None)
            yield f"{name} is done with the unversioned change", with_replica(s, i, done)
    elif revision(s, held) > pending.revision:
        has = r._replace(unversioned=pending._replace(entry=held))
        yield f"{name} sees that the change has a revision", with_replica(s, i, has)
    elif revision(s, newest(s)) > pending.revision:
        got = take(setup, s, r, newest(s), moment(setup, s))
        has = got._replace(unversioned=pending._replace(entry=newest(s)))
        yield f"{name} finds in the store that the change has a revision", with_replica(s, i, has)
    else:
        new = counter(s) + 1
        s = s._replace(store=(*s.store, Commit(new, 0, "assigned")))
        entry = len(s.store) - 1
        r = take(setup, s, r, entry, moment(setup, s), news=True)
        r = r._replace(unversioned=r.unversioned._replace(entry=entry)) if r.unversioned else r
        yield f"{name} assigns revision {new} to the change", announced(setup, with_replica(s, i, r), i, entry)
