"""Limits of a flag set that its operator has set. They are checked against what this replica holds of the set.

Writes at the same moment, here or on other replicas, may pass a limit together by as much as they add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flagsvc.core.changes import Decide
from flagsvc.core.errors import QuotaExceeded
from flagsvc.core.model import Change, Flag
from flagsvc.core.sizes import estimated_memory
from flagsvc.view.near_cache import NearCache


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of each flag set."""

    flags: int
    bytes: int

    def checked(self, flag_set: str, decide: Decide, near: NearCache) -> Decide:
        """Return a decision that raises QuotaExceeded if its change takes the set over a limit.

        A change that adds nothing is never refused, so a set over a limit can still be toggled, shortened and deleted.
        While this replica does not hold the whole set, nothing is refused.
        """

        def decide_within(current: Flag | None) -> Change | None:
            change = decide(current)
            if change is not None and change.after is not None and near.complete:
                self._check(flag_set, change.before, change.after, near)
            return change

        return decide_within

    def check_all(self, flag_set: str, changes: Sequence[Change], near: NearCache) -> None:
        """Raise QuotaExceeded if changes of flags that exist, stored together, take the set over its limit of bytes."""
        if near.complete:
            added = sum(estimated_memory(change.after) - estimated_memory(change.before) for change in changes)
            self._check_bytes(flag_set, added, near)

    def _check(self, flag_set: str, before: Flag | None, after: Flag, near: NearCache) -> None:
        totals = near.totals_of(flag_set)
        if before is None and totals.flags >= self.flags:
            raise QuotaExceeded(
                f'flag set "{flag_set}" has {totals.flags} flags, and FLAGSVC_MAX_FLAGS_PER_SET is {self.flags}:'
                " delete flags, or use another flag set"
            )
        added = estimated_memory(after) - (estimated_memory(before) if before is not None else 0)
        self._check_bytes(flag_set, added, near)

    def _check_bytes(self, flag_set: str, added: int, near: NearCache) -> None:
        totals = near.totals_of(flag_set)
        if added > 0 and totals.bytes + added > self.bytes:
            raise QuotaExceeded(
                f'flag set "{flag_set}" would take {totals.bytes + added} bytes of memory, and'
                f" FLAGSVC_MAX_BYTES_PER_SET is {self.bytes}: make values smaller, or use another flag set"
            )


NO_QUOTAS = Quotas(flags=2**62, bytes=2**62)
