"""Several replicas race for the schedules of one MongoDB; some are killed inside the transaction that executes one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from pymongo.errors import OperationFailure

from flagsvc.adapters.mongo import schedules as mongo_schedules
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.model import FlagId
from flagsvc.core.schedules.documents import MALFORMED
from flagsvc.core.schedules.model import ConflictKind, Schedule, State
from flagsvc.ports.schedules import Ended
from flagsvc.schedules import attempts, executor
from flagsvc.schedules.attempts import DueAttempt
from flagsvc.server import Server
from tests.replicas import replica, until_serving
from tests.schedules.plans import (
    CHAT,
    HOUR,
    RIGHTS,
    author,
    due_now,
    executed,
    flag_in,
    plan,
    planned_and_due,
    schedules_of,
    stored,
)
from tests.schedules.racer import racers
from tests.servers import Mongod

FLAGS, OF_EACH = 3, 4
WAIT_S = 60


async def planned(url: str) -> None:
    """Plan some changes of some flags, all due at nearly the same time in an hour."""
    store = MongoStore(url)
    await store.open()
    at = datetime.now(UTC) + HOUR
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
    await planned(url)
    with pymongo.MongoClient[dict[str, Any]](url) as client, racers(url, dying=(1, 2), lasting=0) as dying:
        database = client.get_default_database()
        in_a_second = [{"$set": {"executeAt": {"$subtract": ["$executeAt", (HOUR.seconds - 1) * 1000]}}}]
        database["flagsvc_schedules"].update_many({"state": "PENDING"}, in_a_second)
        async with asyncio.timeout(WAIT_S):
            while any(process.is_alive() for process in dying):  # noqa: ASYNC110  they are processes
                await asyncio.sleep(0.05)
            assert database["flagsvc_schedules"].count_documents({"state": "EXECUTED"}) == 1
            with racers(url, dying=(), lasting=2) as lasting:
                while database["flagsvc_schedules"].count_documents({"state": "PENDING"}):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert all(process.is_alive() for process in lasting)
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
    early, (due,) = await stored(store, plan()), await planned_and_due(store, plan())
    real = datetime

    class Wrong(real):  # type: ignore[valid-type, misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + timedelta(days=days)

    for module in (attempts, executor, mongo_schedules):
        monkeypatch.setattr(module, "datetime", Wrong)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + days * 86_400)
    result = await executed(store)
    assert result is not None
    assert (result.id, result.state) == (due.id, State.EXECUTED)
    assert result.ended_at is not None
    assert 5 <= result.late_s < 60
    assert await executed(store) is None
    (left,) = await schedules_of(store).upcoming(10)
    assert 3_000 < left.wait_s <= 3_600
    assert (await schedules_of(store).get(CHAT.flag_set, early.id)).state is State.PENDING
    await store.close()


async def test_a_repeated_transaction_that_comes_too_late_has_executed_nothing(mongo_database_url: str) -> None:
    """Its first try is rolled back, and another replica is faster: it must not report that it was executed here."""
    store = MongoStore(mongo_database_url)
    await store.open()
    await flag_in(store)
    (made,) = await planned_and_due(store, plan())
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
        collection = direct.get_default_database()["flagsvc_schedules"]

        class Overtaken(DueAttempt):
            tries = 0

            def begin(self) -> None:
                super().begin()
                self.tries += 1
                if self.tries == 2:
                    collection.update_one({"_id": made.id}, {"$set": {"state": "EXECUTED"}})

            def ended(self, revision: int) -> Ended:
                if self.tries == 1:
                    raise OperationFailure("conflict", 112, {"errorLabels": ["TransientTransactionError"]})
                return super().ended(revision)

        attempt = Overtaken(RIGHTS)
        assert await schedules_of(store).execute(CHAT, "", attempt, attempt.decide) is None
    assert (attempt.tries, attempt.result, attempt.schedule) == (2, None, None)
    await store.close()


@pytest.mark.parametrize("at", ["schedule", "counter"])
async def test_an_executor_that_is_not_patient_leaves_what_another_transaction_has(
    mongo_database_url: str, at: str
) -> None:
    """It has the schedule, or the set's counter, for which every change of the set waits."""
    store = MongoStore(mongo_database_url)
    await store.open()
    await flag_in(store)
    (made,) = await planned_and_due(store, plan())
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct, direct.start_session() as session:
        database = direct.get_default_database()
        session.start_transaction()
        if at == "schedule":
            database["flagsvc_schedules"].update_one({"_id": made.id}, {"$set": {"claimedAt": 1}}, session=session)
        else:
            database["flagsvc_revisions"].update_one({"_id": "default"}, {"$inc": {"revision": 1}}, session=session)
        attempt = DueAttempt(RIGHTS, is_patient=False)
        assert await schedules_of(store).execute(CHAT, "", attempt, attempt.decide) is None
        assert attempt.result is None
        session.abort_transaction()
    result = await executed(store)
    assert result is not None
    assert result.id == made.id
    await store.close()


async def test_one_that_is_planned_while_an_earlier_one_is_executed_has_no_conflict(
    mongo_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither transaction sees the other's schedule, so one of them begins again."""
    store, other = MongoStore(mongo_database_url), MongoStore(mongo_database_url)
    await store.open()
    await other.open()
    await flag_in(store)
    (first, _) = await planned_and_due(store, plan(owner="first"), plan(owner="last", seconds=7_200))
    schedules = schedules_of(store)
    flag_is_read, may_go_on, count = asyncio.Event(), asyncio.Event(), schedules._count  # type: ignore[attr-defined]

    async def counted(*args: Any) -> int:
        flag_is_read.set()
        await may_go_on.wait()
        return int(await count(*args))

    monkeypatch.setattr(schedules, "_count", counted)
    planning = asyncio.create_task(stored(store, plan(owner="second")))
    await flag_is_read.wait()
    assert (result := await executed(other)) is not None
    assert result.id == first.id
    may_go_on.set()
    second = await planning
    assert second.base_revision == 2
    for each in (store, other):
        await each.close()


async def test_a_write_reads_plans_only_of_a_set_in_which_something_is_planned(mongo_database_url: str) -> None:
    """Each write reads the set's counter, which says until when something is planned."""
    store, other = MongoStore(mongo_database_url), MongoStore(mongo_database_url)
    await store.open()
    await other.open()
    known = schedules_of(store).may_be_pending
    assert known("default"), "nothing is known yet"
    await flag_in(store)
    assert not known("default")
    (made,) = [await stored(other, plan(max_lateness_s=1))]
    toggled = changes.toggle("chat", True, None, author())
    await store.write(CHAT, toggled)
    assert known("default")
    await due_now(other, made)
    assert (await executed(store)) is not None
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
        counters = direct.get_default_database()["flagsvc_revisions"]
        counters.update_one({"_id": "default"}, {"$set": {"plannedUntil": datetime.now(UTC)}})
    await store.write(CHAT, toggled)
    assert not known("default"), "its time is over"
    for each in (store, other):
        await each.close()


async def test_what_is_due_is_found_by_an_index(mongo_database_url: str) -> None:
    await planned(mongo_database_url)
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
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
            database = direct.get_default_database()
            database.command("collMod", "feature_flags", validator={"owner": {"$ne": "payments"}})
            (made,) = await planned_and_due(store, plan(owner="payments"))
            wake(server)
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
        first, second = [await stored(store, plan(owner=name)) for name in ("a", "b")]
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as direct:
            collection = direct.get_default_database()["flagsvc_schedules"]
            await due_now(store, first, second)
            collection.update_one({"_id": first.id}, {"$set": {"patch": "{"}})
            wake(server)
            assert (await ended(store, second.id)).state is State.EXECUTED
            found = collection.find_one({"_id": first.id})
        assert found is not None
        assert (found["state"], found["detail"]) == ("FAILED", MALFORMED)


def wake(server: Server) -> None:
    assert server.replica.executor is not None
    server.replica.executor.wake()


async def ended(store: Any, schedule_id: str) -> Schedule:
    """Wait until a schedule of a running replica is not pending any more."""
    while (found := await schedules_of(store).get("default", schedule_id)).state is State.PENDING:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found
