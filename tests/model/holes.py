"""Holes: protections taken out. The search must find what each is for, or show that it is not needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.setups import (
    DELETES,
    DUMPS,
    ENTRIES,
    FLAGS,
    FOREIGN,
    FOREIGN_TWICE,
    HERE,
    HOLDERS,
    HOLDERS_APART,
    NOTHING_HELD,
    PEERS,
    PEERS_IN_TIME,
    PEERS_RESTARTED,
    READS,
    SCHEDULES,
    THERE,
    TRUST,
    TWO,
    TWO_STORES,
    VIEW,
)
from tests.model.state import PLANNED, Left, Setup, Writer


@dataclass(frozen=True)
class Hole:
    """What is taken out of which world. `breaks`: what must be found; empty where nothing breaks."""

    name: str
    setup: Setup
    without: tuple[str, ...]
    breaks: str

    @property
    def world(self) -> Setup:
        """The world with the hole in it."""
        return replace(self.setup, name=self.name, without=frozenset(self.without))


_CALM = replace(VIEW, left=Left())
_REMOTE = replace(VIEW, writers=((Writer(THERE), Writer(THERE)),), left=Left(lost=1))
_EVICTED = replace(ENTRIES, left=Left(evictions=1))
_TWO_WRITES = replace(_EVICTED, writers=TWO)
_HEARTBEATS = replace(_CALM, writers=((Writer(THERE),),), heartbeats=(THERE,), followed=(0, 1), slow_polls=False)
_APART = replace(TWO_STORES, left=Left(strangers=1))
_GAP = replace(PEERS, left=Left(foreign=1, others=2, lost=2))

_RACE = replace(SCHEDULES, writers=((Writer(THERE, PLANNED), Writer(HERE, PLANNED)),))

KNOWN = (
    Hole("delete on toggle, trust for a while", TRUST, ("toggles put", "lease records"), "P3"),
    Hole("unconditional SET in Redis", _TWO_WRITES, ("cache takes only newer",), "lease"),
    Hole("unconditional near cache", _CALM, ("near takes only newer",), "P5"),
    Hole("announcement before the commit", VIEW, ("announcements follow commits",), "truth"),
    Hole("late put after an eviction", _TWO_WRITES, ("late puts",), "lease"),
    Hole("lease renewed without comparing", DUMPS, ("lease records are compared",), "lease"),
    Hole("lease renewed without putting changes again", HOLDERS, ("changes are put again",), "lease"),
    Hole("lease by the time of renewal", HOLDERS, ("a renewal counts from its view",), "lease"),
    Hole("view by the moment of the answer", _CALM, ("a poll counts from when it was asked",), "P3"),
    Hole("any heartbeat counted as proof", _HEARTBEATS, ("proof by polls",), "P3"),
    Hole("Redis trusted without a lease record", TRUST, ("lease records",), "P3"),
    Hole("another store's announcement believed", TWO_STORES, ("messages name their store",), "P11"),
    Hole("another store's entry believed", TWO_STORES, ("entries name their store",), "P11"),
    Hole("another store's lease record believed", HOLDERS_APART, ("lease records name their store",), "lease"),
    Hole("joined a lookup from before the write", NOTHING_HELD, ("high-water marks",), "P1"),
    Hole("schedule taken without a transaction", _RACE, ("a transaction conflicts",), "P15"),
    Hole("schedule executed over a later write", SCHEDULES, ("later changes are conflicts",), "P15"),
)
"""Mistakes of other systems, and near mistakes of this one."""

FOUND = (
    Hole("announcement counted as proof", VIEW, ("announcements prove nothing",), "P3"),
    Hole("watermark over a gap", FLAGS, ("gaps",), "end"),
    Hole("load that reads the counters last", _REMOTE, ("a load reads counters first",), "P3"),
    Hole("load from a replaced primary", replace(VIEW, left=Left(old_reads=1)), (), "P3"),
    Hole("announcement from before the view", DELETES, ("announcements from before the view",), "P5"),
    Hole("lookup overtaken by an announcement", replace(READS, cache=True), ("answers are what is held",), "P4"),
    Hole("poll past the checkpoint", FOREIGN, ("polls reach as far as the checkpoint",), "P3"),
    Hole("checkpoint past a pending change", FOREIGN, ("pending changes hold back the checkpoint",), "P3"),
    Hole("second foreign change forgotten", FOREIGN_TWICE, ("a foreign change while one is pending",), "end"),
    Hole("overtaken foreign change not applied", PEERS, ("what overtook a change is applied at once",), "claim"),
    Hole("heartbeat past the checkpoint", PEERS, ("a heartbeat reaches as far as the checkpoint",), "claim"),
    Hole("heartbeat before the watermark covers a change", PEERS, ("pending until the watermark covers it",), "claim"),
    Hole("heartbeat over a gap", _GAP, ("a heartbeat waits for gaps",), "claim"),
    Hole("foreign change that a load found gets no revision", PEERS, ("what a load finds gets a revision",), "claim"),
    Hole("proof by a peer that has more", PEERS, ("a peer's revisions are all here",), "claim"),
    Hole("proof by a peer that started later", PEERS_RESTARTED, ("a peer's stream goes back to the view",), "claim"),
    Hole("heartbeat counted from its arrival", PEERS_IN_TIME, ("a heartbeat counts from when it was sent",), "P3"),
    Hole("proof capped by the own checkpoint", PEERS_IN_TIME, ("a peer's proof needs no stream here",), "end"),
    Hole("equal revisions by arrival", FOREIGN, ("equal revisions",), "P3"),
    Hole(
        "lease kept over a gap in the view",
        replace(ENTRIES, left=Left()),
        ("a gap in the view ends the lease", "toggles put"),
        "lease",
    ),
    Hole("acquiring forgets what is to be put", HOLDERS, ("acquiring forgets nothing",), "lease"),
    Hole("change put again only once", _EVICTED, ("until a renewal covers them",), "lease"),
    Hole(
        "late put over an uncertified entry",
        _TWO_WRITES,
        ("uncertified entries keep nothing out",),
        "lease",
    ),
    Hole("put and renewal apart", DUMPS, ("put and renewal are one",), "lease"),
    Hole("same lease record twice", DUMPS, ("until a renewal covers them",), "lease"),
)
"""What only the model has shown to be needed."""

NEEDLESS = (
    Hole("delete on toggle, with lease records", TRUST, ("toggles put",), ""),
    Hole("delete on toggle, with a lease holder", replace(ENTRIES, left=Left()), ("toggles put",), ""),
    Hole("two stores that overwrite each other's keys", _APART, ("one store owns the keys",), ""),
    Hole("no nonce at all", DUMPS, ("each lease has its own nonce",), ""),
    Hole("heartbeat while a change is pending", PEERS, ("a heartbeat waits for pending changes",), ""),
)
"""Without these alone nothing breaks."""

HOLES = (*KNOWN, *FOUND, *NEEDLESS)
