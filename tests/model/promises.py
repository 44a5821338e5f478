"""What must hold: P1, P3, P4 and P5 at every answer; what the lease record certifies, and P15, at every state."""

from __future__ import annotations

from tests.model.near_cache import content, is_fresh
from tests.model.shared_cache import alive
from tests.model.state import (
    AS_PLANNED,
    NEVER,
    PLANNED,
    STEPS,
    Reader,
    Setup,
    State,
    age,
    newest,
    revision,
    with_replica,
)
from tests.model.strangers import STRANGER


def due(setup: Setup, s: State) -> int:
    """Return the content that an answer which begins now must not lack: the newest that is older than the bound."""
    for entry in range(len(s.store) - 1, 0, -1):
        commit = s.store[entry]
        if commit.flag == 0 and commit.kind != "assigned" and age(commit.tick) > setup.bound:
            return entry
    return 0


def watched(setup: Setup, s: State) -> State:
    """Ask every replica at this moment: it answers what it holds, as STALE where that is not fresh."""
    if not setup.holds:
        return s
    must = due(setup, s)
    for i in setup.followed:
        r = s.replicas[i]
        entry = content(s, r)
        if not r.up or not entry or (entry == r.shown >= must):
            continue
        obliged = Reader(due=must, owed=r.owed, shown=r.shown)
        broken = judged(s, entry, obliged, stale=not is_fresh(setup, s, r))
        if broken:
            return s._replace(broken=f"{broken} (replica {i} from its near cache)")
        s = with_replica(s, i, r._replace(shown=entry))
    return s


def judged(s: State, entry: int, reader: Reader, *, stale: bool = False) -> str:
    """Return which promise an answer breaks."""
    if entry == STRANGER:
        return "P11: another store's content is answered"
    if entry >= len(s.store):
        return f"truth: content {entry} is answered, and the store has none such"
    if revision(s, entry) < reader.token:
        return f"P4: token {reader.token} is answered with content {entry}"
    if revision(s, entry) < revision(s, reader.owed):
        return f"P1: content {entry} is answered after the write of {reader.owed} was"
    if revision(s, entry) < revision(s, reader.shown):
        return f"P5: content {entry} is answered after {reader.shown} was"
    if not stale and entry < reader.due:
        return f"P3: content {entry} is answered, {reader.due} is older than the bound"
    return ""


def planned(s: State) -> str:
    """Return whether the planned change was made twice, or over what was changed after it was planned."""
    made = [entry for entry, commit in enumerate(s.store) if commit.kind == PLANNED]
    if len(made) > 1:
        return "P15: the planned change is made twice"
    if made and (before := made[0] - 1) != AS_PLANNED:
        return f"P15: the planned change overwrites content {before}, which came after it was planned"
    return ""


def certified(setup: Setup, s: State) -> str:
    """Return whether the lease record certifies an entry that is older than the store was."""
    record, shared = alive(setup, s, s.shared.record), s.shared
    if record is None or not shared.entry or shared.as_of < record.verified_from:
        return ""
    if shared.entry < _changed_by(s, record.verified_until % STEPS):
        return f"lease: content {shared.entry} is certified as of content {record.verified_until % STEPS}"
    return ""


def claims(setup: Setup, s: State) -> str:
    """Return what is older than the moment as of which it claims to be the store's."""
    for i in setup.followed if setup.holds else ():
        r = s.replicas[i]
        as_of = max(r.as_of if r.loaded else 0, r.held_as_of if r.held[0] else 0)
        if content(s, r) < _changed_by(s, as_of % STEPS):
            return f"claim: replica {i} has content {content(s, r)} and claims as of content {as_of % STEPS}"
    if s.flight and s.flight.entry and s.flight.entry < _changed_by(s, s.flight.as_of % STEPS):
        return f"claim: content {s.flight.entry} is taken as of content {s.flight.as_of % STEPS}"
    if s.shared.entry and s.shared.as_of > NEVER and s.shared.entry < _changed_by(s, s.shared.as_of % STEPS):
        return f"claim: Redis has content {s.shared.entry} and claims as of content {s.shared.as_of % STEPS}"
    return ""


def _changed_by(s: State, there: int) -> int:
    """Return the content that the flag had when the store had so many."""
    while s.store[there].kind == "assigned" or s.store[there].flag:
        there -= 1
    return there


def agreement(setup: Setup, s: State) -> str:
    """Return who differs from the store when nothing is left to do."""
    there = newest(s)
    if any(w.kind == PLANNED for w in s.writers) and len(s.store) == AS_PLANNED + 1:
        return "P15: the planned change is never made"
    for i in setup.followed:
        r = s.replicas[i]
        if r.up and _can_be_sure(setup, s, i) and (content(s, r) != there or age(r.as_of) > 0):
            return f"end: replica {i} has content {content(s, r)} as of {age(r.as_of)} ticks ago, the store has {there}"
    return ""


def _can_be_sure(setup: Setup, s: State, i: int) -> bool:
    """Whether a replica reads the store, or has a peer that does and whose stream goes back to this replica's view."""
    r, peer = s.replicas[i], s.replicas[1 - i]
    if i in setup.polls and not r.cut_off:
        return True
    has_all = r.loaded and r.watermark >= peer.watermark
    return has_all and peer.up and 1 - i in setup.heartbeats and peer.stream_since <= r.as_of
