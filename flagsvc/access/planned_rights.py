"""Whether who planned a change may still make it, when it is due.

Decided from the stored token or denials, as the transaction that executes the change has read them, and from today's
rules for JWTs and client certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from flagsvc.access.access import Access
from flagsvc.core.access.decision import authorize
from flagsvc.core.access.denials import Denial, id_of
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.records import Record
from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import Token
from flagsvc.core.errors import AccessUnknown, PermissionDenied
from flagsvc.core.schedules.model import Creator

NEEDED = Role.WRITE
"""The role that planning a change needs, and executing it."""


class PlannedRights:
    """The rights of creators of schedules. `access`: None if callers are not authenticated."""

    def __init__(self, access: Access | None) -> None:
        self._access = access

    def creator(self, caller: Identity) -> Creator:
        """Return who plans a change, with what its rights are decided from later."""
        proven = self._access.authority.proven if self._access is not None else None
        is_proven = caller.kind in (Kind.JWT, Kind.CERTIFICATE)
        evidence = proven.evidence(caller) if proven is not None and is_proven else {}
        return Creator(caller.kind.value, caller.id, evidence)

    def check(self, creator: Creator, records: Mapping[str, Record], flag_set: str, now: datetime) -> None:
        """Raise PermissionDenied unless the creator may change flags of this set now.

        Raises AccessUnknown before this replica knows whom it has to refuse.
        """
        if self._access is None:
            return
        if not creator.is_checked:
            raise PermissionDenied("it was planned while callers were not authenticated; plan it again")
        if not self._access.is_ready:
            raise AccessUnknown("this replica has not read the tokens yet; retry")
        if creator.kind == Kind.TOKEN:
            caller = self._by_token(creator, records.get(creator.id), now)
        else:
            caller = self._by_rules(creator, records, now)
        authorize(caller, NEEDED, (flag_set,))

    def _by_token(self, creator: Creator, record: Record | None, now: datetime) -> Identity:
        assert self._access is not None  # noqa: S101  only a checked creator has a token
        view = self._access.view
        token = record if isinstance(record, Token) else view.filed.get(creator.id)
        if token is None or not token.is_usable or view.is_revoked(creator.id):
            raise PermissionDenied(f"its creator {creator} is revoked, disabled or unknown", str(creator))
        if token.expires_at is not None and token.expires_at <= now:
            raise PermissionDenied(f"its creator {creator} has expired", str(creator))
        return Identity(Kind.TOKEN, token.id, token.name, token.role, token.scope)

    def _by_rules(self, creator: Creator, records: Mapping[str, Record], now: datetime) -> Identity:
        assert self._access is not None  # noqa: S101  as above
        names = [f"{creator.kind}:{name}" for name in creator.evidence.get("names") or [creator.id]]
        for name in names:
            stored, held = records.get(id_of(name)), self._access.view.denials.all.get(name)
            if any(isinstance(each, Denial) and each.is_in_force(now) for each in (stored, held)):
                # A replica that has not read of the lifting would refuse what another one does: it waits.
                if isinstance(stored, Denial) and not stored.is_in_force(now):
                    raise AccessUnknown("this replica has not read yet that the denial was lifted; retry")
                raise PermissionDenied(f"its creator {creator} is denied", str(creator))
        proven = self._access.authority.proven
        caller = proven.granted(creator.kind, creator.id, creator.evidence) if proven is not None else None
        if caller is None:
            raise PermissionDenied(f"no rule gives its creator {creator} a role any more", str(creator))
        return caller
