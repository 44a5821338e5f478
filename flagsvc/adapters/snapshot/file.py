"""The last good contents in a file, which is replaced as a whole or not at all.

Replicas may share it. They take turns by a lock on a file beside it: the snapshot itself is another file after each
turn, and a directory cannot be locked on every file system.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import structlog

from flagsvc.adapters.snapshot.format import Header, Unusable, flags_of, rendered, verified
from flagsvc.ports import Saved, StoreContents

LOCK_PATIENCE_S = 5.0
"""How long another replica may hold the lock; a save takes a fraction of a second."""
PUT_BACK_S = 600.0
"""More than the clocks of two replicas may differ."""
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}

log = structlog.get_logger(__name__)


class SnapshotFile:
    """A Snapshot in a regular file that its owner alone can read.

    `store_name`: the store's URL without credentials; another store's snapshot is not used. `clock` gives aware UTC.
    """

    def __init__(self, path: Path, store_name: str, max_age_s: float, clock: Callable[[], datetime]) -> None:
        self._path, self._store_name = path, store_name
        self._max_age_s, self._clock = max_age_s, clock

    def read(self) -> Saved | None:
        """Give what was saved; None, with a line in the log, when there is nothing that can be used."""
        try:
            with _opened(self._path) as file:
                header = self._usable(file)
                return Saved(StoreContents(list(flags_of(file, header)), header.revisions), header.saved_at)
        except FileNotFoundError:
            log.info("there is no snapshot yet", file=str(self._path))
        except (OSError, Unusable) as error:
            log.warning("snapshot cannot be used; starting without it", file=str(self._path), why=_why(error))
        return None

    def write(self, saved: Saved) -> bool:
        """Replace what is there, atomically; False when that is newer. Raises OSError."""
        _refuse_special(self._path)
        with _locked(_beside(self._path, ".lock")):
            there = self._there()
            if there is not None and self._is_newer(there, saved):
                return False
            self._replace(saved)
        return True

    def _there(self) -> Header | None:
        try:
            with _opened(self._path) as file:
                return self._usable(file)
        except FileNotFoundError:
            return None
        except (OSError, Unusable) as error:
            log.info("a snapshot that cannot be used is replaced", file=str(self._path), why=_why(error))
            return None

    def _usable(self, file: IO[bytes]) -> Header:
        """Check a whole file, and leave it at its first flag. Raises Unusable."""
        header = verified(file)
        if header.store != self._store_name:
            raise Unusable(f"it is of another store, {header.store}")
        age_s = (self._clock() - header.saved_at).total_seconds()
        if age_s > self._max_age_s:
            raise Unusable(f"it is {age_s:.0f} s old, and at most {self._max_age_s:.0f} s are allowed")
        return header

    def _is_newer(self, there: Header, saved: Saved) -> bool:
        ours = saved.contents.revisions
        if there.revisions == ours:
            return saved.saved_at < there.saved_at <= self._clock()  # a time to come is a wrong clock's
        ahead = any(revision > ours.get(name, 0) for name, revision in there.revisions.items())
        if ahead and (saved.saved_at - there.saved_at).total_seconds() > PUT_BACK_S:
            log.warning("the store was put back to an earlier state; so is its snapshot", file=str(self._path))
            return False
        return ahead

    def _replace(self, saved: Saved) -> None:
        header, flags = rendered(self._store_name, saved)
        temporary = _beside(self._path, ".new")
        temporary.unlink(missing_ok=True)  # of a process that was killed: who has the lock is alone with it
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(header)
                file.write(flags)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _settle(self._path.parent)


def _opened(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError."""
    _refuse_special(path)
    return open(path, "rb", opener=_unfollowed)


def _unfollowed(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


def _refuse_special(path: Path) -> None:
    """Raise OSError for what is there but is no regular file: replacing it would surprise."""
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind != stat.S_IFREG:
            text = f"it is {_KINDS.get(kind, 'something else')}, and a snapshot is a regular file"
            raise OSError(errno.EINVAL, text, str(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others out meanwhile; the system frees the lock of a process that dies. Raises OSError."""
    give_up_at = time.monotonic() + LOCK_PATIENCE_S
    with open(path, "ab", opener=_private) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    text = f"another process has held it for {LOCK_PATIENCE_S:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, text, str(path)) from None
                time.sleep(0.01)
        yield


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _settle(directory: Path) -> None:
    """Make a rename outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError | Unusable) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
