"""Reads small files that others replace at any time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from stat import S_ISREG, S_IWOTH

Stamp = tuple[int, ...]
"""A file's times in ns, size, inode and device. It changes whenever the content may have changed."""


def stamp_of(path: str) -> Stamp:
    """Return a file's stamp; an empty one for a file that cannot be read."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


def read_small(path: str, max_bytes: int) -> bytes:
    """Return a regular file's content. Raises OSError, also for one that is too large, or that everybody can write."""
    with open(path, "rb", opener=_opener) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if mode & S_IWOTH:  # such files say who may do what
            raise OSError(errno.EPERM, f"every user of this machine can write it; do this: chmod o-w {path}")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"over {max_bytes} bytes")
    return content


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # to open a pipe would wait for its writer
