"""Makes, changes and ends tokens, and says how far that has spread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flagsvc.access.token_view import TokenView
from flagsvc.core.access import tokens
from flagsvc.core.access.decision import check_grant
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import scope_of
from flagsvc.core.access.token_text import digest_of, new_id, new_token
from flagsvc.core.access.tokens import MAX_TOKENS, Decide, Secret, Token
from flagsvc.core.errors import QuotaExceeded
from flagsvc.ports import FlagCache, TokenStore
from flagsvc.replication.heartbeats import TOKENS, Heartbeats
from flagsvc.replication.publish import WriteLevel
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
    """A token as stored, and how far its change has spread; replicas by name. `text`: a new secret, given only once."""

    token: Token
    reached: WriteLevel
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()
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


def now() -> datetime:
    """Return the time as stores keep it, in milliseconds."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


class TokenWriter:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then.

    `changed`: called once this replica enforces a change. `is_shared`: other replicas may use the store.
    """

    def __init__(
        self,
        store: TokenStore,
        view: TokenView,
        cache: FlagCache | None,
        heartbeats: Heartbeats,
        changed: Callable[[], None],
        *,
        is_shared: bool,
    ) -> None:
        self._store, self._view, self._cache, self._heartbeats = store, view, cache, heartbeats
        self._changed, self._is_shared = changed, is_shared
        self._tasks: set[asyncio.Task[TokenChange | None]] = set()

    async def create(self, giver: Identity, grant: Grant, wait_for: WaitFor) -> TokenChange:
        """Make a token; the result has its text."""
        if len(self._view.tokens) >= MAX_TOKENS:
            raise QuotaExceeded(f"the store has {MAX_TOKENS} tokens, which is the limit")
        token, text = issued(giver, grant)
        return await self._written(token.id, tokens.create(token), wait_for, text)

    async def update(
        self, giver: Identity, token_id: str, fields: Mapping[str, Any], etag: int | None, wait_for: WaitFor
    ) -> TokenChange:
        """Change a token's name, role, flag sets, expiry or rate, or disable or enable it."""
        return await self._written(token_id, tokens.update(token_id, fields, etag, _check_of(giver)), wait_for)

    async def rotate(
        self, giver: Identity, token_id: str, overlap_ends_at: datetime, etag: int | None, wait_for: WaitFor
    ) -> TokenChange:
        """Give a token a new secret, which the result has; the one before it is valid until the overlap ends."""
        text = new_token(token_id)
        decide = tokens.rotate(token_id, digest_of(text).hex(), overlap_ends_at, etag, _check_of(giver))
        return await self._written(token_id, decide, wait_for, text)

    async def revoke(self, token_id: str, etag: int | None, wait_for: WaitFor) -> TokenChange:
        """End a token for ever. Idempotent."""
        return await self._written(token_id, tokens.revoke(token_id, now(), etag), wait_for)

    async def close(self) -> None:
        """Let running changes finish."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _written(self, token_id: str, decide: Decide, wait_for: WaitFor, text: str = "") -> TokenChange:
        """Write and announce. A caller who leaves does not stop it half way."""
        task = asyncio.create_task(self._write(token_id, decide, wait_for, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _write(self, token_id: str, decide: Decide, wait_for: WaitFor, text: str) -> TokenChange:
        until = time.monotonic() + wait_for.timeout_s
        current: list[Token | None] = []

        def decide_and_note(found: Token | None) -> Token | None:
            current[:] = [found]
            return decide(found)

        token = await self._store.write(token_id, decide_and_note) or current[0]
        assert token is not None  # noqa: S101  a decision about a token that is not there raises
        self._view.apply(token)
        self._changed()
        own = (self._heartbeats.name,)
        if self._cache is None:
            return TokenChange(token, WriteLevel.STORED if self._is_shared else WriteLevel.APPLIED, own, text=text)
        reached = WriteLevel.CACHED if await self._cache.announce_tokens() else WriteLevel.STORED
        if wait_for.level is not WriteLevel.APPLIED:
            return TokenChange(token, reached, own, text=text)
        acks = await self._heartbeats.wait_for_acks(TOKENS, token.revision, until)
        if acks.known and not acks.lagging:
            reached = WriteLevel.APPLIED
        return TokenChange(token, reached, acks.applied, acks.lagging, text)


def _check_of(giver: Identity) -> Callable[[Token], None]:
    return lambda token: check_grant(giver, token.role, token.scope, token.expires_at)
