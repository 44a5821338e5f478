"""The tokens and denials of a store, which are no flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flagsvc.core.access.denials import Denial
from flagsvc.core.access.records import Decide, R, Record
from flagsvc.core.access.tokens import Token
from flagsvc.core.audit import AuditEntry


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """Every token and denial of a store. `revision`: every change up to it is contained.

    `malformed`: ids of what cannot be read. `ticket_key`: what tickets are sealed with; empty if none was made.
    """

    revision: int
    tokens: Sequence[Token]
    malformed: Sequence[str] = ()
    ticket_key: bytes = b""
    denials: Sequence[Denial] = ()

    @staticmethod
    def of(
        revision: int, records: Iterable[Record], malformed: Sequence[str] = (), ticket_key: bytes = b""
    ) -> StoredTokens:
        """Return what a store has read, each record at its place."""
        tokens, denials = [], []
        for record in records:
            if isinstance(record, Denial):
                denials.append(record)
            else:
                tokens.append(record)
        return StoredTokens(revision, tokens, malformed, ticket_key, denials)


class TokenStore(Protocol):
    """Where tokens and denials are kept. Every method raises StoreUnavailable when it cannot be asked in time."""

    async def revision(self) -> int:
        """Read the counter of changes; linearizable where the store has more than one member."""

    async def load(self) -> StoredTokens:
        """Read the counter, then everything."""

    async def write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry | None = None, forget: Sequence[str] = ()
    ) -> R | None:
        """Decide and store in one atomic step, with the next value of the counter. None: there was nothing to change.

        That value is above the revision of what is decided, too.

        `entry` is stored in the same step, and so are the records `forget` removed.
        Raises what `decide` raises (nothing is changed then), WritesUnsupported, and ChangeRefused where what is
        stored is malformed.
        """

    async def make_ticket_key(self, key: bytes) -> None:
        """Store the key of tickets, unless there is one."""

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Record the last day of use by token id, unless a later one is there. It takes no revision."""
