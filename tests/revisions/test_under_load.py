"""Rollbacks of a flag and of a whole set while others read: once one is applied everywhere, no answer is older."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from google.protobuf.duration_pb2 import Duration

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, replica, until, until_serving

ON = types.FLAG_STATUS_ENABLED
KEYS = tuple(f"flag-{number}" for number in range(5))
ROUNDS, READERS = 2, 1
EVERYWHERE = {"wait_for": pb.WRITE_LEVEL_APPLIED, "wait_timeout": Duration(seconds=30)}


class Readers:
    """Ask for all flags all the time. `floors`: by key the revision that every later answer must have at least."""

    def __init__(self) -> None:
        self.floors = dict.fromkeys(KEYS, 0)
        self.enabled: dict[int, bool] = {}
        """By revision whether the flag was on as of it."""
        self.answers, self.stale = 0, list[str]()
        self.is_over = False

    async def one_by_one(self, client: Client) -> None:
        """Read with unary calls."""
        while not self.is_over:
            for key in KEYS:
                self._judge(dict(self.floors), [await client.evaluate(key)])

    async def together(self, client: Client) -> None:
        """Read with batches."""
        while not self.is_over:
            floors = dict(self.floors)
            found = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=KEYS), timeout=10)
            self._judge(floors, found.evaluations)

    def _judge(self, floors: dict[str, int], found: list[pb.FlagEvaluation]) -> None:
        for each in found:
            self.answers += 1
            if each.revision < floors[each.flag_key]:
                self.stale.append(f"{each.flag_key}: revision {each.revision} after {floors[each.flag_key]}")
            if each.enabled is not self.enabled.get(each.revision, each.enabled):
                self.stale.append(f"{each.flag_key}: {each.enabled} as of revision {each.revision}")

    async def asked_again(self) -> None:
        """Wait until many more answers came."""
        wanted = self.answers + 10 * len(KEYS)
        await until(lambda: self.answers >= wanted or bool(self.stale), 60)


async def test_no_stale_answer_after_a_rollback_under_load(mongo_database_url: str, redis_clean_url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
            client, server = await stack.enter_async_context(replica(**urls))
            await until_serving(client)
            sweep = server.replica.revision_sweep
            await until(lambda server=server: server.replica.follower.channels.subscription_up)
            await until(lambda sweep=sweep: not sweep._is_first)
            clients.append(client)
        writer, readers = clients[0], Readers()
        for key in KEYS:
            await writer.create(key, status=ON)
        loops: list[Callable[[Client], Awaitable[None]]] = [readers.one_by_one, readers.together]
        reading = [asyncio.ensure_future(loop(client)) for client in clients for loop in loops for _ in range(READERS)]
        try:
            for number in range(ROUNDS):
                good = await _switch_all(writer, readers, enabled=True)
                await _switch_all(writer, readers, enabled=False)
                key = KEYS[number % len(KEYS)]
                request = pb.RollbackFlagRequest(flag_key=key, revision=good, **EVERYWHERE)
                one = await writer.stub.RollbackFlag(request, timeout=60)
                assert (one.flag.status, one.spread.reached) == (ON, pb.WRITE_LEVEL_APPLIED)
                _applied(readers, {key: one.flag.revision})
                await readers.asked_again()
                whole = pb.RollbackFlagSetRequest(revision=good, **EVERYWHERE)
                done = await writer.stub.RollbackFlagSet(whole, timeout=60)
                assert done.spread.reached == pb.WRITE_LEVEL_APPLIED
                assert {each.flag_key for each in done.flags} == {*KEYS} - {key}
                _applied(readers, {each.flag_key: each.revision for each in done.flags})
                await readers.asked_again()
        finally:
            readers.is_over = True
            await asyncio.gather(*reading)
        assert readers.stale == []
        print(f"{readers.answers} answers during {2 * ROUNDS} rollbacks, none stale")  # noqa: T201


async def _switch_all(client: Client, readers: Readers, *, enabled: bool) -> int:
    """Switch every flag, and return the last revision."""
    revision = 0
    for key in KEYS:
        request = pb.ToggleFlagRequest(flag_key=key, enabled=enabled)
        revision = (await client.stub.ToggleFlag(request, timeout=10)).flag.revision
        readers.enabled[revision] = enabled
    return revision


def _applied(readers: Readers, revisions: dict[str, int]) -> None:
    readers.floors.update(revisions)
    readers.enabled |= dict.fromkeys(revisions.values(), True)
