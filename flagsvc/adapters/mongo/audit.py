"""Audit entries in MongoDB: the history, a collection for all else that was done, and one for refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from flagsvc.core.audit import AuditEntry, AuditQuery, Outcome, newest, place_of
from flagsvc.core.model import DEFAULT_SET
from flagsvc.ports.audit import MAX_REFUSALS

AUDIT, REFUSALS = "flagsvc_audit", "flagsvc_refusals"
_HISTORY = "feature_flag_history"
_SOURCES = {_HISTORY: 2, AUDIT: 1, REFUSALS: 0}
"""With their rank among entries of one millisecond."""
_NOT_READ = {"previousValue": 0, "newValue": 0}
"""What an audit entry does not have. Each can be 512 kB."""
SURPLUS = 10
"""So many refusals more are there before the oldest are removed."""


class MongoAudit:
    """The audit entries of one database. `asking`: bounds what is asked and maps its errors."""

    def __init__(self, database: Any, asking: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._database, self._asking = database, asking

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries, and remove the oldest refusals."""
        async with self._asking():
            for outcome, name in ((Outcome.DONE, AUDIT), (Outcome.REFUSED, REFUSALS)):
                if rows := [document_of(entry) for entry in entries if entry.outcome is outcome]:
                    await self._database[name].insert_many(rows, ordered=False)
            if any(entry.outcome is Outcome.REFUSED for entry in entries):
                await self._trim(self._database[REFUSALS])

    async def page(self, query: AuditQuery, size: int) -> list[AuditEntry]:
        """Read from all three collections."""
        parts = []
        async with self._asking():
            for name, source in _SOURCES.items():
                if query.outcome is None or (query.outcome is Outcome.REFUSED) == (name == REFUSALS):
                    cursor = self._database[name].find(_filter(query, source, name == _HISTORY), _NOT_READ)
                    rows = cursor.sort([("createdAt", -1), ("_id", -1)]).limit(size)
                    parts.append([_entry(row, source) async for row in rows])
        return newest(parts, size)

    async def _trim(self, refusals: Any) -> None:
        surplus = await refusals.estimated_document_count() - MAX_REFUSALS
        if surplus > SURPLUS:
            oldest = [row["_id"] async for row in refusals.find({}, {"_id": 1}).sort("_id", 1).limit(surplus)]
            await refusals.delete_many({"_id": {"$in": oldest}})


def document_of(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as it is stored."""
    fields = {
        "createdAt": entry.at,
        "userId": entry.on_behalf_of or entry.actor,
        "caller": entry.actor if entry.on_behalf_of else "",
        "action": entry.action,
        "flagSet": entry.flag_set,
        "featureKey": entry.subject,
        "reason": entry.reason,
    }
    return {name: value for name, value in fields.items() if value}


def _filter(query: AuditQuery, source: int, in_history: bool) -> dict[str, Any]:
    """Return the query for one collection. The history has no flag set where that is the default one."""
    created = {name: at for name, at in (("$gte", query.since), ("$lt", query.until)) if at is not None}
    conditions: list[dict[str, Any]] = [{"createdAt": created}] if created else []
    if query.actor:
        user = ObjectId(query.actor) if ObjectId.is_valid(query.actor) else query.actor
        conditions.append({"$or": [{"caller": query.actor}, {"caller": None, "userId": user}]})
    if query.action:
        conditions.append({"action": query.action})
    if query.subject:
        conditions.append({"featureKey": query.subject})
    if query.flag_set:
        is_default = in_history and query.flag_set == DEFAULT_SET
        conditions.append({"flagSet": {"$in": [None, DEFAULT_SET]} if is_default else query.flag_set})
    if (before := query.before) is not None:
        earlier = {"createdAt": {"$lt": before.at}}
        if source == before.source and ObjectId.is_valid(before.id):
            same = {"createdAt": before.at, "_id": {"$lt": ObjectId(before.id)}}
            conditions.append({"$or": [earlier, same]})
        else:
            conditions.append({"createdAt": {"$lte": before.at}} if source < before.source else earlier)
    return {"$and": conditions} if conditions else {}


def _entry(row: Mapping[str, Any], source: int) -> AuditEntry:
    found = row.get("createdAt")
    at = found if isinstance(found, datetime) else datetime.fromtimestamp(0, UTC)
    revision = row.get("revision")
    in_history, caller, user = source == _SOURCES[_HISTORY], row.get("caller"), row.get("userId")
    return AuditEntry(
        at=at,
        actor=str(caller or user or ""),
        action=str(row.get("action") or ""),
        outcome=Outcome.REFUSED if source == _SOURCES[REFUSALS] else Outcome.DONE,
        on_behalf_of=str(user or "") if caller and user != caller else "",
        flag_set=str(row.get("flagSet") or (DEFAULT_SET if in_history else "")),
        subject=str(row.get("featureKey") or ""),
        reason=str(row.get("reason") or ""),
        revision=int(revision) if isinstance(revision, int) else 0,
        place=place_of(at, source, str(row["_id"])),
    )
