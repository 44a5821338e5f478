"""The tokens of a store that keeps none: nobody is known by them, and nothing can be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flagsvc.core.access.records import Decide, R
from flagsvc.core.audit import AuditEntry
from flagsvc.core.errors import WritesUnsupported
from flagsvc.ports import StoredTokens


class NoTokens:
    """A TokenStore beside files of flags. Tokens come from FLAGSVC_TOKENS_FILE there, or others prove callers."""

    async def revision(self) -> int:
        """Return 0."""
        return 0

    async def load(self) -> StoredTokens:
        """Return none."""
        return StoredTokens(0, [])

    async def write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry | None = None, forget: Sequence[str] = ()
    ) -> R | None:
        """Raise WritesUnsupported."""
        del record_id, decide, entry, forget
        raise WritesUnsupported("files of flags keep no tokens and no denials; change the file of tokens instead")

    async def make_ticket_key(self, key: bytes) -> None:
        """Raise WritesUnsupported: a ticket must be valid on every replica."""
        del key
        raise WritesUnsupported("files of flags keep no key for tickets")

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Do nothing."""
