"""Tokens and denials in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from flagsvc.adapters.sqlite_audit import insert
from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.access.records import Decide, R, Record, from_json, to_json
from flagsvc.core.access.tokens import Token
from flagsvc.core.audit import AuditEntry
from flagsvc.core.errors import ChangeRefused
from flagsvc.ports import StoredTokens

T = TypeVar("T")
SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS token_revision (row INTEGER PRIMARY KEY CHECK (row = 1), revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ticket_key (row INTEGER PRIMARY KEY CHECK (row = 1), key BLOB NOT NULL);
"""
"""Denials are in the same table: their ids are none of a token's."""
MALFORMED = "what is stored there is malformed, and has no effect"


class SqliteTokens:
    """The tokens and denials in one file. `run` runs a function of its connection."""

    def __init__(self, run: Callable[[Callable[[Any], Any]], Awaitable[Any]]) -> None:
        self._run = run

    async def revision(self) -> int:
        """Read the counter."""
        return int(await self._run(_revision))

    async def load(self) -> StoredTokens:
        """Read everything, in one transaction."""
        return await self._run(_load)  # type: ignore[no-any-return]

    async def write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry | None = None, forget: Sequence[str] = ()
    ) -> R | None:
        """Decide and store, in one transaction."""
        return await self._run(lambda db: _write(db, record_id, decide, entry, forget))  # type: ignore[no-any-return]

    async def make_ticket_key(self, key: bytes) -> None:
        """Store the key of tickets, unless there is one."""
        await self._run(lambda db: db.execute("INSERT OR IGNORE INTO ticket_key VALUES (1, ?)", (key,)) and None)

    async def note_used(self, days: Mapping[str, str]) -> None:
        """Record the last day of use of some tokens."""
        await self._run(lambda db: _note_used(db, days))


def _revision(db: Any) -> int:
    row = db.execute("SELECT revision FROM token_revision").fetchone()
    return row[0] if row else 0


def _load(db: Any) -> StoredTokens:
    found: list[Record] = []
    malformed = []
    with transaction(db, "DEFERRED"):
        revision = _revision(db)
        for record_id, document in db.execute("SELECT id, document FROM tokens ORDER BY id"):
            try:
                found.append(from_json(record_id, document))
            except (ValueError, TypeError):
                malformed.append(record_id)
        row = db.execute("SELECT key FROM ticket_key").fetchone()
    return StoredTokens.of(revision, found, malformed, bytes(row[0]) if row else b"")


def _write(db: Any, record_id: str, decide: Decide[R], entry: AuditEntry | None, forget: Sequence[str]) -> R | None:
    with transaction(db, "IMMEDIATE"):
        current: Any = _read(db, record_id)
        record = decide(current)
        if record is None:
            return None
        known = max(_revision(db), record.revision, current.revision if current else 0)
        record = replace(record, revision=known + 1)
        db.execute("INSERT OR REPLACE INTO token_revision VALUES (1, ?)", (record.revision,))
        db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", (record_id, to_json(record)))
        db.executemany("DELETE FROM tokens WHERE id = ?", [(each,) for each in forget])
        if entry is not None:
            insert(db, [entry])
        return record


def _note_used(db: Any, days: Mapping[str, str]) -> None:
    with transaction(db, "IMMEDIATE"):
        for token_id, day in days.items():
            try:
                token = _read(db, token_id)
            except ChangeRefused:
                continue
            if isinstance(token, Token) and token.last_used_on < day:
                row = to_json(replace(token, last_used_on=day)), token_id
                db.execute("UPDATE tokens SET document = ? WHERE id = ?", row)


def _read(db: Any, record_id: str) -> Record | None:
    row = db.execute("SELECT document FROM tokens WHERE id = ?", (record_id,)).fetchone()
    try:
        return from_json(record_id, row[0]) if row else None
    except (ValueError, TypeError):
        raise ChangeRefused(MALFORMED) from None


def read_records(db: Any, ids: Sequence[str]) -> dict[str, Record]:
    """Read some records in the transaction that is open, by id. What is malformed has no effect."""
    found: dict[str, Record] = {}
    for record_id in ids:
        with suppress(ChangeRefused):
            if (record := _read(db, record_id)) is not None:
                found[record_id] = record
    return found
