"""What a store keeps about callers, tokens and denials alike: as documents, and as JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from flagsvc.core.access import denials, token_documents
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.tokens import Token

Record = Token | Denial
R = TypeVar("R", Token, Denial)
Decide = Callable[[R | None], R | None]
"""Returns a record as it is to be stored, given its current state; None: there is nothing to change."""
_TIMES = frozenset({"createdAt", "expiresAt", "revokedAt", "deniedAt", "liftedAt"})


def to_document(record: Record) -> dict[str, Any]:
    """Return a record as a store keeps it; times stay datetimes."""
    return denials.to_document(record) if isinstance(record, Denial) else token_documents.to_document(record)


def from_document(record_id: str, document: Mapping[str, Any]) -> Record:
    """Read a record strictly: what is not as `to_document` writes it has no effect. Raises ValueError."""
    read = denials.from_document if denials.is_denial(record_id) else token_documents.from_document
    return read(record_id, document)


def to_json(record: Record) -> str:
    """Return a record's document as JSON, with times in ISO 8601."""
    return json.dumps(to_document(record), default=datetime.isoformat)


def from_json(record_id: str, text: str | bytes) -> Record:
    """Read what `to_json` wrote. Raises ValueError for anything else."""
    document = json.loads(text, object_hook=_with_times)
    if not isinstance(document, dict):
        raise ValueError("the stored record is malformed: no object")  # noqa: TRY004  as for every other fault
    return from_document(record_id, document)


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    texts = {name: value for name, value in fields.items() if name in _TIMES and isinstance(value, str)}
    return fields | {name: datetime.fromisoformat(text) for name, text in texts.items()}
