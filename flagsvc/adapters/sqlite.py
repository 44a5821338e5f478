"""The embedded store: one SQLite file, no server. Only this file uses sqlite3.

Several processes may use one file. A running server detects other processes' changes by polling the revision counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flagsvc.adapters import (
    sqlite_audit,
    sqlite_definitions,
    sqlite_requests,
    sqlite_schedules,
    sqlite_segments,
    sqlite_tokens,
)
from flagsvc.adapters.identity import identity_of, new_id
from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.background import outliving
from flagsvc.core.bucketing import stamped
from flagsvc.core.changes import Author, Decide
from flagsvc.core.documents import dumps, json_safe, loads, times_from_json
from flagsvc.core.errors import ChangeRefused, StoreUnavailable
from flagsvc.core.model import DEFAULT_BUCKETING, Change, Flag, FlagId, HistoryEntry
from flagsvc.core.requests import WriteRequest
from flagsvc.core.revisions.model import About
from flagsvc.core.sizes import HistorySize
from flagsvc.ports import Entry, Family, Problem, StoreContents, StoreIdentity
from flagsvc.ports.revisions import ROLLED_BACK, DecideAll, RolledBack

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS flags (
    flag_set TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (flag_set, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, flag_set TEXT NOT NULL, key TEXT NOT NULL, action TEXT NOT NULL, previous TEXT, new TEXT,
    actor TEXT NOT NULL, reason TEXT NOT NULL, created_at TEXT NOT NULL, revision INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS history_of_a_flag ON history (flag_set, key, id);
CREATE TABLE IF NOT EXISTS revisions (flag_set TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bucketings (flag_set TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identity (row INTEGER PRIMARY KEY CHECK (row = 1), id TEXT NOT NULL, path TEXT NOT NULL);
"""
FILE_CURE = "check the path in the store URL, that this user may write the file and its folder, and the free disk"
_PARTS = (sqlite_tokens, sqlite_audit, sqlite_definitions, sqlite_requests, sqlite_schedules, sqlite_segments)
_FLAGS = "SELECT flag_set, key, revision, document FROM flags"


class SqliteStore:
    """A FlagStore in the file named by a URL such as `sqlite:///FILE`. One thread runs all operations, in order."""

    poll_interval_s = 1.0
    feed = None

    def __init__(self, url: str) -> None:
        self._url, self._path = url, url.removeprefix("sqlite:///")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None
        self._id = ""
        self.tokens = sqlite_tokens.SqliteTokens(self._run)
        self.audit = sqlite_audit.SqliteAudit(self._run)
        self.definitions = sqlite_definitions.SqliteDefinitions(self._run)
        self.schedules = sqlite_schedules.SqliteSchedules(self._run, _read, _changed, _previewed)
        self.segments = sqlite_segments.SqliteSegments(self._run, _select, _store)
        self.reads = 0

    @property
    def identity(self) -> StoreIdentity | None:
        """Which store this is, as last read."""
        return identity_of(self._id, self._url) if self._id else None

    def problems(self) -> Sequence[Problem]:
        """Return nothing: odd documents are found when they are prepared."""
        return ()

    async def renew_identity(self) -> None:
        """Replace the store's identity."""
        await self._run(lambda db: self._make_identity(db, renew=True))

    async def open(self) -> None:
        """Open the file, or create it. Raises StoreUnavailable naming the file if it cannot be used."""
        await self._run(self._open)

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._close)
        self._thread.shutdown()

    async def get(self, flag_id: FlagId) -> Entry:
        """Read one flag or, if it is absent, its set's revision, in one transaction."""
        self.reads += 1
        return await self._run(lambda db: _entry(db, flag_id))

    async def get_family(self, flag_id: FlagId) -> Family:
        """Read a flag and those that it depends on, in one transaction."""
        self.reads += 1
        return await self._run(lambda db: _family(db, flag_id))

    async def load(self) -> StoreContents:
        """Read everything, in one transaction."""
        self.reads += 1
        return await self._run(self._load)

    async def revisions(self) -> Mapping[str, int]:
        """Read the newest revision of each flag set."""
        return await self._run(self._read_revisions)

    async def write(self, flag_id: FlagId, decide: Decide, request: WriteRequest | None = None) -> Entry | None:
        """Decide and store a change with its history entry and its definition, in one transaction."""
        return await self._run(lambda db: _change(db, flag_id, decide, request))

    async def preview(self, flag_id: FlagId, decide: Decide) -> Entry:
        """Decide in a transaction that stores nothing."""
        return await self._run(lambda db: _preview(db, flag_id, decide))

    async def roll_back(
        self,
        flag_set: str,
        revision: int,
        decide: DecideAll,
        author: Author,
        *,
        dry_run: bool,
        request: WriteRequest | None = None,
    ) -> RolledBack:
        """Decide about all flags and segments that have changed since, and store, in one transaction."""

        def work(db: sqlite3.Connection) -> RolledBack:
            with transaction(db, "IMMEDIATE"):
                done = functools.partial(_roll_back, db, flag_set, revision, decide, author, dry_run=dry_run)
                return sqlite_requests.once(db, request, ROLLED_BACK, done)

        return await self._run(work)

    async def bucketing(self, flag_set: str) -> int:
        """Read a set's bucketing."""
        return await self._run(lambda db: _bucketing(db, flag_set))

    async def set_bucketing(self, flag_set: str, version: int) -> None:
        """Store a set's bucketing, between two writes."""
        row = (flag_set, version)
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO bucketings VALUES (?, ?)", row))

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's changes, newest first."""
        return await self._run(lambda db: _history(db, flag_id, limit))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def guarded() -> T:
            try:
                if self._connection is None and work not in (self._open, self._close):
                    self._open(None)
                return work(self._connection)  # type: ignore[arg-type]
            except sqlite3.Error as error:
                raise _failure(error) from error

        # Shielded: if the caller is cancelled, the write continues in the thread and must be awaited.
        return await outliving(asyncio.get_running_loop().run_in_executor(self._thread, guarded))

    def _load(self, db: sqlite3.Connection) -> StoreContents:
        self._id = _identity(db)
        return _load(db)

    def _read_revisions(self, db: sqlite3.Connection) -> Mapping[str, int]:
        self._id = _identity(db)
        return _revisions(db)

    def _make_identity(self, db: sqlite3.Connection, *, renew: bool = False) -> None:
        """Read the identity, or make it. It names its file: a copy under another name is another store."""
        path = str(Path(self._path).resolve())
        with transaction(db, "IMMEDIATE"):
            row = db.execute("SELECT path FROM identity").fetchone()
            if renew or row is None or row[0] != path:
                db.execute("INSERT OR REPLACE INTO identity VALUES (1, ?, ?)", (new_id(), path))
            self._id = _identity(db)

    def _open(self, _: object) -> None:
        if self._connection is not None:
            self._make_identity(self._connection)
            return
        try:
            _make_private(self._path)
            db = sqlite3.connect(self._path, timeout=2.0, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(_SCHEMA)
                _upgrade(db)
                self._make_identity(db)
            except sqlite3.Error:
                db.close()
                raise
        except sqlite3.Error as error:
            text = f"the file {self._path!r} cannot be used as a store: {error}"
            raise StoreUnavailable(text, cause=f"the file cannot be used: {error}", cure=FILE_CURE) from error
        self._connection = db

    def _close(self, _: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _make_private(path: str) -> None:
    """Make a new file that only this user can use: it may have digests of tokens, and the key of tickets."""
    with contextlib.suppress(OSError):  # SQLite says what is wrong with the path
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _upgrade(db: sqlite3.Connection) -> None:
    """Add what older releases did not have. The file may be read-only, and two programs may try at once."""
    with contextlib.suppress(sqlite3.OperationalError):
        for part in _PARTS:
            db.executescript(part.SCHEMA)
    for name in _added(db):
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute(f"ALTER TABLE history ADD COLUMN {name} TEXT")


def _added(db: sqlite3.Connection) -> list[str]:
    """Return the later columns of the history that the file does not have."""
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(history)")}
    return [name for name in ("caller", "via") if name not in there]


def _failure(error: sqlite3.Error) -> StoreUnavailable:
    """Return the error for what SQLite does not do: a file that is read-only will never take a change."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return ChangeRefused("its file is read-only")
    return StoreUnavailable(cause=f"the file cannot be used: {error}", cure=FILE_CURE)


def _select(db: sqlite3.Connection, flag_set: str, text: str) -> Iterator[Flag]:
    """Yield the flags of a set whose documents contain a text."""
    rows = db.execute(f"{_FLAGS} WHERE flag_set = ? AND instr(document, ?) > 0", (flag_set, text)).fetchall()
    return (_flag(*row) for row in rows)


def _family(db: sqlite3.Connection, flag_id: FlagId) -> Family:
    with transaction(db, "DEFERRED"):
        entries = sqlite_segments.family(db, flag_id, _read)
        return Family(_revisions(db).get(flag_id.flag_set, 0), entries)


def _read(db: sqlite3.Connection, flag_id: FlagId) -> Flag | None:
    row = db.execute(f"{_FLAGS} WHERE flag_set = ? AND key = ?", flag_id).fetchone()
    return _flag(*row) if row else None


def _entry(db: sqlite3.Connection, flag_id: FlagId) -> Entry:
    with transaction(db, "DEFERRED"):
        flag = _read(db, flag_id)
        return Entry.of(flag) if flag else Entry.absent(flag_id, _revisions(db).get(flag_id.flag_set, 0))


def _flag(flag_set: str, key: str, revision: int, document: object) -> Flag:
    """Return a row's flag. A malformed row gets a `problem` and does not affect other flags."""
    try:
        return loads(document)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Flag(key=key, flag_set=flag_set, revision=revision, problem="The stored definition is malformed")


def _identity(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT id FROM identity").fetchone()
    return str(row[0]) if row else ""


def _revisions(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT flag_set, revision FROM revisions"))


def _bucketing(db: sqlite3.Connection, flag_set: str) -> int:
    row = db.execute("SELECT version FROM bucketings WHERE flag_set = ?", (flag_set,)).fetchone()
    return row[0] if row else DEFAULT_BUCKETING


def _load(db: sqlite3.Connection) -> StoreContents:
    with transaction(db, "DEFERRED"):
        flags = [_flag(*row) for row in db.execute(_FLAGS)]
        return StoreContents(flags, _revisions(db))


def _change(db: sqlite3.Connection, flag_id: FlagId, decide: Decide, request: WriteRequest | None) -> Entry | None:
    with transaction(db, "IMMEDIATE"):
        if request is not None and (answered := sqlite_requests.answer(db, request, flag_id)) is not None:
            return answered
        return _changed(db, flag_id, decide, request)


def _changed(
    db: sqlite3.Connection, flag_id: FlagId, decide: Decide, request: WriteRequest | None = None
) -> Entry | None:
    """Decide and store, in the transaction that is open."""
    current = _read(db, flag_id)
    change = decide(current)
    if change is None:
        return None
    sqlite_segments.check_dependencies(db, flag_id.flag_set, [change], _read, _select)
    entry = _store(db, flag_id, change)
    if request is not None:
        sqlite_requests.remember(db, request, entry, change)
    return entry


def _store(db: sqlite3.Connection, flag_id: FlagId, change: Change) -> Entry:
    """Store a change with all that belongs to it, in the transaction that is open."""
    change = stamped(sqlite_segments.linked(db, change), _bucketing(db, flag_id.flag_set))
    known = _revisions(db).get(flag_id.flag_set, 0)
    revision = max(known, change.before.revision if change.before else 0) + 1
    db.execute("INSERT OR REPLACE INTO revisions VALUES (?, ?)", (flag_id.flag_set, revision))
    stored = None
    if change.after is None:
        db.execute("DELETE FROM flags WHERE flag_set = ? AND key = ?", flag_id)
    else:
        document = dumps(replace(change.after, revision=revision))
        stored = loads(document)
        db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?, ?, ?)", (*flag_id, revision, document))
    _record(db, flag_id, change, revision)
    sqlite_definitions.record(db, flag_id, revision, stored, About.of(change))
    return Entry(flag_id, revision, stored)


def _preview(db: sqlite3.Connection, flag_id: FlagId, decide: Decide) -> Entry:
    with transaction(db, "DEFERRED"):
        return _previewed(db, flag_id, decide)


def _previewed(db: sqlite3.Connection, flag_id: FlagId, decide: Decide) -> Entry:
    """Decide and check, in the transaction that is open."""
    current = _read(db, flag_id)
    revision = current.revision if current else _revisions(db).get(flag_id.flag_set, 0)
    change = decide(current)
    if change is None:
        return Entry(flag_id, revision, None)
    sqlite_segments.check_dependencies(db, flag_id.flag_set, [change], _read, _select)
    change = stamped(sqlite_segments.linked(db, change), _bucketing(db, flag_id.flag_set))
    return Entry(flag_id, revision, change.after)


def _roll_back(
    db: sqlite3.Connection, flag_set: str, revision: int, decide: DecideAll, author: Author, *, dry_run: bool
) -> RolledBack:
    """Decide and store, in the transaction that is open."""
    past = sqlite_definitions.before(db, flag_set, revision)
    current = {key: flag for key in past if (flag := _read(db, FlagId(flag_set, key))) is not None}
    there = {key: found for key, found in past.items() if found is not None}
    changes = decide(there, current)
    sqlite_segments.check_dependencies(db, flag_set, changes, _read, _select)
    subjects: list[Any] = [change.after or change.before for change in changes]
    keys = {each.key for each in subjects}
    segments = sqlite_segments.restored_in(db, flag_set, revision, author, _select, keys=keys)
    if dry_run:
        return RolledBack.of(changes, segments)
    sqlite_segments.put(db, segments)
    entries = [_store(db, s.id, change) for s, change in zip(subjects, changes, strict=True)]
    sqlite_segments.finish(db, segments)
    return RolledBack.of(changes, segments, entries)


def _record(db: sqlite3.Connection, flag_id: FlagId, change: Change, revision: int) -> None:
    previous, new = (
        None if side is None else json.dumps(json_safe(dict(side))) for side in (change.previous, change.new)
    )
    at = json_safe(change.at)
    row = (*flag_id, change.action.value, previous, new, change.actor, change.reason, at, revision)
    db.execute(
        "INSERT INTO history (flag_set, key, action, previous, new, actor, reason, created_at, revision, caller, via)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, change.caller, change.via),
    )


def _history(db: sqlite3.Connection, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
    missing = _added(db)
    later = ", ".join("NULL" if name in missing else name for name in ("caller", "via"))
    rows = db.execute(
        f"SELECT action, previous, new, actor, reason, created_at, revision, {later} FROM history"  # noqa: S608
        " WHERE flag_set = ? AND key = ? ORDER BY id DESC LIMIT ?",
        (*flag_id, limit),
    )
    size = HistorySize()
    entries = []
    for action, previous, new, actor, reason, created_at, revision, caller, via in rows:
        size.add(len(previous or "") + len(new or ""))
        entry = HistoryEntry(
            key=flag_id.key,
            action=action,
            previous=_json(previous),
            new=_json(new),
            actor=actor,
            reason=reason,
            created_at=times_from_json({"createdAt": created_at})["createdAt"],
            revision=revision,
            caller=caller or "",
            via=via or "",
        )
        entries.append(entry)
    return entries


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
