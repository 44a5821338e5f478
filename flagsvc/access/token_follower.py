"""Keeps the view of the tokens equal to the store: compares the counter, and reads everything where it differs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from flagsvc.access.tickets import KEY_BYTES
from flagsvc.access.token_view import TokenView
from flagsvc.background import BackgroundTasks, cause_of, repeat
from flagsvc.core.errors import FlagsvcError, StoreUnavailable, WritesUnsupported
from flagsvc.ports import NEVER, Problem, TokenStore
from flagsvc.turns import off_loop

POLL_S = 0.5
"""Seconds between two looks at the counter."""
MIN_PAUSE_S = 0.02
"""Seconds between two looks however many announcements arrive."""
RELOAD_S = 60.0
"""Seconds after which the tokens are read although the counter is the same: a restore may have led to it again."""
NOTE_USED_S = 60.0

log = structlog.get_logger(__name__)


class TokenFollower:
    """Background work of one replica. `changed` is called whenever the rights of callers may have changed."""

    def __init__(self, view: TokenView, store: TokenStore, changed: Callable[[], None]) -> None:
        self._view, self._store, self._changed = view, store, changed
        self._tasks = BackgroundTasks()
        self._wake = asyncio.Event()
        self._polled = asyncio.Condition()
        self._loaded_at = self._noted_at = NEVER
        self._begun = self._ended = 0
        self._lacks_key = False
        self.store_problem: Problem | None = None
        """Why the tokens could not be read at the last look."""

    def start(self) -> None:
        """Begin to follow; waits for nothing."""
        self._tasks.start(repeat(self._poll, self._pause, "token_poll_failed"), "tokens")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    def wake(self) -> None:
        """Look at once: something may have changed."""
        self._wake.set()

    async def looked(self) -> None:
        """Wait until a look has ended that began after this call, whatever it found."""
        wanted = self._begun + 1
        self.wake()
        async with self._polled:
            await self._polled.wait_for(lambda: self._ended >= wanted)

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the tokens."""
        found = [] if self.store_problem is None else [self.store_problem]
        if self._view.returned:
            detail = f"{len(self._view.returned)} revoked tokens are in the store again; this replica refuses them"
            cure = "revoke them again: flagsvc token list, then flagsvc token revoke ID"
            found.append(Problem("revoked_tokens_returned", detail, cure))
        return found

    async def _pause(self) -> None:
        await asyncio.sleep(MIN_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _poll(self) -> None:
        self._wake.clear()
        self._begun += 1
        try:
            await self._look()
            self.store_problem = None
        except StoreUnavailable as error:
            if self.store_problem is None:
                log.warning("tokens_not_verified", cause=cause_of(error), detail="The tokens cannot be read.")
            detail = f"tokens cannot be read: {error.cause or 'the store does not answer'}"
            cure = error.cure or "check that the store is running, and that its user may read flagsvc_tokens"
            self.store_problem = Problem("tokens_not_verified", detail, cure)
        finally:
            self._ended = self._begun
            async with self._polled:
                self._polled.notify_all()

    async def _look(self) -> None:
        asked_at = time.monotonic()
        if asked_at - self._loaded_at < RELOAD_S and await self._store.revision() == self._view.revision:
            self._view.confirm(asked_at)
        else:
            await self._load()
        if asked_at - self._noted_at > NOTE_USED_S and (used := self._view.take_used()):
            self._noted_at = asked_at
            await self._note_used(used)

    async def _load(self) -> None:
        asked_at = time.monotonic()
        stored = await self._store.load()
        if not stored.ticket_key and await self._has_made_key():
            stored = await self._store.load()  # with the key of the replica that came first
        if stored.malformed:
            log.warning("malformed_tokens_ignored", ids=stored.malformed[:10], count=len(stored.malformed))
        self._loaded_at = asked_at
        before = self._view.revision
        prepared = await off_loop(self._view.prepared, stored)
        if self._view.hold(stored, asked_at, prepared) or self._view.revision != before:
            self._changed()

    async def _has_made_key(self) -> bool:
        try:
            await self._store.make_ticket_key(secrets.token_bytes(KEY_BYTES))
        except FlagsvcError as error:
            detail = "OFREP's bulk answers name no event stream until the store takes a key for tickets."
            if not self._lacks_key:
                log.warning("ticket_key_not_stored", cause=cause_of(error), detail=detail)
            self._lacks_key = True
            return False
        return True

    async def _note_used(self, used: set[str]) -> None:
        held, today = self._view.stored, datetime.now(UTC).date().isoformat()
        days = {each: today for each in used if each in held and held[each].last_used_on < today}
        if days:
            with contextlib.suppress(WritesUnsupported):
                await self._store.note_used(days)
