"""Tokens as a store keeps them, and how they change. A change is decided on the token's current state, purely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from flagsvc.core import validation
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import Scope, scope_of
from flagsvc.core.errors import RevisionConflict, TokenNotFound, TokenRevoked, invalid

MAX_TOKENS = 10_000
"""Tokens of a store, revoked ones too."""
MAX_RATE = 1_000_000
MAX_SECRETS = 2
"""Secrets that are valid at once: the newest, and the one before it until its overlap ends."""


class Secret(NamedTuple):
    """One secret of a token: the SHA-256 of its whole text in hexadecimal, and when it ends."""

    digest: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret. Times are aware UTC.

    `created_by`: the caller who made it. `last_used_on`: a day such as `2026-11-30`; recording it takes no revision.
    `revision`: the state of all tokens with which it last changed. `rate`: evaluations a second; 0: the server's rate.
    `for_others`: its callers may make changes on behalf of others. `context_headers`: their headers set context fields.
    """

    id: str
    name: str
    role: Role
    flag_sets: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    disabled: bool = False
    revoked_at: datetime | None = None
    secrets: tuple[Secret, ...] = ()
    last_used_on: str = ""
    revision: int = 0
    rate: int = 0
    for_others: bool = False
    context_headers: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether it can be used until it expires."""
        return not self.disabled and self.revoked_at is None

    @property
    def scope(self) -> Scope:
        """The flag sets that it is for. Raises InvalidRequest."""
        return scope_of(self.flag_sets)

    def identities(self) -> Mapping[bytes, Identity]:
        """Return the identity that each of its secrets stands for, by the secret's digest; none if it is unusable."""
        if not self.is_usable:
            return {}
        scope, found = self.scope, {}
        for secret in self.secrets:
            ends_at = min(_moment(self.expires_at), _moment(secret.expires_at))
            key = bytes.fromhex(secret.digest)
            found[key] = Identity(
                Kind.TOKEN,
                self.id,
                self.name,
                self.role,
                scope,
                ends_at,
                key,
                rate=self.rate,
                may_act_for_others=self.for_others,
                context_headers=self.context_headers,
            )
        return found


Decide = Callable[[Token | None], Token | None]
"""Returns the token as it is to be stored, given its current state; None: there is nothing to change."""


def create(token: Token) -> Decide:
    """Store a new token."""

    def decide(current: Token | None) -> Token | None:
        if current is not None:
            raise invalid("id", token.id, "the id of no token yet")
        return checked(token)

    return decide


def update(token_id: str, fields: Mapping[str, Any], etag: int | None, check: Callable[[Token], None]) -> Decide:
    """Change fields. `check`: raises if the caller has no right to the result."""

    def decide(current: Token | None) -> Token | None:
        found = _changeable(current, token_id, etag)
        changed = checked(replace(found, **fields))
        check(changed)
        return changed if changed != found else None

    return decide


def rotate(
    token_id: str, digest: str, old_ends_at: datetime | None, etag: int | None, check: Callable[[Token], None]
) -> Decide:
    """Replace a token's secret; the one before it ends then, None: at once, by no clock. Older ones end at once."""

    def decide(current: Token | None) -> Token | None:
        found = _changeable(current, token_id, etag)
        check(found)
        newest = found.secrets[-1:] if old_ends_at is not None else ()
        kept = tuple(Secret(each.digest, _earlier(each.expires_at, old_ends_at)) for each in newest)
        return replace(found, secrets=(*kept, Secret(digest)))

    return decide


def revoke(token_id: str, at: datetime, etag: int | None = None) -> Decide:
    """End a token for ever. Idempotent."""

    def decide(current: Token | None) -> Token | None:
        if current is not None and current.revoked_at is not None:
            return None
        return replace(_changeable(current, token_id, etag), revoked_at=at, secrets=())

    return decide


def checked(token: Token) -> Token:
    """Return a token whose fields are valid. Raises InvalidRequest."""
    if not token.name:
        raise invalid("name", "", "a name that says who uses the token")
    validation.text("name", token.name)
    if not 0 <= token.rate <= MAX_RATE:
        raise invalid("rate", token.rate, f"0, for the server's rate, to {MAX_RATE}")
    if token.expires_at is not None and token.expires_at <= token.created_at:
        raise invalid("expire_time", token.expires_at.isoformat(), "later than now")
    scope_of(token.flag_sets)
    return token


def _changeable(current: Token | None, token_id: str, etag: int | None) -> Token:
    if current is None:
        raise TokenNotFound(token_id)
    if current.revoked_at is not None:
        raise TokenRevoked(f'Token "{token_id}" is revoked, which is for ever: create another one')
    if etag is not None and etag != current.revision:
        raise RevisionConflict(token_id, etag, current.revision)
    return current


def _moment(at: datetime | None) -> float:
    return math.inf if at is None else at.timestamp()


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return other if one is None or other is None else min(one, other)
