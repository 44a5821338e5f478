"""Protections taken out, one hole each: the search must find what each closes, or show that it is not needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.setups import (
    DELETES,
    DUMPS,
    ENTRIES,
    FLAGS,
    FOREIGN,
    FOREIGN_TWICE,
    KEEPERS,
    NOTHING_HELD,
    PEERS,
    PEERS_IN_TIME,
    PEERS_RESTARTED,
    READS,
    THERE,
    TRUST,
    TWO,
    VIEW,
)
from tests.model.state import Left, Setup, Writer


@dataclass(frozen=True)
class Hole:
    """What is taken out of which world. `breaks`: what must be found; empty where nothing must, for others protect."""

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
_BEATS = replace(_CALM, writers=((Writer(THERE),),), beats=(THERE,), followed=(0, 1), slow_looks=False)
_GAP = replace(PEERS, left=Left(foreign=1, others=2, lost=2))

KNOWN = (
    Hole("delete on toggle, trust for a while", TRUST, ("toggles put", "marks"), "P3"),
    Hole("unconditional SET in Redis", _TWO_WRITES, ("cache takes only newer",), "mark"),
    Hole("unconditional near cache", _CALM, ("near takes only newer",), "P5"),
    Hole("announcement before the commit", VIEW, ("announcements follow commits",), "truth"),
    Hole("late put after an eviction", _TWO_WRITES, ("late puts",), "mark"),
    Hole("mark renewed without comparing", DUMPS, ("marks are compared",), "mark"),
    Hole("mark renewed without putting again", KEEPERS, ("changes are put again",), "mark"),
    Hole("mark by the time of renewal", KEEPERS, ("a word counts from its view",), "mark"),
    Hole("view by the moment of the answer", _CALM, ("a look counts from when it was asked",), "P3"),
    Hole("view by beats that are heard", _BEATS, ("looks",), "P3"),
    Hole("Redis trusted without a mark", TRUST, ("marks",), "P3"),
    Hole("joined a lookup from before the write", NOTHING_HELD, ("floors",), "P1"),
)
"""What other systems did, or this one nearly."""

FOUND = (
    Hole("announcement counted as proof", VIEW, ("announcements prove nothing",), "P3"),
    Hole("watermark over a gap", FLAGS, ("gaps",), "end"),
    Hole("load that reads the counters last", _REMOTE, ("a load reads counters first",), "P3"),
    Hole("load from a replaced primary", replace(VIEW, left=Left(old_reads=1)), (), "P3"),
    Hole("news from before the view", DELETES, ("news from before the view",), "P5"),
    Hole("answer of a lookup that news overtook", replace(READS, cache=True), ("answers are what is held",), "P4"),
    Hole("look without the stream's word", FOREIGN, ("the stream's word",), "P3"),
    Hole("confirmed while a number is pending", FOREIGN, ("pending numbers",), "P3"),
    Hole("second foreign change forgotten", FOREIGN_TWICE, ("a foreign change during numbering",), "end"),
    Hole("foreign change overtaken before it was told", PEERS, ("what overtook a change is told at once",), "claim"),
    Hole("heartbeat of a load", PEERS, ("a heartbeat reaches as far as its stream",), "claim"),
    Hole("heartbeat before its number is everywhere", PEERS, ("pending until the watermark has it",), "claim"),
    Hole("heartbeat over a gap", _GAP, ("a heartbeat waits for gaps",), "claim"),
    Hole("heartbeat of a load that numbers nothing", PEERS, ("what a load finds is numbered",), "claim"),
    Hole("heartbeat of a peer that has more", PEERS, ("a peer's revisions are all here",), "claim"),
    Hole("heartbeat of a peer that came later", PEERS_RESTARTED, ("a peer's stream goes back to the view",), "claim"),
    Hole("heartbeat by its arrival", PEERS_IN_TIME, ("a heartbeat counts from when it was sent",), "P3"),
    Hole("peer's word up to one's own stream", PEERS_IN_TIME, ("a proof needs no stream of its own",), "end"),
    Hole("equal revisions by arrival", FOREIGN, ("equal revisions",), "P3"),
    Hole(
        "word goes on over a gap in the view",
        replace(ENTRIES, left=Left()),
        ("a gap in the view ends a word", "toggles put"),
        "mark",
    ),
    Hole("vouching anew forgets", KEEPERS, ("a beginning forgets nothing",), "mark"),
    Hole("change put again only once", _EVICTED, ("until a word covers them",), "mark"),
    Hole(
        "late put over what is unproven", replace(ENTRIES, writers=TWO), ("unproven entries keep nothing out",), "mark"
    ),
    Hole("put and vouch apart", DUMPS, ("put and vouch are one",), "mark"),
    Hole("same mark twice", DUMPS, ("until a word covers them",), "mark"),
)
"""What building the model has shown to be needed as well."""

NEEDLESS = (
    Hole("delete on toggle, with marks", TRUST, ("toggles put",), ""),
    Hole("delete on toggle, with a keeper", replace(ENTRIES, left=Left()), ("toggles put",), ""),
    Hole("no nonce at all", DUMPS, ("a beginning has its own nonce",), ""),
    Hole("heartbeat waits for what is pending", PEERS, ("a heartbeat waits for pending changes",), ""),
)
"""Without these alone nothing breaks."""

HOLES = (*KNOWN, *FOUND, *NEEDLESS)
