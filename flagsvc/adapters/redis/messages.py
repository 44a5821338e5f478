"""The texts that Redis holds and carries: entries, announced changes, heartbeats. Each is read back strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, Entry, Heartbeat, Problem, ReplicaStatus

_SCHEMA = "2"


def definition_of(entry: Entry) -> str:
    """Return the entry's definition as JSON, or an empty text when the flag does not exist."""
    return dumps(entry.flag) if entry.flag else ""


def entry_in(flag_id: FlagId, text: bytes | None) -> Entry | None:
    """Read `2:{as_of}:{revision}:{definition or nothing}`; None for anything else."""
    if text is None:
        return None
    try:
        schema, as_of, revision, body = text.split(b":", 3)
        if schema.decode() != _SCHEMA or not as_of.isdigit():
            return None
        return Entry(flag_id, int(revision), loads(body) if body else None)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def announcement_text(change: Announced) -> str:
    """Return an announced change as JSON."""
    entry = change.entry
    document = json.loads(dumps(entry.flag)) if entry.flag else None
    fields = {"set": entry.id.flag_set, "key": entry.id.key, "revision": entry.revision, "flag": document}
    fields |= {"reply": True} if change.reply else {}
    fields |= {"eventRevision": change.event_revision} if change.event_revision else {}
    return json.dumps(fields, ensure_ascii=False)


def heartbeat_text(heartbeat: Heartbeat) -> str:
    """Return a heartbeat as JSON. An infinite age is null."""
    fields: dict[str, Any] = {
        "heartbeat": heartbeat.number,
        "replica": heartbeat.replica,
        "revisions": dict(heartbeat.revisions),
        "ageS": _finite(heartbeat.age_s),
        "streamAgeS": _finite(heartbeat.stream_age_s),
        "lastSeen": dict(heartbeat.last_seen),
    }
    if heartbeat.status is not None:
        fields["status"] = asdict(heartbeat.status) | {"started_at": heartbeat.status.started_at.isoformat()}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def event_in(data: bytes) -> Announced | Heartbeat:
    """Read what the channel carries. Raises ValueError for anything that this module did not write."""
    try:
        fields = json.loads(data)
        return _heartbeat(fields) if "heartbeat" in fields else _announcement(fields)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("neither an announced change nor a heartbeat") from error


def _announcement(fields: Mapping[str, Any]) -> Announced:
    flag = loads(json.dumps(fields["flag"])) if fields["flag"] is not None else None
    entry = Entry(FlagId(str(fields["set"]), str(fields["key"])), int(fields["revision"]), flag)
    return Announced(entry, fields.get("reply") is True, int(fields.get("eventRevision", 0)))


def _heartbeat(fields: Mapping[str, Any]) -> Heartbeat:
    return Heartbeat(
        replica=str(fields["replica"]),
        number=int(fields["heartbeat"]),
        revisions={name: int(revision) for name, revision in fields["revisions"].items()},
        age_s=_seconds(fields["ageS"]),
        stream_age_s=_seconds(fields["streamAgeS"]),
        last_seen={name: (int(number), _seconds(age)) for name, (number, age) in fields["lastSeen"].items()},
        status=_status(fields.get("status")),
    )


def _status(fields: Any) -> ReplicaStatus | None:
    """Read a replica's status; None for one of another version that cannot be understood."""
    try:
        started_at = datetime.fromisoformat(fields["started_at"])
        problems = tuple(Problem(*problem) for problem in fields.get("problems", ()))
        status = ReplicaStatus(**{**fields, "started_at": started_at, "problems": problems})
    except (ValueError, TypeError, KeyError):
        return None
    texts = (status.version, status.change_feed, *(text for problem in problems for text in problem))
    numbers = (status.staleness_bound_s, status.view_age_s or 0.0, status.flags, status.lease_left_s)
    switches = (status.ready, status.store_up, status.cache_up, status.subscription_up, status.change_feed_up)
    is_sound = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int | float) for number in numbers)
        and all(isinstance(switch, bool) for switch in switches)
    )
    return status if is_sound else None


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _seconds(value: Any) -> float:
    seconds = math.inf if value is None else float(value)
    if not seconds >= 0:
        raise ValueError("an age is never negative")
    return seconds
