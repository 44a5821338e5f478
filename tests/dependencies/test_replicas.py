"""Two replicas before MongoDB and Redis: neither ever answers a flag with a parent of another moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.dependencies.test_served import needing
from tests.replicas import Client, replica, until_serving

ROUNDS = 8


class Writer:
    """Changes both flags through one replica. While the parent is off, so is the child's own default variant."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.own_on: set[int] = set()
        """The child's revisions in which its own default variant is on."""
        self.done = False

    async def create(self) -> None:
        await self.client.create("parent", status=types.FLAG_STATUS_ENABLED)
        child = await self.client.create("child", status=types.FLAG_STATUS_ENABLED, prerequisites=needing("parent"))
        self.own_on.add(child.revision)

    async def run(self) -> None:
        for _ in range(ROUNDS):
            await self.set_default("off")
            await self.client.toggle("parent", False)
            assert (await self.client.evaluate("child")).reason == types.REASON_DISABLED
            await self.client.toggle("parent", True)
            assert (await self.client.evaluate("child")).variant == "off"
            self.own_on.add(await self.set_default("on"))
            assert (await self.client.evaluate("child")).variant == "on"
        self.done = True

    async def set_default(self, variant: str) -> int:
        request = pb.UpdateFlagRequest(flag=types.Flag(key="child", default_variant=variant))
        request.update_mask.paths.append("default_variant")
        return (await self.client.stub.UpdateFlag(request, timeout=10)).flag.revision


async def watch(client: Client, writer: Writer) -> list[tuple[int, str]]:
    """Ask again and again; return each answer that differs from the one before."""
    seen: list[tuple[int, str]] = []
    while not writer.done:
        batch = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(), timeout=10)
        [whole] = [each for each in batch.evaluations if each.flag_key == "child"]
        [parent] = [each for each in batch.evaluations if each.flag_key == "parent"]
        assert (whole.variant == "") == (parent.variant == ""), "a set is of one moment"
        for found in (whole, await client.evaluate("child")):
            if not seen or seen[-1] != (found.revision, found.variant):
                seen.append((found.revision, found.variant))
    return seen


@pytest.mark.mongod
@pytest.mark.parametrize("entries", [10_000, 1], ids=["whole", "partial"])
async def test_flag_and_parent_are_always_of_one_moment(
    mongo_database_url: str, redis_clean_url: str, entries: int
) -> None:
    settings: dict[str, Any] = {
        "store_url": mongo_database_url,
        "cache_url": redis_clean_url,
        "near_cache_entries": entries,
    }
    async with replica(**settings) as (one, _), replica(**settings) as (other, _):
        await until_serving(one)
        await until_serving(other)
        writer = Writer(one)
        await writer.create()
        _, *found = await asyncio.gather(writer.run(), watch(one, writer), watch(other, writer))
    for seen in found:
        assert len(seen) > ROUNDS
        assert not [each for each in seen if each[1] == "" and each[0] in writer.own_on], "parent off, child's own on"
        assert not [each for each in seen if each[1] == "on" and each[0] not in writer.own_on]
