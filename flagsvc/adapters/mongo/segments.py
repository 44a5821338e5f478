"""Segments in MongoDB. A change of one and all flags that carry it are one transaction.

It updates the document of the set's counter first, which every write of the set raises: so a write that has read the
segment as it was conflicts with the change and is repeated, or is committed and is found by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from flagsvc.adapters.mongo import documents
from flagsvc.adapters.mongo.requests import MongoRequests
from flagsvc.adapters.mongo.rollback import Counted, Current
from flagsvc.adapters.mongo.segment_rows import SegmentRows, carrying
from flagsvc.core.errors import SegmentNotFound, StoreUnavailable
from flagsvc.core.model import Change
from flagsvc.core.requests import WriteRequest
from flagsvc.core.segments import (
    Segment,
    SegmentDecide,
    SegmentId,
    affected,
    all_of,
    check_segments,
    refreshed,
)
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports.changes import Entry, WrittenFlag
from flagsvc.ports.segments import (
    MAX_AFFECTED,
    MAX_AFFECTED_MEMORY,
    WRITTEN,
    CheckAll,
    SegmentWritten,
    Users,
    check_size,
)
from flagsvc.turns import off_loop

StoreAll = Callable[[str, Sequence[Change], Mapping[str, Current], Counted, Any], Awaitable[list[Entry]]]


class MongoSegments:
    """The segments of one database. `run`: runs work in a transaction. `store`: stores changes of flags in one."""

    def __init__(
        self,
        database: Any,
        rows: SegmentRows,
        requests: MongoRequests,
        *,
        run: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
        asking: Callable[[], AbstractAsyncContextManager[None]],
        store: StoreAll,
        next_revision: Callable[[str, int, Any], Awaitable[Counted]],
    ) -> None:
        self._flags = database["feature_flags"]
        self._rows, self._requests, self._run, self._asking = rows, requests, run, asking
        self._store, self._next_revision = store, next_revision

    async def get(self, segment_id: SegmentId) -> Segment:
        """Read one segment. Raises SegmentNotFound."""
        async with self._asking():
            found = await self._rows.get(segment_id)
        if found is None:
            raise SegmentNotFound(segment_id.name)
        return found

    async def of_set(self, flag_set: str) -> list[Segment]:
        """Read all segments of a set."""
        async with self._asking():
            return await self._rows.of_set(flag_set)

    async def users(self, segment_id: SegmentId) -> Users:
        """Read who uses a segment."""
        async with self._asking():
            rules = {each.name: each.rule for each in await self._rows.of_set(segment_id.flag_set)}
            keys = await self._keys(segment_id)
        return await off_loop(Users.of, segment_id.name, rules, keys)

    async def write(
        self,
        segment_id: SegmentId,
        decide: SegmentDecide,
        *,
        check: CheckAll = lambda _: None,
        request: WriteRequest | None = None,
        dry_run: bool = False,
    ) -> SegmentWritten:
        """Decide and store, in one transaction."""

        async def work(session: Any) -> SegmentWritten:
            return await self._requests.once(
                request, WRITTEN, lambda: self._write(segment_id, decide, check, session, dry_run=dry_run), session
            )

        done: SegmentWritten | None = await self._run(work)
        if done is None:
            raise StoreUnavailable
        return done

    async def _write(
        self, segment_id: SegmentId, decide: SegmentDecide, check: CheckAll, session: Any, *, dry_run: bool
    ) -> SegmentWritten:
        flag_set = segment_id.flag_set
        counter = None if dry_run else await self._rows.claim(flag_set, session)
        before = await self._rows.get(segment_id, session)
        change = await off_loop(decide, before)
        if change is None:
            return SegmentWritten(before)
        rules = {each.name: each.rule for each in await self._rows.of_set(flag_set, session)}
        users = await self._keys(segment_id, session) if change.after is None else []
        await off_loop(check_segments, change, rules, users)
        is_same = change.after is None or (before is not None and change.after.rule == before.rule)
        current = {} if is_same else await self._current(segment_id, session)
        author = replace(change.author, via=f"segment/{segment_id.name}")
        wanted = affected(change, [each.flag for each in current.values()])
        new = all_of(rules, change)
        changes = await off_loop(lambda: [refreshed(flag, new, author) for flag in wanted])
        await off_loop(check_size, [each.after for each in changes])
        await off_loop(check, changes)
        if counter is None:
            return SegmentWritten(change.after, WrittenFlag.all_of(changes, []))
        entries: list[Entry] = []
        if changes:
            counted = await self._next_revision(flag_set, 0, session)
            entries = await self._store(flag_set, changes, current, counted, session)
        revision = entries[-1].revision if entries else documents.counter_of(counter)
        stored = change.after and replace(change.after, version=int(counter["segments"]), revision=revision)
        await self._rows.put(segment_id, stored, session)
        await self._rows.note(change, revision, session)
        return SegmentWritten(stored, WrittenFlag.all_of(changes, entries), entries)

    async def _keys(self, segment_id: SegmentId, session: Any = None) -> list[str]:
        rows = self._flags.find(carrying(segment_id), {"key": 1, "flagSet": 1}, session=session)
        return [raw["key"] async for raw in rows if documents.identifiable(raw)]

    async def _current(self, segment_id: SegmentId, session: Any) -> dict[str, Current]:
        """Read the flags that a change writes. Raises InvalidRequest where they are too many or too large."""
        found: dict[str, Current] = {}
        size = 0
        async for raw in self._flags.find(carrying(segment_id), session=session).limit(MAX_AFFECTED + 1):
            if documents.identifiable(raw):
                flag = documents.to_flag(raw)
                found[flag.key] = Current(raw, flag)
                size += estimated_memory(flag)
                if size > MAX_AFFECTED_MEMORY:
                    break
        await off_loop(check_size, [each.flag for each in found.values()])
        return found
