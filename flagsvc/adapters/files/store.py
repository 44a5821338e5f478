"""A read-only store of flagd's files. It follows their changes, and keeps the last valid content of a broken file.

Which flag sets its flags belong to: core.flagd.sets.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

import structlog

from flagsvc.adapters.files.checked import CheckedFile, Located, checked
from flagsvc.adapters.files.parse import MAX_BYTES
from flagsvc.adapters.files.sources import sources_of
from flagsvc.core.changes import Author, Decide
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.core.flagd.reading import BUCKETING_NAME
from flagsvc.core.flagd.sets import FileSets
from flagsvc.core.json_values import same
from flagsvc.core.model import DEFAULT_BUCKETING, Flag, FlagId, HistoryEntry
from flagsvc.core.requests import WriteRequest
from flagsvc.ports import Entry, Family, Problem, StoreContents
from flagsvc.ports.revisions import DecideAll, RolledBack

SETTLE_S = 0.05
"""A file is read once it has not changed for this long, because a file written in place is incomplete at first."""
_MAX_SETTLING_S = 1.0
_MAX_LOGGED = 20
_READ_ONLY = "flags are served from files, which are read-only here; edit the files instead"
_MAX_NAMED = 5
"""Odd parts of a file that a status names."""

Stamp = tuple[int, ...]
"""A file's times in ns, size, inode and device. Changes whenever the content may have changed. Empty without a file."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _File:
    """One file as of the last poll. `flags` are those of its last valid content; None before there is one."""

    source: str
    path: Path
    stamp: Stamp = ()
    polled: bool = False
    digest: bytes = b""
    flags: list[Flag] | None = None
    changed_at: datetime | None = None
    rejected: str = ""
    """Why its newest content is not served; empty if it is."""
    warnings: list[Located] = field(default_factory=list)
    """What is odd in the content that is served."""


@dataclass(slots=True)
class _Contents:
    """The flags of all files, and the revision of each flag set."""

    flags: dict[FlagId, Flag] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)


class FileStore:
    """A FlagStore that serves the files named by a URL such as `file:A.json,B.yaml`."""

    poll_interval_s = 0.2
    feed = None
    identity = None  # no shared cache can be used with files
    tokens = None
    audit = None
    definitions = None
    schedules = None
    segments = None

    def __init__(self, url: str) -> None:
        sources = sources_of(url)
        self._sets = FileSets(sources)
        self._files = [_File(source, Path(source)) for source in sources]
        self._contents: _Contents | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self.reads = 0

    async def open(self) -> None:
        """Read the files. Raises StoreUnavailable until each of them has had a valid content."""
        await self._current()

    async def close(self) -> None:
        """Stop the reading thread."""
        self._thread.shutdown()

    async def get(self, flag_id: FlagId) -> Entry:
        """Return one flag as the files define it now."""
        contents = await self._current()
        flag = contents.flags.get(flag_id)
        return Entry.of(flag) if flag else Entry.absent(flag_id, contents.revisions.get(flag_id.flag_set, 0))

    async def get_family(self, flag_id: FlagId) -> Family:
        """Return one flag: flags of files have no prerequisites."""
        contents = await self._current()
        flag = contents.flags.get(flag_id)
        entries = {} if flag is None else {flag_id.key: Entry.of(flag)}
        return Family(contents.revisions.get(flag_id.flag_set, 0), entries)

    async def load(self) -> StoreContents:
        """Return all flags as the files define them now."""
        contents = await self._current()
        return StoreContents(list(contents.flags.values()), dict(contents.revisions))

    async def revisions(self) -> Mapping[str, int]:
        """Poll the files, and return the newest revision of each set."""
        return dict((await self._current()).revisions)

    async def renew_identity(self) -> None:
        """Raise WritesUnsupported: files have no identity."""
        raise WritesUnsupported("flags are served from files, which every replica reads again by itself")

    async def write(self, flag_id: FlagId, decide: Decide, request: WriteRequest | None = None) -> Entry | None:
        """Raise WritesUnsupported: flagsvc only reads the files."""
        del flag_id, decide, request
        raise WritesUnsupported(_READ_ONLY)

    async def preview(self, flag_id: FlagId, decide: Decide) -> Entry:
        """Raise WritesUnsupported: flagsvc only reads the files."""
        del flag_id, decide
        raise WritesUnsupported(_READ_ONLY)

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
        """Raise WritesUnsupported: flagsvc only reads the files."""
        del flag_set, revision, decide, author, dry_run, request
        raise WritesUnsupported(_READ_ONLY)

    async def bucketing(self, flag_set: str) -> int:
        """Return the newest version that a file of the set asks for."""
        flags = (await self._current()).flags.values()
        return max((flag.bucketing for flag in flags if flag.flag_set == flag_set), default=DEFAULT_BUCKETING)

    async def set_bucketing(self, flag_set: str, version: int) -> None:
        """Raise WritesUnsupported: a file says it in its metadata."""
        del flag_set, version
        raise WritesUnsupported(f"flags are served from files; set metadata.{BUCKETING_NAME} in the files instead")

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Return no entries: files have no history."""
        del flag_id, limit
        return []

    def problems(self) -> Sequence[Problem]:
        """Return which files are not served as they are now, and which are served with odd flags."""
        return [problem for file in self._files for problem in _problems(file)]

    async def _current(self) -> _Contents:
        """Poll the files outside the event loop. A single thread does it, so that polls never overtake each other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._poll)

    def _poll(self) -> _Contents:
        """Reload changed files. Raises StoreUnavailable if a file never had a valid content."""
        changed = [file for file in self._files if not file.polled or _stamp(file.path) != file.stamp]
        if changed or self._contents is None:
            self.reads += 1
            self._contents = self._reload(changed, self._contents or _Contents())
        return self._contents

    def _reload(self, changed: Sequence[_File], contents: _Contents) -> _Contents:
        for file in changed:
            _reload_file(file)
        if invalid := [file.source for file in self._files if file.flags is None]:
            log.debug("flag_files_not_valid_yet", files=invalid)
            cause = f"{', '.join(invalid[:3])} {'has' if len(invalid) == 1 else 'have'} no valid content"
            raise StoreUnavailable(cause=cause, cure="see the log event flag_file_rejected, or: flagsvc validate FILE")
        newest = max((file.changed_at for file in self._files if file.changed_at), default=datetime.now(UTC))
        return _next_contents(contents, _all_flags(self._files, self._sets), int(newest.timestamp() * 1_000))


def _reload_file(file: _File) -> None:
    """Read a file that may have changed. An invalid one keeps its last valid content, and is logged once."""
    try:
        stamp, raw = _read_settled(file.path)
    except OSError as error:
        raw, stamp = f"cannot be read: {error.strerror}".encode(), ()
    digest = hashlib.sha256(raw).digest()
    file.stamp, file.polled = stamp, True
    if digest == file.digest:
        return
    file.digest = digest
    if not stamp:
        file.rejected = raw.decode()
        log.error("flag_file_rejected", file=file.source, cause=file.rejected, serving=_serving(file))
        return
    content = checked(file.source, raw, is_write=False)
    _log_findings(file, content)
    file.rejected = str(content.violations[0]) if content.violations else ""
    if not content.violations:
        file.flags, file.warnings = content.flags, content.warnings
        file.changed_at = datetime.fromtimestamp(max(stamp[:2]) / 1e9, UTC)  # A copied file may keep an older mtime.


def _read_settled(path: Path) -> tuple[Stamp, bytes]:
    """Return a file's stamp and bytes, read while nobody writes to it. Raises OSError."""
    give_up_at = time.monotonic() + _MAX_SETTLING_S
    while True:
        found = path.stat()
        if not S_ISREG(found.st_mode):  # Reading a pipe could block forever.
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


def _problems(file: _File) -> Iterator[Problem]:
    cure = f"correct the file; this lists everything: flagsvc validate {file.source}"
    if file.rejected:
        detail = f"the file {file.source} is rejected; served is {_serving(file)}. {file.source}:{file.rejected}"
        yield Problem("flag_file_rejected", detail, cure)
    elif file.warnings:
        more = len(file.warnings) - _MAX_NAMED
        named = "; ".join(f"{file.source}:{each}" for each in file.warnings[:_MAX_NAMED])
        rest = f"; and {more} more" if more > 0 else ""
        yield Problem("flag_file_odd", f"odd flags are served as flagd serves them: {named}{rest}", cure)


def _log_findings(file: _File, content: CheckedFile) -> None:
    for warning in content.warnings[:_MAX_LOGGED]:
        log.warning("flag_file_warning", file=file.source, line=warning.line, path=warning.path, cause=warning.text)
    if (more := len(content.warnings) - _MAX_LOGGED) > 0:
        log.warning("flag_file_warnings", file=file.source, more=more, detail="flagsvc validate lists them all.")
    for note in content.notes[:_MAX_LOGGED]:
        log.warning("flag_file_note", file=file.source, line=note.line, path=note.path, note=note.text)
    for each in content.violations[:_MAX_LOGGED]:
        log.error("flag_file_violation", file=file.source, line=each.line, path=each.path, cause=each.text)
    if count := len(content.violations):
        log.error("flag_file_rejected", file=file.source, violations=count, serving=_serving(file))


def _serving(file: _File) -> str:
    return "the last valid content" if file.flags is not None else "nothing until the file is valid"


def _all_flags(files: Sequence[_File], sets: FileSets) -> dict[FlagId, Flag]:
    """Return every flag under each flag set that it belongs to. Later files win."""
    found: dict[FlagId, Flag] = {}
    for file in files:
        for flag in file.flags or ():
            flag = replace(flag, updated_at=file.changed_at)  # noqa: PLW2901  the same flag, with its time
            for flag_set in sets.of(flag, file.source):
                placed = replace(flag, flag_set=flag_set)
                found[placed.id] = placed
    return found


def _next_contents(old: _Contents, found: Mapping[FlagId, Flag], written_ms: int) -> _Contents:
    """Return the new contents: unchanged flags keep their revision, changed ones get their set's next revision.

    All changes of one poll share a revision. It is at least the newest file's time in ms since 1970, so that revisions
    do not go back when the server restarts with the same files.
    """
    kept = {flag_id: old.flags[flag_id] for flag_id in found if _unchanged(old.flags.get(flag_id), found[flag_id])}
    changed_sets = _sets(found.keys() - kept.keys()) | _sets(old.flags.keys() - found.keys())
    revisions = old.revisions | {name: max(old.revisions.get(name, 0) + 1, written_ms) for name in changed_sets}
    flags = {i: kept.get(i) or replace(flag, revision=revisions[i.flag_set]) for i, flag in found.items()}
    return _Contents(flags, revisions)


def _sets(ids: Iterable[FlagId]) -> set[str]:
    return {flag_id.flag_set for flag_id in ids}


def _unchanged(old: Flag | None, new: Flag) -> bool:
    """Whether two definitions are equal, including JSON types."""
    if old is None or replace(old, revision=0, updated_at=new.updated_at) != new:
        return False
    return same(dict(old.variants), dict(new.variants)) and same(dict(old.metadata), dict(new.metadata))
