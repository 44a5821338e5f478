"""Writes with a request id in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flagsvc.core.model import Change, FlagId
from flagsvc.core.requests import REMEMBERED, WriteRequest
from flagsvc.core.revisions.packing import pack, unpack
from flagsvc.ports.changes import Entry

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    caller TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, digest BLOB NOT NULL, revision INTEGER NOT NULL,
    previous TEXT NOT NULL, definition BLOB, PRIMARY KEY (caller, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (at);
"""


def answer(db: Any, request: WriteRequest, flag_id: FlagId) -> Entry | None:
    """Return what a write has stored that was made before; None for a new one. Raises InvalidRequest."""
    oldest = (datetime.now(UTC) - REMEMBERED).timestamp()
    db.execute("DELETE FROM requests WHERE at < ?", (oldest,))
    query = "SELECT digest, revision, previous, definition FROM requests WHERE caller = ? AND id = ?"
    row = db.execute(query, (request.caller, request.request_id)).fetchone()
    if row is None:
        return None
    digest, revision, request.previous, definition = row
    if digest != request.digest:
        raise request.reused()
    flag = None if definition is None else unpack(definition, flag_id.key, flag_id.flag_set, revision)
    return Entry(flag_id, revision, flag)


def remember(db: Any, request: WriteRequest, entry: Entry, change: Change) -> None:
    """Store what a write has stored, in the transaction that is open."""
    definition = pack(entry.flag) if entry.flag is not None else None
    previous = change.before.status.value if change.before is not None else ""
    row = (request.caller, request.request_id, datetime.now(UTC).timestamp(), request.digest, entry.revision)
    db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, previous, definition))
