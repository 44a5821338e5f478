"""The tokens that were verified, and those that were refused, by digest. Bounded; knows no token's text."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import Generic, TypeVar

V = TypeVar("V")


def digest_of(text: str) -> bytes:
    """Return what a token is known by."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


class RecentlyUsed(Generic[V]):
    """A bounded dictionary by digest, from which the least recently used entry is dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> V | None:
        """Return an entry, which counts as used."""
        found = self._entries.get(digest)
        if found is not None:
            self._entries.move_to_end(digest)
        return found

    def put(self, digest: bytes, value: V) -> None:
        """Add an entry."""
        self._entries[digest] = value
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        """Forget an entry, if it is there."""
        self._entries.pop(digest, None)
