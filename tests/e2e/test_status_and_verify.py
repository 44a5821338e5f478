"""An operator's view of all replicas: who has applied a change, who has not, and whether the cache is right."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.adapters.build import store_for
from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Entry, LeaseState
from flagsvc.replication.cache_audit import AuditReport
from tests.command_line import Done, run_here
from tests.replicas import FLAGSVC, Process, replica, until
from tests.servers import Mongod, RedisServer

APPLIED = ("--wait-for", "applied", "--wait-timeout", "2")


def run(address: str, *arguments: str) -> Done:
    return run_here(*arguments, FLAGSVC_ADDRESS=address, COLUMNS="300", USER="ann")


def run_process(address: str, *arguments: str) -> Done:
    """Where a replica in this process prints meanwhile."""
    environment = {**os.environ, "FLAGSVC_ADDRESS": address, "COLUMNS": "300", "USER": "ann"}
    return subprocess.run(
        [FLAGSVC, *arguments], capture_output=True, text=True, timeout=40, env=environment, check=False
    )


def run_until(address: str, *arguments: str, good: Callable[[Done], bool], seconds: float = 15) -> Done:
    deadline = time.monotonic() + seconds
    while not good(done := run(address, *arguments)):
        assert time.monotonic() < deadline, done
        time.sleep(0.1)
    return done


def good_json(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def name_of(process: Process, status: Any) -> str:
    """The replica's name, which contains its process id."""
    assert process.process
    [name] = [r["replica"] for r in status["replicas"] if f"-{process.process.pid}-" in r["replica"]]
    return str(name)


@pytest.fixture
def three(mongo_database_url: str, redis_clean_url: str) -> Iterator[list[Process]]:
    """Three replicas that know each other, with one flag."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(Process("--store", mongo_database_url, "--cache", redis_clean_url)) for _ in range(3)
        ]
        try:
            for process in made:
                run_until(process.address, "status", "--json", good=knows_three)
            assert run(made[0].address, "create", "kill-switch", "status=ENABLED").returncode == 0
            yield made
        finally:
            for process in made:
                process.resume()


def knows_three(done: Done) -> bool:
    return done.returncode == 0 and len(json.loads(done.stdout)["replicas"]) == 3


def test_a_toggle_that_waits_for_all_replicas_names_who_applied_it_and_who_lags(three: list[Process]) -> None:
    status = good_json(run_until(three[0].address, "status", "--json", good=knows_three))
    names = [name_of(process, status) for process in three]
    done = run(three[0].address, "toggle", "kill-switch", "on", *APPLIED)
    assert (done.returncode, done.stderr) == (0, "")
    everybody = f"applied by 3 replicas ({', '.join(sorted(names))})"
    assert re.search(rf"^revision 2: {re.escape(everybody)}$", done.stdout, re.MULTILINE)

    three[2].pause()
    began = time.monotonic()
    done = run(three[0].address, "toggle", "kill-switch", "off", *APPLIED)
    assert done.returncode == 3
    assert 2 <= time.monotonic() - began < 10
    assert done.stderr == (
        f"error: not applied everywhere after 2 s: applied by {', '.join(sorted(names[:2]))}; lagging: {names[2]}"
        " (it will see the change within its staleness bound); the change IS stored\n"
    )
    assert "DISABLED" in done.stdout
    assert "applied by" not in done.stdout
    for other in three[:2]:
        found = good_json(run(other.address, "evaluate", "kill-switch", "--min-revision", "3", "--json"))
        assert (found["reason"], found["revision"]) == ("DISABLED", 3)

    done = run(three[1].address, "set", "kill-switch", "status=BETA", *APPLIED, "--json")
    assert done.returncode == 3
    payload = json.loads(done.stdout)
    spread = {"revision": 4, "reached": "CACHED", "appliedBy": sorted(names[:2]), "lagging": [names[2]]}
    assert (payload["status"], payload["spread"]) == ("BETA", spread)
    payload = good_json(run(three[1].address, "toggle", "kill-switch", "on", "--wait-for", "cached", "--json"))
    assert payload["spread"]["reached"] == "CACHED", "the paused one holds up only who waits for it"

    three[2].resume()
    done = run(three[0].address, "toggle", "kill-switch", "off", *APPLIED)
    assert (done.returncode, done.stderr) == (0, "")
    assert everybody in done.stdout
    found = good_json(run(three[2].address, "evaluate", "kill-switch", "--json"))
    assert (found["reason"], found["source"], found["revision"]) == ("DISABLED", "NEAR_CACHE", 6)
    done = run(three[2].address, "delete", "kill-switch", *APPLIED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"revision 7: {everybody}\n")


def test_status_shows_every_replica_and_fails_for_one_that_is_silent_or_behind(three: list[Process]) -> None:
    address = three[0].address
    status = good_json(run_until(address, "status", "--json", good=has_a_lease_holder))
    names = [name_of(process, status) for process in three]
    assert status["answeredBy"] == names[0]
    assert (status["complete"], status["problems"]) == (True, [])
    assert [r["replica"] for r in status["replicas"]] == sorted(names)
    for payload in status["replicas"]:
        assert payload["revisions"] == {"default": 1}
        assert (
            payload["ready"],
            payload["storeUp"],
            payload["cacheUp"],
            payload["subscriptionUp"],
            payload["lag"],
        ) == (
            *[True] * 4,
            0,
        )
        assert (payload["changeFeed"], payload["changeFeedUp"], payload["flags"]) == ("STREAM", True, 1)
        assert 0 <= payload["viewAgeMs"] <= payload["stalenessBoundMs"] == 5000
        assert payload["reportedMsAgo"] < 3000

    table = run_until(address, "status", good=lambda done: all(name in done.stdout for name in names))
    assert table.returncode == 0, table.stderr
    rows = {row.split()[0]: row for row in table.stdout.splitlines()}
    assert [name for name, row in rows.items() if "answers" in row] == [names[0]]
    assert len([row for row in rows.values() if "cache lease" in row]) == 1
    assert all("\tup\tup\tup\tstream\t" in rows[name] for name in names), "store, cache, subscription, feed"

    three[2].pause()
    assert run(address, "toggle", "kill-switch", "off").returncode == 0
    done = run_until(address, "status", good=lambda done: done.returncode == 1)
    assert done.stderr.startswith(f"error: {names[2]} ")
    assert "lags by 1 change" in done.stderr
    assert "error" not in done.stderr.removeprefix("error"), "the others are well"
    silent = run_until(address, "status", "--json", good=lambda done: "has not reported" in done.stderr)
    assert silent.returncode == 1
    [problem] = json.loads(silent.stdout)["problems"]
    assert re.match(rf"{names[2]} has not reported for \d+\.\d s and lags by 1 change: ", problem)
    three[2].resume()
    run_until(address, "status", good=lambda done: done.returncode == 0)
    three[2].stop()
    done = run(address, "toggle", "kill-switch", "on", *APPLIED)
    assert (done.returncode, done.stderr) == (0, ""), "one that stopped is not waited for"
    assert "applied by 2 replicas" in done.stdout


def has_a_lease_holder(done: Done) -> bool:
    return knows_three(done) and any(replica["holdsCacheLease"] for replica in json.loads(done.stdout)["replicas"])


def test_status_is_good_while_changes_go_on(three: list[Process]) -> None:
    """Changes since a replica's last report do not count as its lag."""
    done = threading.Event()

    def write() -> int:
        count = 0
        with grpc.insecure_channel(three[0].address) as channel:
            stub = pb_grpc.FlagServiceStub(channel)
            while not done.wait(0.02):
                stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="kill-switch", enabled=count % 2 == 0), timeout=10)
                count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            results = [run(three[1].address, "status", "--json") for _ in range(4)]
        finally:
            done.set()
        assert writing.result() > 50
    assert [(each.returncode, each.stderr) for each in results] == [(0, "")] * 4
    assert any(r["lag"] for each in results for r in json.loads(each.stdout)["replicas"]), "else this shows nothing"


def test_status_of_a_store_that_goes_away_and_returns() -> None:
    with Mongod() as mongod:
        mongod.stop()
        options = ("--store", mongod.database_url("status"), "--cache", "none")
        with Process(*options, FLAGSVC_STALENESS_BOUND_S="1") as process:
            expected = "is not ready: it cannot reach the store; check that the store is running"
            done = run_until(process.address, "status", good=lambda done: expected in done.stderr)
            assert done.returncode == 1
            assert "never verified" in done.stdout
            mongod.start()
            run_until(process.address, "status", good=lambda done: done.returncode == 0)
            mongod.kill()
            done = run_until(
                process.address, "status", good=lambda done: done.returncode == 1 and "\tdown\t" in done.stdout
            )
            assert re.search(r"its view of the store is \d+\.\d s old \(staleness bound 1 s\)", done.stderr)


def test_status_shows_the_bound_of_polling() -> None:
    with Mongod(replica_set=False) as mongod:
        options = ("--store", mongod.database_url("status"), "--cache", "none")
        with Process(*options, FLAGSVC_STALENESS_BOUND_S="2") as process:
            run_until(process.address, "status", good=lambda done: done.returncode == 0)
            done = run_until(process.address, "status", good=lambda done: "polling, within 2 s" in done.stdout)
            assert done.returncode == 0


def test_status_without_the_shared_cache_reports_that_it_may_be_incomplete(
    mongo_database_url: str, redis_server: RedisServer
) -> None:
    with Process("--store", mongo_database_url, "--cache", redis_server.url) as process:
        done = run_until(process.address, "status", good=lambda done: done.returncode == 0)
        assert "may be incomplete" not in done.stderr
        redis_server.kill()
        done = run_until(process.address, "status", good=lambda done: "may be incomplete" in done.stderr)
        assert done.returncode == 1, "what is configured does not work"
        assert "the shared cache cannot be used: the connection is refused: check that the server is" in done.stderr
        assert "\tup\tdown\t" in done.stdout, "a configured cache that is gone is not the same as none"
        payload = json.loads(run(process.address, "status", "--json").stdout)
        assert payload["complete"] is False
        assert [each["name"] for each in payload["replicas"][0]["problems"]] == ["cache_unavailable"]
        done = run(process.address, "create", "a", "--wait-for", "cached", "--wait-timeout", "0.2")
        assert done.returncode == 3
        assert done.stderr.startswith("error: not cached after 0.2 s: the shared cache is unreachable")
        assert done.stderr.endswith("the change IS stored\n")
        assert run(process.address, "toggle", "a", "on").returncode == 0, "without --wait-for nothing is reported"
        done = run(process.address, "verify")
        assert done.returncode == 1
        assert "the shared cache cannot be reached; try again (CACHE_UNAVAILABLE)" in done.stderr
        assert "Traceback" not in done.stderr


@asynccontextmanager
async def cache_at(url: str, store_url: str, *, is_holder: bool = False) -> AsyncIterator[RedisCache]:
    """`is_holder`: take the cache lease, so that no replica holds it and puts recent changes again by itself."""
    store = store_for(store_url)
    await store.open()
    cache = RedisCache(url, timeout_s=1.0, identity=store.identity)
    await store.close()
    await cache.open()
    try:
        await cache.put([], time.monotonic())  # learns Redis's clock
        if is_holder:
            assert (await cache.acquire_lease(time.monotonic(), 120.0)).state is LeaseState.HELD
        yield cache
    finally:
        await cache.close()


async def plant(cache: RedisCache, *entries: Entry) -> None:
    """Write something wrong to the cache, whatever is there."""
    assert await cache.put(entries, time.monotonic(), force=True)


def entry(key: str, revision: int, flag_set: str = "default") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, status=Status.ENABLED, revision=revision))


async def test_verify_reports_mismatches_and_repairs_them(mongo_database_url: str, redis_clean_url: str) -> None:
    stores = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "verify_interval_s": 0.0}
    async with (
        cache_at(redis_clean_url, stores["store_url"], is_holder=True) as cache,
        replica(**stores) as (client, server),
    ):

        async def verify(*arguments: str) -> Done:
            return await asyncio.to_thread(run_process, f"127.0.0.1:{server.port}", "verify", *arguments)

        for key in ("older", "newer", "right"):
            await client.create(key)
        current = await client.toggle("older", True)
        done = await verify()
        assert done.returncode == 0, done.stderr
        assert done.stdout == "3 cached entries compared with the store: 0 different, 0 repaired\n"

        await plant(cache, entry("older", 1), entry("newer", 99), entry("ghost", 1), entry("ghost", 5, "staging"))
        done = await verify()
        assert done.returncode == 1
        rows = {tuple(row.split()[:2]): row for row in done.stdout.splitlines()}
        assert re.search(rf"\t{current.revision}\t1\tolder than the store\tno", rows["older", "default"])
        assert re.search(r"\t2\t99\tnewer than the store\tno", rows["newer", "default"])
        assert re.search(r"\t-\t1\tnot in the store\tno", rows["ghost", "default"])
        assert re.search(r"\t-\t5\tnot in the store\tno", rows["ghost", "staging"])
        assert "5 cached entries compared with the store: 4 different, 0 repaired\n" in done.stdout
        assert "flagsvc resync --confirm" in done.stdout
        expected = "error: 4 entries differ from the store; repair with: flagsvc verify --repair\n"
        assert done.stderr == expected

        done = await verify("--json")
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert [found[name] for name in ("checked", "drifted", "repaired", "missing")] == [5, 4, 0, 0]
        [older] = [drift for drift in found["drifts"] if drift["flagKey"] == "older"]
        assert older == {
            "flagKey": "older",
            "flagSet": "default",
            "storedRevision": current.revision,
            "cachedRevision": 1,
            "kind": "OLDER",
            "repaired": False,
        }

        done = await verify("--repair")
        assert (done.returncode, done.stderr) == (0, "")
        assert "5 cached entries compared with the store: 4 different, 4 repaired\n" in done.stdout
        assert all(row.rstrip().endswith("yes") for row in done.stdout.splitlines()[1:5])
        done = await verify("--json")
        assert (done.returncode, json.loads(done.stdout)["drifted"]) == (0, 0)
        [held] = await cache.peek([FlagId("default", "older")])
        assert held is not None
        assert held.revision == current.revision


async def test_the_cache_is_put_right_by_itself_in_the_background(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    stores = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "verify_interval_s": 0.2}
    async with replica(**stores) as (_, server), cache_at(redis_clean_url, stores["store_url"]) as cache:
        await plant(cache, entry("ghost", 1))
        await until(lambda: server.replica.cache_auditor.repaired == 1, 15)
        assert await cache.peek([FlagId("default", "ghost")]) == [Entry.absent(FlagId("default", "ghost"), 0)]


async def test_a_document_that_cannot_be_evaluated_is_the_same_in_the_cache(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    """It is not reported as a mismatch for ever, and the cache never returns it as a flag that can be evaluated."""
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as mongo:
        broken = {"key": "a", "name": "a", "status": "ENABLED", "variants": "x", "revision": 1}
        mongo.get_default_database()["feature_flags"].insert_one(broken)
        mongo.get_default_database()["flagsvc_revisions"].insert_one({"_id": "default", "revision": 1})
    stores = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "verify_interval_s": 0.0}
    async with replica(**stores) as (client, server), cache_at(redis_clean_url, stores["store_url"]) as cache:
        deadline = time.monotonic() + 10
        while (await cache.peek([FlagId("default", "a")])) == [None]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await server.replica.cache_auditor.verify(repair=False) == AuditReport(checked=1)
        assert (await client.evaluate("a")).error_code == types.ERROR_CODE_PARSE_ERROR
    async with replica(**stores, near_cache_entries=0) as (client, _):
        found = await client.evaluate("a")
        assert found.error_code == types.ERROR_CODE_PARSE_ERROR
