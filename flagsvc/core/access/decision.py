"""The decision whether a caller may do something. Pure and synchronous: there is nothing to await, and it raises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import FOR_ALL_SETS, INCLUDED, Role
from flagsvc.core.access.scopes import Scope
from flagsvc.core.errors import PermissionDenied, invalid
from flagsvc.core.shown_text import visible


def authorize(identity: Identity, role: Role, flag_sets: Iterable[str] = ()) -> None:
    """Raise PermissionDenied unless the caller has the role, for each of the flag sets.

    A foreign flag set gets the same words whether it exists or not.
    """
    if role not in INCLUDED[identity.role]:
        raise PermissionDenied(f"this needs the role {role}; the caller {identity} has {identity.role}", identity)
    if role in FOR_ALL_SETS and not identity.scope.is_all:
        raise PermissionDenied(
            f"this needs the role {role} for all flag sets; the caller {identity} has it for some", identity
        )
    for flag_set in flag_sets:
        if not identity.scope.covers(flag_set):
            raise PermissionDenied(
                f'the caller {identity} has no right to flag set "{visible(flag_set[:80])}"', identity
            )


def check_grant(giver: Identity, role: Role, scope: Scope, expires_at: datetime | None) -> None:
    """Raise PermissionDenied if rights are more than the giver's own: role, flag sets or time.

    Raises InvalidRequest for a role that no flag set can limit, with a scope that does.
    """
    if role in FOR_ALL_SETS and not scope.is_all:
        raise invalid("flag_sets", list(scope.patterns), f'["*"]: the role {role} is for all')
    if role not in INCLUDED[giver.role]:
        raise PermissionDenied(f"the caller {giver} has the role {giver.role} and cannot give {role}", giver)
    if not giver.scope.includes(scope):
        raise PermissionDenied(f"the caller {giver} cannot give rights to flag sets that it has no right to", giver)
    if (math.inf if expires_at is None else expires_at.timestamp()) > giver.expires_at:
        raise PermissionDenied(f"the caller {giver} expires, and cannot give rights for longer than its own", giver)
