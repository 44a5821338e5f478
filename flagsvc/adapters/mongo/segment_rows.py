"""Segments as they were at each revision, in MongoDB: rows of `flagsvc_definitions`, written with each change of one.

A change of a segment that no flag uses takes no revision: its row has the newest one, in place of an earlier row of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from bson import Binary
from pymongo import ReturnDocument

from flagsvc.adapters.mongo import audit, documents
from flagsvc.adapters.mongo.definitions import COLLECTION, NEWEST_OF_EACH
from flagsvc.adapters.mongo.links import SEGMENTS
from flagsvc.adapters.mongo.transactions import maybe_await
from flagsvc.core.segments import PREFIX, Segment, SegmentChange, SegmentId
from flagsvc.core.segments.restoring import pack, unpack
from flagsvc.turns import off_loop

SEGMENT = "segment"
"""The kind of a segment's row."""


class SegmentRows:
    """The segments of one database, as they are and as they were.

    `is_recording`: whether changes are recorded; `noting`: notes that MongoDB refuses it.
    """

    def __init__(
        self, database: Any, is_recording: Callable[[], bool], noting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._segments, self._rows = database[SEGMENTS], database[COLLECTION]
        self._audit, self._counters = database[audit.AUDIT], database["flagsvc_revisions"]
        self._is_recording, self._noting = is_recording, noting

    async def get(self, segment_id: SegmentId, session: Any = None) -> Segment | None:
        """Read one segment."""
        raw = await self._segments.find_one(_one(segment_id), session=session)
        return _segment(raw) if raw else None

    async def of_set(self, flag_set: str, session: Any = None) -> list[Segment]:
        """Read all segments of a set, by name."""
        rows = self._segments.find({"flagSet": flag_set}, session=session).sort("name", 1)
        return [_segment(raw) async for raw in rows]

    async def claim(self, flag_set: str, session: Any) -> Mapping[str, Any]:
        """Count a change of segments beside the set's counter. Return the counter."""
        row: Mapping[str, Any] = await self._counters.find_one_and_update(
            {"_id": flag_set},
            {"$inc": {"segments": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return row

    async def put(self, segment_id: SegmentId, segment: Segment | None, session: Any) -> None:
        """Store a segment, or delete it."""
        if segment is None:
            await self._segments.delete_one(_one(segment_id), session=session)
        else:
            await self._segments.replace_one(_one(segment_id), _document(segment), upsert=True, session=session)

    async def note(self, change: SegmentChange, revision: int, session: Any) -> None:
        """Keep what a change has made of a segment, and its audit entry."""
        await self._audit.insert_one(audit.document_of(change.audit_entry()), session=session)
        if not self._is_recording():
            return
        counter = await self._counters.find_one({"_id": change.id.flag_set}, {"at": 1}, session=session) or {}
        found = counter.get("at")
        at = found if isinstance(found, datetime) else datetime.now(UTC)
        one = {"flagSet": change.id.flag_set, "kind": SEGMENT, "key": change.id.name, "revision": revision}
        row: dict[str, Any] = one | {"at": at, "gone": change.after is None}
        if change.after is not None:
            row["definition"] = Binary(await off_loop(pack, change.after))
        with self._noting():
            await self._rows.replace_one(one, row, upsert=True, session=session)

    async def changed_since(self, flag_set: str, revision: int, session: Any) -> dict[str, Segment | None]:
        """Return what the segments were at a revision that have changed after it; None: there was none."""
        of_set = {"flagSet": flag_set, "kind": SEGMENT}
        names = await self._rows.distinct("key", of_set | {"revision": {"$gt": revision}}, session=session)
        match = of_set | {"key": {"$in": names}, "revision": {"$lte": revision}}
        cursor = await maybe_await(self._rows.aggregate([{"$match": match}, *NEWEST_OF_EACH], session=session))
        newest = {row["_id"]: int(row["revision"]) async for row in cursor}
        found: dict[str, Segment | None] = dict.fromkeys(names)
        for name, at in newest.items():
            row = await self._rows.find_one(of_set | {"key": name, "revision": at}, session=session)
            if row is not None and row.get("definition") is not None:
                found[name] = await off_loop(unpack, bytes(row["definition"]), SegmentId(flag_set, name))
        return found

    async def finish(self, changes: Sequence[SegmentChange], revision: int, session: Any) -> None:
        """Write the revision of changes that are stored, and note them."""
        for change in changes:
            one = _one(change.id)
            await self._segments.update_one(one, {"$set": {"revision": revision}}, session=session)
            await self.note(change, revision, session)


def carrying(segment_id: SegmentId) -> dict[str, Any]:
    """Return the query for the flags that carry a segment: its name has no character that means more in a path."""
    return {f"evaluators.{PREFIX}{segment_id.name}": {"$exists": True}} | documents.in_set(segment_id.flag_set)


def _one(segment_id: SegmentId) -> dict[str, Any]:
    return {"flagSet": segment_id.flag_set, "name": segment_id.name}


def _segment(raw: Mapping[str, Any]) -> Segment:
    return Segment(
        name=raw["name"],
        flag_set=raw["flagSet"],
        rule=raw["rule"],
        description=raw.get("description") or "",
        version=int(raw["version"]),
        revision=int(raw["revision"]),
        created_at=raw.get("createdAt"),
        updated_at=raw.get("updatedAt"),
    )


def _document(segment: Segment) -> dict[str, Any]:
    return {
        "flagSet": segment.flag_set,
        "name": segment.name,
        "rule": segment.rule,
        "description": segment.description,
        "version": segment.version,
        "revision": segment.revision,
        "createdAt": segment.created_at,
        "updatedAt": segment.updated_at,
    }
