"""The credential in a call's headers, and the caller of the call that runs now."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from flagsvc.core.access.identity import UNCHECKED, Identity
from flagsvc.core.errors import Unauthenticated

Metadata = Iterable[Any] | None
"""A call's headers, or metadata: pairs of a name in lower case and a value."""
CALLER: ContextVar[Identity] = ContextVar("caller", default=UNCHECKED)
"""Who makes the call; UNCHECKED while callers are not authenticated."""


def credential_in(metadata: Metadata) -> str | None:
    """Return the one credential in a call's headers: `authorization: Bearer X`, or `x-api-key: X`.

    Raises Unauthenticated for another scheme and for more than one: which of them counts would be a guess.
    """
    found: str | None = None
    for name, value in metadata or ():
        if name == "authorization":
            credential = value[7:] if value.startswith("Bearer ") else _bearer(value)
        elif name == "x-api-key":
            credential = value
        else:
            continue
        if found is not None:
            raise Unauthenticated("there is more than one credential; send authorization or x-api-key, once")
        found = credential
    return found


def _bearer(value: str) -> str:
    """Return the token in another spelling of the scheme. Raises Unauthenticated for another scheme."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the scheme of authorization is not known; it must be: Bearer TOKEN")
    return token.strip(" ")
