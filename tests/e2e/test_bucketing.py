"""One bucketing for a flag set: stored with it, changed by command for all replicas, protocols and watchers at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.adapters.redis.messages import entry_in, event_in
from flagsvc.cli.main import main
from flagsvc.core.documents import dumps, to_document
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.targeting import compile_rule
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, info_of, replica, until, until_serving

RULE = {"fractional": [["on", 1], ["off", 1]]}
SPLIT = json.dumps(RULE, separators=(",", ":"))
USERS = [f"user-{number}" for number in range(60)]
RULES = {version: compile_rule(RULE, "half", fractional_version=version) for version in (2, 3)}
CHOSEN = {v: [rule.evaluate({"targetingKey": user}, 0) for user in USERS] for v, rule in RULES.items()}
ON = types.FLAG_STATUS_ENABLED


async def chosen(client: Client, key: str = "half", **fields: Any) -> list[str]:
    found = []
    for user in USERS:
        context = types.EvaluationContext(targeting_key=user)
        found.append((await client.evaluate(key, context=context, **fields)).variant)
    return found


async def change(client: Client, version: int, **fields: Any) -> pb.SetBucketingResponse:
    request = pb.SetBucketingRequest(bucketing=version, force=True, **fields)
    return await client.stub.SetBucketing(request, timeout=20)


@pytest.fixture
async def pair(store_url: str, redis_clean_url: str) -> AsyncIterator[tuple[Client, Client]]:
    """Two replicas of which the second holds nothing in memory."""
    settings: dict[str, Any] = {"store_url": store_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, _), replica(**settings, near_cache_entries=0) as (two, second):
        await until_serving(one)
        await until_serving(two)
        await until(lambda: second.replica.follower.channels.subscription_up)
        yield one, two


async def test_a_change_moves_every_split_of_the_set_on_every_replica_and_nothing_else(
    pair: tuple[Client, Client],
) -> None:
    one, two = pair
    await one.create("half", status=ON, targeting=SPLIT)
    await one.create("plain", status=ON)
    await one.create("half", flag_set="other", status=ON, targeting=SPLIT)
    assert await chosen(one) == await chosen(two) == CHOSEN[2]

    report = await one.stub.SetBucketing(pb.SetBucketingRequest(bucketing=3))
    assert (report.done, report.previous, list(report.flag_keys)) == (False, 2, ["half"])
    assert await chosen(one) == CHOSEN[2], "only described"

    report = await change(one, 3, actor="ann", reason="one engine")
    assert (report.done, report.previous, report.moved, list(report.flag_keys)) == (True, 2, 1, ["half"])
    assert await chosen(one) == CHOSEN[3]
    assert await chosen(two, min_revision=report.revision) == CHOSEN[3]
    assert await chosen(two, flag_set="other") == CHOSEN[2]
    flag = (await two.stub.GetFlag(pb.GetFlagRequest(flag_key="half", min_revision=report.revision))).flag
    assert (flag.bucketing, flag.revision) == (3, report.revision)
    newest = (await one.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="half"))).entries[0]
    assert (newest.actor, newest.reason) == ("ann", "one engine")

    await two.create("late", status=ON, targeting=SPLIT)
    assert (await two.stub.GetFlag(pb.GetFlagRequest(flag_key="late"))).flag.bucketing == 3
    again = await change(two, 3)
    assert (again.done, again.moved) == (True, 0)
    found = await two.stub.GetBucketing(pb.GetBucketingRequest())
    assert (found.bucketing, found.outdated) == (3, 0)


async def test_an_interrupted_change_is_reported_and_ends_with_the_next_one(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await client.create("half", status=ON, targeting=SPLIT)
        await server.replica.store.set_bucketing("default", 3)
        found = await client.stub.GetBucketing(pb.GetBucketingRequest())
        assert (found.bucketing, found.outdated, list(found.flag_keys)) == (3, 1, ["half"])
        assert await chosen(client) == CHOSEN[2]
        address = ["--address", f"127.0.0.1:{server.port}"]
        assert await asyncio.to_thread(main, ["bucketing", *address]) == 1
        assert await asyncio.to_thread(main, ["bucketing", "3", "--force", *address]) == 0
        assert await chosen(client) == CHOSEN[3]


async def test_versions_that_do_not_exist_and_stores_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    flags = {"half": {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": RULE}}
    file.write_text(json.dumps({"metadata": {"flagsvcBucketing": 3, "team": "web"}, "flags": flags}))
    async with replica(store_url=f"file:{file}") as (client, _):
        assert await chosen(client) == CHOSEN[3]
        assert (await client.stub.GetBucketing(pb.GetBucketingRequest())).bucketing == 3
        found = await client.evaluate("half", context=types.EvaluationContext(targeting_key="u"))
        assert sorted(found.flag_metadata) == ["team"]
        with pytest.raises(grpc.aio.AioRpcError, match=r"set metadata\.flagsvcBucketing in the files") as refused:
            await change(client, 2)
        assert info_of(refused.value).reason == "WRITES_UNSUPPORTED"
        with pytest.raises(grpc.aio.AioRpcError, match="bucketing is 4; it must be one of 2, 3"):
            await change(client, 4)


async def test_another_programs_documents_get_the_sets_version_with_their_revision(mongo_database_url: str) -> None:
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        await change(client, 3)
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as mongo:
            flags = mongo.get_default_database()["feature_flags"]
            document = to_document(Flag(key="half", name="half", status=Status.ENABLED, targeting=SPLIT))
            await asyncio.to_thread(flags.insert_one, dict(document))
            near = server.replica.near
            await until(lambda: (held := near.get(FlagId("default", "half"))) is not None and held.entry.revision > 0)
            assert await chosen(client) == CHOSEN[3]
            assert flags.find_one({"key": "half"})["bucketing"] == 3  # type: ignore[index]
            await asyncio.to_thread(flags.replace_one, {"key": "half"}, dict(document))
            await until(lambda: (flags.find_one({"key": "half"}) or {}).get("bucketing") == 3)
            await asyncio.to_thread(mongo.get_default_database()["flagsvc_revisions"].delete_one, {"_id": "default"})
            await client.toggle("half", True)
            assert await chosen(client) == CHOSEN[3], "a lost counter is found again with the version"


async def test_the_command_says_what_moves_and_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await client.create("half", status=ON, targeting=SPLIT)

        async def ran(*arguments: str) -> tuple[int, str, str]:
            capsys.readouterr()
            status = await asyncio.to_thread(main, ["bucketing", *arguments, "--address", f"127.0.0.1:{server.port}"])
            shown = capsys.readouterr()
            return status, shown.out, shown.err

        status, out, err = await ran("3")
        assert (status, err) == (1, "error: nothing was done; to do it, add --force\n")
        assert out == "bucketing 2 -> 3 would give people other variants of 1 flag (half)\n"
        status, out, _ = await ran("3", "--force", "--json")
        moved = {"done": True, "previous": 2, "bucketing": 3, "moved": 1, "flagKeys": ["half"], "revision": 2}
        assert (status, json.loads(out.splitlines()[-1])) == (0, moved)
        status, out, _ = await ran("--json")
        assert (status, json.loads(out)["bucketing"]) == (0, 3)


def test_an_export_names_the_version_and_an_import_moves_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other, third = (f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b", "c"))
    file, lines = tmp_path / "flags.json", tmp_path / "flags.ndjson"
    flags = {"half": {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": RULE}}
    file.write_text(json.dumps({"metadata": {"flagsvcBucketing": 3}, "flags": flags}))
    assert main(["import", str(file), "--store", first]) == 0, "a new set takes it over"
    file.unlink()
    for output in (file, lines):
        assert main(["export", "--store", first, "--output", str(output)]) == 0
        assert main(["import", str(output), "--store", first]) == 0
        assert "1 unchanged" in capsys.readouterr().out
    assert json.loads(file.read_text())["metadata"] == {"flagsvcBucketing": 3}
    assert json.loads(lines.read_text())["bucketing"] == 3
    assert main(["import", str(lines), "--store", other]) == 0
    file.write_text(file.read_text().replace('"flagsvcBucketing": 3', '"team": "web"'))
    assert main(["import", str(file), "--store", third]) == 0
    capsys.readouterr()
    assert main(["import", str(lines), "--store", third]) == 1
    assert "the bucketing of the file for flag set 'default' is 3; it must be 2" in capsys.readouterr().err
    file.write_text(json.dumps({"metadata": {"flagsvcBucketing": 4}, "flags": flags}))
    assert main(["validate", str(file)]) == 1
    assert "$.metadata.flagsvcBucketing: 4; it must be one of 2, 3" in capsys.readouterr().out


def test_what_an_older_release_puts_into_redis_is_not_believed_for_splits() -> None:
    """It knows no bucketing, and so leaves it out."""
    for targeting, is_read in ((SPLIT, False), ('{"var":"x"}', True)):
        flag = Flag(key="half", status=Status.ENABLED, targeting=targeting, revision=7, bucketing=3)
        document = json.loads(dumps(flag))
        del document["bucketing"]
        entry = entry_in(flag.id, f"3:store:0:7:{json.dumps(document)}".encode(), "store")
        assert (entry is not None) is is_read
        announced = {"set": "default", "key": "half", "revision": 7, "flag": document, "store": ["store", "name"]}
        message = json.dumps(announced).encode()
        if is_read:
            event_in(message, "store")
        else:
            with pytest.raises(ValueError, match="an older release"):
                event_in(message, "store")
        assert entry_in(flag.id, f"3:store:0:7:{dumps(flag)}".encode(), "store") is not None
