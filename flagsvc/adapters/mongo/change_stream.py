"""The change stream of the flags, tailed by raw commands: what changed, until when all is told, where to go on.

A primary that was replaced without knowing it tells that nothing changes. So only a linearizable read says of a moment
that the store was so far then, and all is told until that moment once the stream was read from a member that far.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.mongo.events import Events, StreamEnded
from flagsvc.adapters.mongo.transactions import closed, session_of
from flagsvc.ports import NEVER, ChangesUnsupported, Checkpoint, StoreEvent, Subscribed

FLAGS = "feature_flags"
PLACES = "flagsvc_tail"
"""The collection that keeps how far the stream was told."""
WAIT_MS = 250
"""How long a member waits for something to tell; all is told until a moment within two such waits after it is seen."""
PROVE_S = 2.5
"""When nobody else reads linearizably for this long, the tail does."""
_MAX_EVENTS = 1_000
_MAX_BYTES = 1_000_000  # a larger reply may have been cut off by its size
_PROOFS = 8
_AHEAD_S = 1.0
_MAX_EMPTY_STARTS = 3
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0
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
class _ResumePoint:
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


class _Proof(NamedTuple):
    """A linearizable read: asked then (monotonic), it saw everything up to a moment of the server."""

    asked_at: float
    moment: Timestamp


class ChangeStream:
    """Tells of changes by whomever. `restarts` counts how often the stream broke; `up`: it tells now."""

    def __init__(self, client: Any, database: Any, places: Any) -> None:
        """`client` and `database` are used by the tail alone, since it waits; `places` is another client's."""
        self.restarts = 0
        self.up = False
        self.events = Events(database)
        self._client, self._database = client, database
        self._places = places.with_options(write_concern=WriteConcern(1))
        self._place: _ResumePoint | None = None
        self._remembered: _ResumePoint | None = None
        self._recalled = self._missed = self._refused = self._closed = False
        self._proofs: deque[_Proof] = deque(maxlen=_PROOFS)
        self._ahead_since = NEVER
        self._empty_starts = 0

    async def changes(self) -> AsyncIterator[StoreEvent]:
        """Tell of changes until the store is closed. Raises ChangesUnsupported."""
        self._missed = True
        failures, checkpoint = 0, NEVER
        while not self._closed:
            try:
                async with session_of(self._client) as session:
                    cursor = await self._begin(session)
                    if self._missed:
                        self._missed = False
                        yield Subscribed()
                    reached = NEVER
                    while True:
                        await self._prove(session)
                        reply = await self._more(cursor, session)
                        for raw in reply.events:
                            for told in await self.events.told(raw, session):
                                yield told
                        if reply.whole and reached > checkpoint:
                            checkpoint = reached
                            yield Checkpoint(checkpoint)
                        reached = self._reached(reply)
                        self._move(reply)
                        failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, changes have to be told for ever
                self._judge(error)
            finally:
                self.up = False
            failures += 1
            max_s = min(_MAX_PAUSE_S, _MIN_PAUSE_S * 2**failures)
            await asyncio.sleep(random.uniform(_MIN_PAUSE_S, max_s))  # noqa: S311 - jitter, no secret

    def prove(self, asked_at: float, moment: Timestamp) -> None:
        """Note that a linearizable read which was asked then saw everything up to the moment."""
        self._proofs.append(_Proof(asked_at, moment))

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
            self._place = await self._load_resume_point()
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
        self._ahead_since = NEVER
        self._empty_starts += 1
        return reply.cursor

    async def _load_resume_point(self) -> _ResumePoint | None:
        """Give the place that a process before this one kept, if it can be read."""
        try:
            kept = await self._database[PLACES].find_one({"_id": FLAGS})
            passed = {str(row["flagSet"]): int(row["revision"]) for row in kept["revisions"]}
            token, at = kept["token"], kept["time"]
        except (OperationFailure, TypeError, KeyError, ValueError):
            return None
        return _ResumePoint(token, at, passed) if isinstance(token, Mapping) and isinstance(at, Timestamp) else None

    async def _prove(self, session: Any) -> None:
        """Read linearizably, where nobody else did lately."""
        asked_at = time.monotonic()
        if self._proofs and asked_at - self._proofs[-1].asked_at < PROVE_S:
            return
        concern = {"level": "linearizable"}
        command = {"find": FLAGS, "limit": 1, "projection": {"_id": 1}, "readConcern": concern, "maxTimeMS": 2_000}
        self.prove(asked_at, (await self._database.command(command, session=session))["operationTime"])

    async def _more(self, cursor: int, session: Any) -> _Reply:
        """Ask for what came since; waits a while for something to come."""
        command = {"getMore": cursor, "collection": FLAGS, "batchSize": _MAX_EVENTS, "maxTimeMS": WAIT_MS}
        reply = await self._ask(command, session)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Python 3.11 loses a cancellation that meets the end of a write
            raise asyncio.CancelledError
        self._empty_starts, self.up = 0, True
        return reply

    async def _ask(self, command: dict[str, Any], session: Any) -> _Reply:
        reply = await self._database.command(command, session=session, codec_options=_RAW)
        cursor = reply["cursor"]
        events = cursor.get("nextBatch", ())
        whole = len(events) < _MAX_EVENTS and len(reply.raw) < _MAX_BYTES
        return _Reply(cursor["id"], events, cursor["postBatchResumeToken"], reply["operationTime"], whole)

    def _move(self, reply: _Reply) -> None:
        self.events.settle()
        at = max(reply.at, self._place.at) if self._place else reply.at
        self._place = _ResumePoint(reply.token, at, dict(self.events.passed))

    def _reached(self, reply: _Reply) -> float:
        """Give until when the next reply, if it is whole, will have told all: this member is that far by now.

        Where the stream begins ahead of the member, because the data was put back, it would be silent: that is ended.
        """
        if self._place is None or self._place.at <= reply.at:
            self._ahead_since = NEVER
            return max((proof.asked_at for proof in self._proofs if proof.moment <= reply.at), default=NEVER)
        now = time.monotonic()
        if self._ahead_since == NEVER:
            self._ahead_since = now
        if now - self._ahead_since > _AHEAD_S:
            raise StreamEnded("the place is ahead of the server")
        return NEVER

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
        if not isinstance(error, PyMongoError | StreamEnded):
            log.error("change stream failed; a new one is begun", exc_info=error)
        going_on = (
            isinstance(error, PyMongoError)
            and (code is None or code in _PASSING)
            and self._empty_starts < _MAX_EMPTY_STARTS
        )
        if not going_on:
            self._place, self._empty_starts = None, 0
