"""Definitions as they are kept: the JSON line of `documents.dumps`, compressed."""

from __future__ import annotations

import zlib

from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import Flag

MAX_PACKED_BYTES = 12_582_912
"""A definition over this, compressed, is kept without its content: a document in MongoDB has 16 MB at most."""
TOO_LARGE = "The definition was too large to be kept"
MALFORMED = "What is kept of the definition is malformed"


def pack(flag: Flag) -> bytes:
    """Return a definition as it is kept. Large ones take tens of milliseconds: not on the event loop."""
    packed = zlib.compress(dumps(flag).encode(errors="surrogatepass"))
    if len(packed) <= MAX_PACKED_BYTES:
        return packed
    return pack(
        Flag(key=flag.key, flag_set=flag.flag_set, status=flag.status, revision=flag.revision, problem=TOO_LARGE)
    )


def unpack(packed: bytes, key: str, flag_set: str, revision: int) -> Flag:
    """Return the definition. Never raises: what cannot be read is a flag with a `problem`."""
    try:
        return loads(zlib.decompress(packed).decode(errors="surrogatepass"))
    except (zlib.error, ValueError, TypeError, AttributeError, RecursionError):
        return Flag(key=key, flag_set=flag_set, revision=revision, problem=MALFORMED)
