"""Writes records of callers, tokens and denials, each with its audit entry, and says how far that has spread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from flagsvc.background import outliving
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.records import Decide, R, Record
from flagsvc.core.audit import AuditEntry
from flagsvc.core.model import ANONYMOUS
from flagsvc.ports import FlagCache, TokenStore
from flagsvc.replication.heartbeats import TOKENS, Heartbeats
from flagsvc.replication.publish import WriteLevel
from flagsvc.serving.writer import WaitFor


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a change has spread; replicas by name. `revision`: the state of all records with the change."""

    revision: int
    reached: WriteLevel
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()


def now() -> datetime:
    """Return the time as stores keep it, in milliseconds."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


def entry_of(caller: Identity, action: str, subject: str, reason: str = "") -> AuditEntry:
    """Return the audit entry of a change by this caller. `subject`: a token's id, or a denied identity."""
    return AuditEntry(
        at=now(), actor=str(caller) if caller.id else ANONYMOUS, action=action, subject=subject, reason=reason
    )


class RecordWriter:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then.

    `apply`: called with a record once it is stored, and enforces it here. `highest`: returns the highest revision that
    was ever enforced here. `is_shared`: other replicas may use the store.
    """

    def __init__(
        self,
        store: TokenStore,
        cache: FlagCache | None,
        heartbeats: Heartbeats,
        apply: Callable[[Record], None],
        *,
        highest: Callable[[], int],
        is_shared: bool,
    ) -> None:
        self._store, self._cache, self._heartbeats = store, cache, heartbeats
        self._apply, self._highest, self._is_shared = apply, highest, is_shared
        self._tasks: set[asyncio.Task[Any]] = set()

    async def write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry, wait_for: WaitFor, forget: Sequence[str] = ()
    ) -> tuple[R, Spread]:
        """Write and announce. A caller who leaves does not stop it half way.

        `forget`: records that are removed with the change.
        """
        task = asyncio.create_task(self._write(record_id, decide, entry, wait_for, forget))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await outliving(task)

    async def close(self) -> None:
        """Let running changes finish."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(
        self, record_id: str, decide: Decide[R], entry: AuditEntry, wait_for: WaitFor, forget: Sequence[str]
    ) -> tuple[R, Spread]:
        until = time.monotonic() + wait_for.timeout_s
        current: list[R | None] = []

        def decide_and_note(found: R | None) -> R | None:
            current[:] = [found]
            record = decide(found)
            # After a restore the counter is lower. A replica that has not seen that yet still says what it has applied
            # of the counter before, and must not be taken for one that has applied this.
            return None if record is None else replace(record, revision=max(record.revision, self._highest()))

        record = await self._store.write(record_id, decide_and_note, entry, forget) or current[0]
        assert record is not None  # noqa: S101  a decision about a record that is not there raises
        self._apply(record)
        return record, await self._spread(record.revision, wait_for, until)

    async def _spread(self, revision: int, wait_for: WaitFor, until: float) -> Spread:
        own = (self._heartbeats.name,)
        if self._cache is None:
            return Spread(revision, WriteLevel.STORED if self._is_shared else WriteLevel.APPLIED, own)
        reached = WriteLevel.CACHED if await self._cache.announce_tokens() else WriteLevel.STORED
        if wait_for.level is not WriteLevel.APPLIED:
            return Spread(revision, reached, own)
        acks = await self._heartbeats.wait_for_acks(TOKENS, revision, until)
        if acks.known and not acks.lagging:
            reached = WriteLevel.APPLIED
        return Spread(revision, reached, acks.applied, acks.lagging)
