"""Writes with a request id in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from flagsvc.core.model import Change, FlagId
from flagsvc.core.requests import REMEMBERED, Form, WriteRequest
from flagsvc.core.revisions.packing import pack, unpack
from flagsvc.ports.changes import Entry

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    caller TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, digest BLOB NOT NULL, revision INTEGER NOT NULL,
    previous TEXT NOT NULL, definition BLOB, PRIMARY KEY (caller, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (at);
"""
T = TypeVar("T")


def answer(db: Any, request: WriteRequest, flag_id: FlagId) -> Entry | None:
    """Return what a write of a flag has stored that was made before; None for a new one. Raises InvalidRequest."""
    row = _row(db, request)
    if row is None:
        return None
    revision, request.previous, definition = row
    flag = None if definition is None else unpack(definition, flag_id.key, flag_id.flag_set, revision)
    return Entry(flag_id, revision, flag)


def remember(db: Any, request: WriteRequest, entry: Entry, change: Change) -> None:
    """Remember what a write of a flag has stored, in the transaction that is open."""
    definition = pack(entry.flag) if entry.flag is not None else None
    _insert(db, request, entry.revision, change.before.status.value if change.before is not None else "", definition)


def once(db: Any, request: WriteRequest | None, form: Form[T], work: Callable[[], T]) -> T:
    """Return the outcome of work, remembered with its request; that of before if it was. Raises InvalidRequest."""
    if request is None:
        return work()
    if (known := known_outcome(db, request, form)) is not None:
        return known
    done = work()
    note(db, request, form, done)
    return done


def known_outcome(db: Any, request: WriteRequest, form: Form[T]) -> T | None:
    """Return the outcome of a write that was made before; None for a new one. Raises InvalidRequest."""
    row = _row(db, request)
    return None if row is None else form.unpack(row[2])


def note(db: Any, request: WriteRequest, form: Form[T], done: T) -> None:
    """Remember the outcome of a write, in the column for definitions."""
    _insert(db, request, 0, "", form.pack(done))


def _row(db: Any, request: WriteRequest) -> tuple[int, str, bytes] | None:
    oldest = (datetime.now(UTC) - REMEMBERED).timestamp()
    db.execute("DELETE FROM requests WHERE at < ?", (oldest,))
    query = "SELECT digest, revision, previous, definition FROM requests WHERE caller = ? AND id = ?"
    row = db.execute(query, (request.caller, request.request_id)).fetchone()
    if row is None:
        return None
    digest, *rest = row
    if digest != request.digest:
        raise request.reused()
    return tuple(rest)


def _insert(db: Any, request: WriteRequest, revision: int, previous: str, content: bytes | None) -> None:
    row = (request.caller, request.request_id, datetime.now(UTC).timestamp(), request.digest, revision)
    db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, previous, content))
