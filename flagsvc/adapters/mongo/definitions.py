"""Every definition that a flag had, in MongoDB: a row for each change, written in the transaction of the change.

A set's moments are in the order of its revisions: each is the greater of the last one and MongoDB's clock, set with the
counter. `horizon`, beside the counter, is the oldest moment as of which a set can be read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog
from bson import Binary
from pymongo.errors import OperationFailure

from flagsvc.adapters.mongo.causes import UNAUTHORIZED, mongo_cause
from flagsvc.adapters.mongo.documents import counter_of
from flagsvc.adapters.mongo.transactions import maybe_await, session_of
from flagsvc.core.errors import RevisionsMissing, StoreUnavailable
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.revisions.model import About, AsOf, Moment, Recorded, check_range
from flagsvc.core.revisions.packing import pack, unpack
from flagsvc.ports.reports import Problem
from flagsvc.ports.revisions import Swept
from flagsvc.turns import in_turns, off_loop

COLLECTION = "flagsvc_definitions"
INDEXES = (
    (("flagSet", 1), ("kind", 1), ("key", 1), ("revision", -1), ("gone", 1)),
    (("flagSet", 1), ("revision", -1)),
    (("flagSet", 1), ("at", -1), ("revision", -1)),
)
FLAG = "flag"
"""The kind of a flag's row."""
BEGINNING = {"_id": {"flagsvc": "definitions"}}
"""The document of `flagsvc_revisions` that says since when definitions are recorded; no text, as a set's name is."""
_CURE = "grant MongoDB's user the rights on flagsvc_definitions that docs/operating.md lists"
_ABOUT = ("action", "actor", "caller", "reason", "via")
_NO_DEFINITION = {"definition": 0}
_BATCH = 100
"""Definitions that one query reads."""
_MAX_INLINE_BYTES = 4_096
"""Longest compressed definition that is read on the event loop."""

log = structlog.get_logger(__name__)


class MongoDefinitions:
    """The kept revisions of one database."""

    def __init__(
        self,
        client: Any,
        database: Any,
        asking: Callable[[], AbstractAsyncContextManager[None]],
        is_supported: Callable[[], bool],
        sweep: Callable[[float], Awaitable[Swept]],
    ) -> None:
        """`asking`: bounds what is asked and maps its errors. `is_supported`: whether changes get revisions at all."""
        self.rows, self._counters = database[COLLECTION], database["flagsvc_revisions"]
        self._client, self._asking, self._is_supported, self._sweep = client, asking, is_supported, sweep
        self._refusal = ""
        self._is_recording = True

    async def record(self, flag_id: FlagId, moment: Moment, flag: Flag | None, about: About, session: Any) -> None:
        """Keep a flag's state as of a revision (None: deleted), in the transaction that stores the change.

        A row of the same revision is from before a restore of the counter, and is replaced.
        """
        if not self._is_recording:
            return
        row = await row_of(flag_id, moment, flag, about)
        one = one_of(flag_id) | {"revision": moment.revision}
        with self.noting_refusals():
            await self.rows.replace_one(one, row, upsert=True, session=session)

    @contextmanager
    def noting_refusals(self) -> Iterator[None]:
        """Note that MongoDB's user has no right to record."""
        try:
            yield
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                self._refusal = mongo_cause(error).text
            raise

    def stop_recording(self) -> bool:
        """Record nothing from now on, if that was refused. Return whether it was."""
        if not self._refusal:
            return False
        if self._is_recording:
            self._is_recording = False
            log.warning("revisions_not_recorded", cause=self._refusal, detail=f"Changes are stored without. {_CURE}")
        return True

    def problems(self) -> list[Problem]:
        """Return whether changes are not recorded."""
        if self._is_recording:
            return []
        detail = f"changes are stored, and what flags were before is not kept: {self._refusal}"
        return [Problem("revisions_not_recorded", detail, _CURE)]

    @property
    def is_recording(self) -> bool:
        """Whether changes are recorded."""
        return self._is_recording

    async def sweep(self, keep_s: float) -> Swept:
        """Sweep, and begin to record where that was refused before: a sweep finds what was changed meanwhile."""
        if not self._is_supported():
            return Swept(0, 0)
        before = self._is_recording, self._refusal
        self._is_recording, self._refusal = True, ""
        try:
            return await self._sweep(keep_s)
        except StoreUnavailable:
            self._is_recording, self._refusal = before
            raise

    async def moment(self, flag_set: str, as_of: AsOf) -> Moment:
        """Resolve a revision, or a time."""
        async with self._reading() as session:
            query: dict[str, Any]
            if as_of.time is None:
                query, order = {"revision": {"$lte": as_of.revision}}, [("revision", -1)]
            else:
                query, order = {"at": {"$lte": as_of.time}}, [("at", -1), ("revision", -1)]
            row = await self.rows.find_one(
                {"flagSet": flag_set} | query, {"revision": 1, "at": 1}, sort=order, session=session
            )
            oldest, newest = await self._range(flag_set, session)
        check_range(flag_set, as_of, oldest, newest)
        at = max(row["at"], oldest.at) if row and oldest else as_of.time or (oldest.at if oldest else datetime.now(UTC))
        if as_of.time is None:
            return Moment(as_of.revision, at)
        return Moment(max(row["revision"] if row else 0, oldest.revision if oldest else 0), as_of.time)

    async def newest(self, flag_set: str, keys: Sequence[str], moment: Moment) -> dict[str, Recorded]:
        """Read rows, and then whether retention has removed one of them meanwhile."""
        found: dict[str, Recorded] = {}
        async with self._reading() as session:
            for start in range(0, len(keys), _BATCH):
                rows = await self.newest_rows(flag_set, keys[start : start + _BATCH], moment.revision, session)
                async for row in in_turns(rows):
                    found[row["key"]] = await recorded(row)
            oldest, newest = await self._range(flag_set, session)
        check_range(flag_set, moment, oldest, newest)
        return found

    async def newest_rows(
        self, flag_set: str, keys: Sequence[str], revision: int, session: Any
    ) -> list[Mapping[str, Any]]:
        """Read the newest rows of some flags at or before a revision."""
        until = {"flagSet": flag_set, "kind": FLAG, "revision": {"$lte": revision}}
        if len(keys) == 1:
            row = await self.rows.find_one(until | {"key": keys[0]}, sort=[("revision", -1)], session=session)
            return [row] if row else []
        pipeline = [{"$match": until | {"key": {"$in": list(keys)}}}, *NEWEST_OF_EACH]
        cursor = await maybe_await(self.rows.aggregate(pipeline, session=session))
        pairs = {(each["_id"], each["revision"]) async for each in cursor}
        wanted = {"key": {"$in": [key for key, _ in pairs]}, "revision": {"$in": list({each for _, each in pairs})}}
        rows = self.rows.find(until | wanted, session=session)
        return [row async for row in rows if (row["key"], row["revision"]) in pairs]

    async def keys(self, flag_set: str, moment: Moment) -> list[str]:
        """Read the keys from the index."""
        match = {"flagSet": flag_set, "kind": FLAG, "revision": {"$lte": moment.revision}}
        there = [{"$match": {"gone": False}}, {"$sort": {"_id": 1}}, {"$project": {"_id": 1}}]
        async with self._reading() as session:
            pipeline = [{"$match": match}, *NEWEST_OF_EACH, *there]
            cursor = await maybe_await(self.rows.aggregate(pipeline, session=session))
            return [each["_id"] async for each in cursor]

    async def changed_since(self, flag_set: str, revision: int, limit: int, session: Any) -> list[str]:
        """Return the keys of at most so many flags that have changed after a revision."""
        later = {"flagSet": flag_set, "kind": FLAG, "revision": {"$gt": revision}}
        pipeline = [{"$match": later}, {"$group": {"_id": "$key"}}, {"$limit": limit}]
        cursor = await maybe_await(self.rows.aggregate(pipeline, session=session))
        return [each["_id"] async for each in cursor]

    async def page(self, flag_id: FlagId, below: int, size: int) -> list[Recorded]:
        """Read a flag's rows without what they define."""
        query = one_of(flag_id) | ({"revision": {"$lt": below}} if below else {})
        async with self._reading() as session:
            rows = self.rows.find(query, _NO_DEFINITION, session=session).sort("revision", -1).limit(size)
            found = [await recorded(row) async for row in rows]
            oldest, newest = await self._range(flag_id.flag_set, session)
        check_range(flag_id.flag_set, AsOf(max(newest, oldest.revision if oldest else 0)), oldest, newest)
        return found

    async def check(self, flag_set: str, revision: int, session: Any) -> None:
        """Raise RevisionOutOfRange for a revision that cannot be read."""
        check_range(flag_set, AsOf(revision), *await self._range(flag_set, session))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        """A session to read with. Raises RevisionsMissing where changes are not kept."""
        if not self._is_supported():
            raise RevisionsMissing("revisions are kept in a MongoDB that is a replica set (one member is enough)")
        if not self._is_recording:
            raise RevisionsMissing(f"the flag store does not let flagsvc record revisions: {_CURE}")
        async with self._asking(), session_of(self._client) as session:
            yield session

    async def _range(self, flag_set: str, session: Any) -> tuple[Moment | None, int]:
        """Return the oldest moment of a set (None before recording began), and its newest revision."""
        rows = self._counters.find({"_id": {"$in": [flag_set, BEGINNING["_id"]]}}, session=session)
        own: Mapping[str, Any] = {}
        beginning: Mapping[str, Any] = {}
        async for row in rows:
            own, beginning = (row, beginning) if row["_id"] == flag_set else (own, row)
        return horizon_of(own, beginning), counter_of(own)


NEWEST_OF_EACH: list[dict[str, Any]] = [
    {"$sort": {"key": 1, "revision": -1}},
    {"$group": {"_id": "$key", "revision": {"$first": "$revision"}, "gone": {"$first": "$gone"}, "rows": {"$sum": 1}}},
]
"""The stages that find the newest revision of each key, from the index alone."""


async def row_of(flag_id: FlagId, moment: Moment, flag: Flag | None, about: About) -> dict[str, Any]:
    """Return the row of a revision."""
    row: dict[str, Any] = one_of(flag_id) | {"revision": moment.revision, "at": moment.at, "gone": flag is None}
    row |= {name: value for name in _ABOUT if (value := getattr(about, name))}
    return row if flag is None else row | {"definition": Binary(await off_loop(pack, flag))}


async def recorded(row: Mapping[str, Any]) -> Recorded:
    """Read a row. A definition that is malformed has a `problem`."""
    flag_id, revision = FlagId(row["flagSet"], row["key"]), int(row["revision"])
    packed = row.get("definition")
    flag = None
    if packed is not None:
        arguments = bytes(packed), flag_id.key, flag_id.flag_set, revision
        flag = await off_loop(unpack, *arguments) if len(packed) > _MAX_INLINE_BYTES else unpack(*arguments)
    about = About(**{name: str(row.get(name) or "") for name in _ABOUT})
    return Recorded(id=flag_id, revision=revision, at=row["at"], about=about, gone=bool(row.get("gone")), flag=flag)


def horizon_of(counter: Mapping[str, Any], beginning: Mapping[str, Any]) -> Moment | None:
    """Return the oldest moment that can be read of a set; None before recording began."""
    own = counter.get("horizon")
    if isinstance(own, Mapping) and isinstance(own.get("at"), datetime):
        return Moment(int(own.get("revision") or 0), own["at"])
    return Moment(0, beginning["at"]) if isinstance(beginning.get("at"), datetime) else None


def one_of(flag_id: FlagId) -> dict[str, Any]:
    """Return the query for a flag's rows."""
    return {"flagSet": flag_id.flag_set, "kind": FLAG, "key": flag_id.key}
