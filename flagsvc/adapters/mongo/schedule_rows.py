"""Documents of schedules in MongoDB, read strictly or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from flagsvc.core.errors import ChangeRefused
from flagsvc.core.model import FlagId
from flagsvc.core.schedules.documents import MALFORMED, from_document
from flagsvc.core.schedules.model import Schedule
from flagsvc.ports.schedules import Upcoming

log = structlog.get_logger(__name__)


def upcoming(raw: Mapping[str, Any]) -> Upcoming:
    """Return when a pending schedule is due, as the query for it has counted."""
    return Upcoming(FlagId(raw["flagSet"], raw["flagKey"]), raw["waitMs"] / 1000, raw["_id"])


def schedule_in(raw: Mapping[str, Any]) -> Schedule:
    """Read a document. Raises ChangeRefused."""
    try:
        return from_document(raw["_id"], raw)
    except ValueError:
        raise ChangeRefused(MALFORMED) from None


def all_readable(rows: Sequence[Mapping[str, Any]]) -> list[Schedule]:
    """Read documents; a malformed one is left out."""
    return [schedule for schedule in map(_readable, rows) if schedule is not None]


def _readable(raw: Mapping[str, Any]) -> Schedule | None:
    try:
        return schedule_in(raw)
    except ChangeRefused:
        log.warning("schedule_malformed", schedule=str(raw["_id"])[:64])
        return None
