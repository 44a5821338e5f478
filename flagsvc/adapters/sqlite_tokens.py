"""Tokens in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from flagsvc.core.access.token_documents import from_json, to_json
from flagsvc.core.access.tokens import Decide, Token
from flagsvc.core.errors import ChangeRefused
from flagsvc.ports import StoredTokens

T = TypeVar("T")
SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS token_revision (row INTEGER PRIMARY KEY CHECK (row = 1), revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ticket_key (row INTEGER PRIMARY KEY CHECK (row = 1), key BLOB NOT NULL);
"""
MALFORMED = "the stored token is malformed, and gives no right"


class SqliteTokens:
    """The tokens in one file. `run` runs a function of its connection."""

    def __init__(self, run: Callable[[Callable[[Any], Any]], Awaitable[Any]]) -> None:
        self._run = run

    async def revision(self) -> int:
        """Read the counter."""
        return int(await self._run(_revision))

    async def load(self) -> StoredTokens:
        """Read everything, in one transaction."""
        return await self._run(_load)  # type: ignore[no-any-return]

    async def write(self, token_id: str, decide: Decide) -> Token | None:
        """Decide and store, in one transaction."""
        return await self._run(lambda db: _write(db, token_id, decide))  # type: ignore[no-any-return]

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
    tokens, malformed = [], []
    with _transaction(db, "DEFERRED"):
        revision = _revision(db)
        for token_id, document in db.execute("SELECT id, document FROM tokens ORDER BY id"):
            try:
                tokens.append(from_json(token_id, document))
            except (ValueError, TypeError):
                malformed.append(token_id)
        row = db.execute("SELECT key FROM ticket_key").fetchone()
    return StoredTokens(revision, tokens, malformed, bytes(row[0]) if row else b"")


def _write(db: Any, token_id: str, decide: Decide) -> Token | None:
    with _transaction(db, "IMMEDIATE"):
        current = _read(db, token_id)
        token = decide(current)
        if token is None:
            return None
        token = replace(token, revision=max(_revision(db), current.revision if current else 0) + 1)
        db.execute("INSERT OR REPLACE INTO token_revision VALUES (1, ?)", (token.revision,))
        db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", (token_id, to_json(token)))
        return token


def _note_used(db: Any, days: Mapping[str, str]) -> None:
    with _transaction(db, "IMMEDIATE"):
        for token_id, day in days.items():
            try:
                token = _read(db, token_id)
            except ChangeRefused:
                continue
            if token is not None and token.last_used_on < day:
                row = to_json(replace(token, last_used_on=day)), token_id
                db.execute("UPDATE tokens SET document = ? WHERE id = ?", row)


def _read(db: Any, token_id: str) -> Token | None:
    row = db.execute("SELECT document FROM tokens WHERE id = ?", (token_id,)).fetchone()
    try:
        return from_json(token_id, row[0]) if row else None
    except (ValueError, TypeError):
        raise ChangeRefused(MALFORMED) from None


@contextmanager
def _transaction(db: Any, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
