"""Tokens as documents, which stores keep."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import Secret, Token, checked
from flagsvc.core.access.typed import moment, typed
from flagsvc.core.errors import InvalidRequest

_DIGEST_CHARS = 64


def to_document(token: Token) -> dict[str, Any]:
    """Return a token as a store keeps it; times stay datetimes, and what is not set is left out."""
    document: dict[str, Any] = {
        "name": token.name,
        "role": token.role.value,
        "flagSets": list(token.flag_sets),
        "createdBy": token.created_by,
        "createdAt": token.created_at,
        "expiresAt": token.expires_at,
        "disabled": token.disabled or None,
        "revokedAt": token.revoked_at,
        "secrets": [{"digest": each.digest, "expiresAt": each.expires_at} for each in token.secrets],
        "lastUsedOn": token.last_used_on or None,
        "revision": token.revision,
        "rate": token.rate or None,
        "forOthers": token.for_others or None,
        "contextHeaders": token.context_headers or None,
    }
    return {name: value for name, value in document.items() if value is not None}


def from_document(token_id: str, document: Mapping[str, Any]) -> Token:
    """Read a token strictly: what is not as `to_document` writes it gives no right. Raises ValueError."""
    try:
        token = Token(
            id=token_id,
            name=typed(document["name"], str),
            role=Role(document["role"]),
            flag_sets=tuple(typed(each, str) for each in typed(document["flagSets"], list)),
            created_by=typed(document["createdBy"], str),
            created_at=typed(document["createdAt"], datetime),
            expires_at=moment(document.get("expiresAt")),
            disabled=typed(document.get("disabled", False), bool),
            revoked_at=moment(document.get("revokedAt")),
            secrets=tuple(_secret(each) for each in document["secrets"]),
            last_used_on=typed(document.get("lastUsedOn", ""), str),
            revision=typed(document["revision"], int),
            rate=typed(document.get("rate", 0), int),
            for_others=typed(document.get("forOthers", False), bool),
            context_headers=typed(document.get("contextHeaders", False), bool),
        )
        return checked(token)
    except (KeyError, TypeError, AttributeError, InvalidRequest) as error:
        raise ValueError(f"the stored token is malformed: {type(error).__name__}") from error


def _secret(document: Mapping[str, Any]) -> Secret:
    digest = typed(document["digest"], str)
    if len(digest) != _DIGEST_CHARS or len(bytes.fromhex(digest)) * 2 != _DIGEST_CHARS:
        raise ValueError("the digest is not a SHA-256")
    return Secret(digest, moment(document.get("expiresAt")))
