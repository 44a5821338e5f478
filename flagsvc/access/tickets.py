"""Tickets: who follows the events of a flag set, in an address, for clients that can send no header.

A ticket is sealed with a key of the store, so every replica can read it and nobody else. It names its caller, and has
nothing of the caller's secret. Within STEP_S a caller gets the same one.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from flagsvc.access.proven import ProvenCallers
from flagsvc.access.token_view import TokenView
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import only
from flagsvc.core.errors import Unauthenticated

KEY_BYTES = 64
VALID_S = 60
"""Seconds after which no stream can be opened any more with a ticket."""
STEP_S = 30
"""Seconds for which a caller gets the same ticket; it is then valid for as long at least."""
MAX_CHARS = 8_192
"""Enough for the longest names that issuers and their subjects have."""
_INVALID = "the ticket is not valid: it has expired, is for another flag set, or is no ticket; evaluate all flags again"


class _Content(NamedTuple):
    """What a ticket says. `reference`: what its caller rests on. `expires_at`: when that ends; None: not by itself."""

    ends_at: float
    kind: str
    id: str
    reference: str
    role: str
    expires_at: float | None


class Tickets:
    """Issues tickets, and says whose they are. `proven`: who recognizes callers by what others have proven."""

    def __init__(
        self, view: TokenView, proven: Callable[[], ProvenCallers | None], clock: Callable[[], float] = time.time
    ) -> None:
        from flagsvc.access.sealing import seal, unseal  # noqa: PLC0415  its library is imported only if it is used

        self._view, self._proven, self._clock = view, proven, clock
        self._seal, self._unseal = seal, unseal

    @property
    def can_issue(self) -> bool:
        """Whether the key is known."""
        return len(self._view.ticket_key) == KEY_BYTES

    def issue(self, caller: Identity, flag_set: str) -> str:
        """Return a ticket for the events of a flag set. `can_issue` must hold, and the caller have a credential."""
        content = _Content(
            (int(self._clock()) // STEP_S) * STEP_S + VALID_S,
            caller.kind,
            caller.id,
            self._reference(caller),
            Role.PUBLIC if caller.is_of_the_public else Role.EVALUATE,
            caller.expires_at if caller.expires_at != math.inf else None,
        )
        return self._seal(
            self._view.ticket_key,
            json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            _purpose(flag_set),
        )

    def holder(self, ticket: str, flag_set: str) -> Identity:
        """Return who has a ticket, with its present rights. Raises Unauthenticated."""
        content, now = self._opened(ticket, flag_set), self._clock()
        found = self._caller(content, flag_set) if content is not None and now < content.ends_at else None
        if found is None or now >= found.expires_at:
            raise Unauthenticated(_INVALID)
        return found

    def _caller(self, content: _Content, flag_set: str) -> Identity | None:
        if content.kind == Kind.TOKEN:
            own = self._view.of_token(content.id)
            return next((each for each in own if self._reference(each) == content.reference), None)
        proven = self._proven()
        if proven is None:
            return None
        ends_at = math.inf if content.expires_at is None else content.expires_at
        role, scope = Role(content.role), only(flag_set)
        return proven.referred(
            content.reference, Identity(Kind(content.kind), content.id, content.id, role, scope, ends_at)
        )

    def _opened(self, ticket: str, flag_set: str) -> _Content | None:
        if not self.can_issue or len(ticket) > MAX_CHARS:
            return None
        content = self._unseal(self._view.ticket_key, ticket, _purpose(flag_set))
        return _Content(*json.loads(content)) if content is not None else None

    def _reference(self, caller: Identity) -> str:
        """Return what a caller rests on; for a token's secret a digest that only those who know the key can make."""
        if caller.kind is Kind.TOKEN:
            return hashlib.blake2b(caller.key, key=self._view.ticket_key, digest_size=16).hexdigest()
        proven = self._proven()
        return proven.reference(caller) if proven is not None else ""


def _purpose(flag_set: str) -> list[bytes]:
    return [b"flagsvc events", flag_set.encode("utf-8", "surrogatepass")]
