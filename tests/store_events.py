"""Short writes to a store, and the events of its change stream, received in the background."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

import pymongo
import pytest
from pymongo.errors import PyMongoError

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import StoreUnavailable
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Announced, Checkpoint, Entry, StoreEvent, Subscribed, UnversionedChange

AUTHOR = Author(at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
CHAT, OTHER = FlagId("default", "chat"), FlagId("default", "other")
DRIVERS: dict[str, dict[str, Any]] = {"motor": {}, "pymongo": {"client_factory": pymongo.AsyncMongoClient}}
"""Options with which a MongoStore uses each of the two drivers."""
SHIPPED_ONE = ["motor", pytest.param("pymongo", marks=pytest.mark.long)]
"""Names of the drivers, for tests that `make test` runs with the one that flagsvc ships with."""
SHORT_WAITS: dict[str, Any] = {"stream_wait_s": 0.03, "prove_after_s": 0.2}
"""Options with which a MongoStore's change stream replies, and proves what it delivered, more often than usual."""

_PAUSE_S = 0.02
"""Between two writes of one writer: some are under way at every moment, yet most of the CPU is free."""


def made(entry: Entry | None) -> Entry:
    """Return what a write stored."""
    assert entry is not None
    return entry


async def create(store: MongoStore, flag_id: FlagId = CHAT) -> Entry:
    flag = Flag(key=flag_id.key, flag_set=flag_id.flag_set)
    return made(await store.write(flag_id, changes.create(flag, AUTHOR)))


async def toggle(store: MongoStore, enabled: bool = True, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.write(flag_id, changes.toggle(flag_id.key, enabled, None, AUTHOR)))


async def delete(store: MongoStore, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.write(flag_id, changes.delete(flag_id.key, None, AUTHOR)))


class Received:
    """Everything that `changes` delivers. `checkpoint`: the newest moment up to which every change was delivered."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self._took = 0
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self.events: list[StoreEvent] = []
        self.checkpoint = 0.0
        self.checkpoints: list[tuple[float, int]] = []
        """The moment of each checkpoint, and how many events had arrived by then."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._receive())
        try:
            await self.until(lambda: Subscribed() in self.events)
        except BaseException:
            await self.__aexit__()
            raise
        self.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _receive(self) -> None:
        async with contextlib.aclosing(self._store.changes()) as stream:
            async for event in stream:
                if isinstance(event, Checkpoint):
                    self.checkpoint = max(self.checkpoint, event.as_of)
                    self.checkpoints.append((event.as_of, len(self.events)))
                else:
                    self.events.append(event)
                self._arrived.set()

    async def until(self, true: Callable[[], bool], seconds: float = 15.0) -> None:
        """Wait until a condition on what has arrived holds."""
        assert self._task is not None
        async with asyncio.timeout(seconds):
            while not true():
                assert not self._task.done(), self._task
                self._arrived.clear()
                await self._arrived.wait()

    async def settled(self, seconds: float = 15.0) -> list[StoreEvent]:
        """Return what arrived since the last call, once everything that the store has by now was delivered."""
        now = time.monotonic()
        with contextlib.suppress(StoreUnavailable):
            await self._store.revisions()
        await self.until(lambda: self.checkpoint >= now, seconds)
        return self.take()

    def take(self) -> list[StoreEvent]:
        """Return what arrived since the last call."""
        took, self._took = self._took, len(self.events)
        return self.events[took:]


def announced_revisions(events: list[StoreEvent]) -> list[int]:
    """Return the revisions of the announced changes, in the order of their events."""
    return [event.event_revision or event.entry.revision for event in events if isinstance(event, Announced)]


class Writers:
    """Writes that go on through a fault, and when each was acknowledged."""

    def __init__(self, store: MongoStore, url: str) -> None:
        self._store = store
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=500)
        self._stop = False
        self.ours: list[tuple[float, int]] = []
        self.foreign: list[tuple[float, str]] = []
        self.polls = 0

    async def run(self, fault: Callable[[], None], seconds: float = 1.0) -> None:
        """Write before, during and after the fault."""
        work = asyncio.gather(self._ours(), self._poll(), asyncio.to_thread(self._foreign))
        try:
            await asyncio.sleep(seconds)
            before = len(self.ours), len(self.foreign), self.polls
            await asyncio.to_thread(fault)
            deadline = time.monotonic() + 20
            while not all(now > then + 20 for now, then in zip(self._counts(), before, strict=True)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        finally:
            self._stop = True  # the thread cannot be cancelled, and the end of the test run waits for it
            await work
            self._client.close()

    def _counts(self) -> tuple[int, int, int]:
        return len(self.ours), len(self.foreign), self.polls * 10

    async def _ours(self) -> None:
        while not self._stop:
            try:
                entry = await toggle(self._store, not len(self.ours) % 2)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                self.ours.append((time.monotonic(), entry.revision))
            await asyncio.sleep(_PAUSE_S)

    async def _poll(self) -> None:
        while not self._stop:
            try:
                await self._store.revisions()
            except StoreUnavailable:
                continue
            self.polls += 1
            await asyncio.sleep(0.1)

    def _foreign(self) -> None:
        flags = self._client["alkitu"].get_collection("feature_flags", write_concern=pymongo.WriteConcern("majority"))
        while not self._stop:
            key = f"foreign-{len(self.foreign)}-{time.monotonic()}"
            try:
                flags.insert_one({"key": key})
            except PyMongoError:
                time.sleep(0.05)
            else:
                self.foreign.append((time.monotonic(), key))
            time.sleep(_PAUSE_S)

    def assert_all_received(self, received: Received, last: int) -> None:
        """Nothing was lost, and every checkpoint came after all that was acknowledged before its moment."""
        first = min(announced_revisions(received.events))
        assert set(announced_revisions(received.events)) == set(range(first, last + 1))
        assert {revision for _, revision in self.ours} <= set(range(first, last + 1))
        assert {key for _, key in self.foreign} <= foreign_keys(received, len(received.events))
        assert len(received.checkpoints) > 3
        ours: set[int] = set()
        at = 0
        for as_of, count in received.checkpoints:
            ours |= set(announced_revisions(received.events[at:count]))
            at = count
            assert {revision for acked_at, revision in self.ours if acked_at < as_of} <= ours
            assert {key for acked_at, key in self.foreign if acked_at < as_of} <= foreign_keys(received, count)


def foreign_keys(received: Received, count: int) -> set[str]:
    return {event.id.key for event in received.events[:count] if isinstance(event, UnversionedChange)}
