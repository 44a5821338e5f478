"""Every definition that a flag had, in the embedded store: SQL for a connection of `sqlite.py`, which runs it.

A revision's moment is the greater of its set's last one and this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flagsvc.adapters import sqlite_segments
from flagsvc.adapters.sqlite_transactions import transaction
from flagsvc.core.documents import loads
from flagsvc.core.errors import NotRestorable
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.revisions.model import RECORDED, About, AsOf, Moment, Recorded, check_range
from flagsvc.core.revisions.packing import MALFORMED, pack, unpack
from flagsvc.ports.revisions import MAX_CHANGED, Swept

SCHEMA = """
CREATE TABLE IF NOT EXISTS definitions (
    flag_set TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, at INTEGER NOT NULL, action TEXT NOT NULL,
    actor TEXT NOT NULL, caller TEXT NOT NULL, reason TEXT NOT NULL, via TEXT NOT NULL, definition BLOB,
    PRIMARY KEY (flag_set, key, revision)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS definitions_of_a_set ON definitions (flag_set, revision, at);
CREATE INDEX IF NOT EXISTS definitions_by_time ON definitions (flag_set, at, revision);
CREATE TABLE IF NOT EXISTS horizons (flag_set TEXT PRIMARY KEY, revision INTEGER NOT NULL, at INTEGER NOT NULL)
    WITHOUT ROWID;
"""
BEGINNING = ""
"""The row of `horizons` for all sets without one of their own: no flag set has an empty name."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEWEST = (
    "SELECT key, MAX(revision) AS revision, definition IS NULL AS gone FROM definitions"
    " WHERE flag_set = ? AND revision <= ? GROUP BY key"
)
_ROW = "SELECT revision, at, action, actor, caller, reason, via, definition IS NULL"


class SqliteDefinitions:
    """The kept revisions of one file. `run` runs a function of its connection."""

    def __init__(self, run: Callable[[Callable[[Any], Any]], Awaitable[Any]]) -> None:
        self._run = run

    async def moment(self, flag_set: str, as_of: AsOf) -> Moment:
        """Resolve a revision, or a time."""
        return await self._run(lambda db: _moment(db, flag_set, as_of))  # type: ignore[no-any-return]

    async def newest(self, flag_set: str, keys: Sequence[str], moment: Moment) -> dict[str, Recorded]:
        """Read the definitions of some flags."""
        return await self._run(lambda db: _newest(db, flag_set, keys, moment))  # type: ignore[no-any-return]

    async def keys(self, flag_set: str, moment: Moment) -> list[str]:
        """Read the keys."""
        query = f"SELECT key, gone FROM ({_NEWEST}) WHERE NOT gone ORDER BY key"  # noqa: S608
        return await self._run(lambda db: [key for key, _ in db.execute(query, (flag_set, moment.revision))])  # type: ignore[no-any-return]

    async def page(self, flag_id: FlagId, below: int, size: int) -> list[Recorded]:
        """Read a flag's rows without what they define."""
        return await self._run(lambda db: _page(db, flag_id, below, size))  # type: ignore[no-any-return]

    async def sweep(self, keep_s: float) -> Swept:
        """Sweep in one transaction."""
        return await self._run(lambda db: _sweep(db, keep_s))  # type: ignore[no-any-return]


def record(db: Any, flag_id: FlagId, revision: int, flag: Flag | None, about: About) -> None:
    """Keep a flag's state as of a revision (None: deleted), in the transaction that is open."""
    last = db.execute("SELECT MAX(at) FROM definitions WHERE flag_set = ?", (flag_id.flag_set,)).fetchone()[0]
    _insert(db, flag_id, Moment(revision, _time(max(last or 0, _now_ms()))), flag, about)


def before(db: Any, flag_set: str, revision: int) -> dict[str, Recorded | None]:
    """Return what the flags were at a revision that have changed since; None: they did not exist.

    Raises RevisionOutOfRange and NotRestorable.
    """
    check_range(flag_set, AsOf(revision), *_range(db, flag_set))
    later = "SELECT DISTINCT key FROM definitions WHERE flag_set = ? AND revision > ? LIMIT ?"
    keys = [key for (key,) in db.execute(later, (flag_set, revision, MAX_CHANGED + 1))]
    if len(keys) > MAX_CHANGED:
        raise NotRestorable(f"more than {MAX_CHANGED} flags have changed since; roll back flag by flag")
    found = _newest(db, flag_set, keys, Moment(revision, datetime.now(UTC)))
    return {key: found.get(key) for key in keys}


def _insert(db: Any, flag_id: FlagId, moment: Moment, flag: Flag | None, about: About) -> None:
    definition = None if flag is None else pack(flag)
    row = (*flag_id, moment.revision, _ms(moment.at), about.action, about.actor, about.caller, about.reason, about.via)
    db.execute("INSERT OR REPLACE INTO definitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, definition))


def _moment(db: Any, flag_set: str, as_of: AsOf) -> Moment:
    oldest, newest = _range(db, flag_set)
    check_range(flag_set, as_of, oldest, newest)
    assert oldest is not None  # noqa: S101  checked
    if as_of.time is None:
        query, limit = "revision <= ? ORDER BY revision DESC", as_of.revision
    else:
        query, limit = "at <= ? ORDER BY at DESC, revision DESC", _ms(as_of.time)
    query = f"SELECT revision, at FROM definitions WHERE flag_set = ? AND {query} LIMIT 1"  # noqa: S608
    row = db.execute(query, (flag_set, limit)).fetchone() or (oldest.revision, _ms(oldest.at))
    if as_of.time is None:
        return Moment(as_of.revision, max(_time(row[1]), oldest.at))
    return Moment(max(row[0], oldest.revision), as_of.time)


def _newest(db: Any, flag_set: str, keys: Sequence[str], moment: Moment) -> dict[str, Recorded]:
    check_range(flag_set, moment, *_range(db, flag_set))
    query = f"{_ROW}, definition FROM definitions WHERE flag_set = ? AND key = ? AND revision <= ?"
    found = {}
    for key in keys:
        row = db.execute(f"{query} ORDER BY revision DESC LIMIT 1", (flag_set, key, moment.revision)).fetchone()
        if row is not None:
            found[key] = _recorded(FlagId(flag_set, key), row)
    return found


def _page(db: Any, flag_id: FlagId, below: int, size: int) -> list[Recorded]:
    oldest, newest = _range(db, flag_id.flag_set)
    check_range(flag_id.flag_set, AsOf(max(newest, oldest.revision if oldest else 0)), oldest, newest)
    query = f"{_ROW}, NULL FROM definitions WHERE flag_set = ? AND key = ? AND revision < ?"
    rows = db.execute(f"{query} ORDER BY revision DESC LIMIT ?", (*flag_id, below or 2**63 - 1, size))
    return [_recorded(flag_id, row) for row in rows]


def _recorded(flag_id: FlagId, row: Sequence[Any]) -> Recorded:
    revision, at, action, actor, caller, reason, via, gone, definition = row
    about = About(action=action, actor=actor, caller=caller, reason=reason, via=via)
    flag = None if definition is None else unpack(definition, flag_id.key, flag_id.flag_set, revision)
    return Recorded(id=flag_id, revision=revision, at=_time(at), about=about, gone=bool(gone), flag=flag)


def _range(db: Any, flag_set: str) -> tuple[Moment | None, int]:
    """Return the oldest moment of a set (None before recording began), and its newest revision."""
    query = "SELECT revision, at FROM horizons WHERE flag_set IN (?, ?) ORDER BY flag_set DESC LIMIT 1"
    row = db.execute(query, (flag_set, BEGINNING)).fetchone()
    newest = db.execute("SELECT revision FROM revisions WHERE flag_set = ?", (flag_set,)).fetchone()
    return Moment(row[0], _time(row[1])) if row else None, newest[0] if newest else 0


def _sweep(db: Any, keep_s: float) -> Swept:
    with transaction(db, "IMMEDIATE"):
        now = _now_ms()
        recorded = sum(_record_missing(db, name, revision, now) for name, revision in _sets(db))
        db.execute("INSERT OR IGNORE INTO horizons VALUES (?, 0, ?)", (BEGINNING, now))
        old = now - int(keep_s * 1000)
        removed = sum(_remove_old(db, name, old) for name, _ in _sets(db)) if keep_s else 0
    return Swept(recorded, removed)


def _sets(db: Any) -> list[tuple[str, int]]:
    return list(db.execute("SELECT flag_set, revision FROM revisions"))


def _record_missing(db: Any, flag_set: str, revision: int, now: int) -> int:
    """Record what has no row. Where older releases have changed flags, earlier moments cannot be read any more."""
    missing = db.execute(
        "SELECT key, revision, document FROM flags WHERE flag_set = ?1 AND NOT EXISTS (SELECT 1 FROM definitions d"
        " WHERE d.flag_set = ?1 AND d.key = flags.key AND d.revision = flags.revision)",
        (flag_set,),
    ).fetchall()
    lost = db.execute(
        "SELECT key FROM (SELECT key, MAX(revision), definition FROM definitions WHERE flag_set = ?1 GROUP BY key)"
        " WHERE definition IS NOT NULL AND key NOT IN (SELECT key FROM flags WHERE flag_set = ?1)",
        (flag_set,),
    ).fetchall()
    about = About(action=RECORDED)
    for key, stored, document in missing:
        _insert(db, FlagId(flag_set, key), Moment(stored, _time(now)), _flag(flag_set, key, stored, document), about)
    for (key,) in lost:
        _insert(db, FlagId(flag_set, key), Moment(revision, _time(now)), None, about)
    oldest, _ = _range(db, flag_set)
    first = db.execute("SELECT at FROM definitions WHERE flag_set = ? AND revision = 1", (flag_set,)).fetchone()
    if missing or lost or (oldest is None and first is None):
        db.execute("INSERT OR REPLACE INTO horizons VALUES (?, ?, ?)", (flag_set, revision, now))
    elif oldest is None:  # every change since the first one was recorded
        db.execute("INSERT OR REPLACE INTO horizons VALUES (?, 0, ?)", (flag_set, first[0]))
    return len(missing) + len(lost)


def _flag(flag_set: str, key: str, revision: int, document: Any) -> Flag:
    try:
        return loads(document)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Flag(key=key, flag_set=flag_set, revision=revision, problem=MALFORMED)


def _remove_old(db: Any, flag_set: str, until: int) -> int:
    """Raise the horizon, and remove what is older than each flag's newest row there."""
    newest = db.execute(
        "SELECT revision, at FROM definitions WHERE flag_set = ? AND at <= ? ORDER BY at DESC, revision DESC LIMIT 1",
        (flag_set, until),
    ).fetchone()
    oldest = _range(db, flag_set)[0]
    if newest is None or oldest is None or newest[0] <= oldest.revision:
        return 0
    removed = 0
    for key, revision, _ in db.execute(_NEWEST, (flag_set, newest[0])).fetchall():
        query = "DELETE FROM definitions WHERE flag_set = ? AND key = ? AND (revision < ? OR"
        gone = f"{query} (revision = ? AND definition IS NULL))"
        removed += db.execute(gone, (flag_set, key, revision, revision)).rowcount
    removed += sqlite_segments.remove_old(db, flag_set, newest[0])
    db.execute("INSERT OR REPLACE INTO horizons VALUES (?, ?, ?)", (flag_set, *newest))
    return removed


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
