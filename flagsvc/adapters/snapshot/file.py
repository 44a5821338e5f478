"""The snapshot file with the last known contents. It is replaced atomically.

Several replicas may share it. They lock a separate file next to it, because replacing the snapshot replaces its inode,
and not every file system can lock a directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO

import structlog

from flagsvc.adapters.snapshot import permissions
from flagsvc.adapters.snapshot.format import Header, Unusable, access_of, flags_of, render, verify
from flagsvc.ports import Problem, Saved, StoreContents

LOCK_TIMEOUT_S = 5.0
"""Time to wait for the lock. A save takes a fraction of a second."""
MAX_CLOCK_SKEW_S = 600.0
"""An upper bound for the difference between two replicas' clocks."""
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}

log = structlog.get_logger(__name__)


class SnapshotFile:
    """A Snapshot in a regular file that only its owner can read.

    `store_name` is the store's URL without credentials; another store's snapshot is not used. `clock` is in aware UTC.
    """

    def __init__(self, path: Path, store_name: str, max_age_s: float, clock: Callable[[], datetime]) -> None:
        self._path, self._store_name = path, store_name
        self._max_age_s, self._clock = max_age_s, clock
        self._untrusted = ""

    def problems(self) -> Sequence[Problem]:
        """Return why what is there is not believed, as last seen."""
        if not self._untrusted:
            return ()
        cure = "let only the user of flagsvc write the file and its directory, best in a directory of its own"
        return (Problem("snapshot_untrusted", f"the snapshot {self._path} is not used: {self._untrusted}", cure),)

    def read(self) -> Saved | None:
        """Return the saved contents. If there are none that can be used, log why and return None."""
        try:
            with self._trusted() as file:
                header = self._usable(file)
                contents = StoreContents(list(flags_of(file, header)), header.revisions)
                return Saved(contents, header.saved_at, header.store_id, access_of(file, header))
        except FileNotFoundError:
            log.info("snapshot_not_found", file=str(self._path))
        except (OSError, Unusable) as error:
            log.warning("snapshot_unusable", file=str(self._path), cause=_cause(error))
        return None

    def write(self, saved: Saved) -> bool:
        """Replace the snapshot atomically. Return False, and keep it, if it is newer. Raises OSError."""
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            self._path.parent.mkdir(mode=0o700)
        self._check_directory()
        _check_regular(self._path)
        with _locked(_sibling(self._path, ".lock")):
            current = self._current()
            if current is not None and self._is_newer(current, saved):
                return False
            self._replace(saved)
            self._untrusted = ""
        return True

    @contextlib.contextmanager
    def _trusted(self) -> Iterator[IO[bytes]]:
        """Open the snapshot if nobody else can have written it. Raises OSError and Unusable."""
        self._untrusted = ""
        self._check_directory()
        with _opened(self._path) as file:
            if cause := permissions.untrusted_file(os.fstat(file.fileno())):
                self._untrusted = cause
                raise Unusable(cause)
            yield file

    def _check_directory(self) -> None:
        """Raise OSError if others can put a file of theirs in the snapshot's place."""
        if cause := permissions.untrusted_directory(self._path.parent.stat()):
            self._untrusted = cause
            raise PermissionError(errno.EPERM, cause, str(self._path.parent))

    def _current(self) -> Header | None:
        try:
            with self._trusted() as file:
                return self._usable(file)
        except FileNotFoundError:
            return None
        except (OSError, Unusable) as error:
            log.info("unusable_snapshot_replaced", file=str(self._path), cause=_cause(error))
            return None

    def _usable(self, file: IO[bytes]) -> Header:
        """Verify a whole file, and leave it positioned at its first flag. Raises Unusable."""
        header = verify(file)
        if header.store != self._store_name:
            raise Unusable(f"it belongs to another store, {header.store}")
        age_s = (self._clock() - header.saved_at).total_seconds()
        if age_s > self._max_age_s:
            raise Unusable(f"it is {age_s:.0f} s old; the maximum is {self._max_age_s:.0f} s")
        return header

    def _is_newer(self, current: Header, saved: Saved) -> bool:
        ours = saved.contents.revisions
        if current.store_id and saved.store_id and current.store_id != saved.store_id:
            log.warning("snapshot_of_another_store", file=str(self._path), detail="This store's snapshot replaces it.")
            return False
        if current.revisions == ours:
            return saved.saved_at < current.saved_at <= self._clock()  # A time in the future is from a wrong clock.
        ahead = any(revision > ours.get(name, 0) for name, revision in current.revisions.items())
        if ahead and (saved.saved_at - current.saved_at).total_seconds() > MAX_CLOCK_SKEW_S:
            log.warning("store_restored", file=str(self._path), detail="The older store replaces the snapshot.")
            return False
        return ahead

    def _replace(self, saved: Saved) -> None:
        lines = render(self._store_name, saved)
        temporary = _sibling(self._path, ".new")
        temporary.unlink(missing_ok=True)  # Left by a killed process: the lock excludes all others.
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(self._path.parent)


def _opened(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError."""
    _check_regular(path)
    return open(path, "rb", opener=_private)


def _private(name: str, flags: int) -> int:
    """Open a file that is not a link; a new one is for its owner only."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


def _check_regular(path: Path) -> None:
    """Raise OSError if the path exists but is not a regular file, which must not be replaced."""
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind != stat.S_IFREG:
            text = f"it is {_KINDS.get(kind, 'a special file')}; a snapshot must be a regular file"
            raise OSError(errno.EINVAL, text, str(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file. The system releases it if the process dies. Raises OSError."""
    give_up_at = time.monotonic() + LOCK_TIMEOUT_S
    with open(path, "ab", opener=_private) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    text = f"another process has held the lock for {LOCK_TIMEOUT_S:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, text, str(path)) from None
                time.sleep(0.01)
        yield


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_directory(directory: Path) -> None:
    """Flush a directory to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cause(error: OSError | Unusable) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
