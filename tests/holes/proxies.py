"""Proxies on a loop of their own: a replica in this process may block its loop while it waits for its store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.faults.proxy import HOST, Proxy

T = TypeVar("T")
STORE, TAIL, CACHE = "replica-1", "replica-1-tail", "cache"
"""Labels of connections: a replica's to MongoDB, the one of its change stream, and those to Redis."""


class Proxies:
    """The paths from replicas to a MongoDB and a Redis; `store_url` and `cache_url` lead through here."""

    def __init__(self, mongo_url: str, redis_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")
        self.mongo = Proxy(urlsplit(mongo_url).port or 0)
        self.redis = Proxy(urlsplit(redis_url).port or 0, label=CACHE)
        self._database = urlsplit(mongo_url).path

    def __enter__(self) -> Self:
        self._thread.start()
        for proxy in (self.mongo, self.redis):
            self.wait_for(proxy.start())
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in (self.mongo, self.redis):
            self.wait_for(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def store_url(self) -> str:
        return f"mongodb://{HOST}:{self.mongo.port}{self._database}?directConnection=true&appName={STORE}"

    @property
    def cache_url(self) -> str:
        return f"redis://{HOST}:{self.redis.port}/0"

    @property
    def urls(self) -> dict[str, str]:
        return {"store_url": self.store_url, "cache_url": self.cache_url}

    def do(self, work: Callable[..., T], *args: Any) -> T:
        """Call a method of a proxy; the method must not block."""

        async def done() -> T:
            return work(*args)

        return self.wait_for(done())

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this on the proxies' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def heal(self, proxy: Proxy, *labels: str) -> None:
        for label in labels:
            self.wait_for(proxy.heal(label))
