"""Which replica executes the due schedules of a set, so that replicas are not in each other's way.

All changes of a set wait for its revision counter, so several replicas are slower than one. The one that was first goes
on; the others watch, and take over what does not move. This decides who tries: only the store's transaction decides who
executes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flagsvc.ports.schedules import Upcoming

PATIENT_AFTER_S = 2.0
"""How long a schedule stays the first due one of its set before it is waited for: a process that died may hold it."""


class Progress:
    """What this replica has seen at its last two looks. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: dict[str, tuple[str, float]] = {}
        self._left: set[str] = set()

    def look(self, due: Sequence[Upcoming]) -> list[list[Upcoming]]:
        """Take what is due now, in order; return by set what this replica shall execute."""
        by_set: dict[str, list[Upcoming]] = {}
        for each in due:
            by_set.setdefault(each.flag_id.flag_set, []).append(each)
        now, before = self._clock(), self._first
        self._first = {}
        for flag_set, (first, *_) in by_set.items():
            known = before.get(flag_set)
            is_same = known is not None and known[0] == first.id
            self._first[flag_set] = known if known is not None and is_same else (first.id, now)
        moves = {flag_set for flag_set in by_set if flag_set in before and self._first[flag_set] != before[flag_set]}
        self._left &= by_set.keys()
        return [of_set for flag_set, of_set in by_set.items() if flag_set not in self._left & moves]

    def leave(self, flag_set: str) -> None:
        """Leave a set to another replica, as long as what is first there changes from look to look."""
        self._left.add(flag_set)

    def go_on(self, flag_set: str) -> None:
        """Note that this replica executes what is due of a set."""
        self._left.discard(flag_set)

    def is_stuck(self, each: Upcoming) -> bool:
        """Whether a due schedule has been its set's first one for too long."""
        first, since = self._first[each.flag_id.flag_set]
        return each.id == first and self._clock() - since > PATIENT_AFTER_S
