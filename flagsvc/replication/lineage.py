"""Whether the store still is the one that was read before, and has not gone back to an older state.

A store that was restored from a backup has a smaller revision counter than what was read from it before. What is held
then is newer than the store; no replica returns to older definitions by itself, and says so until it is resynced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from flagsvc.ports import Problem, StoreIdentity

MAX_NAMED = 3

log = structlog.get_logger(__name__)


class Lineage:
    """The identity of the store that is held, and whether its counters have gone back since.

    `must_resync`: everything has to be read again, because the store is another one.
    """

    def __init__(self) -> None:
        self.must_resync = False
        self.restored_id = ""
        """The identity of the store whose snapshot is held until the store itself is read; empty: unknown."""
        self._begun = False
        self._identity: StoreIdentity | None = None
        self._gone_back: dict[str, tuple[int, int]] = {}

    @property
    def is_sound(self) -> bool:
        """Whether what is held can be compared with the store by revisions."""
        return not self._gone_back and not self.must_resync

    @property
    def store_id(self) -> str:
        """The identity of the store that is held; empty where it has none."""
        return self._identity.id if self._identity is not None else ""

    def may_restore(self, snapshot_of: str) -> bool:
        """Whether a snapshot of this store may be held. Where no store was read yet, `begin` decides."""
        self.restored_id = snapshot_of
        return not self._begun or self.begin(self._identity)

    def begin(self, identity: StoreIdentity | None) -> bool:
        """Hold this store from now on. Return False where a snapshot of another store is held."""
        self._begun, self._identity = True, identity
        restored_id, self.restored_id = self.restored_id, ""
        if not restored_id or identity is None or restored_id == identity.id:
            return True
        log.warning("snapshot_of_another_store", store=str(identity), snapshot_of=restored_id, detail="It is not used.")
        return False

    def is_other(self, identity: StoreIdentity | None) -> bool:
        """Whether the store that was just read has another identity than the one that is held."""
        found = identity.id if identity is not None else ""
        return self.must_resync or (self._begun and found != self.store_id)

    def continues(self, revisions: Mapping[str, int], held: Mapping[str, int]) -> bool:
        """Compare counters, which were read later, with what was held. Return whether the store has not gone back."""
        gone_back = {name: (revisions.get(name, 0), r) for name, r in held.items() if revisions.get(name, 0) < r}
        if gone_back and not self._gone_back:
            log.error("store_went_back", counters=_named(gone_back), detail=_DETAIL, cure=_CURE)
        self._gone_back |= gone_back
        return not self._gone_back

    def resynced(self) -> None:
        """Record that everything was read again."""
        self.must_resync = False
        self._gone_back.clear()

    def problems(self) -> Sequence[Problem]:
        """Return the problem of a store that went back."""
        if not self._gone_back:
            return ()
        return (Problem("store_went_back", f"{_DETAIL}: {_named(self._gone_back)}", _CURE),)


_DETAIL = "the store has older revisions than this replica; it was restored from a backup, or replaced by another"
_CURE = "if that was intended: flagsvc resync --confirm; until then newer definitions are served, with reason STALE"


def _named(gone_back: Mapping[str, tuple[int, int]]) -> str:
    """Return the first flag sets with both revisions."""
    named = [f'"{name}" {counter} instead of {held}' for name, (counter, held) in sorted(gone_back.items())]
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    return ", ".join(named[:MAX_NAMED]) + more
