"""The change stream of the flags, tailed by raw commands: what changed, until when all is told, where to go on.

A primary that was replaced without knowing it would tell for ever that nothing changes. What a member says of the time
counts only while it is not behind what a linearizable read has seen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.mongo_events import Events, StreamEnded
from flagsvc.adapters.mongo_transactions import closed, session_of
from flagsvc.ports import ChangesUnsupported, StoreEvent, Subscribed, ToldUntil

FLAGS = "feature_flags"
PLACES = "flagsvc_tail"
"""The collection that keeps how far the stream was told."""
WAIT_MS = 500
"""How long a member waits for something to tell; less only to make tests short."""
_MOST_EVENTS = 1_000
_MOST_BYTES = 1_000_000  # a larger reply may have been cut off by its size
_BEHIND_S = 1.0
_BARREN = 3
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.05, 2.0
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_UNAUTHORIZED = 13
_UNSUPPORTED = frozenset(
    {
        59,  # CommandNotFound
        115,  # CommandNotSupported
        148,  # ReadConcernMajorityNotEnabled
        40324,  # no such stage
        40573,  # the stage is there for replica sets only
    }
)
_PASSING = frozenset(
    {
        43,  # CursorNotFound: another member is primary now
        50,  # MaxTimeMSExpired
        134,  # ReadConcernMajorityNotAvailableYet
        262,  # ExceededTimeLimit
    }
)
"""Failures after which the stream can go on where it was."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """How far the stream was told: up to the token. `at`: the newest moment that a member knew of by then."""

    token: Mapping[str, Any]
    at: Timestamp
    passed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one command gave. `whole`: no event that the member had then is left for the next reply."""

    cursor: int
    events: Sequence[RawBSONDocument]
    token: Mapping[str, Any]
    at: Timestamp
    whole: bool


class _Behind(Exception):
    """A member told of nothing newer than what was seen before, for too long: it may not be the primary."""


class Tail:
    """Tells of changes by whomever. `restarts` counts how often the stream broke; `up`: it tells now."""

    def __init__(self, client: Any, database: Any, places: Any) -> None:
        """`client` and `database` are used by the tail alone, since it waits; `places` is another client's."""
        self.restarts = 0
        self.up = False
        self.seen: Timestamp | None = None
        """The moment of the last linearizable read."""
        self.events = Events(database)
        self._client, self._database = client, database
        self._places = places.with_options(write_concern=WriteConcern(1))
        self._place: _Place | None = None
        self._remembered: _Place | None = None
        self._recalled = self._missed = self._refused = self._closed = False
        self._behind_since: float | None = None
        self._barren = 0

    async def changes(self) -> AsyncIterator[StoreEvent]:
        """Tell of changes until the store is closed. Raises ChangesUnsupported."""
        self._missed = True
        failures = 0
        while not self._closed:
            try:
                async with session_of(self._client) as session:
                    cursor = await self._begin(session)
                    if self._missed:
                        self._missed = False
                        yield Subscribed()
                    while True:
                        asked_at, seen = time.monotonic(), self.seen
                        reply = await self._more(cursor, session)
                        for raw in reply.events:
                            for told in await self.events.told(raw, session):
                                yield told
                        if self._is_current(reply, seen):
                            yield ToldUntil(asked_at)
                        self._move(reply)
                        failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, changes have to be told for ever
                self._judge(error)
            finally:
                self.up = False
            failures += 1
            most_s = min(_MOST_PAUSE_S, _LEAST_PAUSE_S * 2**failures)
            await asyncio.sleep(random.uniform(_LEAST_PAUSE_S, most_s))  # noqa: S311 - jitter, no secret

    async def close(self) -> None:
        """Let go of the server."""
        self._closed = True
        await closed(self._client)

    async def remember(self) -> None:
        """Keep the place where it moved. Losing it costs a later process no more than missing what others changed."""
        place = self._place
        if place is None or (self._remembered and self._remembered.token == place.token):
            return
        passed = [{"flagSet": name, "revision": revision} for name, revision in place.passed.items()]
        kept = {"token": place.token, "time": place.at, "revisions": passed, "at": datetime.now(UTC)}
        try:
            await self._places.replace_one({"_id": FLAGS}, kept, upsert=True)
        except (PyMongoError, BSONError) as error:
            log.debug("the place in the change stream was not kept", error=type(error).__name__)
        else:
            self._remembered = place

    async def _begin(self, session: Any) -> int:
        """Open the stream where it was told to; else where a process before was; else from now on. Gives its cursor."""
        if self._place is None and not self._recalled:
            self._place = await self._recall()
            self._recalled = True
        place, start = self._place, {}
        if place is None:
            self._missed = True
            await self.events.begin(session)
        else:
            self.events.resume(place.passed)
            start = {"resumeAfter": place.token}
        stage = {"$changeStream": {"fullDocument": "updateLookup", **start}}
        command = {"aggregate": FLAGS, "pipeline": [stage], "cursor": {"batchSize": 0}}
        reply = await self._ask(command | {"readConcern": {"level": "majority"}}, session)
        if place is None:
            self._move(reply)
        self._behind_since = None
        self._barren += 1
        return reply.cursor

    async def _recall(self) -> _Place | None:
        """Give the place that a process before this one kept, if it can be read."""
        try:
            kept = await self._database[PLACES].find_one({"_id": FLAGS})
            passed = {str(row["flagSet"]): int(row["revision"]) for row in kept["revisions"]}
            token, at = kept["token"], kept["time"]
        except (OperationFailure, TypeError, KeyError, ValueError):
            return None
        return _Place(token, at, passed) if isinstance(token, Mapping) and isinstance(at, Timestamp) else None

    async def _more(self, cursor: int, session: Any) -> _Reply:
        """Ask for what came since; waits a while for something to come."""
        command = {"getMore": cursor, "collection": FLAGS, "batchSize": _MOST_EVENTS, "maxTimeMS": WAIT_MS}
        reply = await self._ask(command, session)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Python 3.11 loses a cancellation that meets the end of a write
            raise asyncio.CancelledError
        self._barren, self.up = 0, True
        return reply

    async def _ask(self, command: dict[str, Any], session: Any) -> _Reply:
        reply = await self._database.command(command, session=session, codec_options=_RAW)
        cursor = reply["cursor"]
        events = cursor.get("nextBatch", ())
        whole = len(events) < _MOST_EVENTS and len(reply.raw) < _MOST_BYTES
        return _Reply(cursor["id"], events, cursor["postBatchResumeToken"], reply["operationTime"], whole)

    def _move(self, reply: _Reply) -> None:
        self.events.settle()
        at = max(reply.at, self._place.at) if self._place else reply.at
        self._place = _Place(reply.token, at, dict(self.events.passed))

    def _is_current(self, reply: _Reply, seen: Timestamp | None) -> bool:
        """Whether all that the store had when this was asked has been told. Raises _Behind.

        `seen` is what was seen before asking: a primary has it by then. So has each place that was reached on the way.
        """
        ahead = self._place is not None and self._place.at > reply.at
        if not ahead and (seen is None or seen <= reply.at):
            self._behind_since = None
            return reply.whole
        now = time.monotonic()
        self._behind_since = self._behind_since or now
        if now - self._behind_since > _BEHIND_S:
            self._place = None if ahead else self._place
            raise _Behind
        return False

    def _judge(self, error: Exception) -> None:
        """Say where the stream goes on after a failure. Raises ChangesUnsupported."""
        self.restarts += 1
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _UNSUPPORTED or code == _UNAUTHORIZED:
            if code == _UNAUTHORIZED and not self._refused:
                self._refused = True
                log.warning("the user of the store URL may not read change streams of feature_flags")
            raise ChangesUnsupported from error
        log.info("change stream broke", error=type(error).__name__, code=code)
        if isinstance(error, _Behind):
            self._missed = True
        elif self._is_lost(error, code):
            self._place, self._barren = None, 0

    def _is_lost(self, error: Exception, code: int | None) -> bool:
        """Whether the stream cannot, or must not, go on where it was."""
        if not isinstance(error, PyMongoError | StreamEnded):
            log.error("change stream failed; a new one is begun", exc_info=error)
            return True
        refused = code is not None and code not in _PASSING
        return refused or isinstance(error, StreamEnded) or self._barren >= _BARREN
