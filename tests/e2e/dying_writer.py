"""`flagsvc` that is killed at a chosen step of its first write: python -m tests.e2e.dying_writer STEP serve ..."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.cli.main import main
from flagsvc.ports import Announced
from flagsvc.view.near_cache import NearCache

STEPS = ("committed", "applied here", "put", "announced")


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str) -> None:
    """Die when that step is done; a write is in these steps, in this order."""
    write, apply_change, put, announce = MongoStore.write, NearCache.apply_change, RedisCache.put, RedisCache.announce
    writing = False

    async def changed(self: MongoStore, *args: Any) -> Any:
        nonlocal writing
        entry = await write(self, *args)
        writing = True
        if step == "committed":
            die()
        return entry

    def applied(self: NearCache, *args: Any, **options: Any) -> None:
        apply_change(self, *args, **options)
        if writing and step == "applied here":
            die()

    async def cached(self: RedisCache, *args: Any, **options: Any) -> bool:
        done = await put(self, *args, **options)
        if writing and step == "put":
            die()
        return done

    async def announced(self: RedisCache, event: Any) -> bool:
        done = await announce(self, event)
        if writing and isinstance(event, Announced) and step == "announced":
            die()
        return done

    for owner, name, work in (
        (MongoStore, "write", changed),
        (NearCache, "apply_change", applied),
        (RedisCache, "put", cached),
        (RedisCache, "announce", announced),
    ):
        setattr(owner, name, work)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    sys.exit(main())
