"""The store's identity: one document among the revision counters, so that a restore brings both back together.

It names the database for which it was made: a copy in another database is another store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure

from flagsvc.adapters.identity import new_id
from flagsvc.core.errors import WritesUnsupported

_ID = {"flagsvc": "identity"}
"""No text, as a flag set's name is: no program takes the document for a counter."""
_REFUSALS = {
    13,  # Unauthorized
    121,  # DocumentValidationFailure
}

log = structlog.get_logger(__name__)


class MongoIdentity:
    """The identity in the collection `flagsvc_revisions`. `id`: as last read; empty where the store has none.

    `given`: what a store that refuses writes takes instead.
    """

    def __init__(self, revisions: Any, given: str) -> None:
        self._revisions, self._given = revisions, given
        self._database = str(revisions.database.name)
        self.id = ""

    async def read_or_make(self) -> None:
        """Read the identity, or make it. Raises what the driver raises."""
        try:
            row = await self._revisions.find_one({"_id": _ID})
            if row is None:
                row = await self._changed({"_id": _ID}, {"$setOnInsert": self._new()}, upsert=True)
            elif row.get("database") != self._database:
                row = await self._changed({"_id": _ID, "id": row["id"]}, {"$set": self._new()})
            self.note([row or {}])
        except OperationFailure as error:
            if error.code not in _REFUSALS:
                raise
            log.warning(
                "store_identity_not_stored",
                cause=error.code,
                detail="The store refuses the document. Without FLAGSVC_STORE_NAME the shared cache is not used."
                if not self._given
                else "The store refuses the document. FLAGSVC_STORE_NAME takes its place.",
            )
            self.note([])

    async def renew(self) -> None:
        """Replace the identity by a new one. Raises WritesUnsupported, and what the driver raises."""
        try:
            row = await self._changed({"_id": _ID}, {"$set": self._new()}, upsert=True)
        except OperationFailure as error:
            if error.code in _REFUSALS:
                raise WritesUnsupported(
                    "the store refuses a new identity; grant writes to flagsvc_revisions"
                ) from error
            raise
        self.note([row or {}])

    def note(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note the identity where all rows of the collection were read."""
        found = [row.get("id") for row in rows if row.get("_id") == _ID and row.get("database") == self._database]
        self.id = found[0] if found and isinstance(found[0], str) else self._given

    async def _changed(self, query: dict[str, Any], edit: dict[str, Any], *, upsert: bool = False) -> Any:
        """Change the document, and return what is there then."""
        try:
            changed = await self._revisions.find_one_and_update(
                query, edit, upsert=upsert, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            changed = None  # another replica has made it in the meantime
        return changed or await self._revisions.find_one({"_id": _ID})

    def _new(self) -> dict[str, str]:
        return {"id": new_id(), "database": self._database}
