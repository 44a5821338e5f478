"""Reads fields of stored documents strictly."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def typed(value: Any, wanted: type) -> Any:
    """Return a value of this very type. Raises TypeError."""
    if type(value) is not wanted and not (wanted is datetime and isinstance(value, datetime)):
        raise TypeError("of another type")
    return value


def moment(value: Any) -> datetime | None:
    """Return a time that may be missing. Raises TypeError."""
    return None if value is None else typed(value, datetime)
