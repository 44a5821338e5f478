"""Everything that authenticates callers on one replica, started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

import structlog

from flagsvc.access.authority import Authority
from flagsvc.access.compiled_tokens import Known, compiled
from flagsvc.access.denials import Denials
from flagsvc.access.proven import NotYet, ProvenCallers
from flagsvc.access.record_writer import RecordWriter
from flagsvc.access.token_follower import TokenFollower
from flagsvc.access.token_view import TokenView
from flagsvc.access.token_writer import TokenWriter
from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.access.records import Record
from flagsvc.ports import FlagCache, FlagStore, Problem, SavedAccess, TokenStore
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.turns import off_loop

CHECK_EXPIRED_S = 0.25
"""Seconds between two looks for open calls of callers who have expired."""

log = structlog.get_logger(__name__)


class Access:
    """The tokens and denials of a store, on one replica."""

    def __init__(
        self,
        tokens: TokenStore,
        store: FlagStore,
        cache: FlagCache | None,
        heartbeats: Heartbeats,
        staleness_bound_s: float,
    ) -> None:
        self.view, self._heartbeats = TokenView(), heartbeats
        self.authority = Authority(self.view, staleness_bound_s)
        self.follower = TokenFollower(self.view, tokens, self._changed)
        self._records = RecordWriter(
            tokens,
            cache,
            heartbeats,
            self._apply,
            highest=lambda: self.view.highest,
            is_shared=store.feed is not None,
        )
        self.writer = TokenWriter(self._records, self.view)
        self.denials = Denials(self.view.denials, self._records, self._refuse)
        self._proven: ProvenCallers | None = None
        self._tasks = BackgroundTasks()
        heartbeats.token_revision = lambda: max(self.view.revision, 0)

    def recognize(self, proven: ProvenCallers) -> None:
        """Let callers be recognized by what others prove, once it is known who of them is denied."""
        self._proven, self.authority.proven = proven, NotYet(proven)

    def start(self) -> None:
        """Begin to follow the store; waits for nothing."""
        self.follower.start()
        pause = partial(asyncio.sleep, CHECK_EXPIRED_S)
        self._tasks.start(repeat(self._check_expired, pause, "expiry_check_failed"), "expiry")

    async def close(self) -> None:
        """Let changes of tokens end, and stop."""
        await self._records.close()
        await self.follower.close()
        await self._tasks.close()

    @property
    def is_ready(self) -> bool:
        """Whether callers can be recognized, if only to evaluate."""
        return self.view.is_loaded or self.view.is_restored

    async def restore(self, saved: SavedAccess) -> None:
        """Take what a snapshot has of callers, until the store is read."""
        self.view.restore(saved, await off_loop(compiled, saved.tokens, {}))
        self._changed()
        log.info("callers_restored", tokens=len(saved.tokens), denials=len(saved.denials), revoked=len(saved.revoked))

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the tokens and with other credentials, for the status."""
        others = self._proven.problems() if self._proven is not None else ()
        return [*self.follower.problems(), *self.denials.problems(), *others]

    def counts(self) -> Iterator[tuple[str, str, float]]:
        """Return the name, meaning and value of each count."""
        yield "flagsvc_tokens", "Tokens that can be used.", sum(each.is_usable for each in self.view.tokens.values())
        yield "flagsvc_denied_identities", "Identities that are refused although they are proven.", self.denials.count
        about = "Calls and streams ended because their caller was revoked, narrowed or has expired."
        yield "flagsvc_calls_revoked_total", about, self.authority.sessions.ended

    def use_file(self, known: Known) -> None:
        """Take the tokens of a file, all that it has now."""
        self.view.hold_file(known)
        self._changed()

    def _apply(self, record: Record) -> None:
        self.view.apply(record)
        self._changed()

    def _changed(self) -> None:
        """End what is not allowed any more, then let the other replicas know that this one has."""
        if self._proven is not None and self.is_ready:
            self.authority.proven = self._proven
        self.denials.enforce()
        self.authority.sessions.check_all()
        self._heartbeats.reply_soon()

    def _refuse(self, names: frozenset[str]) -> None:
        if self._proven is not None:
            self._proven.deny(names)

    async def _check_expired(self) -> None:
        self.denials.check_expired()
        self.authority.sessions.check_expired()
