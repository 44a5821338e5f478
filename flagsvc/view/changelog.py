"""The order of each flag set's changes: how far they are applied, what changed recently, and who listens."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from flagsvc.ports import Entry

LOG_LENGTH = 1_000
"""Changes kept per flag set for watchers that resume."""
LOG_BYTES = 8_388_608
"""Memory of these changes, as estimated. A large flag that changes often would otherwise be kept a thousand times."""
RECENT_S = 120.0
"""How long a changed key is remembered for clients that were disconnected for a moment."""


FORGOTTEN_AT_ONCE = 100
"""Old changes that are forgotten with each new one: all flags of a load may become old in the same moment."""


LOOKED_AT = 10_000
"""Most changes that are looked at in one go."""


class ChangeKind(StrEnum):
    """What a change did, in flagd's words: `write` for a flag that did not exist."""

    WRITE = "write"
    UPDATE = "update"
    DELETE = "delete"


class RecentChange(NamedTuple):
    """When and how a key changed last."""

    key: str
    at: float
    kind: ChangeKind


class LoggedChange(NamedTuple):
    """A change, and about how much memory its flag takes."""

    entry: Entry
    size: int


Listener = Callable[[Entry, int, ChangeKind], None]
"""Called with each applied change, the revision to resume from after it, and its kind. Must not block or raise."""


@dataclass(slots=True)
class Changelog:
    """One flag set's changes. Times are `time.monotonic()` seconds of the caller."""

    loaded: bool = False
    watermark: int = 0
    """Every change up to this revision is applied."""
    told: int = 0
    """Listeners were notified of every change up to this revision, or up to the watermark if that is larger."""
    ahead: set[int] = field(default_factory=set)
    """Applied revisions beyond a gap."""
    gap_since: float = math.inf
    """When the oldest open gap was noticed; infinite without one."""
    log_starts_after: int = 0
    """The log has every change after this revision."""
    log: deque[LoggedChange] = field(default_factory=deque)
    log_bytes: int = 0
    recent_changes: OrderedDict[int, RecentChange] = field(default_factory=OrderedDict)
    """The last change of each key by its number, which grows with each change of the set; the latest last."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The number of each key's last change."""
    remembered: int = 0
    """How many changes were remembered so far: the number of the latest."""
    listeners: set[Listener] = field(default_factory=set)
    public_listeners: set[Listener] = field(default_factory=set)
    """Notified of changes only that callers with the role public may notice."""
    value_listeners: dict[Listener, bool] = field(default_factory=dict)
    """Those of both kinds that are notified also where only values change, with the time; whether of public flags only.
    """
    public_changes: int = 0
    """How many such changes were applied."""
    public_changed_at: float = -math.inf
    """When such a flag has changed last, as far as is known."""

    @property
    def idle(self) -> bool:
        """Whether nothing is known and nobody listens."""
        is_heard = self.listeners or self.public_listeners
        return not (is_heard or self.watermark or self.log or self.recent_changes or self.public_changes)

    def is_applied(self, revision: int) -> bool:
        """Whether the change of this revision is applied, or can no longer be told apart."""
        return revision <= self.watermark or revision in self.ahead

    def advance(self, revision: int, now: float) -> None:
        """Record that the change of this revision is applied."""
        if revision > self.watermark:
            self.ahead.add(revision)
        self._close_gap(now)

    def jump(self, revision: int, now: float) -> None:
        """Record that everything up to this revision is applied, or can no longer be told apart."""
        if not self.loaded:
            self.loaded, self.log_starts_after = True, max(revision, self.watermark)
            self.log.clear()
            self.log_bytes = 0
        self.watermark = max(self.watermark, revision)
        self.ahead = {r for r in self.ahead if r > self.watermark}
        self._close_gap(now)

    def forget(self, *, were_told: bool = False) -> None:
        """Start over: it is not known any more which changes are applied.

        `were_told`: listeners were notified all the same of each change up to the watermark.
        """
        self.told = max(self.told, self.watermark) if were_told else 0
        self.loaded, self.watermark, self.gap_since = False, 0, math.inf
        self.ahead.clear()

    def has_told(self, revision: int) -> bool:
        """Whether listeners were notified of every change up to this revision."""
        return revision <= max(self.told, self.watermark)

    def append(self, entry: Entry, size: int, kind: ChangeKind, now: float, *, was_public: bool = False) -> None:
        """Write a change, whose flag takes about so much memory, into the log and notify all listeners.

        `was_public`: the flag before it was public, or may have been.
        """
        is_public = was_public or entry.is_public
        self.remember(entry.id.key, kind, now, is_public=is_public)
        self.log.append(LoggedChange(entry, size))
        self.log_bytes += size
        while len(self.log) > LOG_LENGTH or self.log_bytes > LOG_BYTES:
            oldest = self.log.popleft()
            self.log_bytes -= oldest.size
            self.log_starts_after = max(self.log_starts_after, oldest.entry.revision)
        for listener in tuple(self.listeners):
            listener(entry, self.watermark, kind)
        if is_public:
            self.public_changes += 1
            for listener in tuple(self.public_listeners):
                listener(entry, self.watermark, kind)

    def announce_values(self, entry: Entry, now: float) -> None:
        """Notify those whose clients hold values: the flag evaluates otherwise than before, by the same definition."""
        self.remember(entry.id.key, ChangeKind.UPDATE, now, is_public=entry.is_public)
        self.public_changes += entry.is_public
        for listener, only_public in tuple(self.value_listeners.items()):
            if entry.is_public or not only_public:
                listener(entry, self.watermark, ChangeKind.UPDATE)

    def remember(self, key: str, kind: ChangeKind, at: float, *, is_public: bool = False) -> None:
        """Record that a key changed, and forget changes that are no longer recent."""
        self.remembered += 1
        if is_public:
            self.public_changed_at = at
        self.recent_changes.pop(self.numbers.get(key, 0), None)
        self.numbers[key] = self.remembered
        self.recent_changes[self.remembered] = RecentChange(key, at, kind)
        for _ in range(FORGOTTEN_AT_ONCE):
            if at - next(iter(self.recent_changes.values())).at <= RECENT_S:
                break
            _, old = self.recent_changes.popitem(last=False)
            del self.numbers[old.key]

    def since(self, revision: int) -> Iterator[Entry] | None:
        """Return the changes after a revision in order; None when they are no longer known."""
        if revision < self.log_starts_after:
            return None
        return iter(sorted((e for e, _ in self.log if e.revision > revision), key=lambda e: e.revision))

    def _close_gap(self, now: float) -> None:
        """Move the watermark over what is applied without a gap; record when a gap opened."""
        while self.watermark + 1 in self.ahead:
            self.watermark += 1
            self.ahead.remove(self.watermark)
        if not self.ahead:
            self.gap_since = math.inf
        elif self.gap_since == math.inf:
            self.gap_since = now


class Changelogs:
    """The changelogs of all flag sets, each made when it is first needed."""

    def __init__(self) -> None:
        self._of_set: dict[str, Changelog] = {}
        self.value_changes = 0
        """How often values changed with the time, over all sets."""

    def of(self, flag_set: str) -> Changelog:
        """Return the set's changelog."""
        return self._of_set.setdefault(flag_set, Changelog())

    def listen(self, flag_set: str, listener: Listener, *, only_public: bool = False, of_values: bool = False) -> None:
        """Notify the listener of every change of the set from now on, or of every public one.

        `of_values`: also where a flag evaluates otherwise, by its rollout, without having changed.
        """
        changelog = self.of(flag_set)
        if of_values:
            changelog.value_listeners[listener] = only_public
        (changelog.public_listeners if only_public else changelog.listeners).add(listener)

    def unlisten(self, flag_set: str, listener: Listener) -> None:
        """Stop notifying it."""
        changelog = self.of(flag_set)
        changelog.listeners.discard(listener)
        changelog.public_listeners.discard(listener)
        changelog.value_listeners.pop(listener, None)
        if changelog.idle:
            del self._of_set[flag_set]

    def announce_values(self, entry: Entry, now: float) -> None:
        """Notify those whose clients hold values that a flag evaluates otherwise from now on."""
        self.value_changes += 1
        self.of(entry.id.flag_set).announce_values(entry, now)

    def since(self, flag_set: str, revision: int) -> Iterator[Entry] | None:
        """Return the set's changes after a revision in order; None when they are no longer known."""
        return self.of(flag_set).since(revision)

    def has_recent_changes(self, flag_set: str, now: float, *, only_public: bool = False) -> bool:
        """Whether any key of a set changed recently, or may have before this replica knew the set."""
        changelog = self._of_set.get(flag_set)
        if changelog is not None and only_public:
            return now - changelog.public_changed_at <= RECENT_S
        if changelog is None or not changelog.recent_changes:
            return False
        return now - next(reversed(changelog.recent_changes.values())).at <= RECENT_S

    def changes_after(
        self, flag_set: str, number: int, limit: int, now: float
    ) -> tuple[dict[str, ChangeKind], int | None]:
        """Return the first recent changes after the one of this number, and the number to go on from, if any is left.

        These include keys that may have changed before this replica knew the set. So that it takes no time, few
        numbers are looked at; there may be more changes although none is found.
        """
        found: dict[str, ChangeKind] = {}
        changelog = self._of_set.get(flag_set)
        if changelog is None:
            return found, None
        last = changelog.remembered
        first = max(number + 1, next(iter(changelog.recent_changes), last + 1))
        for at in range(first, min(first + LOOKED_AT, last + 1)):
            change = changelog.recent_changes.get(at)
            if change is not None and now - change.at <= RECENT_S:
                found[change.key] = change.kind
            if len(found) == limit or at == first + LOOKED_AT - 1:
                return found, at if at < last else None
        return found, None

    def watermark(self, flag_set: str) -> int:
        """Return the revision up to which every change of the set is applied: the one to resume from."""
        changelog = self._of_set.get(flag_set)
        return changelog.watermark if changelog else 0

    def watermarks(self) -> dict[str, int]:
        """Return every set's watermark."""
        return {name: changelog.watermark for name, changelog in self._of_set.items()}

    def reach(self, revisions: Mapping[str, int]) -> bool:
        """Whether every change up to these revisions is applied."""
        return all(self.watermark(name) >= revision for name, revision in revisions.items())

    def jump(self, revisions: Mapping[str, int], now: float) -> None:
        """Record that everything up to these revisions is applied."""
        for name, revision in revisions.items():
            self.of(name).jump(revision, now)

    def forget(self) -> None:
        """Start over in every set."""
        for changelog in self._of_set.values():
            changelog.forget()

    def gap_since(self) -> float:
        """Return when the oldest gap in any set's revisions was noticed; infinite without one."""
        return min((changelog.gap_since for changelog in self._of_set.values()), default=math.inf)
