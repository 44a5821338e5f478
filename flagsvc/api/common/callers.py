"""The credential in a call's headers, and the caller of the call that runs now."""

from __future__ import annotations

from contextvars import ContextVar

from flagsvc.api.common.contexts import Metadata
from flagsvc.core.access.identity import UNCHECKED, Identity
from flagsvc.core.errors import Unauthenticated

CALLER: ContextVar[Identity] = ContextVar("caller", default=UNCHECKED)
"""Who makes the call; UNCHECKED while callers are not authenticated."""
AUTHORIZATION, API_KEY = "authorization", "x-api-key"
_BEARER = "bearer "


def credential_in(metadata: Metadata) -> str | None:
    """Return the one credential in a call's headers: `authorization: Bearer X`, or `x-api-key: X`.

    Raises Unauthenticated for another scheme and for more than one: which of them counts would be a guess.
    """
    found: str | None = None
    for name, value in metadata or ():
        if name not in (AUTHORIZATION, API_KEY):
            continue
        if found is not None:
            raise Unauthenticated(f"there is more than one credential; send {AUTHORIZATION} or {API_KEY}, once")
        found = value
        if name == AUTHORIZATION:
            if value[: len(_BEARER)].lower() != _BEARER:
                raise Unauthenticated(f"the scheme of {AUTHORIZATION} is not known; it must be: Bearer TOKEN")
            found = value[len(_BEARER) :].strip(" ")
    return found
