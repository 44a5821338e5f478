"""What events of the change stream mean: a change by flagsvc, which has a revision, or another program's.

An event is only a trigger; what counts is the document as it is looked up then, which may be newer. The revisions of a
set are committed in their order, so a change by flagsvc carries a larger revision than every change before it.
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
    """The flag that a document was last seen to be, and its revision then."""

    id: FlagId
    revision: int


class StreamEnded(Exception):
    """The stream cannot go on from here: a new one has to begin, and changes may have been missed."""


class Events:
    """Reads events in their order. `revisions`: per set, the newest revision of a change by flagsvc that was read."""

    def __init__(self, database: Any) -> None:
        self._history = database["feature_flag_history"]
        self._counter_rows = database["flagsvc_revisions"]
        self._counters: Mapping[str, int] = {}
        self._settled: dict[bytes, Known] = {}
        self._unsettled: dict[bytes, Known | None] = {}
        self.loaded: dict[bytes, Known] = {}
        """Every document as the last load read it; what events say counts more."""
        self.revisions: dict[str, int] = {}

    async def begin(self, session: Any) -> None:
        """Start over: the next events are those from now on."""
        self._counters = await self._read_counters(session)
        self._settled.clear()
        self.resume(self._counters)

    def resume(self, revisions: Mapping[str, int]) -> None:
        """Return to the last call of `settle`, when these revisions were reached: later events are read again."""
        self.revisions = dict(revisions)
        self._unsettled.clear()

    def settle(self) -> None:
        """Record that what was read by now will not be read again."""
        for identity, known in self._unsettled.items():
            if known is not None:
                self._settled[identity] = known
            else:
                self._settled.pop(identity, None)
                self.loaded.pop(identity, None)
        self._unsettled.clear()

    async def read(self, raw: RawBSONDocument, session: Any) -> list[StoreEvent]:
        """Return what an event means. Raises StreamEnded, and what the driver raises; then call `resume`."""
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
        event_revision = documents.revision_of(fields)
        if document is None:  # deleted since, which a later event reports; a checkpoint may come before that
            if known is None:
                return []
            is_ours = await self._reaches(known.id.flag_set, event_revision, session)
            absent = Entry.absent(known.id, event_revision)
            return [Announced(absent) if is_ours else UnversionedChange(*known, gone=True)]
        if not documents.identifiable(document):
            self._unsettled[identity] = None
            return [] if known is None else [UnversionedChange(*known, gone=True)]
        flag = documents.to_flag(document)
        self._unsettled[identity] = Known(flag.id, flag.revision)
        renamed = known is not None and known.id != flag.id
        events: list[StoreEvent] = [UnversionedChange(*known, gone=True)] if known is not None and renamed else []
        if await self._reaches(flag.flag_set, event_revision, session):
            overtaken = event_revision != flag.revision
            events.append(Announced(Entry.of(flag), event_revision=event_revision if overtaken else 0))
        elif renamed or not await self._is_ahead(flag.flag_set, flag.revision, session):
            events.append(UnversionedChange(flag.id, flag.revision))
        else:
            # A change by flagsvc has overtaken this one. It is applied now, not with its own event: a checkpoint may
            # come in between, and would cover a change that was not applied.
            events.append(Announced(Entry.of(flag)))
        return events

    async def _deleted(self, identity: bytes, session: Any) -> list[StoreEvent]:
        """Return what a deletion means: one by flagsvc has a row in the history, stored with it."""
        known = self._known(identity)
        self._unsettled[identity] = None
        if known is None:
            return [Subscribed()]
        query = documents.deletions(known.id, max(known.revision, self.revisions.get(known.id.flag_set, 0)))
        row = await self._history.find_one(query, sort=[("revision", 1)], session=session)
        if row is None:
            return [UnversionedChange(*known, gone=True)]
        return [Announced(Entry(known.id, documents.revision_of(row), None))]

    async def _reaches(self, flag_set: str, event_revision: int, session: Any) -> bool:
        """Whether this revision, which an event carries, is a new one by flagsvc; it is reached from then on."""
        if not event_revision:
            return False
        if await self._is_ahead(flag_set, event_revision, session):
            self.revisions[flag_set] = event_revision
            return True
        self._counters = await self._read_counters(session)
        if self._counters.get(flag_set, 0) < self.revisions.get(flag_set, 0):
            raise StreamEnded("the counter went back")
        return False

    async def _is_ahead(self, flag_set: str, revision: int, session: Any) -> bool:
        """Whether a change by flagsvc made this revision, and its event was not read before."""
        if revision > self._counters.get(flag_set, 0):
            self._counters = await self._read_counters(session)
        return self.revisions.get(flag_set, 0) < revision <= self._counters.get(flag_set, 0)

    async def _read_counters(self, session: Any) -> dict[str, int]:
        return documents.counters([row async for row in self._counter_rows.find(session=session)])

    def _known(self, identity: bytes) -> Known | None:
        if identity in self._unsettled:
            return self._unsettled[identity]
        return self._settled.get(identity) or self.loaded.get(identity)
