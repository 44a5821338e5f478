"""Who makes a change: the caller, as it was recognized, and on whose behalf."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flagsvc.api.common.callers import CALLER
from flagsvc.core import validation
from flagsvc.core.changes import Author
from flagsvc.core.errors import PermissionDenied


def author_of(request: Any) -> Author:
    """Return the author of the change that a request asks for. Raises InvalidRequest and PermissionDenied.

    While callers are not authenticated, it is whom the request names.
    """
    named, caller = validation.text("actor", request.actor), CALLER.get()
    reason = validation.text("reason", request.reason, validation.MAX_REASON)
    if not caller.is_checked:
        return Author(datetime.now(UTC), named, reason)
    if named and not caller.acts_for_others:
        raise PermissionDenied(
            f"actor is set, and the caller {caller} has no right to act for others: leave it empty, or use a token with"
            " that right (flagsvc token update ID --for-others)",
            caller,
        )
    return Author(datetime.now(UTC), named, reason, str(caller))
