"""The format of a snapshot: a header on the first line, then one flag per line.

The header's field `sha256` covers its other fields and all lines after it, so that any changed byte is detected.
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
SLICE_S = 0.001
"""Rendering pauses after each slice of this length, so that evaluations can run in between."""
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class Unusable(Exception):
    """A file is not a snapshot that can be used here. The message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a snapshot. `saved_at` is aware UTC; `flags` is the number of flags."""

    store: str
    saved_at: datetime
    revisions: Mapping[str, int]
    flags: int
    store_id: str = ""


def render(store: str, saved: Saved) -> tuple[bytes, bytearray]:
    """Return the header line and the flags' lines. Raises OSError if there are too many flag sets for a header."""
    body = _lines(saved.contents.flags)
    fields = {
        "format": FORMAT,
        "store": store,
        "storeId": saved.store_id,
        "savedAt": saved.saved_at.astimezone(UTC).isoformat(),
        "revisions": dict(saved.contents.revisions),
        "flags": len(saved.contents.flags),
        "bytes": len(body),
    }
    line = f"{json.dumps(fields | {'sha256': _checksum(fields, [body])})}\n".encode()
    if len(line) > _MAX_HEADER_BYTES:
        raise OSError(errno.EFBIG, f"{len(saved.contents.revisions)} flag sets are too many for a snapshot")
    return line, body


def verify(file: IO[bytes]) -> Header:
    """Verify a whole file, and leave it positioned at its first flag. Raises Unusable."""
    line = file.readline(_MAX_HEADER_BYTES)
    begin = file.tell()
    try:
        fields = json.loads(line)
        checksum = fields.pop("sha256", None)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise Unusable("it has no snapshot header") from None
    if fields.get("format") != FORMAT:
        raise Unusable(f"it has format {fields.get('format')}; this version reads format {FORMAT}")
    size = os.fstat(file.fileno()).st_size - begin
    if size != fields.get("bytes"):
        raise Unusable(f"it should have {fields.get('bytes')} bytes of flags, and has {size}")
    if _checksum(fields, iter(lambda: file.read(_CHUNK_BYTES), b"")) != checksum:
        raise Unusable("its checksum is wrong")
    file.seek(begin)
    return _header(fields)


def flags_of(file: IO[bytes], header: Header) -> Iterator[Flag]:
    """Yield the flags of a verified file. Raises Unusable."""
    count = 0
    for count, line in enumerate(file, 1):
        try:
            flag = loads(line)
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise Unusable(f"its flag {count} is malformed") from None
        yield flag
    if count != header.flags:
        raise Unusable(f"it should have {header.flags} flags, and has {count}")


def _header(fields: Mapping[str, Any]) -> Header:
    try:
        saved_at = datetime.fromisoformat(fields["savedAt"]).astimezone(UTC)
        revisions = {str(name): int(revision) for name, revision in fields["revisions"].items()}
        return Header(str(fields["store"]), saved_at, revisions, int(fields["flags"]), str(fields.get("storeId", "")))
    except (KeyError, AttributeError, TypeError, ValueError):
        raise Unusable("its header is malformed") from None


def _checksum(fields: Mapping[str, Any], chunks: Iterable[bytes | bytearray]) -> str:
    digest = hashlib.sha256(json.dumps(fields).encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _lines(flags: Iterable[Flag]) -> bytearray:
    lines = bytearray()
    pause_at = time.monotonic() + SLICE_S
    for flag in flags:
        lines += f"{dumps(flag)}\n".encode()
        if time.monotonic() > pause_at:
            time.sleep(SLICE_S)
            pause_at = time.monotonic() + SLICE_S
    return lines
