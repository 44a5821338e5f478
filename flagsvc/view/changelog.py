"""What is known of the order of one flag set's changes: how far they are applied, and what changed lately."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from flagsvc.ports import Entry

LOG_LENGTH = 1_000
"""Changes kept per flag set for watchers that resume."""
RECENT_S = 120.0
"""How long a changed key is remembered for clients that were cut off for a moment."""


class ChangeKind(StrEnum):
    """What a change did, in flagd's words: `write` for a flag that was not there."""

    WRITE = "write"
    UPDATE = "update"
    DELETE = "delete"


Listener = Callable[[Entry, int, ChangeKind], None]
"""Told of each applied change, the revision to resume from after it, and its kind. Must not block or raise."""


@dataclass(slots=True)
class Changelog:
    """One flag set's changes. Times are `time.monotonic` of the caller."""

    loaded: bool = False
    watermark: int = 0
    """Every change up to this revision is applied."""
    ahead: set[int] = field(default_factory=set)
    """Applied revisions beyond a gap."""
    gap_since: float = math.inf
    log_starts_after: int = 0
    """The log has every change after this revision."""
    log: deque[Entry] = field(default_factory=deque)
    recent_changes: OrderedDict[str, tuple[float, ChangeKind]] = field(default_factory=OrderedDict)
    """When and how each key changed last, the latest last."""
    listeners: set[Listener] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether nothing is known and nobody listens."""
        return not (self.listeners or self.watermark or self.log or self.recent_changes)

    def advance(self, revision: int, now: float) -> None:
        """Note that the change of this revision is applied."""
        if revision > self.watermark:
            self.ahead.add(revision)
        self._close_gap(now)

    def jump(self, revision: int, now: float) -> None:
        """Note that everything up to this revision is applied, or can no longer be told apart."""
        if not self.loaded:
            self.loaded, self.log_starts_after = True, max(revision, self.watermark)
            self.log.clear()
        self.watermark = max(self.watermark, revision)
        self.ahead = {r for r in self.ahead if r > self.watermark}
        self._close_gap(now)

    def forget(self) -> None:
        """Begin anew: what was known is no longer how the store counts."""
        self.loaded, self.watermark, self.gap_since = False, 0, math.inf
        self.ahead.clear()

    def tell(self, entry: Entry, kind: ChangeKind, now: float) -> None:
        """Write a change into the log and tell it to all listeners."""
        self.remember(entry.id.key, kind, now)
        self.log.append(entry)
        if len(self.log) > LOG_LENGTH:
            self.log_starts_after = max(self.log_starts_after, self.log.popleft().revision)
        for listener in tuple(self.listeners):
            listener(entry, self.watermark, kind)

    def remember(self, key: str, kind: ChangeKind, at: float) -> None:
        """Note that a key changed, and forget what is no longer of interest."""
        self.recent_changes[key] = (at, kind)
        self.recent_changes.move_to_end(key)
        while at - next(iter(self.recent_changes.values()))[0] > RECENT_S:
            self.recent_changes.popitem(last=False)

    def since(self, revision: int) -> Iterator[Entry] | None:
        """Give the changes after a revision, in order; None when they are no longer known."""
        if revision < self.log_starts_after:
            return None
        return iter(sorted((e for e in self.log if e.revision > revision), key=lambda e: e.revision))

    def _close_gap(self, now: float) -> None:
        """Move the watermark over what is applied without a gap; remember since when there is one."""
        while self.watermark + 1 in self.ahead:
            self.watermark += 1
            self.ahead.remove(self.watermark)
        if not self.ahead:
            self.gap_since = math.inf
        elif self.gap_since == math.inf:
            self.gap_since = now
