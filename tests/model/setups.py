"""Which worlds are searched. Each has the parts that bear on one another, and the faults that can meet them.

A replica's view depends on others only through heartbeats, and Redis on no near cache but the lease holder's. So `view`
to `foreign twice` watch one replica, `peers` two, `holders` to `dumps` Redis, `reads` to `nothing held` the callers.
"""

from __future__ import annotations

from dataclasses import replace

from tests.model.state import PLANNED, Left, Setup, Writer

HERE, THERE = 1, 0
"""The replica that is watched, and the other."""
ONE = ((Writer(THERE),), (Writer(HERE),))
TWO = ((Writer(THERE), Writer(HERE)),)
EVERYWHERE = (*TWO, (Writer(THERE), Writer(THERE)), (Writer(HERE), Writer(HERE)))

VIEW = Setup(
    "view",
    writers=EVERYWHERE,
    left=Left(crashes=1, lost=1),
    about="two writes, polls and loads in steps; a kill, a lost message",
)
FLAGS = Setup(
    "two flags",
    writers=((Writer(THERE), Writer(THERE, flag=1)),),
    left=Left(lost=1),
    about="two flags of one set, so that a gap shows; a lost message",
)
DELETES = Setup(
    "delete and create",
    writers=((Writer(THERE), Writer(THERE, "delete"), Writer(THERE, "create")),),
    bound=1,
    left=Left(forgets=1),
    about="a write, a deletion, a creation; a tombstone forgotten",
)
FOREIGN = Setup(
    "foreign",
    writers=((Writer(THERE),),),
    stream=(HERE,),
    bound=1,
    left=Left(foreign=1),
    about="a write and a foreign change, which the stream reports and which gets a revision",
)
FOREIGN_TWICE = replace(
    FOREIGN, name="foreign twice", writers=((),), left=Left(foreign=2), about="two foreign changes of one flag"
)
PEERS = replace(
    FOREIGN,
    name="peers",
    writers=((),),
    stream=(THERE,),
    heartbeats=(THERE,),
    followed=(0, 1),
    polls=(THERE,),
    exact=True,
    timed=False,
    left=Left(foreign=1, others=1, lost=1),
    about="one replica has only heartbeats and announcements; a foreign change, a third replica, a lost message",
)
PEERS_RESTARTED = replace(
    PEERS,
    name="peer restarted",
    left=Left(foreign=1, crashes=1, breaks=1),
    about="the same; the peer is killed, or its stream misses a change",
)
PEERS_IN_TIME = replace(
    PEERS,
    name="peers in time",
    timed=True,
    left=Left(foreign=1),
    about="the same with ticks: the view stays young",
)
SCHEDULES = Setup(
    "schedules",
    writers=((Writer(THERE, PLANNED), Writer(HERE, PLANNED), Writer(THERE)),),
    bound=1,
    slow_polls=False,
    polls=(HERE,),
    left=Left(crashes=1),
    about="two replicas execute one planned change, somebody writes meanwhile; a kill",
)
READS = Setup(
    "reads",
    writers=TWO,
    readers=1,
    slow_polls=False,
    tokens=True,
    bound=1,
    about="two writes, a caller with or without a token",
)
TRUST = replace(
    READS,
    name="trust",
    writers=ONE,
    tokens=False,
    cache=True,
    polls=(),
    left=Left(lost=1, evictions=1),
    about="a write, lookups in Redis without a lease holder; an eviction, a lost message",
)

_UNTIMED = Setup("", writers=ONE, cache=True, slow_polls=False, channel=False, exact=True, timed=False)
HOLDERS = replace(
    _UNTIMED,
    name="holders",
    writers=ONE[:1],
    followed=(0, 1),
    holders=(0, 1),
    left=Left(lost=1),
    about="a write, two replicas that want the lease, which may expire at any time; a lost message",
)
HOLDER_KILLED = replace(HOLDERS, name="holder killed", left=Left(crashes=1), about="the same; a kill instead")
ENTRIES = replace(
    _UNTIMED,
    name="entries",
    followed=(THERE,),
    holders=(THERE,),
    lookups=True,
    left=Left(evictions=1, lost=1),
    about="a write, lookups that fill late; an eviction, a lost message",
)
DUMPS = replace(
    ENTRIES,
    name="dumps",
    lookups=False,
    left=Left(losses=1, saves=1),
    about="a write; Redis saves a dump once and is restored from it, or emptied",
)
NOTHING_HELD = replace(
    _UNTIMED,
    name="nothing held",
    writers=ONE[1:],
    readers=2,
    holds=False,
    polls=(),
    left=Left(lost=1),
    about="a near cache that may hold nothing, two callers of one lookup; a lost message",
)

TWO_STORES = replace(
    TRUST,
    name="two stores",
    left=Left(strangers=1, evictions=2),
    about="a write, lookups in Redis, where another store puts, announces and certifies; the owner forgotten",
)
HOLDERS_APART = replace(
    HOLDERS,
    name="two stores and a lease",
    holders=(THERE,),
    followed=(THERE,),
    left=Left(strangers=2, evictions=2),
    about="a write, a lease holder, another store on the same Redis; the owner or the entry forgotten",
)

VIEW_ALIVE = replace(VIEW, name="view, no kill", left=Left(lost=1), about="the same without the kill")
DELETES_ONCE = replace(
    DELETES,
    name="delete and create, no write",
    writers=((Writer(THERE, "delete"), Writer(THERE, "create")),),
    about="a deletion, a creation; a tombstone forgotten",
)
TWO_STORES_ONCE = replace(
    TWO_STORES, name="two stores, one eviction", left=Left(strangers=1, evictions=1), about="the same, once each"
)
ONLY_HOLDER_KILLED = replace(
    HOLDER_KILLED, name="only holder killed", holders=(THERE,), about="the same; only one wants the lease"
)

LONGER = (VIEW, DELETES, HOLDER_KILLED, TWO_STORES)
"""Many seconds each: they run with `make test-long`, and a smaller one of each with `make test`."""

QUICK = (
    VIEW,
    VIEW_ALIVE,
    FLAGS,
    DELETES,
    DELETES_ONCE,
    FOREIGN,
    FOREIGN_TWICE,
    PEERS,
    PEERS_RESTARTED,
    PEERS_IN_TIME,
    SCHEDULES,
    HOLDERS,
    HOLDER_KILLED,
    ONLY_HOLDER_KILLED,
    ENTRIES,
    DUMPS,
    READS,
    TRUST,
    NOTHING_HELD,
    TWO_STORES,
    TWO_STORES_ONCE,
    HOLDERS_APART,
)
"""Seconds each."""

LARGE = (
    replace(VIEW, name="view and readers", readers=1, slow_writers=True, left=Left(lost=1)),
    replace(DELETES, name="delete and create, lost", bound=2, left=Left(forgets=1, lost=1)),
    replace(FOREIGN, name="foreign, slower", bound=2, writers=ONE),
    replace(FOREIGN_TWICE, name="foreign twice and a write", writers=((Writer(THERE),),)),
    replace(PEERS, name="peers, all faults", left=Left(foreign=1, others=1, lost=1, crashes=1, breaks=1)),
    replace(PEERS, name="peers, foreign twice", left=Left(foreign=2, others=1)),
    replace(PEERS_IN_TIME, name="peers in time, killed", left=Left(foreign=1, crashes=1)),
    replace(PEERS, name="both hear, one polls", stream=(0, 1), left=Left(foreign=1, lost=1)),
    replace(PEERS, name="cut off at any time", polls=(0, 1), stream=(0, 1), left=Left(foreign=1, cuts=1)),
    replace(PEERS, name="two peers", heartbeats=(0, 1), polls=(0, 1), stream=(0, 1), left=Left(foreign=1)),
    replace(READS, name="reads, lost", bound=2, left=Left(lost=1)),
    replace(READS, name="reads, killed", left=Left(crashes=1)),
    replace(HOLDERS, name="holders and all", left=Left(crashes=1, lost=1, evictions=1)),
    replace(HOLDERS, name="holders, two writes", writers=TWO),
    replace(HOLDERS, name="holders, dumps", left=Left(losses=1, saves=1)),
    replace(ENTRIES, name="entries, two writes", writers=TWO),
    replace(ENTRIES, name="entries, dumps", left=Left(losses=1, saves=1, evictions=1)),
    replace(DUMPS, name="dumps, two writes", writers=TWO),
    replace(TWO_STORES, name="two stores, more", left=Left(strangers=3, evictions=2, lost=1)),
    replace(HOLDERS_APART, name="two stores and holders", holders=(0, 1), followed=(0, 1)),
    replace(ENTRIES, name="two stores and entries", left=Left(strangers=3, evictions=2)),
    replace(NOTHING_HELD, name="nothing held, tokens", writers=ONE, tokens=True),
)
"""Minutes each."""

EVERYTHING = Setup(
    "everything",
    writers=TWO,
    readers=1,
    reads_at=(0, 1),
    followed=(0, 1),
    holders=(0, 1),
    heartbeats=(0, 1),
    cache=True,
    tokens=True,
    exact=True,
    slow_writers=True,
    left=Left(crashes=1, lost=1, losses=1, saves=1, evictions=1),
)
"""All parts and all faults at once: far more than can be searched, so random ways are gone through it."""
