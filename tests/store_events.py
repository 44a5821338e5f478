"""Short writes to a store, and what it tells of changes, heard in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

import pymongo

from flagsvc.adapters.mongo import MongoStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Announced, Entry, StoreEvent, Subscribed, ToldUntil

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
    return made(await store.change(flag_id, changes.create(flag, AUTHOR)))


async def toggle(store: MongoStore, enabled: bool = True, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.change(flag_id, changes.toggle(flag_id.key, enabled, None, AUTHOR)))


async def delete(store: MongoStore, flag_id: FlagId = CHAT) -> Entry:
    return made(await store.change(flag_id, changes.delete(flag_id.key, None, AUTHOR)))


class Heard:
    """Everything that `changes` gives, as it comes; `told_until` is the newest moment up to which all was told."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self._took = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.events: list[StoreEvent] = []
        self.told_until = 0.0
        self.tellings: list[tuple[float, int]] = []
        """Each moment up to which all was told, and how many events had been heard by then."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._hear())
        await self.until(lambda: Subscribed() in self.events)
        self.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hear(self) -> None:
        async for event in self._store.changes():
            if isinstance(event, ToldUntil):
                self.told_until = max(self.told_until, event.as_of)
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
        await self.until(lambda: self.told_until >= now, seconds)
        return self.take()

    def take(self) -> list[StoreEvent]:
        """Give what was heard since the last time."""
        took, self._took = self._took, len(self.events)
        return self.events[took:]


def revisions_told(events: list[StoreEvent]) -> list[int]:
    """Give the revisions of the changes that were announced, in the order of their events."""
    return [event.passed or event.entry.revision for event in events if isinstance(event, Announced)]
