"""Ends running streams of an asyncio server when their flag goes off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flagsvc_client.aio import FlagClient
from flagsvc_client.guards.rules import DISABLED, Refusal, Rule
from flagsvc_client.watching import Change

RETRY_S = 0.5
Ask = Callable[[Rule, int], Awaitable[Refusal | None]]
"""Takes the rule and the least revision to ask for; gives why the stream may not go on, or None."""


class Running:
    """A stream that runs in the current task."""

    def __init__(self, rule: Rule, ask: Ask) -> None:
        self.rule, self._ask = rule, ask
        self._refusal: Refusal | None = None
        self._task = asyncio.current_task()
        self._away = self._ends = False

    async def judge(self, revision: int) -> bool:
        """Have the stream end if its flag is off; give False when nobody can tell, whatever the rule makes of that."""
        refusal = await self._ask(replace(self.rule, on_trouble="close"), revision)
        if refusal is not None and refusal.reason == DISABLED:
            self.end(refusal)
        return refusal is None or refusal.reason == DISABLED

    @contextmanager
    def away(self) -> Iterator[None]:
        """While the transport has the control: a cancellation then would leave the caller without a status."""
        self._away = True
        try:
            yield
        finally:
            self._away = False

    def end(self, refusal: Refusal) -> None:
        """Have the stream end: at once where it waits, or when the transport has sent its last message."""
        if self._ends or self._refusal is not None:
            return
        self._refusal = refusal
        if not self._away and self._task is not None:
            self._task.cancel()

    def refused(self) -> None:
        """Say that the call was not even admitted: nobody needs to end it."""
        self._ends = True

    def ends(self) -> Refusal | None:
        """Give why the stream has to end, if it has to; to one caller only, for a call ends once."""
        refusal = None if self._ends else self._refusal
        self._ends = self._ends or refusal is not None
        return refusal


class Streams:
    """The running streams, with one watch of the flags as long as there are any."""

    def __init__(self, client: FlagClient) -> None:
        self._client = client
        self._running: set[Running] = set()
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def running(self, rule: Rule, ask: Ask) -> Iterator[Running]:
        """Count the current task's stream as running."""
        stream = Running(rule, ask)
        self._running.add(stream)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._follow())
        try:
            yield stream
        finally:
            self._running.discard(stream)
            if not self._running and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as judges:
            async for message in self._client.watch():
                if isinstance(message, Change):
                    streams = {stream for stream in self._running if stream.rule.flag == message.key}
                    judges.create_task(self._judge(streams, message.revision))
                else:
                    # What changed before the watch began, or while it was cut.
                    revision = message.revision
                    judges.create_task(self._judge(set(self._running), revision))

    async def _judge(self, streams: set[Running], revision: int) -> None:
        """Judge each stream, again and again until it is known what its flag is, or it has ended."""
        while unsure := list(streams & self._running):
            known = await asyncio.gather(*(stream.judge(revision) for stream in unsure))
            streams = {stream for stream, is_known in zip(unsure, known, strict=True) if not is_known}
            if streams:
                await asyncio.sleep(RETRY_S)
