"""Hole 16: a whole number in a flag's config or variants comes back with a fraction, or as another number."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
from bson.int64 import Int64

from flagsvc.adapters.build import snapshot_for
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Saved
from flagsvc.settings import Settings
from tests.holes.stage import ENABLED, NEAR, NONE, Cached, database, running, until_answered, until_lease_held
from tests.replicas import Client, replica, until_serving
from tests.servers import free_port

BIG = 2**53 + 1
"""The first whole number that a double cannot represent."""
CONFIG: dict[str, Any] = {
    "size": 52_428_800,
    "zero": 0,
    "negative": -7,
    "long": Int64(3),
    "big": Int64(BIG),
    "whole double": 3.0,
    "fraction": 0.1,
    "true": True,
    "list": [1, 1.0, Int64(2), [3, {"deep": 4}]],
}
VARIANTS = {"small": 1, "large": Int64(BIG), "double": 2.0}


def plain(value: types.Value) -> Any:
    """A value as plain Python types, each kind of number as itself."""
    match value.WhichOneof("kind"):
        case "object_value":
            return {name: plain(part) for name, part in value.object_value.fields.items()}
        case "list_value":
            return [plain(part) for part in value.list_value.values]
        case kind:
            return getattr(value, str(kind))


def typed(value: Any) -> Any:
    """A value with the type of every number in it: 3, 3.0 and True are equal but not the same."""
    match value:
        case dict():
            return {name: typed(part) for name, part in value.items()}
        case list():
            return [typed(part) for part in value]
        case bool() | str() | None:
            return value
        case int():
            return ("int", int(value))
        case _:
            return ("float", value)


def bson_types(value: Any) -> Any:
    """A value from MongoDB with its BSON types."""
    match value:
        case dict():
            return {name: bson_types(part) for name, part in value.items()}
        case list():
            return [bson_types(part) for part in value]
        case _:
            return (type(value).__name__, value)


async def received(client: Client, key: str = "a") -> tuple[Any, Any, int]:
    """Config and variants as a client receives them, and their source."""
    found = await client.stub.GetFlag(pb.GetFlagRequest(flag_key=key))
    variants = {name: plain(value) for name, value in found.flag.variants.items()}
    return typed(plain(found.flag.config)), typed(variants), found.source


async def test_16_whole_numbers_are_unchanged_on_every_path(
    mongo_database_url: str, redis_clean_url: str, tmp_path: Path
) -> None:
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    expected = (typed(CONFIG), typed(VARIANTS))
    with pymongo.MongoClient(mongo_database_url) as client, Cached(redis_clean_url) as cached:
        flags = database(client)["feature_flags"]
        document = {"key": "a", "name": "a", "status": "ENABLED", "config": CONFIG, "variants": VARIANTS}
        flags.insert_one({**document, "defaultVariant": "large"})
        async with running(NEAR, NEAR, NONE, **urls) as (writer, reader, bare):
            await until_lease_held([writer, reader, bare])
            assert (await received(writer.client))[:2] == expected, "MongoDB to memory"
            revision = (await writer.client.toggle("a", True)).revision
            stored = flags.find_one({"key": "a"})
            assert bson_types(stored["config"]) == bson_types(CONFIG), "a write to MongoDB"
            assert bson_types(stored["variants"]) == bson_types(VARIANTS)
            await until_answered(reader.client, "a", revision)
            assert await received(reader.client) == (*expected, types.DEFINITION_SOURCE_NEAR_CACHE), "the channel"
            assert (await reader.client.evaluate("a")).value.integer_value == BIG
            await until_answered(bare.client, "a", revision)
            assert await received(bare.client) == (*expected, types.DEFINITION_SOURCE_CACHE), "Redis"
            assert (entry := cached.entry("a")) is not None
            assert entry.flag is not None
            assert typed(entry.flag.config) == expected[0]

            copy = (await writer.client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"))).flag
            fields = {"config": copy.config, "variants": copy.variants, "default_variant": "small"}
            await writer.client.create("copy", **fields, status=ENABLED)
            stored = flags.find_one({"key": "copy"})
            assert (typed(stored["config"]), typed(stored["variants"])) == expected, "gRPC to MongoDB"
            history = (await reader.client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="copy"))).entries
            assert typed(plain(history[0].new_value.object_value.fields["config"])) == expected[0], "history"
            contents = reader.replica.near.contents()
    nowhere = {"store_url": f"mongodb://127.0.0.1:{free_port()}/none", "snapshot_file": str(tmp_path / "snapshot")}
    snapshot = snapshot_for(Settings(**nowhere))
    assert snapshot is not None
    snapshot.write(Saved(contents, datetime.now(UTC)))
    async with replica(**nowhere, store_timeout_s=0.2) as (cold, _):
        await until_serving(cold)
        assert await received(cold) == (*expected, types.DEFINITION_SOURCE_SNAPSHOT)
        assert (await cold.evaluate("a")).value.integer_value == BIG
