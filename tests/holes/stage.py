"""Tools for these tests: replicas of every kind on one store and one cache, and gates that hold their work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc
import pymongo
import redis
from google.protobuf.json_format import MessageToDict

from flagsvc.adapters.redis.messages import entry_in
from flagsvc.core.model import FlagId
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync_pb
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Entry
from flagsvc.replica import Replica
from flagsvc.server import Server
from tests.flagd_clients import Evaluator
from tests.replicas import Client, replica, starved_s, until, until_serving
from tests.stores import OWNER_KEY, cache_key

NEAR, OVERFULL, NONE = "near cache", "overfull near cache", "no near cache"
KINDS: dict[str, dict[str, Any]] = {NEAR: {}, OVERFULL: {"near_cache_entries": 2}, NONE: {"near_cache_entries": 0}}
"""Settings of each kind of replica; in the overfull one more than two flags do not fit."""
CALM: dict[str, Any] = {"cache_timeout_s": 1.0, "staleness_bound_s": 2.5}
"""A busy machine is not an outage; and the times derived from the bound are short."""
CALM_PROCESS = {"FLAGSVC_CACHE_TIMEOUT_S": "1"}
ENABLED, DISABLED = types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED


@dataclass(frozen=True)
class Running:
    """A replica that runs in this process, and its client."""

    client: Client
    server: Server

    @property
    def replica(self) -> Replica:
        return self.server.replica

    def held(self, key: str) -> int:
        """The revision that is in memory; 0 for none."""
        held = self.replica.near.get(FlagId("default", key))
        return held.entry.revision if held is not None else 0


@asynccontextmanager
async def running(*kinds: str, **settings: Any) -> AsyncIterator[list[Running]]:
    """Start replicas of these kinds; they are ready, and both of their channels are up."""
    async with AsyncExitStack() as stack:
        started = []
        for kind in kinds:
            client, server = await stack.enter_async_context(replica(**{**CALM, **KINDS[kind], **settings}))
            started.append(Running(client, server))
        for each in started:
            await until_serving(each.client)
            follower = each.replica.follower
            await until(
                lambda f=follower, r=each.replica: f.feed_up and (f.channels.subscription_up or r.cache is None)
            )
        yield started


async def until_lease_held(replicas: Sequence[Running]) -> None:
    """Wait until all replicas have applied the same changes, and the lease's holder has put them into the cache."""
    leases = [each.replica.cache_lease for each in replicas]
    changelogs = [each.replica.near.changelogs for each in replicas]
    await until(lambda: all(one.reach(other.watermarks()) for one in changelogs for other in changelogs))
    await until(lambda: any(lease.is_holder and not lease._changed for lease in leases))


async def until_answered(client: Client, key: str, revision: int, seconds: float = 5) -> float:
    """Ask until the answer has this revision or a newer one; return the seconds it took."""
    began = time.monotonic()
    while (await client.evaluate(key)).revision < revision:
        assert time.monotonic() - began < seconds, f"revision {revision} of {key} is not seen after {seconds} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


class Asking:
    """Evaluates a flag on a replica all the time, and records the time and revision of each answer."""

    def __init__(self, asked: Running, key: str = "a") -> None:
        self._asked, self._key = asked, key
        self.answers: list[tuple[float, int, int]] = []
        self._starved_s: list[float] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            found = await self._asked.client.evaluate(self._key)
            self.answers.append((began, found.revision, found.reason))
            self._starved_s.append(starved_s())
            await asyncio.sleep(0.03)

    @property
    def newest(self) -> int:
        """The revision of the last answer; 0 before the first."""
        return self.answers[-1][1] if self.answers else 0

    async def stop(self) -> object:
        """Stop, and return what ended it: a cancellation, unless a call failed."""
        self._task.cancel()
        return (await asyncio.gather(self._task, return_exceptions=True))[0]

    async def end(self) -> None:
        """Stop; fail if a call failed or an answer was older than one before."""
        result = await self.stop()
        assert isinstance(result, asyncio.CancelledError), result
        revisions = [revision for _, revision, _ in self.answers]
        assert revisions == sorted(revisions), "an answer went back"

    def late_s(self, revision: int, since: float) -> float:
        """For how long after that moment calls began that were answered with an older revision than this.

        Time in which this process, which contains the replicas, got no CPU does not count.
        """
        before = [starved for starved, (at, *_) in zip(self._starved_s, self.answers, strict=False) if at < since]
        late, starved = 0.0, before[-1] if before else 0.0
        for waited, (at, answered, _) in zip(self._starved_s, self.answers, strict=False):
            if answered < revision and at >= since:
                late = max(late, at - since - (waited - starved))
        return late


async def at_once(*scenes: Coroutine[Any, Any, None]) -> None:
    """Run all of these at the same time; when one fails, the others end too."""
    try:
        async with asyncio.TaskGroup() as group:
            for scene in scenes:
                group.create_task(scene)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


class Gate:
    """Holds the first call of an asynchronous method whose result is `wanted` after it has the result, until `open`."""

    def __init__(self, owner: Any, name: str, wanted: Callable[[Any], bool] = lambda _: True) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._wanted = wanted
        self._work: Callable[..., Awaitable[Any]] = getattr(owner, name)
        setattr(owner, name, self._held)

    async def _held(self, *args: Any, **options: Any) -> Any:
        result = await self._work(*args, **options)
        if not self.reached.is_set() and self._wanted(result):
            self.reached.set()
            await self.opened.wait()
        return result

    async def until_reached(self, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            await self.reached.wait()

    def open(self) -> None:
        self.opened.set()


class Stream:
    """Reads a stream from its beginning; `received` has its messages so far, `ended` why the server ended it."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.received: list[Any] = []
        self.ended: grpc.aio.AioRpcError | None = None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self.received.append(message)
        except grpc.aio.AioRpcError as error:
            self.ended = error

    @property
    def changes(self) -> list[Any]:
        """The changes of a watch."""
        return [message.change for message in self.received if message.HasField("change")]

    def last_of(self, key: str) -> tuple[int, bool]:
        """Return the revision of what a watch received last about a flag, and whether the flag exists.

        A snapshot is about every flag: a replica that missed changes sends one.
        """
        for message in reversed(self.received):
            if message.HasField("change") and message.change.flag_key == key:
                return message.change.revision, message.change.HasField("flag")
            if message.HasField("snapshot"):
                revisions = [flag.revision for flag in message.snapshot.flags if flag.key == key]
                return (*revisions, message.resume_revision)[0], bool(revisions)
        return 0, False

    @property
    def states(self) -> list[str]:
        """The state of flag a in each message of a sync stream."""
        flags = [json.loads(message.flag_configuration)["flags"] for message in self.received]
        return [each["a"]["state"] for each in flags if "a" in each]

    @property
    def keys(self) -> list[str]:
        """Every key that an event stream named, as often as it was named."""
        events = [MessageToDict(message).get("data", {}).get("flags", {}) for message in self.received]
        return [key for flags in events for key in flags]

    async def close(self) -> None:
        self.call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def watch(client: Client) -> Stream:
    return Stream(client.stub.WatchFlags(pb.WatchFlagsRequest()))


def sync(client: Client) -> Stream:
    return Stream(sync_grpc.FlagSyncServiceStub(client.channel).SyncFlags(sync_pb.SyncFlagsRequest()))


def events(client: Client) -> Stream:
    return Stream(Evaluator("v2", client.channel).events().call)


class Cached:
    """The entries in Redis, read and changed without the replicas."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()

    def entry(self, key: str) -> Entry | None:
        flag_id = FlagId("default", key)
        return entry_in(flag_id, self.redis.get(cache_key(flag_id)), self._store_id())

    def _store_id(self) -> str:
        return (self.redis.get(OWNER_KEY) or b"").decode().partition(" ")[0]

    def evict(self, *keys: str) -> None:
        for key in keys:
            self.redis.delete(cache_key(FlagId("default", key)))

    def unsubscribe_all(self) -> int:
        """Cut every connection that is subscribed to the channel."""
        return int(self.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


def database(client: pymongo.MongoClient[dict[str, Any]]) -> Any:
    """The database that the URL names."""
    return client.get_default_database("flagsvc")
