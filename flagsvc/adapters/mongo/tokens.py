"""Tokens and denials in MongoDB: a collection of their own, and a counter beside those of the flag sets.

A record is changed, counted and audited in one transaction. So a counter that was read before the records misses no
change, and no change is without its audit entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from pymongo import UpdateOne
from pymongo.read_concern import ReadConcern

from flagsvc.adapters.mongo import audit
from flagsvc.adapters.mongo.transactions import Transactions, session_of
from flagsvc.core.access.records import Decide, R, Record, from_document, to_document
from flagsvc.core.audit import AuditEntry
from flagsvc.core.errors import ChangeRefused
from flagsvc.ports import StoredTokens
from flagsvc.turns import off_loop

COLLECTION = "flagsvc_tokens"
_COUNTER = {"flagsvc": "tokens"}
"""No text, as a flag set's name is: no program takes the document for a set's counter."""
_TICKET_KEY = {"flagsvc": "ticketKey"}
"""The document with the key of tickets; no text, as a token's id is."""
MALFORMED = "what is stored there is malformed, and has no effect"


class MongoTokens:
    """The tokens and denials of one database."""

    def __init__(
        self,
        client: Any,
        database: Any,
        transactions: Transactions,
        asking: Callable[[], AbstractAsyncContextManager[None]],
        is_linearizable: Callable[[], bool],
    ) -> None:
        """`asking`: bounds what is asked and maps its errors. `is_linearizable`: whether the store has members."""
        self._client, self._transactions = client, transactions
        self._asking, self._is_linearizable = asking, is_linearizable
        self._records, self._counters = database[COLLECTION], database["flagsvc_revisions"]
        self._audit = database[audit.AUDIT]

    async def revision(self) -> int:
        """Read the counter, from what surely is the primary."""
        async with self._asking():
            return await self._counter()

    async def load(self) -> StoredTokens:
        """Read the counter, then every record that is there by then."""
        async with self._asking(), session_of(self._client) as session:
            revision = await self._counter(session)
            rows = [raw async for raw in self._records.find(session=session)]
        return await off_loop(_stored, revision, rows)

    async def write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry | None = None, forget: Sequence[str] = ()
    ) -> R | None:
        """Decide and store, in one transaction."""
        return await self._transactions.run(lambda session: self._change(record_id, decide, entry, forget, session))

    async def make_ticket_key(self, key: bytes) -> None:
        """Store the key of tickets, unless there is one."""
        async with self._asking():
            await self._records.update_one({"_id": _TICKET_KEY}, {"$setOnInsert": {"key": key}}, upsert=True)

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Record the last day of use of some tokens."""
        edits = [UpdateOne({"_id": token_id}, {"$max": {"lastUsedOn": day}}) for token_id, day in days.items()]
        if edits:
            async with self._asking():
                await self._records.bulk_write(edits, ordered=False)

    async def _change(
        self, record_id: str, decide: Decide[R], entry: AuditEntry | None, forget: Sequence[str], session: Any
    ) -> R | None:
        raw = await self._records.find_one({"_id": record_id}, session=session)
        try:
            current: Any = _record(raw) if raw else None
        except ValueError:
            raise ChangeRefused(MALFORMED) from None
        record = decide(current)
        if record is None:
            return None
        before = await self._counters.find_one_and_update(
            _ROW, {"$inc": {"revision": 1}}, upsert=True, session=session, projection={"revision": 1}
        )
        revision = _revision_in(before) + 1
        known = max(record.revision, current.revision if current else 0)
        if known >= revision:  # the counter was lost, or restored
            revision = known + 1
            await self._counters.update_one(_ROW, {"$set": {"revision": revision}}, session=session)
        record = replace(record, revision=revision)
        await self._records.replace_one({"_id": record_id}, to_document(record), upsert=True, session=session)
        if forget:
            await self._records.delete_many({"_id": {"$in": list(forget)}}, session=session)
        if entry is not None:
            await self._audit.insert_one(audit.document_of(entry), session=session)
        return record

    async def _counter(self, later: Any = None) -> int:
        """Read the counter linearizably; the session `later` sees nothing that was before that."""
        concern = ReadConcern("linearizable") if self._is_linearizable() else None
        async with session_of(self._client, causal_consistency=False) as session:
            row = await self._counters.with_options(read_concern=concern).find_one(_ROW, session=session)
            if later is not None and session.operation_time is not None:
                later.advance_cluster_time(session.cluster_time)
                later.advance_operation_time(session.operation_time)
        return _revision_in(row)


async def read_records(collection: Any, ids: Sequence[str], session: Any) -> dict[str, Record]:
    """Read some records in a transaction, by id. What is malformed has no effect."""
    rows = [raw async for raw in collection.find({"_id": {"$in": list(ids)}}, session=session)] if ids else []
    stored = _stored(0, rows)
    found: list[Record] = [*stored.tokens, *stored.denials]
    return {record.id: record for record in found}


_ROW = {"_id": _COUNTER}


def _revision_in(row: Mapping[str, Any] | None) -> int:
    revision = (row or {}).get("revision")
    return revision if isinstance(revision, int) else 0


def _stored(revision: int, rows: Iterable[Mapping[str, Any]]) -> StoredTokens:
    found: list[Record] = []
    malformed, ticket_key = [], b""
    for raw in rows:
        if raw["_id"] == _TICKET_KEY:
            ticket_key = _bytes_in(raw)
            continue
        try:
            found.append(_record(raw))
        except ValueError:
            malformed.append(str(raw["_id"])[:64])
    return StoredTokens.of(revision, found, malformed, ticket_key)


def _bytes_in(row: Mapping[str, Any]) -> bytes:
    key = row.get("key")
    return key if isinstance(key, bytes) else b""


def _record(raw: Mapping[str, Any]) -> Record:
    """Read a document. Raises ValueError."""
    if not isinstance(raw["_id"], str):
        raise ValueError("the id is no text")  # noqa: TRY004  as for every other fault
    fields = {name: int(value) if name == "revision" else value for name, value in raw.items()}
    return from_document(raw["_id"], fields)
