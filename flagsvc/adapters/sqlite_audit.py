"""Audit entries in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.audit import AuditEntry, AuditQuery, Outcome, newest, place_of
from flagsvc.core.documents import json_safe
from flagsvc.ports.audit import MAX_REFUSALS

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, outcome TEXT NOT NULL,
    caller TEXT, flag_set TEXT NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL);
"""
_COLUMNS = "id, created_at, actor, action, caller, flag_set, key, reason"
_SOURCES = {"history": (1, f"{_COLUMNS}, 'done', revision"), "audit": (0, f"{_COLUMNS}, outcome, 0")}
"""Tables with their rank among entries of one millisecond, and what is read of them."""


class SqliteAudit:
    """The audit entries in one file. `run` runs a function of its connection."""

    def __init__(self, run: Callable[[Callable[[Any], Any]], Awaitable[Any]]) -> None:
        self._run = run

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries, and remove the oldest refusals."""
        await self._run(lambda db: _append(db, entries))

    async def page(self, query: AuditQuery, size: int) -> list[AuditEntry]:
        """Read from both tables."""
        return await self._run(lambda db: newest((_read(db, query, size, each) for each in _SOURCES), size))  # type: ignore[no-any-return]


def insert(db: Any, entries: Sequence[AuditEntry]) -> None:
    """Store entries, in the transaction that is open."""
    rows = [
        (json_safe(e.at), e.on_behalf_of or e.actor, e.action, e.outcome, e.actor, e.flag_set, e.subject, e.reason)
        for e in entries
    ]
    db.executemany(
        "INSERT INTO audit (created_at, actor, action, outcome, caller, flag_set, key, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def _append(db: Any, entries: Sequence[AuditEntry]) -> None:
    with transaction(db, "IMMEDIATE"):
        insert(db, entries)
        if any(entry.outcome is Outcome.REFUSED for entry in entries):
            db.execute(
                "DELETE FROM audit WHERE outcome = 'refused' AND id <= (SELECT id FROM audit WHERE outcome = 'refused'"
                " ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (MAX_REFUSALS,),
            )


def _read(db: Any, query: AuditQuery, size: int, table: str) -> Iterator[AuditEntry]:
    source, columns = _SOURCES[table]
    if query.outcome is Outcome.REFUSED and table == "history":
        return
    conditions: list[str] = ["1"]
    values: list[Any] = []
    for column, value in (
        ("coalesce(nullif(caller, ''), actor)", query.actor),
        ("action", query.action),
        ("flag_set", query.flag_set),
        ("key", query.subject),
        ("outcome", query.outcome if table == "audit" else None),
    ):
        if value:
            conditions.append(f"{column} = ?")
            values.append(value)
    for sign, moment in ((">=", query.since), ("<", query.until)):
        if moment is not None:
            conditions.append(f"created_at {sign} ?")
            values.append(json_safe(moment))
    if (before := query.before) is not None:
        at = json_safe(before.at)
        if source == before.source:
            conditions.append("(created_at < ? OR (created_at = ? AND id < CAST(? AS INTEGER)))")
            values += [at, at, before.id]
        else:
            conditions.append("created_at <= ?" if source < before.source else "created_at < ?")
            values.append(at)
    found = db.execute(
        f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)} ORDER BY created_at DESC, id DESC LIMIT ?",  # noqa: S608  no part comes from outside
        (*values, size),
    )
    for entry_id, created_at, actor, action, caller, flag_set, key, reason, outcome, revision in found:
        at = datetime.fromisoformat(created_at)
        yield AuditEntry(
            at=at,
            actor=caller or actor,
            action=action,
            outcome=Outcome(outcome),
            on_behalf_of=actor if caller and caller != actor else "",
            flag_set=flag_set,
            subject=key,
            reason=reason,
            revision=revision,
            place=place_of(at, source, f"{entry_id:020d}"),
        )
