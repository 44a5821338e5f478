"""The stores of a run: mongods reachable only through proxies, and a Redis that can come back with old data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import redis
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from tests.faults.proxy import Proxy
from tests.replica_sets import Member, ReplicaSet
from tests.servers import HOST, RedisServer, free_port, redis_binary

DATABASE = "faults"
_DUMPS_KEPT = 12
_PRIMARY_S = 60.0
_POLL_S = 0.1
_LARGE_KEYS, _LARGE_BYTES, _LARGE_DATABASE = 400, 30_000, 15
REFUSALS: tuple[tuple[tuple[object, ...], tuple[object, ...]], ...] = (
    (("REPLICAOF", HOST, 1), ("REPLICAOF", "NO", "ONE")),
    (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
    (("ACL", "SETUSER", "default", "-publish"), ("ACL", "SETUSER", "default", "+publish")),
)
"""What makes Redis answer and refuse, and what ends that."""


class Mongods(ReplicaSet):
    """A replica set whose members advertise their proxies, so that drivers connect through these."""

    def __init__(self, members: int) -> None:
        super().__init__(0)
        self.members = [Member(free_port()) for _ in range(members)]
        self.proxies = [Proxy(member.port, port=free_port(), seed=n) for n, member in enumerate(self.members)]
        self._direct: list[AsyncMongoClient[dict[str, Any]]] = []

    async def open(self) -> None:
        """Start everything; return when there is a primary that all others follow."""
        for proxy in self.proxies:
            await proxy.start()
        await asyncio.to_thread(self.start)
        self._direct = [
            AsyncMongoClient(HOST, member.port, directConnection=True, timeoutMS=2000, serverSelectionTimeoutMS=1000)
            for member in self.members
        ]

    async def shut(self) -> None:
        """End everything."""
        for client in self._direct:
            await client.close()
        await asyncio.to_thread(self.close)
        for proxy in self.proxies:
            await proxy.close()

    def replica_url(self, number: int) -> str:
        """Return the URL that identifies the replica to the proxies."""
        return f"{self.database_url(DATABASE)}&appName=replica-{number}"

    async def find_primary(self) -> int:
        """Wait for a primary that accepts writes."""
        until = time.monotonic() + _PRIMARY_S
        while time.monotonic() < until:
            for number, client in enumerate(self._direct):
                if self.members[number].running and await _is_primary(client):
                    return number
            await asyncio.sleep(_POLL_S)
        raise RuntimeError(f"no primary within {_PRIMARY_S:g} s")

    async def give_way(self, number: int) -> None:
        """Make this primary step down; it stays primary when no member can take over."""
        with contextlib.suppress(PyMongoError):
            stepping = {"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 2}
            await self._direct[number].admin.command(stepping)

    async def database(self) -> Any:
        """Return the database on the primary, without any proxy."""
        return self._direct[await self.find_primary()][DATABASE]

    async def elections(self) -> list[float]:
        """Return when each primary began, in `time.monotonic`; each writes that into the log of operations."""
        log = self._direct[await self.find_primary()]["local"]["oplog.rs"]
        found = [row async for row in log.find({"op": "n", "o.msg": "new primary"})]
        since_1970 = time.time() - time.monotonic()
        return [row["wall"].replace(tzinfo=UTC).timestamp() - since_1970 for row in found]

    @property
    def _addresses(self) -> list[str]:
        return [f"{HOST}:{proxy.port}" for proxy in self.proxies]


async def _is_primary(client: AsyncMongoClient[dict[str, Any]]) -> bool:
    try:
        async with asyncio.timeout(1):
            return bool((await client.admin.command("hello")).get("isWritablePrimary"))
    except (PyMongoError, TimeoutError):
        return False


class DurableRedis(RedisServer):
    """A redis-server that saves about every second; its dumps are kept for a while."""

    def __init__(self) -> None:
        super().__init__(free_port())
        self._dumps: list[Path] = []
        self._kept = 0
        self._key_load_us = 0

    def keep_dump(self) -> None:
        """Set the last dump aside."""
        if self._dump.exists():
            self._kept += 1
            copy = self.data / f"kept-{self._kept}.rdb"
            shutil.copy(self._dump, copy)
            self._dumps.append(copy)
            if len(self._dumps) > _DUMPS_KEPT:
                self._dumps.pop(0).unlink()

    def put_back(self, dice: float) -> None:
        """Let the next start load one of the dumps set aside; 0: the oldest, 1: the newest."""
        self.forget()
        if self._dumps:
            place = min(int(dice * len(self._dumps)), len(self._dumps) - 1)
            shutil.copy(self._dumps[place], self._dump)

    def forget(self) -> None:
        """Let the next start begin empty."""
        self._dump.unlink(missing_ok=True)

    def start_slowly(self, seconds: float) -> None:
        """Kill it and start it from what it holds; for about this long it loads, mostly answering LOADING.

        While it loads it answers after every 2 MB, so large keys in another database are loaded with the others.
        """
        large = [f"large-{number}" for number in range(_LARGE_KEYS)]
        filler = redis.Redis(host=HOST, port=self.port, db=_LARGE_DATABASE, socket_timeout=2)
        with contextlib.closing(filler), contextlib.suppress(redis.RedisError):
            filler.mset({key: os.urandom(_LARGE_BYTES) for key in large})
            filler.save()
        self.kill()
        self._key_load_us = int(seconds * 1e6 / _LARGE_KEYS)
        try:
            self.start()
        finally:
            self._key_load_us = 0
        with contextlib.closing(filler), contextlib.suppress(redis.RedisError):
            filler.delete(*large)

    def flush(self) -> None:
        """Empty it."""
        self.configure("FLUSHALL")

    def configure(self, *command: object) -> None:
        """Run a command of its operator, if it answers."""
        client = redis.Redis(host=HOST, port=self.port, socket_timeout=2)
        try:
            client.execute_command(*command)
        except redis.RedisError:
            return
        finally:
            client.close()

    @property
    def _dump(self) -> Path:
        return self.data / "dump.rdb"

    def _command(self) -> list[str]:
        options: Sequence[tuple[str, object]] = (
            *(("port", self.port), ("bind", HOST), ("dir", self.data), ("dbfilename", "dump.rdb")),
            *(("save", "1 1"), ("appendonly", "no"), ("unixsocket", "")),
            *(("key-load-delay", self._key_load_us), ("rdbcompression", "no")),
        )
        return [redis_binary(), *(part for name, value in options for part in (f"--{name}", str(value)))]
