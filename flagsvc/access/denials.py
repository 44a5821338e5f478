"""Denies identities that others prove: subjects of JWTs, and names of client certificates. On one replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from flagsvc.access.denial_view import DenialView
from flagsvc.access.record_writer import RecordWriter, Spread, entry_of, now
from flagsvc.core.access import denials
from flagsvc.core.access.denials import MAX_DENIALS, Denial, identity_name
from flagsvc.core.access.identity import Identity
from flagsvc.core.errors import QuotaExceeded
from flagsvc.ports import Problem
from flagsvc.serving.writer import WaitFor

FORGOTTEN_AT_ONCE = 100
"""Denials that are over, and make room for new ones."""


class Denials:
    """Makes, lifts and enforces denials. `refuse`: called with the names of all who are refused, when that changes."""

    def __init__(self, view: DenialView, records: RecordWriter, refuse: Callable[[frozenset[str]], None]) -> None:
        self.view, self._records, self._refuse = view, records, refuse
        self._refused: frozenset[str] = frozenset()
        self._next_end: datetime | None = None

    @property
    def count(self) -> int:
        """How many identities are refused."""
        return len(self._refused)

    def enforce(self) -> None:
        """Refuse who is denied now. Call it when that may have changed."""
        refused = self.view.in_force(datetime.now(UTC))
        ends = (self.view.all[name].expires_at for name in refused)
        self._next_end = min((each for each in ends if each is not None), default=None)
        if refused != self._refused:
            self._refused = refused
            self._refuse(refused)

    def check_expired(self) -> None:
        """Refuse no more whose time is over. Cheap enough to call several times a second."""
        if self._next_end is not None and datetime.now(UTC) >= self._next_end:
            self.enforce()

    async def deny(
        self, caller: Identity, identity: str, reason: str, expires_at: datetime | None, wait_for: WaitFor
    ) -> tuple[Denial, Spread]:
        """Refuse an identity until a time, or for ever. Raises InvalidRequest and QuotaExceeded."""
        wanted = Denial(
            name=identity_name(identity), reason=reason, denied_by=str(caller), denied_at=now(), expires_at=expires_at
        )
        decide = denials.deny(wanted, self.view.all.get(wanted.name))
        entry = entry_of(caller, "DenyIdentity", wanted.name, reason)
        return await self._records.write(wanted.id, decide, entry, wait_for, self._to_forget(wanted.name))

    async def allow(self, caller: Identity, identity: str, wait_for: WaitFor) -> tuple[Denial, Spread]:
        """Refuse an identity no more. Raises InvalidRequest and DenialNotFound."""
        name = identity_name(identity)
        decide = denials.lift(name, str(caller), now(), self.view.all.get(name))
        return await self._records.write(denials.id_of(name), decide, entry_of(caller, "AllowIdentity", name), wait_for)

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the denials, for the status."""
        if not self.view.lost:
            return ()
        detail = f"the store has lost {len(self.view.lost)} denials; this replica enforces them"
        return (Problem("denials_lost", detail, "flagsvc token denied; then deny them again, or allow them"),)

    def _to_forget(self, name: str) -> Sequence[str]:
        """Return the ids of denials that make room for a new one. Raises QuotaExceeded."""
        held = self.view.all
        if name in held or len(held) < MAX_DENIALS:
            return ()
        at = datetime.now(UTC)
        over = sorted((each for each in held.values() if not each.is_in_force(at)), key=lambda each: each.changed_at)
        if not over:
            raise QuotaExceeded(f"the store has {MAX_DENIALS} denials, which is the limit: allow some first")
        return [each.id for each in over[:FORGOTTEN_AT_ONCE]]
