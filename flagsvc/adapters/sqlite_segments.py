"""Segments and dependencies in the embedded store: SQL for a connection of `sqlite.py`, which runs it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.documents import json_safe, times_from_json
from flagsvc.core.errors import SegmentNotFound
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.prerequisites import MAX_DEPTH, keys_in
from flagsvc.core.prerequisites.checks import check, needs_graph, parents_of
from flagsvc.core.segment_names import direct
from flagsvc.core.segments import (
    PREFIX,
    Segment,
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
from flagsvc.ports.changes import Entry
from flagsvc.ports.segments import SegmentWritten, Users, check_number

SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    flag_set TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, revision INTEGER NOT NULL,
    document TEXT NOT NULL, PRIMARY KEY (flag_set, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment_versions (flag_set TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
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

    async def write(self, segment_id: SegmentId, decide: SegmentDecide, *, dry_run: bool = False) -> SegmentWritten:
        """Decide and store, in one transaction."""

        def work(db: Any) -> SegmentWritten:
            with transaction(db, "IMMEDIATE"):
                return self._write(db, segment_id, decide, dry_run=dry_run)

        return await self._run(work)  # type: ignore[no-any-return]

    def _flags(self, db: Any, segment_id: SegmentId) -> list[Flag]:
        name = PREFIX + segment_id.name
        return [flag for flag in self._select(db, segment_id.flag_set, f'"{name}"') if name in flag.evaluators]

    def _users(self, db: Any, segment_id: SegmentId) -> Users:
        rules = {each.name: each.rule for each in _of_set(db, segment_id.flag_set)}
        return users_of(segment_id.name, rules, [flag.key for flag in self._flags(db, segment_id)])

    def _write(self, db: Any, segment_id: SegmentId, decide: SegmentDecide, *, dry_run: bool) -> SegmentWritten:
        flag_set = segment_id.flag_set
        current = _get(db, segment_id)
        change = decide(current)
        if change is None:
            return SegmentWritten(current, [], [])
        rules, flags = {each.name: each.rule for each in _of_set(db, flag_set)}, self._flags(db, segment_id)
        check_segments(change, rules, [flag.key for flag in flags])
        author = replace(change.author, via=f"segment/{segment_id.name}")
        wanted = affected(change, flags)
        check_number(len(wanted))
        changes = [refreshed(flag, all_of(rules, change), author) for flag in wanted]
        if dry_run:
            return SegmentWritten(change.after, changes, [])
        version = _next_version(db, flag_set)
        _put(db, segment_id, change.after and replace(change.after, version=version))
        entries = [self._store(db, flag.id, each) for flag, each in zip(wanted, changes, strict=True)]
        stored = change.after and replace(change.after, version=version, revision=_revision(db, flag_set))
        _put(db, segment_id, stored)
        return SegmentWritten(stored, changes, entries)


def users_of(name: str, rules: dict[str, str], keys: Sequence[str]) -> Users:
    """Return the users of a segment: these flags, and the segments whose rules refer to it."""
    referring = [each for each, text in rules.items() if name in direct(text)]
    return Users(sorted(keys), sorted(referring))


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
