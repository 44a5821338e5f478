"""Denials: identities that are refused although what proves them is valid. They change purely, as tokens do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from flagsvc.core import shown_text, validation
from flagsvc.core.access.identity import Kind
from flagsvc.core.access.typed import moment, typed
from flagsvc.core.errors import DenialNotFound, InvalidRequest, invalid

MAX_DENIALS = 10_000
"""Denials of a store, those that are over too; the oldest of these make room for new ones."""
MAX_NAME_CHARS = 3_000
"""Issuer and subject are shorter; a name of a certificate that is longer cannot be denied."""
_ID = "denial-"
_WANTED = f"{Kind.JWT}:ISSUER|SUBJECT, {Kind.CERTIFICATE}:uri:NAME or {Kind.CERTIFICATE}:dns:NAME"
_TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One identity. `name`: as logs and histories name the caller. Times are aware UTC.

    `lifted_at`: since when it is not refused any more. `revision`: as of a token.
    """

    name: str
    reason: str
    denied_by: str
    denied_at: datetime
    expires_at: datetime | None = None
    lifted_by: str = ""
    lifted_at: datetime | None = None
    revision: int = 0

    @property
    def id(self) -> str:
        """What stores keep it by."""
        return id_of(self.name)

    @property
    def changed_at(self) -> datetime:
        """When it was denied or lifted. Each change of an identity is later than the one before."""
        return self.lifted_at or self.denied_at

    def is_in_force(self, now: datetime) -> bool:
        """Whether the identity is refused."""
        return self.lifted_at is None and (self.expires_at is None or self.expires_at > now)


Decide = Callable[[Denial | None], Denial | None]
"""Returns the denial as it is to be stored, given its current state; None: there is nothing to change."""


def identity_name(text: str) -> str:
    """Return the name of an identity that can be denied. Raises InvalidRequest."""
    kind, _, rest = text.partition(":")
    if kind == Kind.TOKEN:
        raise invalid("identity", text, f"{_WANTED}; tokens are revoked, not denied")
    if kind == Kind.JWT:
        is_whole = all(rest.partition("|")[::2])
    else:
        form, _, name = rest.partition(":")
        is_whole = kind == Kind.CERTIFICATE and form in {"uri", "dns"} and bool(name)
        text = text.lower() if form == "dns" else text
    if not is_whole or len(text) > MAX_NAME_CHARS or shown_text.problem(text):
        raise invalid("identity", text, f"{_WANTED}, at most {MAX_NAME_CHARS} visible characters")
    return text


def id_of(name: str) -> str:
    """Return the id that a store keeps an identity's denial by. No token has such an id."""
    return _ID + hashlib.sha256(name.encode()).hexdigest()[:32]


def is_denial(record_id: str) -> bool:
    """Whether a store's record with this id is a denial."""
    return record_id.startswith(_ID)


def deny(wanted: Denial, known: Denial | None) -> Decide:
    """Refuse an identity. `known`: what this replica holds, which a restored store may have lost."""
    if wanted.expires_at is not None and wanted.expires_at <= wanted.denied_at:
        raise invalid("expire_time", wanted.expires_at.isoformat(), "later than now")
    validation.text("reason", wanted.reason)

    def decide(current: Denial | None) -> Denial | None:
        is_so = current is not None and current.is_in_force(wanted.denied_at) and known in (None, current)
        if is_so and current is not None and (current.reason, current.expires_at) == (wanted.reason, wanted.expires_at):
            return None
        return replace(wanted, denied_at=_after(wanted.denied_at, current, known))

    return decide


def lift(name: str, by: str, at: datetime, known: Denial | None) -> Decide:
    """Refuse an identity no more. Idempotent."""

    def decide(current: Denial | None) -> Denial | None:
        found = max((each for each in (current, known) if each is not None), key=_changed_at, default=None)
        if found is None:
            raise DenialNotFound(name)
        if found.lifted_at is not None:
            return None if found is current else found
        return replace(found, lifted_by=by, lifted_at=_after(at, found))

    return decide


def to_document(denial: Denial) -> dict[str, Any]:
    """Return a denial as a store keeps it; times stay datetimes, and what is not set is left out."""
    document = {
        "denied": denial.name,
        "reason": denial.reason,
        "deniedBy": denial.denied_by,
        "deniedAt": denial.denied_at,
        "expiresAt": denial.expires_at,
        "liftedBy": denial.lifted_by or None,
        "liftedAt": denial.lifted_at,
        "revision": denial.revision,
    }
    return {name: value for name, value in document.items() if value is not None}


def from_document(record_id: str, document: Mapping[str, Any]) -> Denial:
    """Read a denial strictly. Raises ValueError."""
    try:
        denial = Denial(
            name=identity_name(typed(document["denied"], str)),
            reason=typed(document["reason"], str),
            denied_by=typed(document["deniedBy"], str),
            denied_at=typed(document["deniedAt"], datetime),
            expires_at=moment(document.get("expiresAt")),
            lifted_by=typed(document.get("liftedBy", ""), str),
            lifted_at=moment(document.get("liftedAt")),
            revision=typed(document["revision"], int),
        )
    except (KeyError, TypeError, InvalidRequest) as error:
        raise ValueError(f"the stored denial is malformed: {type(error).__name__}") from error
    if denial.id != record_id:
        raise ValueError("the stored denial has the id of another one")
    return denial


def _after(at: datetime, *others: Denial | None) -> datetime:
    """Return a moment that is later than the last change, also where another replica's clock is ahead."""
    return max([at, *(each.changed_at + _TICK for each in others if each is not None)])


def _changed_at(denial: Denial) -> datetime:
    return denial.changed_at
