"""A snapshot's text: a header on the first line, then a flag on each, all under one checksum.

The header's `sha256` is over the header without it and over all that follows, so a changed revision or time is seen as
well as a changed flag.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import Flag
from flagsvc.ports import Saved

FORMAT = 1
TURN_S = 0.001
"""Flags are rendered in turns of this length; evaluations have the interpreter in between."""
_LONGEST_HEADER = 16 * 1024 * 1024
_PIECE = 1024 * 1024


class Unusable(Exception):
    """A file is no snapshot that can be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first line says. `saved_at` is aware UTC; `flags` is how many follow."""

    store: str
    saved_at: datetime
    revisions: Mapping[str, int]
    flags: int


def rendered(store: str, saved: Saved) -> tuple[bytes, bytearray]:
    """Give the header's line and those of the flags. Raises OSError for more flag sets than a header has room for."""
    body = _lines(saved.contents.flags)
    told = {
        "format": FORMAT,
        "store": store,
        "savedAt": saved.saved_at.astimezone(UTC).isoformat(),
        "revisions": dict(saved.contents.revisions),
        "flags": len(saved.contents.flags),
        "bytes": len(body),
    }
    line = f"{json.dumps(told | {'sha256': _checksum(told, [body])})}\n".encode()
    if len(line) > _LONGEST_HEADER:
        raise OSError(errno.EFBIG, f"{len(saved.contents.revisions)} flag sets are too many for a snapshot")
    return line, body


def verified(file: IO[bytes]) -> Header:
    """Check a whole file, and leave it at its first flag. Raises Unusable."""
    line = file.readline(_LONGEST_HEADER)
    begin = file.tell()
    try:
        told = json.loads(line)
        checksum = told.pop("sha256", None)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise Unusable("it does not begin as a snapshot does") from None
    if told.get("format") != FORMAT:
        raise Unusable(f"it has format {told.get('format')}, and this version reads format {FORMAT}")
    size = os.fstat(file.fileno()).st_size - begin
    if size != told.get("bytes"):
        raise Unusable(f"it should have {told.get('bytes')} bytes of flags, and has {size}")
    if _checksum(told, iter(lambda: file.read(_PIECE), b"")) != checksum:
        raise Unusable("its checksum is wrong")
    file.seek(begin)
    return _header(told)


def flags_of(file: IO[bytes], header: Header) -> Iterator[Flag]:
    """Read the flags of a file that was checked. Raises Unusable."""
    count = 0
    for line in file:
        count += 1
        try:
            flag = loads(line)
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise Unusable(f"its flag {count} is malformed") from None
        yield flag
    if count != header.flags:
        raise Unusable(f"it should have {header.flags} flags, and has {count}")


def _header(told: Mapping[str, Any]) -> Header:
    try:
        saved_at = datetime.fromisoformat(told["savedAt"]).astimezone(UTC)
        revisions = {str(name): int(revision) for name, revision in told["revisions"].items()}
        return Header(str(told["store"]), saved_at, revisions, int(told["flags"]))
    except (KeyError, AttributeError, TypeError, ValueError):
        raise Unusable("its header is malformed") from None


def _checksum(told: Mapping[str, Any], pieces: Iterable[bytes | bytearray]) -> str:
    digest = hashlib.sha256(json.dumps(told).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _lines(flags: Iterable[Flag]) -> bytearray:
    lines = bytearray()
    turn_ends_at = time.monotonic() + TURN_S
    for flag in flags:
        lines += f"{dumps(flag)}\n".encode()
        if time.monotonic() > turn_ends_at:
            time.sleep(TURN_S)
            turn_ends_at = time.monotonic() + TURN_S
    return lines
