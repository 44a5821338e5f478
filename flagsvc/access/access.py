"""Everything that authenticates callers on one replica, started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from flagsvc.access.authority import Authority
from flagsvc.access.token_follower import TokenFollower
from flagsvc.access.token_view import TokenView
from flagsvc.access.token_writer import TokenWriter
from flagsvc.background import BackgroundTasks, repeat
from flagsvc.ports import FlagCache, FlagStore, Problem, TokenStore
from flagsvc.replication.heartbeats import Heartbeats

CHECK_EXPIRED_S = 0.25
"""Seconds between two looks for open calls of callers who have expired."""


class Access:
    """The tokens of a store, on one replica."""

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
        is_shared = store.feed is not None
        self.writer = TokenWriter(tokens, self.view, cache, heartbeats, self._changed, is_shared=is_shared)
        self._tasks = BackgroundTasks()
        heartbeats.token_revision = lambda: max(self.view.revision, 0)

    def start(self) -> None:
        """Begin to follow the store; waits for nothing."""
        self.follower.start()
        pause = partial(asyncio.sleep, CHECK_EXPIRED_S)
        self._tasks.start(repeat(self._check_expired, pause, "expiry_check_failed"), "expiry")

    async def close(self) -> None:
        """Let changes of tokens end, and stop."""
        await self.writer.close()
        await self.follower.close()
        await self._tasks.close()

    @property
    def is_ready(self) -> bool:
        """Whether callers can be recognized."""
        return self.view.is_loaded

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the tokens and with other credentials, for the status."""
        proven = self.authority.proven
        return [*self.follower.problems(), *(proven.problems() if proven is not None else ())]

    def counts(self) -> Iterator[tuple[str, str, float]]:
        """Return the name, meaning and value of each count."""
        yield "flagsvc_tokens", "Tokens that can be used.", sum(each.is_usable for each in self.view.tokens.values())
        about = "Calls and streams ended because their caller was revoked, narrowed or has expired."
        yield "flagsvc_calls_revoked_total", about, self.authority.sessions.ended

    def _changed(self) -> None:
        """End what is not allowed any more, then let the other replicas know that this one has."""
        self.authority.sessions.check_all()
        self._heartbeats.reply_soon()

    async def _check_expired(self) -> None:
        self.authority.sessions.check_expired()
