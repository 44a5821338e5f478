"""A store of flagd's files: read only, followed while it is served, and never worse than what it last read.

Without a set every flag of every file counts, and later files win; besides, each `flagSetId` and each file's name as
it was given are sets of their own, for flagd's selectors.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

import structlog

from flagsvc.adapters.files.checked import CheckedFile, checked
from flagsvc.adapters.files.parse import MAX_BYTES
from flagsvc.core.changes import Decide
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.core.json_values import same
from flagsvc.core.model import DEFAULT_SET, Flag, FlagId, HistoryEntry
from flagsvc.ports import Entry, StoreContents

SETTLE_S = 0.05
"""A file is read once it has not changed for so long: one that is written in place is half written for a while."""
_MAX_SETTLING_S = 1.0
_MAX_LOGGED = 20

Stamp = tuple[int, ...]
"""What changes whenever a file's content may have: times in ns, size, inode. Empty while there is no file."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _File:
    """One file as it was last looked at; `flags` are those of its last good content."""

    source: str
    path: Path
    stamp: Stamp = ()
    looked_at: bool = False
    digest: bytes = b""
    flags: list[Flag] | None = None
    changed_at: datetime | None = None


@dataclass(slots=True)
class _Held:
    """What all files hold together."""

    flags: dict[FlagId, Flag] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)


class FileStore:
    """A FlagStore of the files that `file:A.json,B.yaml` names."""

    poll_interval_s = 0.2
    feed = None

    def __init__(self, url: str) -> None:
        sources = [part.removeprefix("file://").removeprefix("file:") for part in url.split(",")]
        self._files = [_File(source, Path(source)) for source in dict.fromkeys(sources)]
        self._held: _Held | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self.reads = 0

    async def open(self) -> None:
        """Read the files. Raises StoreUnavailable while one of them cannot be used."""
        await self._current()

    async def close(self) -> None:
        """Stop looking."""
        self._thread.shutdown()

    async def get(self, flag_id: FlagId) -> Entry:
        """Give one flag as the files hold it now."""
        held = await self._current()
        flag = held.flags.get(flag_id)
        return Entry.of(flag) if flag else Entry.absent(flag_id, held.revisions.get(flag_id.flag_set, 0))

    async def load(self) -> StoreContents:
        """Give everything as the files hold it now."""
        held = await self._current()
        return StoreContents(list(held.flags.values()), dict(held.revisions))

    async def revisions(self) -> Mapping[str, int]:
        """Look at the files, and give the newest revision of each set."""
        return dict((await self._current()).revisions)

    async def write(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Refuse: the files are edited instead."""
        del flag_id, decide
        raise WritesUnsupported("flags are served from files, which are read only here; edit the files instead")

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Give nothing: files have no history."""
        del flag_id, limit
        return []

    async def _current(self) -> _Held:
        """Look at the files away from the loop; one thread does it all, so looks never overtake each other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._poll)

    def _poll(self) -> _Held:
        """Read again what changed. Raises StoreUnavailable when a file never was good."""
        changed = [file for file in self._files if not file.looked_at or _stamp(file.path) != file.stamp]
        if changed or self._held is None:
            self.reads += 1
            self._held = self._read(changed, self._held or _Held())
        return self._held

    def _read(self, changed: Sequence[_File], held: _Held) -> _Held:
        for file in changed:
            _take(file)
        if unread := [file.source for file in self._files if file.flags is None]:
            log.debug("no good content yet", files=unread)
            raise StoreUnavailable
        newest = max((file.changed_at for file in self._files if file.changed_at), default=datetime.now(UTC))
        return _renewed(held, _of_all(self._files), int(newest.timestamp() * 1_000))


def _take(file: _File) -> None:
    """Read a file that may have changed; a broken one keeps its last good content and is told once."""
    try:
        stamp, raw = _settled(file.path)
    except OSError as error:
        raw, stamp = f"cannot be read: {error.strerror}".encode(), ()
    digest = hashlib.sha256(raw).digest()
    file.stamp, file.looked_at = stamp, True
    if digest == file.digest:
        return
    file.digest = digest
    if not stamp:
        log.error("flag file cannot be used", file=file.source, why=raw.decode(), serving=_serving(file))
        return
    content = checked(file.source, raw)
    _tell(file, content)
    if not content.violations:
        file.flags = content.flags
        file.changed_at = datetime.fromtimestamp(max(stamp[:2]) / 1e9, UTC)  # a copy may keep its older time


def _settled(path: Path) -> tuple[Stamp, bytes]:
    """Read a file's bytes while nobody writes it, with their stamp. Raises OSError."""
    give_up_at = time.monotonic() + _MAX_SETTLING_S
    while True:
        found = path.stat()
        if not S_ISREG(found.st_mode):  # a pipe would be waited for without end
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"over {MAX_BYTES} bytes")
        age = time.time() - found.st_mtime
        if 0 <= age < SETTLE_S:
            time.sleep(SETTLE_S - age)
        raw = path.read_bytes()
        if _stamp(path) == _stamp_of(found) or time.monotonic() > give_up_at:
            return _stamp_of(found), raw


def _stamp(path: Path) -> Stamp:
    try:
        return _stamp_of(path.stat())
    except OSError:
        return ()


def _stamp_of(found: os.stat_result) -> Stamp:
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


def _tell(file: _File, content: CheckedFile) -> None:
    for note in content.notes[:_MAX_LOGGED]:
        log.warning("flag file", file=file.source, line=note.line, path=note.path, note=note.text)
    for violation in content.violations[:_MAX_LOGGED]:
        log.error("flag file", file=file.source, line=violation.line, path=violation.path, wrong=violation.text)
    if content.violations:
        count = len(content.violations)
        log.error("flag file cannot be used", file=file.source, violations=count, serving=_serving(file))


def _serving(file: _File) -> str:
    return "its last good content" if file.flags is not None else "nothing until it is right"


def _of_all(files: Sequence[_File]) -> dict[FlagId, Flag]:
    """Give every flag under each set that it can be asked for by; later files win."""
    found: dict[FlagId, Flag] = {}
    for file in files:
        for flag in file.flags or ():
            flag = replace(flag, updated_at=file.changed_at)  # noqa: PLW2901  the same flag, stamped
            for flag_set in dict.fromkeys((DEFAULT_SET, flag.flag_set, file.source)):
                placed = replace(flag, flag_set=flag_set)
                found[placed.id] = placed
    return found


def _renewed(held: _Held, found: Mapping[FlagId, Flag], written_ms: int) -> _Held:
    """Give what is held now: flags that did not change as they were, the others with their set's next revision.

    All changes of one look share a revision, which is at least the time in ms of the newest file: so a server that
    starts again with the same files gives none that is older.
    """
    kept = {flag_id: held.flags[flag_id] for flag_id in found if _unchanged(held.flags.get(flag_id), found[flag_id])}
    moved = _sets(found.keys() - kept.keys()) | _sets(held.flags.keys() - found.keys())
    revisions = {**held.revisions}
    for name in moved:
        revisions[name] = max(held.revisions.get(name, 0) + 1, written_ms)
    fresh = {i: kept.get(i) or replace(flag, revision=revisions[i.flag_set]) for i, flag in found.items()}
    return _Held(fresh, revisions)


def _sets(ids: Iterable[FlagId]) -> set[str]:
    return {flag_id.flag_set for flag_id in ids}


def _unchanged(old: Flag | None, new: Flag) -> bool:
    """Whether a definition says the same, JSON types included."""
    if old is None or replace(old, revision=0, updated_at=new.updated_at) != new:
        return False
    return same(dict(old.variants), dict(new.variants)) and same(dict(old.metadata), dict(new.metadata))
