"""The near cache: what this replica holds of every flag set, never going back to an older revision.

Held definitions may be served without asking anybody while they are fresh: read since the channel has been heard
without a break, or known to be the store's within the staleness bound. The clock is `time.monotonic` of the caller.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flagsvc.core.evaluation import NO_FLAG, Prepared, prepare
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents

LOG_LENGTH = 1_000
"""Changes kept per flag set for watchers that resume."""
LATELY_S = 120.0
"""How long a changed key is remembered for clients that were cut off for a moment."""
TOMBSTONE_S = 60.0
"""Longer than any read of a store can take."""


class Source(StrEnum):
    """Where a definition was read from."""

    NEAR = "near"
    CACHE = "cache"
    STORE = "store"


class ChangeKind(StrEnum):
    """What a change did, in flagd's words: `write` for a flag that was not there."""

    WRITE = "write"
    UPDATE = "update"
    DELETE = "delete"


class Held:
    """One held entry, prepared for evaluation when it is first asked for: most of a large set never is."""

    __slots__ = ("_prepare", "_prepared", "confirmed_at", "entry")

    def __init__(self, entry: Entry, confirmed_at: float, prepare: Prepare = prepare) -> None:
        self.entry = entry
        self.confirmed_at = confirmed_at
        self._prepare = prepare
        self._prepared: Prepared | None = None if entry.flag else NO_FLAG

    @property
    def prepared(self) -> Prepared:
        """The definition, compiled."""
        if self._prepared is None:
            self._prepared = self._prepare(self.entry.flag) if self.entry.flag else NO_FLAG
        return self._prepared


Prepare = Callable[[Flag], Prepared]
Listener = Callable[[Entry, int, ChangeKind], None]
"""Told of each applied change, the revision to resume from after it, and its kind. Must not block or raise."""


@dataclass(slots=True)
class SetState:
    """What is known of one flag set's order of changes."""

    loaded: bool = False
    watermark: int = 0
    """Every change up to this revision is applied."""
    ahead: set[int] = field(default_factory=set)
    """Applied revisions beyond a gap."""
    gap_since: float = math.inf
    log_floor: int = 0
    """The log has every change after this revision."""
    log: deque[Entry] = field(default_factory=deque)
    lately: OrderedDict[str, tuple[float, ChangeKind]] = field(default_factory=OrderedDict)
    """When and how each key changed last, the latest last."""
    listeners: set[Listener] = field(default_factory=set)

    def close_gap(self, now: float) -> None:
        """Move the watermark over what is applied without a gap; remember since when there is one."""
        while self.watermark + 1 in self.ahead:
            self.watermark += 1
            self.ahead.remove(self.watermark)
        if not self.ahead:
            self.gap_since = math.inf
        elif self.gap_since == math.inf:
            self.gap_since = now

    def remember(self, key: str, kind: ChangeKind, at: float) -> None:
        """Note that a key changed, and forget what is no longer of interest."""
        self.lately[key] = (at, kind)
        self.lately.move_to_end(key)
        while at - next(iter(self.lately.values()))[0] > LATELY_S:
            self.lately.popitem(last=False)


class NearCache:
    """Held entries of all sets, at most `limit`; `complete` while it holds every flag of the store."""

    def __init__(
        self,
        limit: int,
        staleness_bound_s: float,
        prepare: Prepare = prepare,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._prepare, self._wall_clock = prepare, wall_clock
        self.staleness_bound_s = staleness_bound_s
        self.complete = False
        self.completions = 0
        """How often it became complete: more than once when it had to let go of flags in between."""
        self.overfull = False
        """The store has more flags than may be held: each is read when it is asked for."""
        self.confirmed_at = -math.inf
        self.heard_since = math.inf
        self._held: OrderedDict[FlagId, Held] = OrderedDict()
        self._sets: dict[str, SetState] = {}
        self._when_complete: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def get(self, flag_id: FlagId) -> Held | None:
        """Give what is held, fresh or not."""
        held = self._held.get(flag_id)
        if held is not None and not self.complete:
            self._held.move_to_end(flag_id)
        return held

    def confirmed(self, held: Held | None) -> float:
        """When this was last known to be the store's; for None, that there is no such flag."""
        return max(held.confirmed_at, self.confirmed_at) if held else self.confirmed_at

    def is_fresh(self, confirmed_at: float, now: float) -> bool:
        """Whether something confirmed then may be served without asking."""
        return self.heard_since <= confirmed_at or now - confirmed_at <= self.staleness_bound_s

    def apply(self, entry: Entry, now: float, *, in_order: bool = True) -> Held:
        """Take an entry unless a newer one is held; tell listeners of a change. Gives what is held then.

        `in_order` says that the entry came as an announcement, so it moves the set's watermark.
        """
        held = self._held.get(entry.id)
        newer = held is None or entry.revision > held.entry.revision
        kind: ChangeKind | None = None
        if held is None or newer or (entry.revision == held.entry.revision and entry.flag != held.entry.flag):
            kind = self._change(held, entry, announced=in_order)
            held = Held(entry, now, self._prepare)
            if entry.flag is not None or entry.revision or not self.complete:
                self._hold(held)
        elif entry.revision == held.entry.revision:
            held.confirmed_at = max(held.confirmed_at, now)
        if in_order:
            self._advance(entry, now)
        if kind is not None:
            self._tell(entry, kind, now)
        return held

    def merge(self, contents: StoreContents, asked_at: float) -> None:
        """Take everything that the store held; what it no longer has is gone. `asked_at`: when it was asked."""
        if len(contents.flags) > self.limit:
            self.complete, self.overfull = False, True
            self.distrust(contents.revisions, asked_at)
            return
        found = {flag.id for flag in contents.flags}
        completed = not self.complete
        if completed:
            self._remember_recent(contents.flags, asked_at)
            self.completions += 1
        for flag in sorted(contents.flags, key=lambda f: f.revision):
            self.apply(Entry.of(flag), asked_at, in_order=False)
        for flag_id in [i for i, held in self._held.items() if i not in found and held.entry.flag is not None]:
            revision = contents.revisions.get(flag_id.flag_set, 0)
            if self._held[flag_id].entry.revision <= revision:
                self.apply(Entry(flag_id, revision, None), asked_at, in_order=False)
        self.complete, self.overfull = True, False
        self.confirmed_at = max(self.confirmed_at, asked_at)
        for name, revision in contents.revisions.items():
            self._jump(self._state(name), revision)
        self._forget_absent(found)
        if completed:
            for heard in self._when_complete:
                heard()

    def distrust(self, revisions: Mapping[str, int], asked_at: float) -> None:
        """Changes up to these revisions may have been missed: what was read before is asked for again when old."""
        self.heard_since = max(self.heard_since, asked_at)
        for name, revision in revisions.items():
            self._jump(self._state(name), revision)

    def flags(self, flag_set: str) -> list[Flag]:
        """Give the held flags of a set in list order."""
        held = (h.entry.flag for i, h in self._held.items() if i.flag_set == flag_set)
        return in_list_order(flag for flag in held if flag is not None)

    def revisions(self) -> dict[str, int]:
        """Give each set's newest applied revision without a gap before it."""
        return {name: state.watermark for name, state in self._sets.items()}

    def gap_since(self) -> float:
        """When the oldest gap in any set's revisions was seen; infinite without one."""
        return min((state.gap_since for state in self._sets.values()), default=math.inf)

    def when_complete(self, told: Callable[[], None]) -> None:
        """Call this whenever the cache has become complete: `lately` then knows what changed before."""
        self._when_complete.append(told)

    def listen(self, flag_set: str, listener: Listener) -> None:
        """Tell the listener of every change of the set from now on."""
        self._state(flag_set).listeners.add(listener)

    def unlisten(self, flag_set: str, listener: Listener) -> None:
        """Stop telling it."""
        state = self._state(flag_set)
        state.listeners.discard(listener)
        if not state.listeners and not state.watermark and not state.log and not state.lately:
            del self._sets[flag_set]

    def since(self, flag_set: str, revision: int) -> Iterator[Entry] | None:
        """Give the changes after a revision, in order; None when they are no longer known."""
        state = self._state(flag_set)
        if revision < state.log_floor:
            return None
        return iter(sorted((e for e in state.log if e.revision > revision), key=lambda e: e.revision))

    def lately(self, flag_set: str, now: float) -> dict[str, ChangeKind]:
        """Give the keys of a set that changed lately, or may have before this replica knew of the set."""
        state = self._sets.get(flag_set)
        return {key: kind for key, (at, kind) in state.lately.items() if now - at <= LATELY_S} if state else {}

    def watermark(self, flag_set: str) -> int:
        """Give the revision to resume from."""
        state = self._sets.get(flag_set)
        return state.watermark if state else 0

    def _state(self, flag_set: str) -> SetState:
        return self._sets.setdefault(flag_set, SetState())

    def _hold(self, held: Held) -> None:
        self._held[held.entry.id] = held
        self._held.move_to_end(held.entry.id)
        while len(self._held) > self.limit:
            _, gone = self._held.popitem(last=False)
            self.complete = self.complete and gone.entry.flag is None

    def _forget_absent(self, found: set[FlagId]) -> None:
        """A complete cache answers unknown keys by itself; tombstones stay while a late reader could come back."""
        for flag_id in [i for i, h in self._held.items() if i not in found and h.entry.flag is None]:
            held = self._held[flag_id]
            if held.entry.revision == 0 or held.confirmed_at < self.confirmed_at - TOMBSTONE_S:
                del self._held[flag_id]

    def _advance(self, entry: Entry, now: float) -> None:
        if entry.revision == 0:
            return
        state = self._state(entry.id.flag_set)
        if entry.revision > state.watermark:
            state.ahead.add(entry.revision)
        state.close_gap(now)

    def _jump(self, state: SetState, revision: int) -> None:
        """A load contained everything up to this revision."""
        if not state.loaded:
            state.loaded, state.log_floor = True, max(revision, state.watermark)
            state.log.clear()
        state.watermark = max(state.watermark, revision)
        state.ahead = {r for r in state.ahead if r > state.watermark}
        state.close_gap(self.confirmed_at)

    def _change(self, held: Held | None, entry: Entry, *, announced: bool) -> ChangeKind | None:
        """Say what an entry changes; None for news to this cache alone, such as its first load or a miss."""
        if held is None and not self.complete:
            return (ChangeKind.UPDATE if entry.flag else ChangeKind.DELETE) if announced else None
        there = held is not None and held.entry.flag is not None
        if entry.flag is None:
            return ChangeKind.DELETE if there else None
        return ChangeKind.UPDATE if there else ChangeKind.WRITE

    def _remember_recent(self, flags: Iterable[Flag], now: float) -> None:
        """What changed shortly before it was first loaded, others may have missed; also what has no time."""
        horizon = self._wall_clock() - LATELY_S
        for flag in flags:
            if flag.updated_at is None or flag.updated_at.timestamp() >= horizon:
                self._state(flag.flag_set).remember(flag.key, ChangeKind.UPDATE, now)

    def _tell(self, entry: Entry, kind: ChangeKind, now: float) -> None:
        state = self._state(entry.id.flag_set)
        state.remember(entry.id.key, kind, now)
        state.log.append(entry)
        if len(state.log) > LOG_LENGTH:
            state.log_floor = max(state.log_floor, state.log.popleft().revision)
        for listener in tuple(state.listeners):
            listener(entry, state.watermark, kind)


def in_list_order(flags: Iterable[Flag]) -> list[Flag]:
    """Sort as lists show them: by sort order, then key."""
    return sorted(flags, key=lambda flag: (flag.sort_order, flag.key))
