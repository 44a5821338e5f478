"""The tokens of a store, which are no flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flagsvc.core.access.tokens import Decide, Token


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """Every token of a store. `revision`: every change up to it is contained. `malformed`: ids that cannot be read.

    `ticket_key`: what tickets are sealed with; empty if none was made.
    """

    revision: int
    tokens: Sequence[Token]
    malformed: Sequence[str] = ()
    ticket_key: bytes = b""


class TokenStore(Protocol):
    """Where tokens are kept. Every method raises StoreUnavailable when the store cannot be asked in time."""

    async def revision(self) -> int:
        """Read the counter of changes; linearizable where the store has more than one member."""

    async def load(self) -> StoredTokens:
        """Read the counter, then every token."""

    async def write(self, token_id: str, decide: Decide) -> Token | None:
        """Decide and store in one atomic step, with the next value of the counter. None: there was nothing to change.

        Raises what `decide` raises (nothing is changed then), WritesUnsupported, and ChangeRefused where the stored
        token is malformed.
        """

    async def make_ticket_key(self, key: bytes) -> None:
        """Store the key of tickets, unless there is one."""

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Record the last day of use by token id, unless a later one is there. It takes no revision."""
