"""Several replicas race for the schedules of one MongoDB; some are killed inside the transaction that executes one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pymongo
import pytest

from flagsvc.adapters.mongo import schedules as mongo_schedules
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from flagsvc.core.schedules.model import ConflictKind, Schedule, State
from flagsvc.schedules import attempts, executor
from flagsvc.server import Server
from tests.replicas import replica, until_serving
from tests.schedules.plans import CHAT, executed, flag_in, plan, schedules_of, stored
from tests.schedules.racer import racers
from tests.schedules.test_stores import soon
from tests.servers import Mongod

FLAGS, OF_EACH = 3, 4
WAIT_S = 60


async def planned(url: str, *, after_ms: int) -> None:
    """Plan some changes of some flags, all due at nearly the same time."""
    store = MongoStore(url)
    await store.open()
    at = soon(after_ms)
    for number in range(FLAGS):
        flag_id = FlagId("default", f"flag-{number}")
        await flag_in(store, flag_id)
        for turn in range(OF_EACH):
            await stored(store, plan(flag_id, at=at + timedelta(milliseconds=turn), owner=f"{turn}"))
    await store.close()


@pytest.mark.xdist_group("much load or tight times")
async def test_each_is_executed_exactly_once_and_in_order_although_replicas_die_in_the_transaction(
    mongod: Mongod,
) -> None:
    url = mongod.database_url("race")
    await planned(url, after_ms=2_500)
    with pymongo.MongoClient[dict[str, Any]](url) as client, racers(url, dying=(1, 2), lasting=2) as processes:
        database = client.get_default_database()
        deadline = time.monotonic() + WAIT_S
        while database["flagsvc_schedules"].count_documents({"state": "PENDING"}):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert all(process.is_alive() for process in processes[2:])
        schedules = list(database["flagsvc_schedules"].find({"state": {"$exists": True}}))
        history = list(database["feature_flag_history"].find({"via": {"$exists": True}}))
    assert Counter(each["state"] for each in schedules) == {"EXECUTED": FLAGS * OF_EACH}
    assert Counter(row["via"] for row in history) == {f"schedule/{each['_id']}": 1 for each in schedules}
    for number in range(FLAGS):
        of_flag = [each for each in schedules if each["flagKey"] == f"flag-{number}"]
        by_time = sorted(of_flag, key=lambda each: (each["executeAt"], each["number"]))
        revisions = [each["executedRevision"] for each in by_time]
        assert revisions == sorted(set(revisions))
    assert all(each["endedAt"] >= each["executeAt"] for each in schedules)


@pytest.mark.parametrize("days", [-1, 1])
async def test_the_clocks_of_replicas_decide_nothing(
    mongo_database_url: str, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """A replica whose clock is a day wrong executes nothing early and nothing late."""
    store = MongoStore(mongo_database_url)
    await store.open()
    await flag_in(store)
    early, due = await stored(store, plan(seconds=3_600)), await stored(store, plan(at=soon(50)))
    real = attempts.datetime

    class Wrong(real):  # type: ignore[valid-type, misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + timedelta(days=days)

    for module in (attempts, executor, mongo_schedules):
        monkeypatch.setattr(module, "datetime", Wrong)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + days * 86_400)
    result = None
    while result is None:
        result = await executed(store)
    assert (result.id, result.state) == (due.id, State.EXECUTED)
    assert result.ended_at is not None
    assert 0 <= result.late_s < 30
    assert await executed(store) is None
    (left,) = await schedules_of(store).upcoming(10)
    assert 3_500 < left.wait_s <= 3_600
    assert (await schedules_of(store).get(CHAT.flag_set, early.id)).state is State.PENDING
    await store.close()


async def test_what_is_due_is_found_by_an_index(mongo_database_url: str) -> None:
    await planned(mongo_database_url, after_ms=60_000)
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as client:
        collection = client.get_default_database()["flagsvc_schedules"]
        wanted = [
            collection.find({"state": "PENDING"}).sort([("executeAt", 1), ("number", 1)]).limit(100),
            collection.find(
                {"flagSet": "default", "flagKey": "flag-0", "state": "PENDING", **mongo_schedules._IS_DUE}
            ).sort([("executeAt", 1), ("number", 1)]),
        ]
        for cursor in wanted:
            plan_of = str(cursor.explain()["queryPlanner"]["winningPlan"])
            assert "IXSCAN" in plan_of
            assert "'SORT'" not in plan_of


async def test_what_mongodb_refuses_fails_in_a_transaction_of_its_own_and_is_not_tried_for_ever(
    mongo_database_url: str,
) -> None:
    """A validator refuses the flag: nothing of the change is there, and the schedule says why."""
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        store = server.replica.store
        await flag_in(store)
        made = await stored(store, plan(at=soon(300), owner="payments"))
        wake(server)
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
            database = direct.get_default_database()
            database.command("collMod", "feature_flags", validator={"owner": {"$ne": "payments"}})
            failed = await ended(store, made.id)
            assert (failed.state, [each.kind for each in failed.conflicts]) == (State.FAILED, [ConflictKind.REFUSED])
            assert "validator" in failed.detail
            assert database["feature_flag_history"].count_documents({"via": {"$exists": True}}) == 0
            assert database["flagsvc_audit"].count_documents({"action": "ScheduleFailed"}) == 1
            assert (await store.revisions())["default"] == 1


async def test_a_malformed_one_is_never_executed_and_holds_up_no_other(mongo_database_url: str) -> None:
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        store = server.replica.store
        await flag_in(store)
        first, second = [await stored(store, plan(at=soon(ms), owner=f"{ms}")) for ms in (300, 400)]
        wake(server)
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
            collection = direct.get_default_database()["flagsvc_schedules"]
            collection.update_one({"_id": first.id}, {"$set": {"patch": "{"}})
            assert (await ended(store, second.id)).state is State.EXECUTED
            found = collection.find_one({"_id": first.id})
        assert found is not None
        assert (found["state"], found["detail"]) == ("FAILED", mongo_schedules.MALFORMED)


def wake(server: Server) -> None:
    assert server.replica.executor is not None
    server.replica.executor.wake()


async def ended(store: Any, schedule_id: str) -> Schedule:
    """Wait until a schedule of a running replica is not pending any more."""
    while (found := await schedules_of(store).get("default", schedule_id)).state is State.PENDING:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found
