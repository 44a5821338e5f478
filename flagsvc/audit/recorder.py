"""Writes audit entries: of what was done before its caller gets the answer, of refusals in the background."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.peers import network_of
from flagsvc.background import cause_of
from flagsvc.core.audit import AuditEntry, Outcome
from flagsvc.core.errors import FlagsvcError, PermissionDenied
from flagsvc.core.model import ANONYMOUS
from flagsvc.limits.attempts import FailedAttempts
from flagsvc.ports.audit import AuditStore
from flagsvc.telemetry import Sample

MAX_WAITING = 1_000
"""Refusals that wait to be written; further ones are only counted."""
WRITE_EVERY_S = 0.5
MAX_PORTION = 200
MAX_TEXT = 255

log = structlog.get_logger(__name__)


class AuditRecorder:
    """The entries of one replica."""

    def __init__(self, store: AuditStore) -> None:
        self._store, self._attempts = store, FailedAttempts()
        self._waiting: deque[AuditEntry] = deque()
        self.refused = self.unrecorded = self.failed = 0

    async def run(self) -> None:
        """Write refusals for ever."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write_waiting()

    async def write_waiting(self) -> None:
        """Write the refusals that wait."""
        while self._waiting:
            portion = [self._waiting.popleft() for _ in range(min(MAX_PORTION, len(self._waiting)))]
            await self._write(portion)

    async def record(self, action: str, request: Any, subject: str) -> None:
        """Write what was done. A failure is logged: it cannot be undone for want of an entry."""
        caller = CALLER.get()
        named = str(getattr(request, "actor", ""))
        is_known = bool(caller.id)
        entry = AuditEntry(
            at=datetime.now(UTC),
            actor=str(caller) if is_known else named or ANONYMOUS,
            on_behalf_of=named if is_known else "",
            action=action,
            flag_set=flag_set_of(request),
            subject=subject[:MAX_TEXT],
            reason=str(getattr(request, "reason", "")),
        )
        await self._write([entry])

    def refuse(self, method: str, error: Exception, peer: str, request: Any) -> None:
        """Note a refused call. Of each network some are kept, so that nobody can fill the store."""
        self.refused += 1
        if not self._attempts.note(peer) or len(self._waiting) >= MAX_WAITING:
            self.unrecorded += 1
            return
        caller = error.caller if isinstance(error, PermissionDenied) else ""
        entry = AuditEntry(
            at=datetime.now(UTC),
            actor=caller or network_of(peer),
            action=method.rpartition("/")[2],
            outcome=Outcome.REFUSED,
            flag_set=flag_set_of(request),
            subject=subject_of(request),
            reason=str(error)[:MAX_TEXT],
        )
        self._waiting.append(entry)

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        about = "Calls that would have read or changed something, and were refused for want of a right."
        yield Sample("flagsvc_access_refused_total", about, self.refused)
        about = "Of these, calls without an audit entry: their network was refused too often, or too many waited."
        yield Sample("flagsvc_access_refused_unrecorded_total", about, self.unrecorded)
        yield Sample("flagsvc_audit_failures_total", "Audit entries that the store did not take.", self.failed)

    async def _write(self, entries: Sequence[AuditEntry]) -> None:
        try:
            await self._store.append(entries)
        except FlagsvcError as error:
            self.failed += len(entries)
            actions = sorted({entry.action for entry in entries})
            log.error("audit_entries_lost", entries=len(entries), actions=actions, cause=cause_of(error))  # noqa: TRY400  the cause is enough


def flag_set_of(request: Any) -> str:
    """Return the flag set that a request names; empty if it names none."""
    flag = getattr(request, "flag", None)
    return str(getattr(request, "flag_set", "") or getattr(flag, "flag_set", ""))[:MAX_TEXT]


def subject_of(request: Any) -> str:
    """Return the flag key, token id or identity that a request names; empty if it names none."""
    for holder, name in (
        (request, "flag_key"),
        (request, "id"),
        (request, "identity"),
        (getattr(request, "flag", None), "key"),
    ):
        if value := getattr(holder, name, ""):
            return str(value)[:MAX_TEXT]
    token = getattr(request, "token", None)
    return str(getattr(token, "id", ""))[:MAX_TEXT]
