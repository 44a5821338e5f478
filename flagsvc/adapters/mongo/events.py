"""What events of the change stream mean: a change of ours, which has a revision, or another program's.

An event is a trigger; what counts is the document as it is looked up then, which may be newer. Revisions of a set come
in their order, so a change of ours is one that carries a larger revision than every change before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument

from flagsvc.adapters.mongo import documents
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, Entry, StoreEvent, Subscribed, UnversionedChange

_ENDINGS = frozenset({"drop", "rename", "dropDatabase", "invalidate"})


class Known(NamedTuple):
    """Which flag a document was last seen to be, at which revision."""

    id: FlagId
    revision: int


class StreamEnded(Exception):
    """The stream cannot go on from here: begin a new one, and say that something may have been missed."""


class Events:
    """Reads events in their order. `passed`: per set, the newest revision that a change of ours was told with."""

    def __init__(self, database: Any) -> None:
        self._history = database["feature_flag_history"]
        self._revisions = database["flagsvc_revisions"]
        self._counters: Mapping[str, int] = {}
        self._told: dict[bytes, Known] = {}
        self._apply_change: dict[bytes, Known | None] = {}
        self.loaded: dict[bytes, Known] = {}
        """Every document as it was last read; what events told counts more."""
        self.passed: dict[str, int] = {}

    async def begin(self, session: Any) -> None:
        """Forget what was told: the next events are those from now on."""
        self._counters = await self._read_counters(session)
        self._told.clear()
        self.resume(self._counters)

    def resume(self, passed: Mapping[str, int]) -> None:
        """Go back to where `settle` was called last, when so much was passed: what came after is told again."""
        self.passed = dict(passed)
        self._apply_change.clear()

    def settle(self) -> None:
        """What was told by now will not be told again."""
        for identity, known in self._apply_change.items():
            if known is not None:
                self._told[identity] = known
            else:
                self._told.pop(identity, None)
                self.loaded.pop(identity, None)
        self._apply_change.clear()

    async def told(self, raw: RawBSONDocument, session: Any) -> list[StoreEvent]:
        """Say what an event means. Raises StreamEnded, and what the driver raises: then `resume`."""
        event = bson.decode(raw.raw, codec_options=documents.CODEC)
        kind = event["operationType"]
        if kind in _ENDINGS:
            raise StreamEnded(kind)
        if kind == "delete":
            return await self._deleted(documents.identity(event["documentKey"]["_id"]), session)
        return await self._changed(event, session) if kind in ("insert", "update", "replace") else []

    async def _changed(self, event: Mapping[str, Any], session: Any) -> list[StoreEvent]:
        identity = documents.identity(event["documentKey"]["_id"])
        known, document = self._known(identity), event.get("fullDocument")
        fields = document if event["operationType"] != "update" else event["updateDescription"]["updatedFields"]
        made = documents.revision_of(fields)
        if document is None:  # deleted since, of which the next event tells
            numbered = known is not None and await self._passes(known.id.flag_set, made, session)
            return [Announced(Entry.absent(known.id, made))] if known is not None and numbered else []
        if not documents.identifiable(document):
            self._apply_change[identity] = None
            return [] if known is None else [UnversionedChange(*known, gone=True)]
        flag = documents.to_flag(document)
        self._apply_change[identity] = Known(flag.id, flag.revision)
        renamed = known is not None and known.id != flag.id
        told: list[StoreEvent] = [UnversionedChange(*known, gone=True)] if known is not None and renamed else []
        if await self._passes(flag.flag_set, made, session):
            told.append(Announced(Entry.of(flag), passed=made if made != flag.revision else 0))
        elif renamed or not await self._is_ahead(flag.flag_set, flag.revision, session):
            told.append(UnversionedChange(flag.id, flag.revision))
        return told

    async def _deleted(self, identity: bytes, session: Any) -> list[StoreEvent]:
        """A deletion of ours has a row in the history, stored with it."""
        known = self._known(identity)
        self._apply_change[identity] = None
        if known is None:
            return [Subscribed()]
        query = documents.deletions(known.id, max(known.revision, self.passed.get(known.id.flag_set, 0)))
        row = await self._history.find_one(query, sort=[("revision", 1)], session=session)
        return [
            UnversionedChange(*known, gone=True)
            if row is None
            else Announced(Entry(known.id, documents.revision_of(row), None))
        ]

    async def _passes(self, flag_set: str, made: int, session: Any) -> bool:
        """Whether this revision, which an event carries, is a new one of ours; it is passed from then on."""
        if not made:
            return False
        if await self._is_ahead(flag_set, made, session):
            self.passed[flag_set] = made
            return True
        self._counters = await self._read_counters(session)
        if self._counters.get(flag_set, 0) < self.passed.get(flag_set, 0):
            raise StreamEnded("the counter went back")
        return False

    async def _is_ahead(self, flag_set: str, revision: int, session: Any) -> bool:
        """Whether a change of ours gave this revision, and its event was not told before."""
        if revision > self._counters.get(flag_set, 0):
            self._counters = await self._read_counters(session)
        return self.passed.get(flag_set, 0) < revision <= self._counters.get(flag_set, 0)

    async def _read_counters(self, session: Any) -> dict[str, int]:
        return documents.counters([row async for row in self._revisions.find(session=session)])

    def _known(self, identity: bytes) -> Known | None:
        if identity in self._apply_change:
            return self._apply_change[identity]
        return self._told.get(identity) or self.loaded.get(identity)
