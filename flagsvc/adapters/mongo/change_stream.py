"""The change stream of the flags, read by raw commands: what changed, up to which moment, and where to resume.

A primary that was replaced without noticing reports that nothing changes. So only a linearizable read proves that the
store had reached a moment; everything up to that moment has been delivered once the stream was read from a member
that is as far.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from bson import Timestamp
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.mongo.causes import UNAUTHORIZED
from flagsvc.adapters.mongo.documents import RAW
from flagsvc.adapters.mongo.events import Events, StreamEnded
from flagsvc.adapters.mongo.transactions import close_client, session_of
from flagsvc.background import backoff_s
from flagsvc.ports import NEVER, ChangesUnsupported, Checkpoint, Problem, StoreEvent, Subscribed

FLAGS = "feature_flags"
RESUME_POINTS = "flagsvc_change_stream"
"""The collection that keeps how far the stream has delivered."""
_MAX_EVENTS = 1_000
_MAX_BYTES = 1_000_000  # a larger reply may have been cut off by its size
_MAX_PROOFS = 8
_MAX_AHEAD_S = 1.0
_MAX_EMPTY_STARTS = 3
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0
STANDALONE = 40573  # the stage is there for replica sets only
_UNSUPPORTED = {
    59,  # CommandNotFound
    115,  # CommandNotSupported
    148,  # ReadConcernMajorityNotEnabled
    40324,  # no such stage
    STANDALONE,
}
_PASSING = {
    43,  # CursorNotFound: another member is primary now
    50,  # MaxTimeMSExpired
    134,  # ReadConcernMajorityNotAvailableYet
    262,  # ExceededTimeLimit
}
"""Failures after which the stream can resume where it was."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _ResumePoint:
    """How far the stream has delivered: up to the token. `at`: the newest moment that a member knew of by then."""

    token: Mapping[str, Any]
    at: Timestamp
    revisions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Reply:
    """The result of one command. `whole`: the member had no further event at that time."""

    cursor: int
    events: Sequence[RawBSONDocument]
    token: Mapping[str, Any]
    at: Timestamp
    whole: bool


class _Proof(NamedTuple):
    """A linearizable read: asked at a moment of `time.monotonic()`, it saw everything up to a moment of the server."""

    asked_at: float
    moment: Timestamp


class ChangeStream:
    """Delivers changes by whomever. `restarts` counts how often the stream broke; `up`: it delivers now."""

    def __init__(self, client: Any, database: Any, resume_points: Any, *, wait_s: float, prove_after_s: float) -> None:
        """`client` and `database` are the stream's own, since its commands wait; `resume_points` is another client's.

        `wait_s`: how long a member waits for something to report. Everything up to a moment is delivered within two
        such waits. `prove_after_s`: when nobody else has read linearizably for so long, the stream does.
        """
        self.restarts = 0
        self.up = False
        self.events = Events(database)
        self._client, self._database = client, database
        self._wait_s, self._prove_after_s = wait_s, prove_after_s
        self._resume_points = resume_points.with_options(write_concern=WriteConcern(1))
        self._resume_point: _ResumePoint | None = None
        self._saved: _ResumePoint | None = None
        self._loaded = self._missed = self._refused = self._closed = False
        self._proofs: deque[_Proof] = deque(maxlen=_MAX_PROOFS)
        self._ahead_since = NEVER
        self._empty_starts = 0

    async def changes(self) -> AsyncIterator[StoreEvent]:
        """Deliver changes until the store is closed. Raises ChangesUnsupported."""
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
                        await self._ensure_proof(session)
                        reply = await self._more(cursor, session)
                        for raw in reply.events:
                            for event in await self.events.read(raw, session):
                                yield event
                        # What the member had reached at the reply before, it has delivered with a whole one.
                        if reply.whole and reached > checkpoint:
                            checkpoint = reached
                            yield Checkpoint(checkpoint)
                        reached = self._reached(reply)
                        self._move(reply)
                        failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, changes have to be delivered for ever
                self._judge(error)
            finally:
                self.up = False
            failures += 1
            await asyncio.sleep(backoff_s(failures, _MIN_PAUSE_S, _MAX_PAUSE_S))

    def prove(self, asked_at: float, moment: Timestamp) -> None:
        """Record that a linearizable read which was asked then saw everything up to the server's moment."""
        self._proofs.append(_Proof(asked_at, moment))

    async def close(self) -> None:
        """Release the connection."""
        self._closed = True
        await close_client(self._client)

    async def save_resume_point(self) -> None:
        """Save the resume point if it has moved. Its loss costs a later process a full load."""
        point = self._resume_point
        if point is None or (self._saved and self._saved.token == point.token):
            return
        revisions = [{"flagSet": name, "revision": revision} for name, revision in point.revisions.items()]
        document = {"token": point.token, "time": point.at, "revisions": revisions, "at": datetime.now(UTC)}
        try:
            await self._resume_points.replace_one({"_id": FLAGS}, document, upsert=True)
        except (PyMongoError, BSONError) as error:
            log.debug("resume_point_not_saved", error=type(error).__name__)
        else:
            self._saved = point

    async def _begin(self, session: Any) -> int:
        """Open the stream at this process's resume point, else at a saved one, else at now. Return its cursor."""
        if self._resume_point is None and not self._loaded:
            self._resume_point = await self._load_resume_point()
            self._loaded = True
        point, start = self._resume_point, {}
        if point is None:
            self._missed = True
            await self.events.begin(session)
        else:
            self.events.resume(point.revisions)
            start = {"resumeAfter": point.token}
        stage = {"$changeStream": {"fullDocument": "updateLookup", **start}}
        command = {"aggregate": FLAGS, "pipeline": [stage], "cursor": {"batchSize": 0}}
        reply = await self._ask(command | {"readConcern": {"level": "majority"}}, session)
        if point is None:
            self._move(reply)
        self._ahead_since = NEVER
        self._empty_starts += 1
        return reply.cursor

    async def _load_resume_point(self) -> _ResumePoint | None:
        """Return the resume point that an earlier process saved, if it can be read."""
        try:
            saved = await self._database[RESUME_POINTS].find_one({"_id": FLAGS})
            revisions = {str(row["flagSet"]): int(row["revision"]) for row in saved["revisions"]}
            token, at = saved["token"], saved["time"]
        except (OperationFailure, TypeError, KeyError, ValueError):
            return None
        return _ResumePoint(token, at, revisions) if isinstance(token, Mapping) and isinstance(at, Timestamp) else None

    async def _ensure_proof(self, session: Any) -> None:
        """Read linearizably where nobody else did recently."""
        asked_at = time.monotonic()
        if self._proofs and asked_at - self._proofs[-1].asked_at < self._prove_after_s:
            return
        concern = {"level": "linearizable"}
        command = {"find": FLAGS, "limit": 1, "projection": {"_id": 1}, "readConcern": concern, "maxTimeMS": 2_000}
        self.prove(asked_at, (await self._database.command(command, session=session))["operationTime"])

    async def _more(self, cursor: int, session: Any) -> _Reply:
        """Ask for the events since the last reply; the member waits a while for one."""
        wait_ms = max(int(self._wait_s * 1000), 1)
        command = {"getMore": cursor, "collection": FLAGS, "batchSize": _MAX_EVENTS, "maxTimeMS": wait_ms}
        reply = await self._ask(command, session)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Python 3.11 loses a cancellation that meets the end of a write
            raise asyncio.CancelledError
        self._empty_starts, self.up = 0, True
        return reply

    async def _ask(self, command: dict[str, Any], session: Any) -> _Reply:
        reply = await self._database.command(command, session=session, codec_options=RAW)
        cursor = reply["cursor"]
        events = cursor.get("nextBatch", ())
        whole = len(events) < _MAX_EVENTS and len(reply.raw) < _MAX_BYTES
        return _Reply(cursor["id"], events, cursor["postBatchResumeToken"], reply["operationTime"], whole)

    def _move(self, reply: _Reply) -> None:
        self.events.settle()
        at = max(reply.at, self._resume_point.at) if self._resume_point else reply.at
        self._resume_point = _ResumePoint(reply.token, at, dict(self.events.revisions))

    def _reached(self, reply: _Reply) -> float:
        """Return the moment up to which the next reply, if it is whole, has delivered everything.

        A stream that begins ahead of its member, because the data was restored, would stay silent: that is ended.
        """
        if self._resume_point is None or self._resume_point.at <= reply.at:
            self._ahead_since = NEVER
            return max((proof.asked_at for proof in self._proofs if proof.moment <= reply.at), default=NEVER)
        now = time.monotonic()
        if self._ahead_since == NEVER:
            self._ahead_since = now
        if now - self._ahead_since > _MAX_AHEAD_S:
            raise StreamEnded("the resume point is ahead of the server")
        return NEVER

    def _judge(self, error: Exception) -> None:
        """Decide where the stream goes on after a failure. Raises ChangesUnsupported."""
        self.restarts += 1
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _UNSUPPORTED or code == UNAUTHORIZED:
            if code == UNAUTHORIZED and not self._refused:
                self._refused = True
                detail = "The store URL's user may not read change streams of feature_flags."
                log.warning("change_stream_refused", detail=detail)
            raise ChangesUnsupported(_why_unsupported(code)) from error
        log.info("change_stream_broke", error=type(error).__name__, code=code)
        if not isinstance(error, PyMongoError | StreamEnded):
            log.error("change_stream_failed", exc_info=error, detail="A new stream is opened.")
        is_passing = isinstance(error, PyMongoError) and (code is None or code in _PASSING)
        if not is_passing or self._empty_starts >= _MAX_EMPTY_STARTS:
            self._resume_point, self._empty_starts = None, 0


def _why_unsupported(code: int) -> Problem | None:
    if code == STANDALONE:
        return None
    if code == UNAUTHORIZED:
        detail = "MongoDB's user may not read the change stream of feature_flags, so everything is read again and again"
        return Problem("change_stream_refused", detail, "grant the user changeStream and find on feature_flags")
    detail = f"MongoDB offers no change stream (code {code}), so everything is read again and again"
    return Problem("change_stream_unsupported", detail, "check the version and the storage engine of MongoDB")
