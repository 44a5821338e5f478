"""Records definitions that no change has recorded, and removes those that retention does not keep.

The first sweep records what is there. Later ones find what a release that keeps no revisions has changed: a flag whose
revision has no row. When that was is not known, so its set cannot be read as of earlier moments any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import DeleteMany, ReturnDocument, UpdateOne

from flagsvc.adapters.mongo import definitions, documents
from flagsvc.adapters.mongo.definitions import BEGINNING, FLAG, NEWEST_OF_EACH, horizon_of
from flagsvc.adapters.mongo.segment_rows import SEGMENT
from flagsvc.adapters.mongo.transactions import maybe_await, session_of
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.revisions.model import RECORDED, About, Moment
from flagsvc.ports.revisions import Swept

SETTLE_S = 1.0
"""After so long a flag without a row is looked at once more: changes of other programs get their revision meanwhile."""
_RESTORED_AFTER = timedelta(minutes=10)
"""Age of rows beyond the counter that are of another history: no write is under way for so long."""
_BATCH = 100
_BY_TIME = [("at", -1), ("revision", -1)]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Set:
    """One flag set, as a sweep finds it: `stored` are its flags' revisions, `rows` the newest that is kept of each."""

    counter: int = 0
    horizon: Moment | None = None
    stored: dict[str, int] = field(default_factory=dict)
    rows: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def unrecorded(self) -> set[str]:
        """Return the flags whose revision has no row."""
        return {key for key, revision in self.stored.items() if not self._has(key, revision)}

    def lost(self) -> set[str]:
        """Return the flags that are gone, with no row that says so."""
        is_there = ((key, revision) for key, (revision, gone) in self.rows.items() if not gone)
        return {key for key, revision in is_there if key not in self.stored and revision <= self.counter}

    def _has(self, key: str, revision: int) -> bool:
        row = self.rows.get(key)
        return row is not None and (row[0] > revision or (row[0] == revision and not row[1]))


class DefinitionSweep:
    """Sweeps of one database. `read`: reads a flag's document. `asking`: bounds what is asked and maps its errors."""

    def __init__(
        self,
        client: Any,
        database: Any,
        asking: Callable[[], AbstractAsyncContextManager[None]],
        read: Callable[[Mapping[str, Any]], Flag],
    ) -> None:
        self._client, self._asking, self._read = client, asking, read
        self._flags, self._counters = database["feature_flags"], database["flagsvc_revisions"]
        self._rows = database[definitions.COLLECTION]

    async def __call__(self, keep_s: float) -> Swept:
        """Sweep once."""
        async with self._asking(), session_of(self._client) as session:
            stamp = [{"$set": {"sweptAt": "$$NOW"}}]
            beginning = await self._counters.find_one_and_update(
                BEGINNING, stamp, upsert=True, return_document=ReturnDocument.AFTER, session=session
            )
            now: datetime = beginning["sweptAt"]
            sets = await self._compare(beginning, session)
            if any(each.unrecorded() or each.lost() for each in sets.values()) and "at" in beginning:
                await asyncio.sleep(SETTLE_S)
                sets = await self._compare(beginning, session)
            recorded = 0
            for name, each in sets.items():
                recorded += await self._record(name, each, now, session)
            await self._counters.update_one(
                BEGINNING | {"at": {"$exists": False}}, {"$set": {"at": now}}, session=session
            )
            removed = 0
            for name, each in sets.items():
                removed += await self._remove_restored(name, each, now, session)
                if keep_s:
                    removed += await self._remove_old(name, now - timedelta(seconds=keep_s), session)
        if recorded:
            log.info("revisions_recorded", flags=recorded)
        return Swept(recorded, removed)

    async def _compare(self, beginning: Mapping[str, Any], session: Any) -> dict[str, _Set]:
        """Read the counters, then the flags' revisions, then the newest rows: a change has its row with its flag."""
        sets: dict[str, _Set] = {}
        async for row in self._counters.find(session=session):
            if isinstance(row["_id"], str):
                sets[row["_id"]] = _Set(documents.counter_of(row), horizon_of(row, beginning))
        async for raw in self._flags.find({}, {"key": 1, "flagSet": 1, "revision": 1}, session=session):
            if documents.identifiable(raw):
                flag = documents.to_flag(raw)
                sets.setdefault(flag.flag_set, _Set()).stored[flag.key] = flag.revision
        for name, each in sets.items():
            pipeline = [{"$match": {"flagSet": name, "kind": FLAG}}, *NEWEST_OF_EACH]
            async for row in await maybe_await(self._rows.aggregate(pipeline, session=session)):
                each.rows[row["_id"]] = int(row["revision"]), bool(row["gone"])
        return sets

    async def _record(self, name: str, found: _Set, now: datetime, session: Any) -> int:
        """Record what has no row, and let the set be read from now on where what was before is not known."""
        unrecorded, lost = sorted(found.unrecorded()), sorted(found.lost())
        moment, about = Moment(found.counter, now), About(action=RECORDED)
        for keys in _batches(unrecorded):
            query = {"key": {"$in": keys}} | documents.in_set(name)
            edits = []
            async for raw in self._flags.find(query, session=session):
                flag = self._read(raw)
                row = await definitions.row_of(flag.id, Moment(flag.revision, now), flag, about)
                edits.append(_unless_there(row))
            if edits:
                await self._rows.bulk_write(edits, ordered=False, session=session)
        for keys in _batches(lost):
            edits = [_unless_there(await definitions.row_of(FlagId(name, key), moment, None, about)) for key in keys]
            await self._rows.bulk_write(edits, ordered=False, session=session)
        is_gap = bool(lost) or any(found.stored[key] for key in unrecorded)
        if found.horizon is None or is_gap:
            if found.horizon is not None:
                detail = "A release that keeps no revisions has changed flags; earlier moments cannot be read any more."
                log.warning("revisions_incomplete", flag_set=name, flags=[*unrecorded, *lost][:5], detail=detail)
            await self._raise_horizon(
                name, await self._beginning(name, moment, is_gap or bool(unrecorded), session), session
            )
        return len(unrecorded) + len(lost)

    async def _beginning(self, name: str, now: Moment, is_gap: bool, session: Any) -> Moment:
        """Return the oldest moment of a set: before its first change, where all since were recorded; else now."""
        first = None if is_gap else await self._rows.find_one({"flagSet": name, "revision": 1}, session=session)
        return Moment(0, first["at"]) if first else now

    async def _raise_horizon(self, name: str, moment: Moment, session: Any) -> None:
        edit = {"$set": {"horizon": {"revision": moment.revision, "at": moment.at}}}
        lower = [
            {"horizon": {"$exists": False}},
            {"horizon.revision": {"$lt": moment.revision}},
            {"horizon.revision": moment.revision, "horizon.at": {"$lt": moment.at}},
        ]
        there = await self._counters.find_one({"_id": name}, {"_id": 1}, session=session)
        query = {"_id": name, "$or": lower} if there else {"_id": name}
        await self._counters.update_one(query, edit, upsert=there is None, session=session)

    async def _remove_restored(self, name: str, found: _Set, now: datetime, session: Any) -> int:
        """Remove rows beyond the counter: the flags and the counter were restored without them."""
        if not found.counter:
            return 0
        query = {"flagSet": name, "revision": {"$gt": found.counter}, "at": {"$lt": now - _RESTORED_AFTER}}
        return int((await self._rows.delete_many(query, session=session)).deleted_count)

    async def _remove_old(self, name: str, until: datetime, session: Any) -> int:
        """Raise the horizon, then remove what is older than each flag's newest row there. Readers look again after."""
        query = {"flagSet": name, "at": {"$lte": until}}
        newest = await self._rows.find_one(query, {"revision": 1, "at": 1}, sort=_BY_TIME, session=session)
        if newest is None:
            return 0
        at = Moment(int(newest["revision"]), newest["at"])
        return sum([await self._remove_older(name, kind, at, session) for kind in (FLAG, SEGMENT)])

    async def _remove_older(self, name: str, kind: str, at: Moment, session: Any) -> int:
        old = {"flagSet": name, "kind": kind, "revision": {"$lte": at.revision}}
        pipeline = [{"$match": old}, *NEWEST_OF_EACH, {"$match": {"$or": [{"rows": {"$gt": 1}}, {"gone": True}]}}]
        surplus = [each async for each in await maybe_await(self._rows.aggregate(pipeline, session=session))]
        if not surplus:
            return 0
        await self._raise_horizon(name, at, session)
        removed = 0
        for some in _batches(surplus):
            edits = [
                DeleteMany(old | {"key": e["_id"], "revision": {"$lte" if e["gone"] else "$lt": e["revision"]}})
                for e in some
            ]
            removed += (await self._rows.bulk_write(edits, ordered=False, session=session)).deleted_count
        return removed


def _unless_there(row: dict[str, Any]) -> UpdateOne:
    """Return the edit that stores a row where there is none of its revision."""
    names = ("flagSet", "kind", "key", "revision")
    one = {name: row[name] for name in names}
    return UpdateOne(one, {"$setOnInsert": {n: v for n, v in row.items() if n not in names}}, upsert=True)


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
