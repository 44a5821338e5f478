"""Writes with a request id, remembered for a day: a row is stored in the transaction of its write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bson import Binary

from flagsvc.core.model import Change, FlagId
from flagsvc.core.requests import REMEMBERED, WriteRequest
from flagsvc.core.revisions.packing import pack, unpack
from flagsvc.ports.changes import Entry
from flagsvc.turns import off_loop

COLLECTION = "flagsvc_requests"
INDEX = [("at", 1)]


class MongoRequests:
    """The remembered writes of one database. Two equal ones at a time conflict by `_id`; one of them is repeated."""

    def __init__(self, database: Any) -> None:
        self._rows = database[COLLECTION]

    async def answer(self, request: WriteRequest, flag_id: FlagId, session: Any) -> Entry | None:
        """Return what a write has stored that was made before; None for a new one. Raises InvalidRequest."""
        row = await self._rows.find_one({"_id": _id(request)}, session=session)
        if row is None:
            return None
        if datetime.now(UTC) - row["at"] > REMEMBERED:  # MongoDB removes it within a minute
            await self._rows.delete_one({"_id": row["_id"]}, session=session)
            return None
        if row["digest"] != request.digest:
            raise request.reused()
        request.previous = str(row.get("previous") or "")
        packed, revision = row.get("definition"), int(row["revision"])
        flag = (
            None if packed is None else await off_loop(unpack, bytes(packed), flag_id.key, flag_id.flag_set, revision)
        )
        return Entry(flag_id, revision, flag)

    async def remember(self, request: WriteRequest, entry: Entry, change: Change, at: datetime, session: Any) -> None:
        """Store what a write has stored."""
        row = {"_id": _id(request), "digest": request.digest, "revision": entry.revision, "at": at}
        if entry.flag is not None:
            row["definition"] = Binary(await off_loop(pack, entry.flag))
        if change.before is not None:
            row["previous"] = change.before.status.value
        await self._rows.insert_one(row, session=session)


def _id(request: WriteRequest) -> dict[str, str]:
    return {"caller": request.caller, "request": request.request_id}
