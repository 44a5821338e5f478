"""Short writes to a store, and what it tells of changes, heard in the background."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

import pymongo
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
"""What makes a MongoStore use each of the two drivers."""


def made(entry: Entry | None) -> Entry:
    """Give what a write stored."""
    assert entry is not None
    return entry


async def create(store: MongoStore, flag_id: FlagId = CHAT) -> Entry:
    flag = Flag(key=flag_id.key, flag_set=flag_id.flag_set)
    return made(await store.write(flag_id, changes.create(flag, AUTHOR)))


async def toggle(store: MongoStore, enabled: bool = True, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.write(flag_id, changes.toggle(flag_id.key, enabled, None, AUTHOR)))


async def delete(store: MongoStore, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.write(flag_id, changes.delete(flag_id.key, None, AUTHOR)))


class Heard:
    """Everything that `changes` gives, as it comes; `checkpoint` is the newest moment up to which all was told."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self._took = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.events: list[StoreEvent] = []
        self.checkpoint = 0.0
        self.tellings: list[tuple[float, int]] = []
        """Each moment up to which all was told, and how many events had been heard by then."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._hear())
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

    async def _hear(self) -> None:
        async with contextlib.aclosing(self._store.changes()) as stream:
            async for event in stream:
                if isinstance(event, Checkpoint):
                    self.checkpoint = max(self.checkpoint, event.as_of)
                    self.tellings.append((event.as_of, len(self.events)))
                else:
                    self.events.append(event)
                self._moved.set()

    async def until(self, true: Callable[[], bool], seconds: float = 15.0) -> None:
        """Wait until something holds of what was heard."""
        assert self._task is not None
        async with asyncio.timeout(seconds):
            while not true():
                assert not self._task.done(), self._task
                self._moved.clear()
                await self._moved.wait()

    async def settled(self, seconds: float = 15.0) -> list[StoreEvent]:
        """Give what was heard since the last time, once everything that the store has by now was told."""
        now = time.monotonic()
        with contextlib.suppress(StoreUnavailable):
            await self._store.revisions()
        await self.until(lambda: self.checkpoint >= now, seconds)
        return self.take()

    def take(self) -> list[StoreEvent]:
        """Give what was heard since the last time."""
        took, self._took = self._took, len(self.events)
        return self.events[took:]


def revisions_told(events: list[StoreEvent]) -> list[int]:
    """Give the revisions of the changes that were announced, in the order of their events."""
    return [event.passed or event.entry.revision for event in events if isinstance(event, Announced)]


class Writers:
    """Writes that go on whatever happens, and when each was acknowledged."""

    def __init__(self, store: MongoStore, url: str) -> None:
        self._store = store
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=500)
        self._stop = False
        self.ours: list[tuple[float, int]] = []
        self.foreign: list[tuple[float, str]] = []
        self.looks = 0

    async def run(self, fault: Callable[[], None], seconds: float = 1.5) -> None:
        """Write before, during and after the fault."""
        work = asyncio.gather(self._ours(), self._poll(), asyncio.to_thread(self._foreign))
        try:
            await asyncio.sleep(seconds)
            before = len(self.ours), len(self.foreign), self.looks
            await asyncio.to_thread(fault)
            deadline = time.monotonic() + 20
            while not all(now > then + 20 for now, then in zip(self._counts(), before, strict=True)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        finally:
            self._stop = True  # also for the thread, which nobody can cancel and for which the end of the run waits
            await work
            self._client.close()

    def _counts(self) -> tuple[int, int, int]:
        return len(self.ours), len(self.foreign), self.looks * 10

    async def _ours(self) -> None:
        while not self._stop:
            try:
                entry = await toggle(self._store, not len(self.ours) % 2)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                self.ours.append((time.monotonic(), entry.revision))
            await asyncio.sleep(0.005)

    async def _poll(self) -> None:
        while not self._stop:
            try:
                await self._store.revisions()
            except StoreUnavailable:
                continue
            self.looks += 1
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
            time.sleep(0.005)

    def assert_all_heard(self, heard: Heard, last: int) -> None:
        """Nothing was lost, and nothing was missing when everything was said to have been told."""
        first = min(revisions_told(heard.events))
        assert set(revisions_told(heard.events)) == set(range(first, last + 1))
        assert {revision for _, revision in self.ours} <= set(range(first, last + 1))
        assert {key for _, key in self.foreign} <= foreign_told(heard, len(heard.events))
        assert len(heard.tellings) > 3
        told_ours: set[int] = set()
        at = 0
        for as_of, count in heard.tellings:
            told_ours |= set(revisions_told(heard.events[at:count]))
            at = count
            assert {revision for acked_at, revision in self.ours if acked_at < as_of} <= told_ours
            assert {key for acked_at, key in self.foreign if acked_at < as_of} <= foreign_told(heard, count)


def foreign_told(heard: Heard, count: int) -> set[str]:
    return {event.id.key for event in heard.events[:count] if isinstance(event, UnversionedChange)}
