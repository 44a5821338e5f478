"""Schedules as documents, which stores keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flagsvc.core.access.typed import moment, typed
from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import FlagId
from flagsvc.core.requests import Form
from flagsvc.core.schedules.model import Conflict, ConflictKind, Creator, OnConflict, Schedule, State

MALFORMED = "what is stored of the schedule is malformed"
_TIMES = frozenset({"executeAt", "createdAt", "endedAt"})


def to_document(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as a store keeps it, without its id; times stay datetimes, what is not set is left out.

    The patch is text: it may have names that BSON restricts.
    """
    document: dict[str, Any] = {
        "flagSet": schedule.flag_id.flag_set,
        "flagKey": schedule.flag_id.key,
        "number": schedule.number,
        "executeAt": schedule.execute_at,
        "zone": schedule.zone,
        "patch": dumps(schedule.patch),
        "fields": list(schedule.fields),
        "onConflict": schedule.on_conflict.value,
        "maxLatenessS": schedule.max_lateness_s,
        "creator": {
            "kind": str(schedule.creator.kind),
            "id": schedule.creator.id,
            "evidence": json.dumps(schedule.creator.evidence),
        },
        "actor": schedule.actor,
        "reason": schedule.reason,
        "createdAt": schedule.created_at,
        "baseRevision": schedule.base_revision,
        "base": dict(schedule.base),
        "state": schedule.state.value,
        "conflicts": [list(each) for each in schedule.conflicts],
        "detail": schedule.detail,
        "endedAt": schedule.ended_at,
        "executedRevision": schedule.executed_revision,
        "version": schedule.version,
        "request": schedule.request,
    }
    return {name: value for name, value in document.items() if value not in (None, "", [])}


def from_document(schedule_id: str, document: Mapping[str, Any]) -> Schedule:
    """Read a schedule strictly: one that is not as `to_document` writes it is never executed. Raises ValueError."""
    try:
        creator = document["creator"]
        return Schedule(
            id=schedule_id,
            flag_id=FlagId(typed(document["flagSet"], str), typed(document["flagKey"], str)),
            number=int(document["number"]),
            execute_at=typed(document["executeAt"], datetime),
            zone=typed(document["zone"], str),
            patch=loads(document["patch"]),
            fields=tuple(typed(each, str) for each in document["fields"]),
            on_conflict=OnConflict(document["onConflict"]),
            max_lateness_s=float(document["maxLatenessS"]),
            creator=Creator(typed(creator["kind"], str), typed(creator["id"], str), json.loads(creator["evidence"])),
            actor=typed(document.get("actor", ""), str),
            reason=typed(document.get("reason", ""), str),
            created_at=typed(document["createdAt"], datetime),
            base_revision=int(document["baseRevision"]),
            base={name: typed(each, str) for name, each in document["base"].items()},
            state=State(document["state"]),
            conflicts=tuple(
                Conflict(ConflictKind(kind), name, text) for kind, name, text in document.get("conflicts", ())
            ),
            detail=typed(document.get("detail", ""), str),
            ended_at=moment(document.get("endedAt")),
            executed_revision=int(document.get("executedRevision", 0)),
            version=int(document["version"]),
            request=typed(document.get("request", ""), str),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the stored schedule is malformed: {type(error).__name__}") from error


def to_json(schedule: Schedule) -> str:
    """Return a schedule's document as JSON, with times in ISO 8601."""
    return json.dumps(to_document(schedule), default=datetime.isoformat)


def from_json(schedule_id: str, text: str) -> Schedule:
    """Read what `to_json` wrote. Raises ValueError."""
    document = json.loads(text)
    times = {name: datetime.fromisoformat(document[name]) for name in _TIMES if name in document}
    return from_document(schedule_id, document | times)


OUTCOME: Form[Schedule] = Form(lambda made: [made.id, to_json(made)], lambda kept: from_json(*kept))
"""How a change of a schedule is remembered."""
