"""Tokens in MongoDB: a collection of their own, and a counter beside those of the flag sets.

A token is changed and counted in one transaction, so a counter that was read before the tokens misses no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from pymongo import UpdateOne
from pymongo.read_concern import ReadConcern

from flagsvc.adapters.mongo.transactions import Transactions, session_of
from flagsvc.core.access.token_documents import from_document, to_document
from flagsvc.core.access.tokens import Decide, Token
from flagsvc.core.errors import ChangeRefused
from flagsvc.ports import StoredTokens

COLLECTION = "flagsvc_tokens"
_COUNTER = {"flagsvc": "tokens"}
"""No text, as a flag set's name is: no program takes the document for a set's counter."""
_TICKET_KEY = {"flagsvc": "ticketKey"}
"""The document with the key of tickets; no text, as a token's id is."""
MALFORMED = "the stored token is malformed, and gives no right"


class MongoTokens:
    """The tokens of one database."""

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
        self._tokens, self._counters = database[COLLECTION], database["flagsvc_revisions"]

    async def revision(self) -> int:
        """Read the counter, from what surely is the primary."""
        async with self._asking():
            return await self._counter()

    async def load(self) -> StoredTokens:
        """Read the counter, then every token that is there by then."""
        tokens, malformed, ticket_key = [], [], b""
        async with self._asking(), session_of(self._client) as session:
            revision = await self._counter(session)
            async for raw in self._tokens.find(session=session):
                if raw["_id"] == _TICKET_KEY:
                    ticket_key = _bytes_in(raw)
                    continue
                try:
                    tokens.append(_token(raw))
                except ValueError:
                    malformed.append(str(raw["_id"])[:64])
        return StoredTokens(revision, tokens, malformed, ticket_key)

    async def write(self, token_id: str, decide: Decide) -> Token | None:
        """Decide and store, in one transaction."""
        return await self._transactions.run(lambda session: self._change(token_id, decide, session))

    async def make_ticket_key(self, key: bytes) -> None:
        """Store the key of tickets, unless there is one."""
        async with self._asking():
            await self._tokens.update_one({"_id": _TICKET_KEY}, {"$setOnInsert": {"key": key}}, upsert=True)

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Record the last day of use of some tokens."""
        edits = [UpdateOne({"_id": token_id}, {"$max": {"lastUsedOn": day}}) for token_id, day in days.items()]
        if edits:
            async with self._asking():
                await self._tokens.bulk_write(edits, ordered=False)

    async def _change(self, token_id: str, decide: Decide, session: Any) -> Token | None:
        raw = await self._tokens.find_one({"_id": token_id}, session=session)
        try:
            current = _token(raw) if raw else None
        except ValueError:
            raise ChangeRefused(MALFORMED) from None
        token = decide(current)
        if token is None:
            return None
        before = await self._counters.find_one_and_update(
            _ROW, {"$inc": {"revision": 1}}, upsert=True, session=session, projection={"revision": 1}
        )
        revision = _revision_in(before) + 1
        if current is not None and current.revision >= revision:  # the counter was lost, or restored
            revision = current.revision + 1
            await self._counters.update_one(_ROW, {"$set": {"revision": revision}}, session=session)
        token = replace(token, revision=revision)
        await self._tokens.replace_one({"_id": token_id}, to_document(token), upsert=True, session=session)
        return token

    async def _counter(self, later: Any = None) -> int:
        """Read the counter linearizably; the session `later` sees nothing that was before that."""
        concern = ReadConcern("linearizable") if self._is_linearizable() else None
        async with session_of(self._client, causal_consistency=False) as session:
            row = await self._counters.with_options(read_concern=concern).find_one(_ROW, session=session)
            if later is not None and session.operation_time is not None:
                later.advance_cluster_time(session.cluster_time)
                later.advance_operation_time(session.operation_time)
        return _revision_in(row)


_ROW = {"_id": _COUNTER}


def _revision_in(row: Mapping[str, Any] | None) -> int:
    revision = (row or {}).get("revision")
    return revision if isinstance(revision, int) else 0


def _bytes_in(row: Mapping[str, Any]) -> bytes:
    key = row.get("key")
    return key if isinstance(key, bytes) else b""


def _token(raw: Mapping[str, Any]) -> Token:
    """Read a document. Raises ValueError."""
    if not isinstance(raw["_id"], str):
        raise ValueError("the id is no text")  # noqa: TRY004  as for every other fault
    fields = {name: int(value) if name == "revision" else value for name, value in raw.items()}
    return from_document(raw["_id"], fields)
