"""The last good contents, kept for a start without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flagsvc.core.access.denials import Denial
from flagsvc.core.access.tokens import Token
from flagsvc.ports.changes import StoreContents
from flagsvc.ports.reports import Problem


@dataclass(frozen=True, slots=True)
class SavedAccess:
    """Who was known: tokens that could be used, denials in force, and the ids of revoked tokens."""

    tokens: Sequence[Token]
    denials: Sequence[Denial]
    revoked: Sequence[str]


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot: everything as it was at `saved_at` (aware UTC, by the clock of the replica that saved it).

    `store_id`: the identity of its store; empty where that has none. `access`: None where callers are not checked.
    """

    contents: StoreContents
    saved_at: datetime
    store_id: str = ""
    access: SavedAccess | None = None


class AccessToSave(Protocol):
    """Who this replica knows. `version` grows with every change; `verified_at`: a moment of `time.monotonic()`."""

    @property
    def version(self) -> int:
        """The number of changes."""

    @property
    def verified_at(self) -> float:
        """As of when it is known to equal the store."""

    def to_save(self) -> SavedAccess:
        """Return it."""


class Snapshot(Protocol):
    """The last good contents, on this replica's disk. Blocking: called from a thread."""

    def read(self) -> Saved | None:
        """Return what was saved; None, with a line in the log, when nothing can be used."""

    def write(self, saved: Saved) -> bool:
        """Replace what is there, atomically; False when that is newer. Raises OSError."""

    def problems(self) -> Sequence[Problem]:
        """Return why what is there cannot be used, as last seen; never touches the disk."""
