"""What the model's world consists of. Everything is a tuple, so that a state can be hashed and compared.

A content is the number of the commit that made it: 0 is none, 1 is what was there before. A moment is how many ticks
ago it was (negative) and, where that matters, how many contents the store had then, in one number. Time has no end:
with a tick everything that is remembered of a moment becomes a tick older, down to an age that is old in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

STEPS = 16
NEVER = -10 * STEPS


class Commit(NamedTuple):
    """One content of one flag. `kind`: write, delete, foreign (keeps the revision) or number (only gives one)."""

    revision: int
    tick: int
    kind: str = "write"
    flag: int = 0


class Beat(NamedTuple):
    """A heartbeat that can prove a view: whoever has every change up to this revision has the store's as of then.

    `since`: from then on the sender has seen every change of other programs.
    """

    known: int
    as_of: int
    since: int


class Look(NamedTuple):
    """What a follower has asked the store and not yet taken: its counter, or (contents not empty) everything."""

    asked: int
    counter: int
    contents: tuple[int, ...] = ()


class Keeping(NamedTuple):
    """A keeper's word under way. `step`: vouch, put, or both as one."""

    step: str
    as_of: int
    entry: int


class Numbering(NamedTuple):
    """A replica gives a foreign change a revision. `entry` once it has one; `again`: one that came meanwhile."""

    revision: int
    entry: int = 0
    again: int = 0


class Mark(NamedTuple):
    """What vouches for the shared cache: all that was put as of `since` or later is the store's as of `upto`."""

    holder: int
    nonce: int
    since: int
    upto: int


class Replica(NamedTuple):
    """One replica's memory: near cache, inbox of the channel, follower, keeper, stream, and what it has promised."""

    up: bool = True
    held: tuple[int, ...] = (0,)
    held_as_of: int = NEVER
    loaded: bool = False
    known: int = 0
    ahead: tuple[int, ...] = ()
    as_of: int = NEVER
    shown: int = 0
    owed: int = 0
    inbox: tuple[Any, ...] = ()
    heard: int = NEVER
    look: Look | None = None
    mark: Mark | None = None
    unput: int = 0
    keeping: Keeping | None = None
    told: int = 0
    told_until: int = NEVER
    since: int = NEVER
    reload: bool = False
    cut_off: bool = False
    numbering: Numbering | None = None


class Writer(NamedTuple):
    """One write under way."""

    replica: int
    kind: str = "write"
    flag: int = 0
    step: str = "begin"
    as_of: int = NEVER
    entry: int = 0


class Flight(NamedTuple):
    """A lookup that callers share: ask the shared cache, read the store, land in the near cache, fill, give."""

    step: str
    entry: int = 0
    as_of: int = NEVER
    result: int = 0
    stale: bool = False


class Reader(NamedTuple):
    """One caller. What it must not miss was fixed when it began: `due` by age, `owed` by writes, `shown` by answers."""

    step: str = "idle"
    due: int = 0
    owed: int = 0
    shown: int = 0
    floor: int = 0
    token: int = 0
    entry: int = 0
    as_of: int = NEVER
    stale: bool = False


class Shared(NamedTuple):
    """Redis."""

    entry: int = 0
    as_of: int = NEVER
    mark: Mark | None = None


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


PROTECTIONS = frozenset(
    {
        "a beginning forgets nothing",
        "a beginning has its own nonce",
        "a foreign change during numbering",
        "a gap in the view ends a word",
        "a load reads counters first",
        "a look counts from when it was asked",
        "a heartbeat counts from when it was sent",
        "a heartbeat reaches as far as its stream",
        "a heartbeat waits for pending changes",
        "a heartbeat waits for gaps",
        "a peer's revisions are all here",
        "a peer's stream goes back to the view",
        "a proof needs no stream of its own",
        "a word counts from its view",
        "announcements follow commits",
        "announcements prove nothing",
        "answers are what is held",
        "cache takes only newer",
        "changes are put again",
        "equal revisions",
        "floors",
        "gaps",
        "late puts",
        "looks",
        "marks",
        "marks are compared",
        "near takes only newer",
        "news from before the view",
        "pending numbers",
        "pending until the watermark has it",
        "put and vouch are one",
        "the stream's word",
        "toggles put",
        "unproven entries keep nothing out",
        "until a word covers them",
        "what a load finds is numbered",
        "what overtook a change is told at once",
    }
)
"""What can be taken out, one by one, to see what it is for."""


@dataclass(frozen=True, eq=False)
class Setup:
    """What is searched: the parts that take part, the bounds, and which protections are taken out."""

    name: str
    writers: tuple[tuple[Writer, ...], ...]
    left: Left = NO_FAULTS
    bound: int = 2
    lasts: int = 1
    readers: int = 0
    reads_at: tuple[int, ...] = (1,)
    followed: tuple[int, ...] = (1,)
    looks: tuple[int, ...] = (0, 1)
    keepers: tuple[int, ...] = ()
    lookups: bool = False
    holds: bool = True
    channel: bool = True
    beats: tuple[int, ...] = ()
    cache: bool = False
    stream: tuple[int, ...] = ()
    tokens: bool = False
    slow_looks: bool = True
    slow_writers: bool = False
    exact: bool = False
    timed: bool = True
    without: frozenset[str] = frozenset()
    about: str = ""

    def __post_init__(self) -> None:
        if unknown := self.without - PROTECTIONS:
            raise ValueError(f"no such protection: {unknown}")


def moment(setup: Setup, s: State) -> int:
    """Give this moment."""
    return len(s.store) - 1 if setup.exact else 0


def age(as_of: int) -> int:
    """Give how many ticks ago a moment was."""
    return -(as_of // STEPS)


def counter(s: State) -> int:
    """Give the newest revision."""
    return s.store[-1].revision


def newest(s: State, flag: int = 0) -> int:
    """Give the content that the store has of a flag."""
    content = len(s.store) - 1
    while s.store[content].flag != flag:
        content -= 1
    return content


def revision(s: State, content: int) -> int:
    """Give a content's revision; one that was announced and never stored has the number it was told with."""
    return s.store[content].revision if content < len(s.store) else content


def lost(s: State) -> State:
    """Give the state after a message, or an attempt to reach somebody, was lost."""
    return s._replace(left=s.left._replace(lost=s.left.lost - 1))


def with_replica(s: State, i: int, replica: Replica) -> State:
    """Give the state with one replica replaced."""
    first, second = s.replicas
    return s._replace(replicas=(replica, second) if i == 0 else (first, replica))
