"""The tokens that this replica enforces, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

import structlog

from flagsvc.core.access.identity import Identity
from flagsvc.core.access.tokens import MAX_TOKENS, Token
from flagsvc.ports import NEVER, StoredTokens

MAX_REVOKED = 10 * MAX_TOKENS
"""Ids of revoked tokens that are remembered, also when the store has them no more."""

log = structlog.get_logger(__name__)


class TokenView:
    """Every token, as last read. `revision`: every change up to it is enforced; -1 before the first load.

    `verified_at`: the moment of `time.monotonic()` as of which it is known to equal the store.
    `version` grows with every change of what is held.
    """

    def __init__(self) -> None:
        self.tokens: Mapping[str, Token] = {}
        self.revision, self.version, self.verified_at = -1, 0, NEVER
        self.returned: frozenset[str] = frozenset()
        """Ids of tokens that are revoked, as this replica knows, and that the store takes for valid again."""
        self.used: set[str] = set()
        """Ids of tokens that were used since this was last emptied."""
        self.ticket_key = b""
        """What tickets are sealed with; empty until it is read."""
        self._identities: dict[bytes, Identity] = {}
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._applied: dict[str, tuple[Token, float]] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the tokens were read once."""
        return self.revision >= 0

    def identity(self, key: bytes) -> Identity | None:
        """Return whom a token's digest stands for; also one that has expired."""
        return self._identities.get(key)

    def of_token(self, token_id: str) -> list[Identity]:
        """Return whom the secrets of a token stand for; also where one has expired."""
        token = self.tokens.get(token_id)
        found = (self._identities.get(bytes.fromhex(each.digest)) for each in token.secrets) if token else ()
        return [each for each in found if each is not None]

    def confirm(self, as_of: float) -> None:
        """Record that the store had nothing newer at a moment."""
        self.verified_at = max(self.verified_at, as_of)

    def hold(self, stored: StoredTokens, as_of: float) -> bool:
        """Take what a load that began at `as_of` has read. Return whether anything changed."""
        tokens = {token.id: token for token in stored.tokens}
        # What was written here while the load was under way may not be in it.
        self._applied = {key: each for key, each in self._applied.items() if each[1] >= as_of}
        tokens |= {key: token for key, (token, _) in self._applied.items() if token.revision > stored.revision}
        self.revision, self.ticket_key = stored.revision, stored.ticket_key or self.ticket_key
        self.confirm(as_of)
        return self._replace(tokens)

    def apply(self, token: Token) -> None:
        """Take one token that was written here."""
        self._applied[token.id] = token, time.monotonic()
        if token.revision == self.revision + 1:
            self.revision = token.revision
        self._replace({**self.tokens, token.id: token})

    def _replace(self, tokens: Mapping[str, Token]) -> bool:
        if tokens == self.tokens:
            return False
        for token in tokens.values():
            if token.revoked_at is not None:
                self._revoked[token.id] = None
        while len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)
        returned = frozenset(each.id for each in tokens.values() if each.is_usable and each.id in self._revoked)
        if returned - self.returned:
            detail = "The store has tokens that were revoked, as after a restore. They are refused; revoke them again."
            log.warning("revoked_tokens_returned", ids=sorted(returned)[:10], count=len(returned), detail=detail)
        usable = (token for token in tokens.values() if token.id not in returned)
        self._identities = {key: each for token in usable for key, each in token.identities().items()}
        self.tokens, self.returned = tokens, returned
        self.version += 1
        return True
