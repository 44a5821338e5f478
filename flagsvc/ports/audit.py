"""Where audit entries are kept that are no changes of flags, and where all are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flagsvc.core.audit import AuditEntry, AuditQuery

MAX_REFUSALS = 10_000
"""Refusals that a store keeps; older ones are removed."""


class AuditStore(Protocol):
    """The audit entries of a store. Every method raises StoreUnavailable when the store cannot be asked in time."""

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries; the oldest refusals beyond MAX_REFUSALS are removed."""

    async def page(self, query: AuditQuery, size: int) -> list[AuditEntry]:
        """Read the newest entries that match, the history's among them."""
