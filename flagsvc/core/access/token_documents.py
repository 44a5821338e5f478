"""Tokens as documents, which stores keep, and as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import Secret, Token, checked
from flagsvc.core.errors import InvalidRequest

_DIGEST_CHARS = 64
_TIMES = frozenset({"createdAt", "expiresAt", "revokedAt"})


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
            name=_typed(document["name"], str),
            role=Role(document["role"]),
            flag_sets=tuple(_typed(each, str) for each in _typed(document["flagSets"], list)),
            created_by=_typed(document["createdBy"], str),
            created_at=_typed(document["createdAt"], datetime),
            expires_at=_time(document.get("expiresAt")),
            disabled=_typed(document.get("disabled", False), bool),
            revoked_at=_time(document.get("revokedAt")),
            secrets=tuple(_secret(each) for each in document["secrets"]),
            last_used_on=_typed(document.get("lastUsedOn", ""), str),
            revision=_typed(document["revision"], int),
            rate=_typed(document.get("rate", 0), int),
            for_others=_typed(document.get("forOthers", False), bool),
            context_headers=_typed(document.get("contextHeaders", False), bool),
        )
        return checked(token)
    except (KeyError, TypeError, AttributeError, InvalidRequest) as error:
        raise ValueError(f"the stored token is malformed: {type(error).__name__}") from error


def to_json(token: Token) -> str:
    """Return a token's document as JSON, with times in ISO 8601."""
    return json.dumps(to_document(token), default=datetime.isoformat)


def from_json(token_id: str, text: str) -> Token:
    """Read what `to_json` wrote. Raises ValueError for anything else."""
    document = json.loads(text, object_hook=_with_times)
    if not isinstance(document, dict):
        raise ValueError("the stored token is malformed: no object")  # noqa: TRY004  as for every other fault
    return from_document(token_id, document)


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    texts = {name: value for name, value in fields.items() if name in _TIMES and isinstance(value, str)}
    return fields | {name: datetime.fromisoformat(text) for name, text in texts.items()}


def _secret(document: Mapping[str, Any]) -> Secret:
    digest = _typed(document["digest"], str)
    if len(digest) != _DIGEST_CHARS or len(bytes.fromhex(digest)) * 2 != _DIGEST_CHARS:
        raise ValueError("the digest is not a SHA-256")
    return Secret(digest, _time(document.get("expiresAt")))


def _time(value: Any) -> datetime | None:
    return None if value is None else _typed(value, datetime)


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted and not (wanted is datetime and isinstance(value, datetime)):
        raise TypeError("of another type")
    return value
