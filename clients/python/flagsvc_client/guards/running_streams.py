"""Ends running streams of an asyncio server when their flag goes off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.guards.rules import DISABLED, Refusal, Rule
from flagsvc_client.watch_events import Change

RETRY_DELAY_S = 0.5
Ask = Callable[[Rule, int], Awaitable[Refusal | None]]
"""Takes the rule and `min_revision`; returns the refusal, or None if the stream may go on."""


class RunningStream:
    """A stream that runs in the current task."""

    def __init__(self, rule: Rule, ask: Ask) -> None:
        self.rule, self._ask = rule, ask
        self._refusal: Refusal | None = None
        self._task = asyncio.current_task()
        self._is_sending = self._has_ended = False

    async def check(self, revision: int) -> bool:
        """End the stream if its flag is off; False if the flag could not be evaluated, whatever the rule says."""
        refusal = await self._ask(replace(self.rule, on_trouble="close"), revision)
        if refusal is not None and refusal.reason == DISABLED:
            self._end(refusal)
        return refusal is None or refusal.reason == DISABLED

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While the transport sends a message: a cancellation at that time would leave the caller without a status."""
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False

    def _end(self, refusal: Refusal) -> None:
        """End the stream: at once if it is waiting, otherwise when the transport has sent its last message."""
        if self._has_ended or self._refusal is not None:
            return
        self._refusal = refusal
        if not self._is_sending and self._task is not None:
            self._task.cancel()

    def mark_ended(self) -> None:
        """Note that the call was refused at its start and must not be ended again."""
        self._has_ended = True

    def take_refusal(self) -> Refusal | None:
        """Return the refusal if the stream must end; only once, because a call ends once."""
        refusal = None if self._has_ended else self._refusal
        self._has_ended = self._has_ended or refusal is not None
        return refusal


class RunningStreams:
    """The running streams, and one watch of the flags while there are any."""

    def __init__(self, client: AsyncFlagClient) -> None:
        self._client = client
        self._running: set[RunningStream] = set()
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def running(self, rule: Rule, ask: Ask) -> Iterator[RunningStream]:
        """Count the current task's stream as running."""
        stream = RunningStream(rule, ask)
        self._running.add(stream)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_flags())
        try:
            yield stream
        finally:
            self._running.discard(stream)
            if not self._running and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    async def _watch_flags(self) -> None:
        async with asyncio.TaskGroup() as checks:
            async for event in self._client.watch():
                if isinstance(event, Change):
                    streams = {stream for stream in self._running if stream.rule.flag == event.key}
                else:
                    streams = set(self._running)  # any flag may have changed before the watch began or reconnected
                checks.create_task(self._check(streams, event.revision))

    async def _check(self, streams: set[RunningStream], revision: int) -> None:
        """Check each stream, and repeat until its flag could be evaluated or the stream has ended."""
        while unchecked := list(streams & self._running):
            evaluated = await asyncio.gather(*(stream.check(revision) for stream in unchecked))
            streams = {stream for stream, is_known in zip(unchecked, evaluated, strict=True) if not is_known}
            if streams:
                await asyncio.sleep(RETRY_DELAY_S)
