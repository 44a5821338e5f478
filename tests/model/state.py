"""The state of the model. Everything is a tuple, so that a state can be hashed and compared.

A content is the number of the commit that made it: 0 is none, 1 is what was there before. A moment is how many ticks
ago it was (negative) and, in exact worlds, how many contents the store had then, in one number. Time has no end: with
each tick every remembered moment becomes one tick older, down to an age that counts as old in any case. No number may
be -1: Python gives it the hash of -2, and states are known by their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

STEPS = 16
NEVER = -10 * STEPS
PLANNED = "planned"
"""The kind of a write that a schedule makes."""
AS_PLANNED = 1
"""The content that was there when it was planned."""


class Commit(NamedTuple):
    """One content of one flag. `kind`: write, planned, delete, foreign (keeps the revision) or assigned (only that)."""

    revision: int
    tick: int
    kind: str = "write"
    flag: int = 0


class Heartbeat(NamedTuple):
    """A replica's proof for others: who has applied every change up to `watermark` has the store's state as of `as_of`.

    `stream_since`: the sender's change stream has missed nothing since then.
    """

    watermark: int
    as_of: int
    stream_since: int


class Poll(NamedTuple):
    """What a follower has read from the store and not yet applied: the counter, or (`contents` not empty) all flags."""

    asked: int
    counter: int
    contents: tuple[int, ...] = ()


class Renewal(NamedTuple):
    """A holder's call to Redis under way. `step`: acquire, fill, renew, put, or both (put and renew as one)."""

    step: str
    as_of: int
    entry: int


class Unversioned(NamedTuple):
    """A foreign change that needs a revision. `entry` once it has one; `again`: another one came meanwhile."""

    revision: int
    entry: int = 0
    again: int = 0


class LeaseRecord(NamedTuple):
    """The lease record in Redis: entries put as of `verified_from` or later are the store's as of `verified_until`."""

    holder: int
    nonce: int
    verified_from: int
    verified_until: int


class Replica(NamedTuple):
    """One replica's memory: near cache, channel, follower, cache lease, change stream, and what it has answered.

    `to_put`: what it must put into Redis again; `reload`: its stream missed something, so it must read all flags.
    """

    up: bool = True
    held: tuple[int, ...] = (0,)
    held_as_of: int = NEVER
    loaded: bool = False
    watermark: int = 0
    ahead: tuple[int, ...] = ()
    as_of: int = NEVER
    shown: int = 0
    owed: int = 0
    inbox: tuple[Any, ...] = ()
    heard_at: int = NEVER
    poll: Poll | None = None
    record: LeaseRecord | None = None
    to_put: int = 0
    renewal: Renewal | None = None
    streamed: int = 0
    checkpoint: int = NEVER
    stream_since: int = NEVER
    reload: bool = False
    cut_off: bool = False
    unversioned: Unversioned | None = None


class Writer(NamedTuple):
    """One write under way."""

    replica: int
    kind: str = "write"
    flag: int = 0
    step: str = "begin"
    as_of: int = NEVER
    entry: int = 0


class Flight(NamedTuple):
    """A lookup that callers share: ask Redis, read the store, apply to the near cache, fill Redis, return."""

    step: str
    entry: int = 0
    as_of: int = NEVER
    result: int = 0
    stale: bool = False


class Reader(NamedTuple):
    """One caller. What it must not miss is fixed when it begins: `due` by age, `owed` by writes, `shown` by answers."""

    step: str = "idle"
    due: int = 0
    owed: int = 0
    shown: int = 0
    high_water: int = 0
    token: int = 0
    entry: int = 0
    as_of: int = NEVER
    stale: bool = False


class Shared(NamedTuple):
    """Redis. `owner`: see `tests.model.strangers`."""

    entry: int = 0
    as_of: int = NEVER
    record: LeaseRecord | None = None
    owner: int = 0


class Left(NamedTuple):
    """How often each fault may still happen."""

    crashes: int = 0
    lost: int = 0
    losses: int = 0
    saves: int = 0
    evictions: int = 0
    foreign: int = 0
    forgets: int = 0
    old_reads: int = 0
    others: int = 0
    breaks: int = 0
    cuts: int = 0
    strangers: int = 0


NO_FAULTS = Left()


class State(NamedTuple):
    """The world. `broken` says which promise the step to here broke."""

    store: tuple[Commit, ...]
    replicas: tuple[Replica, ...]
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    left: Left
    flight: Flight | None = None
    shared: Shared = Shared()
    saved: Shared = Shared()
    reads_at: int = 0
    answered: int = 0
    broken: str = ""


def _replaces_quickly(kind: Any) -> None:
    """Let a tuple's `_replace`, which takes a third of a search, copy without asking for each of many fields."""
    places = {name: place for place, name in enumerate(kind._fields)}

    def replace(self: Any, **changed: Any) -> Any:
        values = list(self)
        for name, value in changed.items():
            values[places[name]] = value
        return tuple.__new__(kind, values)

    kind._replace = replace


for _kind in (Commit, Heartbeat, LeaseRecord, Left, Poll, Reader, Renewal, Replica, Shared, State, Unversioned, Writer):
    _replaces_quickly(_kind)

PROTECTIONS = frozenset(
    {
        "acquiring forgets nothing",
        "each lease has its own nonce",
        "a foreign change while one is pending",
        "a gap in the view ends the lease",
        "a load reads counters first",
        "a poll counts from when it was asked",
        "a heartbeat counts from when it was sent",
        "a heartbeat reaches as far as the checkpoint",
        "a heartbeat waits for pending changes",
        "a heartbeat waits for gaps",
        "a peer's revisions are all here",
        "a peer's stream goes back to the view",
        "a peer's proof needs no stream here",
        "a renewal counts from its view",
        "a transaction conflicts",
        "announcements follow commits",
        "announcements prove nothing",
        "answers are what is held",
        "cache takes only newer",
        "changes are put again",
        "entries name their store",
        "equal revisions",
        "high-water marks",
        "gaps",
        "late puts",
        "later changes are conflicts",
        "proof by polls",
        "lease records",
        "lease records are compared",
        "lease records name their store",
        "messages name their store",
        "one store owns the keys",
        "near takes only newer",
        "announcements from before the view",
        "pending changes hold back the checkpoint",
        "pending until the watermark covers it",
        "put and renewal are one",
        "polls reach as far as the checkpoint",
        "toggles put",
        "uncertified entries keep nothing out",
        "until a renewal covers them",
        "what a load finds gets a revision",
        "what overtook a change is applied at once",
    }
)
"""What can be taken out, one at a time, to see what it is for."""


@dataclass(frozen=True, eq=False)
class Setup:
    """What is searched: the parts that take part, the bounds, and which protections are taken out."""

    name: str
    writers: tuple[tuple[Writer, ...], ...]
    left: Left = NO_FAULTS
    bound: int = 2
    lease_ticks: int = 1
    readers: int = 0
    reads_at: tuple[int, ...] = (1,)
    followed: tuple[int, ...] = (1,)
    polls: tuple[int, ...] = (0, 1)
    holders: tuple[int, ...] = ()
    lookups: bool = False
    holds: bool = True
    channel: bool = True
    heartbeats: tuple[int, ...] = ()
    cache: bool = False
    stream: tuple[int, ...] = ()
    tokens: bool = False
    slow_polls: bool = True
    slow_writers: bool = False
    exact: bool = False
    timed: bool = True
    without: frozenset[str] = frozenset()
    about: str = ""

    def __post_init__(self) -> None:
        if unknown := self.without - PROTECTIONS:
            raise ValueError(f"no such protection: {unknown}")


def moment(setup: Setup, s: State) -> int:
    """Return this moment."""
    return len(s.store) - 1 if setup.exact else 0


def age(as_of: int) -> int:
    """Return how many ticks ago a moment was."""
    return -(as_of // STEPS)


def counter(s: State) -> int:
    """Return the newest revision."""
    return s.store[-1].revision


def newest(s: State, flag: int = 0) -> int:
    """Return the content that the store has of a flag."""
    content = len(s.store) - 1
    while s.store[content].flag != flag:
        content -= 1
    return content


def revision(s: State, content: int) -> int:
    """Return a content's revision; one that was announced but never stored is its own revision."""
    return s.store[content].revision if content < len(s.store) else content


def lost(s: State) -> State:
    """Return the state after a message or a call was lost."""
    return s._replace(left=s.left._replace(lost=s.left.lost - 1))


def with_replica(s: State, i: int, replica: Replica) -> State:
    """Return the state with one replica replaced."""
    first, second = s.replicas
    return s._replace(replicas=(replica, second) if i == 0 else (first, replica))
