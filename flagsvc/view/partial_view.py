"""What is known while the near cache cannot hold every flag: high-water marks, and gaps in the changes."""

from __future__ import annotations

from collections import OrderedDict

from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER

MAX_HIGH_WATER_MARKS = 100_000
"""Most flags whose high-water mark is remembered; the oldest are forgotten first."""


class HighWaterMarks:
    """The newest revision that was answered of each flag that is not held: no later answer may be older."""

    def __init__(self) -> None:
        self._revisions: OrderedDict[FlagId, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._revisions)

    def of(self, flag_id: FlagId) -> int:
        """Return the flag's mark; 0 without one."""
        return self._revisions.get(flag_id, 0)

    def raise_to(self, flag_id: FlagId, revision: int) -> None:
        """Allow no answer older than this revision from now on."""
        if revision > self._revisions.get(flag_id, -1):
            self._revisions[flag_id] = revision
            self._revisions.move_to_end(flag_id)
            if len(self._revisions) > MAX_HIGH_WATER_MARKS:
                self._revisions.popitem(last=False)

    def clear(self) -> None:
        """Forget all marks: revisions may have started over."""
        self._revisions.clear()

    def drop(self, flag_id: FlagId) -> None:
        """Forget the mark of a flag that is held again: the held entry takes its place."""
        self._revisions.pop(flag_id, None)


class PartialView:
    """The part of the near cache's state that matters only while it holds less than every flag.

    `is_needed`: the store has more flags than may be held, so each is read when it is asked for.
    `gap_free_since`: changes before this moment may have been missed, so an entry that was received before it is
    only as fresh as its own `verified_at`. `gaps`: how often that happened.
    """

    def __init__(self, *, is_needed: bool) -> None:
        self.is_needed = is_needed
        self.gap_free_since = NEVER
        self.gaps = 0
        self.high_water_marks = HighWaterMarks()

    def mark_gap(self, at: float) -> None:
        """Record that changes before this moment may have been missed."""
        self.gap_free_since = max(self.gap_free_since, at)
        self.gaps += 1
