"""Segments and dependencies in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flagsvc.adapters import sqlite_requests
from flagsvc.adapters.sqlite_audit import insert
from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.changes import Author
from flagsvc.core.documents import json_safe, times_from_json
from flagsvc.core.errors import SegmentNotFound
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.prerequisites import MAX_DEPTH, keys_in
from flagsvc.core.prerequisites.checks import check, needs_graph, parents_of
from flagsvc.core.requests import WriteRequest
from flagsvc.core.segments import (
    PREFIX,
    Segment,
    SegmentChange,
    SegmentDecide,
    SegmentId,
    affected,
    all_of,
    check_segments,
    further,
    refreshed,
    segments_of,
    with_segments,
)
from flagsvc.core.segments.restoring import check_restored, pack, restored, unpack
from flagsvc.ports.changes import Entry, WrittenFlag
from flagsvc.ports.segments import WRITTEN, CheckAll, SegmentWritten, Users, check_size

SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    flag_set TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, revision INTEGER NOT NULL,
    document TEXT NOT NULL, PRIMARY KEY (flag_set, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment_versions (flag_set TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment_definitions (
    flag_set TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, definition BLOB,
    PRIMARY KEY (flag_set, name, revision)) WITHOUT ROWID;
"""
_SEGMENTS = "SELECT name, version, revision, document FROM segments WHERE flag_set = ?"
Read = Callable[[Any, FlagId], Flag | None]
Select = Callable[[Any, str, str], Iterator[Flag]]
"""From a connection, a set and a text to the flags of the set whose documents contain the text."""
Store = Callable[[Any, FlagId, Change], Entry]


class SqliteSegments:
    """The segments of one file. `run` runs a function of its connection."""

    def __init__(
        self,
        run: Callable[[Callable[[Any], Any]], Awaitable[Any]],
        select: Select,
        store: Store,
    ) -> None:
        self._run, self._select, self._store = run, select, store

    async def get(self, segment_id: SegmentId) -> Segment:
        """Read one segment. Raises SegmentNotFound."""
        found: Segment | None = await self._run(lambda db: _get(db, segment_id))
        if found is None:
            raise SegmentNotFound(segment_id.name)
        return found

    async def of_set(self, flag_set: str) -> list[Segment]:
        """Read all segments of a set."""
        return await self._run(lambda db: _of_set(db, flag_set))  # type: ignore[no-any-return]

    async def users(self, segment_id: SegmentId) -> Users:
        """Read who uses a segment."""
        return await self._run(lambda db: self._users(db, segment_id))  # type: ignore[no-any-return]

    async def write(
        self,
        segment_id: SegmentId,
        decide: SegmentDecide,
        *,
        check: CheckAll = lambda _: None,
        request: WriteRequest | None = None,
        dry_run: bool = False,
    ) -> SegmentWritten:
        """Decide and store, in one transaction."""

        def work(db: Any) -> SegmentWritten:
            with transaction(db, "IMMEDIATE"):
                return sqlite_requests.once(
                    db, request, WRITTEN, lambda: self._write(db, segment_id, decide, check, dry_run=dry_run)
                )

        return await self._run(work)  # type: ignore[no-any-return]

    def _users(self, db: Any, segment_id: SegmentId) -> Users:
        rules = {each.name: each.rule for each in _of_set(db, segment_id.flag_set)}
        return Users.of(segment_id.name, rules, [flag.key for flag in carrying(db, segment_id, self._select)])

    def _write(
        self, db: Any, segment_id: SegmentId, decide: SegmentDecide, check: CheckAll, *, dry_run: bool
    ) -> SegmentWritten:
        flag_set = segment_id.flag_set
        current = _get(db, segment_id)
        change = decide(current)
        if change is None:
            return SegmentWritten(current)
        rules, flags = {each.name: each.rule for each in _of_set(db, flag_set)}, carrying(db, segment_id, self._select)
        check_segments(change, rules, [flag.key for flag in flags])
        author = replace(change.author, via=f"segment/{segment_id.name}")
        wanted = affected(change, flags)
        check_size(wanted)
        changes = [refreshed(flag, all_of(rules, change), author) for flag in wanted]
        check_size(each.after for each in changes)
        check(changes)
        if dry_run:
            return SegmentWritten(change.after, WrittenFlag.all_of(changes, []))
        put(db, [change])
        entries = [self._store(db, flag.id, each) for flag, each in zip(wanted, changes, strict=True)]
        finish(db, [change])
        return SegmentWritten(_get(db, segment_id), WrittenFlag.all_of(changes, entries), entries)


def carrying(db: Any, segment_id: SegmentId, select: Select) -> list[Flag]:
    """Return the flags that carry a segment."""
    name = PREFIX + segment_id.name
    return [flag for flag in select(db, segment_id.flag_set, f'"{name}"') if name in flag.evaluators]


def restored_in(
    db: Any, flag_set: str, revision: int, author: Author, select: Select, *, keys: Collection[str]
) -> list[SegmentChange]:
    """Return the changes that make a set's segments as they were. `keys`: of the flags that change with them.

    Raises SegmentInUse, and NotRestorable.
    """
    past = _changed_since(db, flag_set, revision)
    current = {each.name: each for each in _of_set(db, flag_set)}
    found, rules = restored(past, current, author), {name: each.rule for name, each in current.items()}
    users: dict[str, list[str]] = {}
    for change in found:
        rules = all_of(rules, change)
        if change.after is None:
            users[change.id.name] = [flag.key for flag in carrying(db, change.id, select) if flag.key not in keys]
    check_restored(found, rules, users)
    return found


def put(db: Any, changes: Sequence[SegmentChange]) -> None:
    """Store changes of segments of one set, in the transaction that is open; before the flags that carry them."""
    if changes:
        version = _next_version(db, changes[0].id.flag_set)
        for change in changes:
            _put(db, change.id, change.after and replace(change.after, version=version))


def finish(db: Any, changes: Sequence[SegmentChange]) -> None:
    """Write the revision of changes that are stored, keep what they have made of segments, and audit them."""
    for change in changes:
        revision = _revision(db, change.id.flag_set)
        db.execute("UPDATE segments SET revision = ? WHERE flag_set = ? AND name = ?", (revision, *change.id))
        definition = None if change.after is None else pack(change.after)
        row = (*change.id, revision, definition)
        db.execute("INSERT OR REPLACE INTO segment_definitions VALUES (?, ?, ?, ?)", row)
        insert(db, [change.audit_entry()])


def remove_old(db: Any, flag_set: str, revision: int) -> int:
    """Remove what is older than each segment's newest row at or before a revision."""
    rows = db.execute(
        "SELECT name, MAX(revision), definition IS NULL FROM segment_definitions WHERE flag_set = ? AND revision <= ?"
        " GROUP BY name",
        (flag_set, revision),
    ).fetchall()
    query = "DELETE FROM segment_definitions WHERE flag_set = ? AND name = ? AND revision < ?"
    return sum(db.execute(query, (flag_set, name, newest + gone)).rowcount for name, newest, gone in rows)


def _changed_since(db: Any, flag_set: str, revision: int) -> dict[str, Segment | None]:
    later = "SELECT DISTINCT name FROM segment_definitions WHERE flag_set = ? AND revision > ?"
    found: dict[str, Segment | None] = {name: None for (name,) in db.execute(later, (flag_set, revision))}
    for name in found:
        row = db.execute(
            "SELECT definition FROM segment_definitions WHERE flag_set = ? AND name = ? AND revision <= ?"
            " ORDER BY revision DESC LIMIT 1",
            (flag_set, name, revision),
        ).fetchone()
        if row is not None and row[0] is not None:
            found[name] = unpack(row[0], SegmentId(flag_set, name))
    return found


def linked(db: Any, change: Change) -> Change:
    """Return a change with the segments that its flag refers to. Raises InvalidRequest."""
    flag = change.after
    if flag is None:
        return change
    found: dict[str, str] = {}
    wanted = segments_of(flag)
    while wanted:
        rows = (_get(db, SegmentId(flag.flag_set, name)) for name in wanted)
        found |= {each.name: each.rule for each in rows if each is not None}
        wanted = further(found, wanted)
    return with_segments(change, found)


def check_dependencies(db: Any, flag_set: str, changes: Sequence[Change], read: Read, select: Select) -> None:
    """Check changes of one set in their transaction. Raises FlagInUse and InvalidRequest."""
    if not needs_graph(changes):
        return
    graph = {flag.key: flag.prerequisites for flag in select(db, flag_set, '"prerequisites"') if flag.prerequisites}
    found = (read(db, FlagId(flag_set, key)) for key in parents_of(changes))
    check(changes, graph, {flag.key: flag for flag in found if flag is not None})


def family(db: Any, flag_id: FlagId, read: Read) -> dict[str, Entry]:
    """Read a flag and those that it depends on, in the transaction that is open."""
    found: dict[str, Entry] = {}
    wanted = [flag_id.key]
    for _ in range(MAX_DEPTH + 2):
        flags = [flag for key in wanted if (flag := read(db, FlagId(flag_id.flag_set, key))) is not None]
        found |= {flag.key: Entry.of(flag) for flag in flags}
        named = dict.fromkeys(key for flag in flags for key in keys_in(flag.prerequisites))
        wanted = [key for key in named if key not in found]
        if not wanted:
            break
    return found


def _get(db: Any, segment_id: SegmentId) -> Segment | None:
    row = db.execute(f"{_SEGMENTS} AND name = ?", segment_id).fetchone()
    return _segment(segment_id.flag_set, *row) if row else None


def _of_set(db: Any, flag_set: str) -> list[Segment]:
    return [_segment(flag_set, *row) for row in db.execute(f"{_SEGMENTS} ORDER BY name", (flag_set,))]


def _segment(flag_set: str, name: str, version: int, revision: int, document: str) -> Segment:
    fields = times_from_json(json.loads(document))
    return Segment(
        name=name,
        flag_set=flag_set,
        rule=fields["rule"],
        description=fields["description"],
        version=version,
        revision=revision,
        created_at=fields.get("createdAt"),
        updated_at=fields.get("updatedAt"),
    )


def _put(db: Any, segment_id: SegmentId, segment: Segment | None) -> None:
    if segment is None:
        db.execute("DELETE FROM segments WHERE flag_set = ? AND name = ?", segment_id)
        return
    fields = {"rule": segment.rule, "description": segment.description}
    times = {"createdAt": segment.created_at, "updatedAt": segment.updated_at}
    document = json.dumps(json_safe(fields | times), ensure_ascii=False)
    row = (*segment_id, segment.version, segment.revision, document)
    db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", row)


def _next_version(db: Any, flag_set: str) -> int:
    row = db.execute("SELECT version FROM segment_versions WHERE flag_set = ?", (flag_set,)).fetchone()
    version = (row[0] if row else 0) + 1
    db.execute("INSERT OR REPLACE INTO segment_versions VALUES (?, ?)", (flag_set, version))
    return version


def _revision(db: Any, flag_set: str) -> int:
    row = db.execute("SELECT revision FROM revisions WHERE flag_set = ?", (flag_set,)).fetchone()
    return row[0] if row else 0
