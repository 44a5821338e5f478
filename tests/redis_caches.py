"""Shared caches on a real Redis, and what tests put into them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import (
    Entry,
    Heartbeat,
)
from tests.stores import STORE

A = FlagId("default", "a")
MISSING = FlagId("default", "missing")


@asynccontextmanager
async def cache_on(url: str, **settings: float) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, identity=STORE, **settings)  # type: ignore[arg-type]
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


def entry(revision: int, *, key: str = "a", flag_set: str = "default", name: str = "") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, name=name or f"at {revision}", revision=revision))


def absent(revision: int = 0) -> Entry:
    return Entry.absent(A, revision)


def heartbeat(replica: str, number: int = 1) -> Heartbeat:
    return Heartbeat(replica=replica, number=number, revisions={})


def ago(seconds: float) -> float:
    return time.monotonic() - seconds
