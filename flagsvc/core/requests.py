"""Writes that a caller may send twice: the second one gets the first one's answer, and changes nothing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from flagsvc.core.errors import InvalidRequest, invalid

REMEMBERED = timedelta(hours=24)
T = TypeVar("T")


@dataclass(slots=True)
class WriteRequest:
    """A write that is remembered by its caller's name for it. `digest`: of what it asks for.

    `previous`: the status before the change, which a store fills in where it finds that the write was made before.
    """

    caller: str
    request_id: str
    digest: bytes
    previous: str = ""

    def reused(self) -> InvalidRequest:
        """Return the error for an id that stands for another write."""
        wanted = "a new id for a new write: this one was another write's within the last 24 hours"
        return invalid("request_id", self.request_id, wanted, "REQUEST_ID_REUSED")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How the outcome of a kind of write is remembered: from and to a JSON value."""

    to_json: Callable[[T], Any]
    from_json: Callable[[Any], T]

    def pack(self, done: T) -> bytes:
        """Return an outcome as it is kept."""
        return zlib.compress(json.dumps(self.to_json(done), ensure_ascii=False).encode(errors="surrogatepass"))

    def unpack(self, packed: bytes) -> T:
        """Return what `pack` was called with."""
        return self.from_json(json.loads(zlib.decompress(packed).decode(errors="surrogatepass")))
