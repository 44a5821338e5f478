"""Makes, changes and ends tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flagsvc.access.record_writer import RecordWriter, Spread, entry_of, now
from flagsvc.access.token_view import TokenView
from flagsvc.core.access import tokens
from flagsvc.core.access.decision import check_grant
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import scope_of
from flagsvc.core.access.token_text import digest_of, new_id, new_token
from flagsvc.core.access.tokens import MAX_TOKENS, Decide, Secret, Token
from flagsvc.core.audit import AuditEntry
from flagsvc.core.errors import QuotaExceeded, TokenFixed
from flagsvc.serving.writer import WaitFor


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new token is to be."""

    name: str
    role: Role
    flag_sets: tuple[str, ...]
    expires_at: datetime | None = None
    rate: int = 0
    for_others: bool = False
    context_headers: bool = False


@dataclass(frozen=True, slots=True)
class TokenChange:
    """A token as stored, and how far its change has spread. `text`: a new secret, given only once."""

    token: Token
    spread: Spread
    text: str = ""


def issued(giver: Identity, grant: Grant, token_id: str = "") -> tuple[Token, str]:
    """Return a new token for the store, and its text. Raises InvalidRequest, and PermissionDenied for the giver.

    `token_id`: its id, where that is given.
    """
    check_grant(giver, grant.role, scope_of(grant.flag_sets), grant.expires_at)
    token_id = token_id or new_id()
    text = new_token(token_id)
    token = Token(
        id=token_id,
        name=grant.name,
        role=grant.role,
        flag_sets=grant.flag_sets,
        created_by=str(giver),
        created_at=now(),
        expires_at=grant.expires_at,
        secrets=(Secret(digest_of(text).hex()),),
        rate=grant.rate,
        for_others=grant.for_others,
        context_headers=grant.context_headers,
    )
    return tokens.checked(token), text


def overlap_end(seconds: float) -> datetime | None:
    """Return when an overlap that begins now ends; None for none: a clock that is ahead would let a secret go on."""
    return now() + timedelta(seconds=seconds) if seconds else None


class TokenWriter:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then."""

    def __init__(self, records: RecordWriter, view: TokenView) -> None:
        self._records, self._view = records, view

    async def create(self, giver: Identity, grant: Grant, wait_for: WaitFor) -> TokenChange:
        """Make a token; the result has its text."""
        if len(self._view.stored) >= MAX_TOKENS:
            raise QuotaExceeded(f"the store has {MAX_TOKENS} tokens, which is the limit")
        token, text = issued(giver, grant)
        entry = entry_of(giver, "CreateToken", token.id)
        return await self._written(token.id, tokens.create(token), entry, wait_for, text)

    async def update(
        self, giver: Identity, token_id: str, fields: Mapping[str, Any], etag: int | None, wait_for: WaitFor
    ) -> TokenChange:
        """Change a token's name, role, flag sets, expiry or rate, or disable or enable it."""
        decide = tokens.update(token_id, fields, etag, _check_of(giver))
        return await self._written(token_id, decide, entry_of(giver, "UpdateToken", token_id), wait_for)

    async def rotate(
        self, giver: Identity, token_id: str, overlap_ends_at: datetime | None, etag: int | None, wait_for: WaitFor
    ) -> TokenChange:
        """Replace a token's secret; the result has the new one; the one before it is valid until the overlap ends.

        `overlap_ends_at`: by the clocks of all replicas; None: there is no overlap.
        """
        text = new_token(token_id)
        decide = tokens.rotate(token_id, digest_of(text).hex(), overlap_ends_at, etag, _check_of(giver))
        return await self._written(token_id, decide, entry_of(giver, "RotateToken", token_id), wait_for, text)

    async def revoke(self, caller: Identity, token_id: str, etag: int | None, wait_for: WaitFor) -> TokenChange:
        """End a token for ever. Idempotent."""
        decide, entry = tokens.revoke(token_id, now(), etag), entry_of(caller, "RevokeToken", token_id)
        return await self._written(token_id, decide, entry, wait_for)

    async def _written(
        self, token_id: str, decide: Decide, entry: AuditEntry, wait_for: WaitFor, text: str = ""
    ) -> TokenChange:
        if token_id in self._view.filed:
            raise TokenFixed(token_id)
        token, spread = await self._records.write(token_id, decide, entry, wait_for)
        return TokenChange(token, spread, text)


def _check_of(giver: Identity) -> Callable[[Token], None]:
    return lambda token: check_grant(giver, token.role, token.scope, token.expires_at)
