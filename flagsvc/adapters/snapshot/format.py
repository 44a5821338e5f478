"""The format of a snapshot: a header on the first line, then one flag per line, then lines about callers.

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
from itertools import islice
from typing import IO, Any

from flagsvc.adapters.snapshot import access_lines
from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import Flag
from flagsvc.ports import Saved, SavedAccess

FORMAT, WITH_ACCESS = 1, 2
"""Without and with lines about callers."""
SLICE_S = 0.001
"""Rendering pauses after each slice of this length, so that evaluations can run in between."""
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class Unusable(Exception):
    """A file is not a snapshot that can be used here. The message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a snapshot. `saved_at` is aware UTC; `flags` and `access` are numbers of lines."""

    store: str
    saved_at: datetime
    revisions: Mapping[str, int]
    flags: int
    store_id: str = ""
    access: int = 0


def render(store: str, saved: Saved) -> tuple[bytes, bytearray]:
    """Return the header line and the flags' lines. Raises OSError if there are too many flag sets for a header."""
    body, access = _lines(f"{dumps(flag)}\n" for flag in saved.contents.flags), saved.access
    fields = {
        "format": FORMAT if access is None else WITH_ACCESS,
        "store": store,
        "storeId": saved.store_id,
        "savedAt": saved.saved_at.astimezone(UTC).isoformat(),
        "revisions": dict(saved.contents.revisions),
        "flags": len(saved.contents.flags),
    }
    if access is not None:
        fields["access"] = access_lines.count_of(access)
        body += _lines(access_lines.lines_of(access))
    fields["bytes"] = len(body)
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
    if fields.get("format") not in (FORMAT, WITH_ACCESS):
        raise Unusable(f"it has format {fields.get('format')}; this version reads formats {FORMAT} and {WITH_ACCESS}")
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
    for count, line in enumerate(islice(file, header.flags) if header.access else file, 1):
        try:
            flag = loads(line)
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise Unusable(f"its flag {count} is malformed") from None
        yield flag
    if count != header.flags:
        raise Unusable(f"it should have {header.flags} flags, and has {count}")


def access_of(file: IO[bytes], header: Header) -> SavedAccess | None:
    """Return what a verified file has of callers, once its flags are read. Raises Unusable."""
    try:
        return access_lines.access_in(file, header.access) if header.access else None
    except access_lines.BadAccess as error:
        raise Unusable(str(error)) from None


def _header(fields: Mapping[str, Any]) -> Header:
    try:
        saved_at = datetime.fromisoformat(fields["savedAt"]).astimezone(UTC)
        revisions = {str(name): int(revision) for name, revision in fields["revisions"].items()}
        access = int(fields["access"]) if fields["format"] == WITH_ACCESS else 0
        store, store_id = str(fields["store"]), str(fields.get("storeId", ""))
        return Header(store, saved_at, revisions, int(fields["flags"]), store_id, access)
    except (KeyError, AttributeError, TypeError, ValueError):
        raise Unusable("its header is malformed") from None


def _checksum(fields: Mapping[str, Any], chunks: Iterable[bytes | bytearray]) -> str:
    digest = hashlib.sha256(json.dumps(fields).encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _lines(texts: Iterable[str]) -> bytearray:
    lines = bytearray()
    pause_at = time.monotonic() + SLICE_S
    for text in texts:
        lines += text.encode()
        if time.monotonic() > pause_at:
            time.sleep(SLICE_S)
            pause_at = time.monotonic() + SLICE_S
    return lines
