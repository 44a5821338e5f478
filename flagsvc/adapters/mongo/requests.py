"""Writes with a request id, remembered for a day: a row is stored in the transaction of its write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from bson import Binary

from flagsvc.core.model import Change, FlagId
from flagsvc.core.requests import REMEMBERED, Form, WriteRequest
from flagsvc.core.revisions.packing import pack, unpack
from flagsvc.ports.changes import Entry
from flagsvc.turns import off_loop

COLLECTION = "flagsvc_requests"
INDEX = [("at", 1)]
T = TypeVar("T")


class MongoRequests:
    """The remembered writes of one database. Two equal ones at a time conflict by `_id`; one of them is repeated."""

    def __init__(self, database: Any) -> None:
        self._rows = database[COLLECTION]

    async def answer(self, request: WriteRequest, flag_id: FlagId, session: Any) -> Entry | None:
        """Return what a write of a flag has stored that was made before; None for a new one. Raises InvalidRequest."""
        row = await self._row(request, session)
        if row is None:
            return None
        request.previous = str(row.get("previous") or "")
        packed, revision = row.get("definition"), int(row["revision"])
        flag = (
            None if packed is None else await off_loop(unpack, bytes(packed), flag_id.key, flag_id.flag_set, revision)
        )
        return Entry(flag_id, revision, flag)

    async def remember(self, request: WriteRequest, entry: Entry, change: Change, at: datetime, session: Any) -> None:
        """Remember what a write of a flag has stored."""
        row = {"_id": _id(request), "digest": request.digest, "revision": entry.revision, "at": at}
        if entry.flag is not None:
            row["definition"] = Binary(await off_loop(pack, entry.flag))
        if change.before is not None:
            row["previous"] = change.before.status.value
        await self._rows.insert_one(row, session=session)

    async def once(
        self, request: WriteRequest | None, form: Form[T], work: Callable[[], Awaitable[T]], session: Any
    ) -> T:
        """Return the outcome of work, remembered with its request; that of before if it was. Raises InvalidRequest."""
        if request is None:
            return await work()
        if (known := await self.known(request, form, session)) is not None:
            return known
        done = await work()
        await self.note(request, form, done, session)
        return done

    async def known(self, request: WriteRequest, form: Form[T], session: Any) -> T | None:
        """Return the outcome of a write that was made before; None for a new one. Raises InvalidRequest."""
        row = await self._row(request, session)
        return None if row is None else await off_loop(form.unpack, bytes(row["outcome"]))

    async def note(self, request: WriteRequest, form: Form[T], done: T, session: Any) -> None:
        """Remember the outcome of a write."""
        row = {"_id": _id(request), "digest": request.digest, "at": datetime.now(UTC)}
        await self._rows.insert_one(row | {"outcome": Binary(await off_loop(form.pack, done))}, session=session)

    async def _row(self, request: WriteRequest, session: Any) -> dict[str, Any] | None:
        row: dict[str, Any] | None = await self._rows.find_one({"_id": _id(request)}, session=session)
        if row is None:
            return None
        if datetime.now(UTC) - row["at"] > REMEMBERED:  # MongoDB removes it within a minute
            await self._rows.delete_one({"_id": row["_id"]}, session=session)
            return None
        if row["digest"] != request.digest:
            raise request.reused()
        return row


def _id(request: WriteRequest) -> dict[str, str]:
    return {"caller": request.caller, "request": request.request_id}
