"""Segments in MongoDB. A change of one and all flags that carry it are one transaction.

It updates the document of the set's counter first, which every write of the set raises: so a write that has read the
segment as it was conflicts with the change and is repeated, or is committed and is found by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from pymongo import ReturnDocument

from flagsvc.adapters.mongo import documents
from flagsvc.adapters.mongo.links import SEGMENTS
from flagsvc.adapters.mongo.rollback import Counted, Current
from flagsvc.core.errors import SegmentNotFound, StoreUnavailable
from flagsvc.core.model import Change
from flagsvc.core.segment_names import direct
from flagsvc.core.segments import (
    PREFIX,
    Segment,
    SegmentDecide,
    SegmentId,
    affected,
    all_of,
    check_segments,
    refreshed,
)
from flagsvc.ports.changes import Entry
from flagsvc.ports.segments import SegmentWritten, Users, check_number
from flagsvc.turns import off_loop

StoreAll = Callable[[str, Sequence[Change], Mapping[str, Current], Counted, Any], Awaitable[list[Entry]]]


class MongoSegments:
    """The segments of one database. `run`: runs work in a transaction. `store`: stores changes of flags in one."""

    def __init__(
        self,
        database: Any,
        *,
        run: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
        asking: Callable[[], AbstractAsyncContextManager[None]],
        store: StoreAll,
        next_revision: Callable[[str, int, Any], Awaitable[Counted]],
    ) -> None:
        self._flags, self._segments = database["feature_flags"], database[SEGMENTS]
        self._counters = database["flagsvc_revisions"]
        self._run, self._asking = run, asking
        self._store, self._next_revision = store, next_revision

    async def get(self, segment_id: SegmentId) -> Segment:
        """Read one segment. Raises SegmentNotFound."""
        async with self._asking():
            raw = await self._segments.find_one(_one(segment_id))
        if raw is None:
            raise SegmentNotFound(segment_id.name)
        return _segment(raw)

    async def of_set(self, flag_set: str) -> list[Segment]:
        """Read all segments of a set."""
        async with self._asking():
            return await self._all(flag_set)

    async def users(self, segment_id: SegmentId) -> Users:
        """Read who uses a segment."""
        async with self._asking():
            rules = {each.name: each.rule for each in await self._all(segment_id.flag_set)}
            rows = self._flags.find(_carrying(segment_id), {"key": 1, "flagSet": 1})
            keys = sorted([raw["key"] async for raw in rows if documents.identifiable(raw)])
        referring = await off_loop(lambda: [each for each, text in rules.items() if segment_id.name in direct(text)])
        return Users(keys, sorted(referring))

    async def write(self, segment_id: SegmentId, decide: SegmentDecide, *, dry_run: bool = False) -> SegmentWritten:
        """Decide and store, in one transaction."""
        done: SegmentWritten | None = await self._run(
            lambda session: self._write(segment_id, decide, session, dry_run=dry_run)
        )
        if done is None:
            raise StoreUnavailable
        return done

    async def _write(
        self, segment_id: SegmentId, decide: SegmentDecide, session: Any, *, dry_run: bool
    ) -> SegmentWritten:
        flag_set = segment_id.flag_set
        counter = None if dry_run else await self._claim(flag_set, session)
        raw = await self._segments.find_one(_one(segment_id), session=session)
        change = await off_loop(decide, _segment(raw) if raw else None)
        if change is None:
            return SegmentWritten(_segment(raw) if raw else None, [], [])
        rules = {each.name: each.rule for each in await self._all(flag_set, session)}
        current = await self._current(segment_id, session)
        await off_loop(check_segments, change, rules, list(current))
        author = replace(change.author, via=f"segment/{segment_id.name}")
        wanted = affected(change, [each.flag for each in current.values()])
        check_number(len(wanted))
        new = all_of(rules, change)
        changes = await off_loop(lambda: [refreshed(flag, new, author) for flag in wanted])
        if counter is None:
            return SegmentWritten(change.after, changes, [])
        entries: list[Entry] = []
        if changes:
            counted = await self._next_revision(flag_set, 0, session)
            entries = await self._store(flag_set, changes, current, counted, session)
        if change.after is None:
            await self._segments.delete_one(_one(segment_id), session=session)
            return SegmentWritten(None, changes, entries)
        revision = entries[-1].revision if entries else documents.counter_of(counter)
        stored = replace(change.after, version=int(counter["segments"]), revision=revision)
        await self._segments.replace_one(_one(segment_id), _document(stored), upsert=True, session=session)
        return SegmentWritten(stored, changes, entries)

    async def _claim(self, flag_set: str, session: Any) -> Mapping[str, Any]:
        """Count a change of segments beside the set's counter. Return the counter."""
        row: Mapping[str, Any] = await self._counters.find_one_and_update(
            {"_id": flag_set},
            {"$inc": {"segments": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return row

    async def _all(self, flag_set: str, session: Any = None) -> list[Segment]:
        rows = self._segments.find({"flagSet": flag_set}, session=session).sort("name", 1)
        return [_segment(raw) async for raw in rows]

    async def _current(self, segment_id: SegmentId, session: Any) -> dict[str, Current]:
        rows = self._flags.find(_carrying(segment_id), session=session)
        found = [Current(raw, documents.to_flag(raw)) async for raw in rows if documents.identifiable(raw)]
        return {each.flag.key: each for each in found}


def _one(segment_id: SegmentId) -> dict[str, Any]:
    return {"flagSet": segment_id.flag_set, "name": segment_id.name}


def _carrying(segment_id: SegmentId) -> dict[str, Any]:
    """Return the query for the flags that carry a segment: its name has no character that means more in a path."""
    return {f"evaluators.{PREFIX}{segment_id.name}": {"$exists": True}} | documents.in_set(segment_id.flag_set)


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
