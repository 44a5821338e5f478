"""MongoDB's users of different rights: the documented role is enough, and what less rights refuse is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pymongo
import pytest
from pymongo.collation import Collation
from structlog.testing import capture_logs

from flagsvc.adapters.mongo.audit import REFUSALS
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.api.common.failures import failure_for
from flagsvc.core import changes, segments
from flagsvc.core.audit import AuditEntry, AuditQuery, Outcome
from flagsvc.core.changes import Author
from flagsvc.core.errors import ChangeRefused, RevisionOutOfRange, RevisionsMissing, StoreForbidden, StoreUnavailable
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.revisions.model import AsOf
from flagsvc.core.schedules.model import State
from flagsvc.core.segments import Segment
from flagsvc.ports import Announced, ChangesUnsupported, Checkpoint, Subscribed
from flagsvc.ports.schedules import ScheduleQuery
from flagsvc.schedules.attempts import RequestedAttempt
from tests.command_line import run_here
from tests.guarded_mongod import DATABASE, PASSWORD, GuardedMongod, documented_role
from tests.replicas import Client, reason_of, replica, until
from tests.schedules.plans import ENTRY, RIGHTS, executed, plan, planned_and_due, stored
from tests.servers import HOST

pytestmark = pytest.mark.xdist_group("mongo_rights")
AUTHOR = Author(at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
A = FlagId("default", "a")


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedMongod]:
    with GuardedMongod() as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    if "guarded" in request.fixturenames:
        server: GuardedMongod = request.getfixturevalue("guarded")
        with server.client() as client:
            client.drop_database(DATABASE)


@asynccontextmanager
async def store_of(url: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(url)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def create(store: MongoStore, key: str = "a") -> None:
    await store.write(FlagId("default", key), changes.create(Flag(key=key), AUTHOR))


async def use_everything(store: MongoStore) -> None:
    """Every operation of a store, and of its change feed."""
    await create(store)
    await store.write(A, changes.toggle("a", True, None, AUTHOR))
    assert [flag.key for flag in (await store.load()).flags] == ["a"]
    assert await store.revisions() == {"default": 2}
    assert (await store.get(FlagId("default", "missing"))).flag is None
    assert len(await store.history(A, 5)) == 2
    refused = AuditEntry(at=AUTHOR.at, actor="x", action="y", outcome=Outcome.REFUSED)
    await store.audit.append([refused, replace(refused, outcome=Outcome.DONE)])
    await store.audit._trim(store._database[REFUSALS])
    assert len(await store.audit.page(AuditQuery(), 10)) == 4
    assert await store.assign_revision(A, 2) is not None
    await use_schedules(store)
    seen: set[type] = set()
    async with asyncio.timeout(20):
        async for event in store.changes():
            if Subscribed not in seen:
                await store.write(A, changes.toggle("a", False, None, AUTHOR))
            seen.add(type(event))
            if {Announced, Checkpoint} <= seen:
                break
    await store.save_resume_token()
    await store.write(A, changes.delete("a", None, AUTHOR))


async def use_schedules(store: MongoStore) -> None:
    """Plan, change, list and execute."""
    made = await stored(store, plan(A, owner="a"))
    await store.schedules.change("default", made.id, lambda current, *_: current, ENTRY)
    assert [each.id for each in await store.schedules.page(ScheduleQuery(flag_set="default"), 5)] == [made.id]
    assert len(await store.schedules.upcoming(5)) == 1
    assert await executed(store, A) is None
    attempt = RequestedAttempt(RIGHTS, AUTHOR, None)
    assert await store.schedules.execute(A, made.id, attempt, attempt.decide) is not None
    shared = Segment(name="shared", rule='{"var":"a"}')
    await store.segments.write(shared.id, segments.create(shared, AUTHOR))
    assert (await store.get_family(A)).entries.keys() == {"a"}
    assert await store.segments.users(shared.id) == ([], [])
    await store.segments.write(shared.id, segments.delete(shared.name, None, AUTHOR))


async def test_the_documented_role_is_enough(guarded: GuardedMongod) -> None:
    async with store_of(guarded.url_of("admin")):
        pass  # the first start
    with capture_logs() as logs:
        async with store_of(guarded.url_of("least")) as store:
            await use_everything(store)
            with guarded.client() as client:
                assert client[DATABASE]["flagsvc_change_stream"].count_documents({}) == 1, "saved"
                assert client[DATABASE]["audit_logs"].count_documents({}) == 5
    assert [line for line in logs if line["log_level"] != "debug"] == []


async def test_where_only_an_index_may_not_be_created_the_rest_works(guarded: GuardedMongod) -> None:
    with capture_logs() as logs:
        async with store_of(guarded.url_of("least")) as store:  # nothing is there yet, and nothing may be created
            await use_everything(store)
    refused = [line for line in logs if line["event"] == "store_setup_refused"]
    assert ["no right to run createIndexes" in line["cause"] for line in refused] == [True] * 6
    assert "unique index" in refused[0]["wanted"]


async def test_a_reader_may_read_and_gets_the_reason_for_the_rest(guarded: GuardedMongod) -> None:
    async with store_of(guarded.url_of("admin")) as store:
        await create(store)
    async with store_of(guarded.url_of("reader")) as store:
        assert [flag.key for flag in (await store.load()).flags] == ["a"]
        with pytest.raises(StoreForbidden) as refused:
            await store.write(A, changes.toggle("a", True, None, AUTHOR))
    failure = failure_for("ToggleFlag", refused.value)
    assert failure.code is grpc.StatusCode.PERMISSION_DENIED
    assert failure.message.startswith("the flag store refuses this: its user has no right to run findAndModify on")
    assert not failure.details, "no advice to retry"
    assert str(guarded.port) not in failure.message


async def test_a_user_without_any_right_is_an_outage_with_its_cause(guarded: GuardedMongod) -> None:
    with pytest.raises(StoreForbidden) as refused:
        async with store_of(guarded.url_of("nobody")) as store:
            await store.load()
    assert "no right to run" in refused.value.cause
    with pytest.raises(StoreUnavailable) as refused_password:
        async with store_of(guarded.url_of("least").replace("s3cret", "wrong")):
            pass
    assert refused_password.value.cause == "MongoDB refuses the user or the password"
    assert "wrong" not in refused_password.value.cause + str(refused_password.value)


async def test_without_the_right_to_the_change_stream_everything_is_polled(guarded: GuardedMongod) -> None:
    async with store_of(guarded.url_of("nostream")) as store:
        with pytest.raises(ChangesUnsupported) as refused:
            async for _ in store.changes():
                pass
    assert refused.value.problem
    assert refused.value.problem.name == "change_stream_refused"


async def test_a_read_only_replica_serves_changes_of_others_and_reports_what_it_lacks(guarded: GuardedMongod) -> None:
    async with store_of(guarded.url_of("admin")) as store:
        await create(store)
        await create(store, "b")
    with capture_logs() as logs:
        async with replica(store_url=guarded.url_of("reader"), cache_url="none") as (client, server):
            await until(lambda: server.replica.follower.feed_up)
            with guarded.client() as direct:
                direct[DATABASE]["feature_flags"].update_many({}, {"$set": {"status": "ENABLED"}})
            for key in ("a", "b"):
                await until_value(client, key)
            assigner = server.replica.follower.proof.revision_assigner
            await until(lambda: not assigner)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.toggle("a", True)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert reason_of(refused.value) == "STORE_FORBIDDEN"
            command = ("toggle", "a", "on", "--address", f"{HOST}:{server.port}")
            printed = (await asyncio.to_thread(run_here, *command)).stderr
            assert "; flagsvc doctor --store URL names each right" in printed
            assert "whoami" not in printed, "no caller can change what the store permits"
            assert server.replica.status().problems == ()
            await until(lambda: server.replica.near.staleness_bound_s > server.replica._view_age_s())
    given_up = [line for line in logs if line["event"] == "foreign_change_without_revision"]
    assert len(given_up) == 1, "once for a cause, not for each flag"
    assert "no right to run findAndModify" in given_up[0]["error"]


async def until_value(client: Client, key: str) -> None:
    async with asyncio.timeout(10):
        while not (await client.evaluate(key)).value.boolean_value:  # noqa: ASYNC110  in another process
            await asyncio.sleep(0.02)


async def test_status_names_a_refused_change_stream_and_a_store_without_rights(guarded: GuardedMongod) -> None:
    async with store_of(guarded.url_of("admin")):
        pass
    async with replica(store_url=guarded.url_of("nostream"), cache_url="none") as (_, server):
        await until(lambda: [each.name for each in server.replica.status().problems] == ["change_stream_refused"])
    async with replica(store_url=guarded.url_of("nobody"), cache_url="none") as (_, server):
        await until(lambda: "store_forbidden" in [each.name for each in server.replica.status().problems])


REFUSED = {
    "a validator": "the collection's validator does not allow the document",
    "an index without case": "takes this key for equal to another one",
    "a unique index on names": "a unique index on name has this value already",
}


@pytest.mark.parametrize("obstacle", REFUSED)
async def test_a_change_that_mongodb_will_never_take_fails_with_the_reason(
    fresh_database_url: str, obstacle: str
) -> None:
    wanted = Flag(key="a", name="one", status=Status.ENABLED)
    with pymongo.MongoClient[dict[str, Any]](fresh_database_url) as client:
        database = client.get_default_database()
        flags = database["feature_flags"]
        if obstacle == "a validator":
            database.create_collection("feature_flags", validator={"owner": {"$type": "string"}})
        elif obstacle == "an index without case":
            flags.create_index("key", unique=True, collation=Collation("en", strength=2))
            flags.insert_one({"key": "A", "status": "ENABLED"})
        else:
            flags.create_index("name", unique=True)
            flags.insert_one({"key": "b", "name": "one"})
        async with store_of(fresh_database_url) as store:
            with pytest.raises(ChangeRefused) as refused:
                await store.write(A, changes.put(wanted, AUTHOR))
            assert REFUSED[obstacle] in str(refused.value)
            failure = failure_for("CreateFlag", refused.value)
            assert (failure.code, failure.details) == (grpc.StatusCode.FAILED_PRECONDITION, ())
            assert await store.history(A, 5) == [], "nothing of it is stored"
            await store.write(FlagId("default", "z"), changes.create(Flag(key="z", owner="me"), AUTHOR))


async def test_an_index_that_cannot_be_built_is_a_warning(fresh_database_url: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](fresh_database_url) as client:
        client.get_default_database()["feature_flags"].insert_many([{"key": "a"}, {"key": "a"}])
    with capture_logs() as logs:
        async with store_of(fresh_database_url) as store:
            assert [flag.key for flag in (await store.load()).flags]
    assert [line["event"] for line in logs] == ["store_setup_refused"]


async def test_without_the_right_to_keep_revisions_changes_are_made_and_that_is_named(guarded: GuardedMongod) -> None:
    """As after an upgrade: a kill switch works before the user of MongoDB gets the new rights."""
    async with store_of(guarded.url_of("admin")) as store:
        await create(store, "b")
        await store.definitions.sweep(0)
    role = documented_role() | {"createRole": "older"}
    privileges = role["privileges"]
    older = [each for each in privileges if "definitions" not in each["resource"]["collection"]]
    with guarded.client() as client:
        client[DATABASE].command(role | {"privileges": older})
        roles = [{"role": "older", "db": DATABASE}]
        client.admin.command("createUser", "older", pwd=PASSWORD, roles=roles)
        async with store_of(guarded.url_of("older")) as store:
            await planned_and_due(store, plan(FlagId("default", "b")))
            done = await executed(store, FlagId("default", "b"))
            assert done is not None
            assert (done.state, done.executed_revision) == (State.EXECUTED, 2)
            await create(store)
            await store.write(A, changes.toggle("a", True, None, AUTHOR))
            assert [entry.revision for entry in await store.history(A, 5)] == [4, 3]
            [problem] = store.problems()
            assert problem.name == "revisions_not_recorded"
            assert "no right to run" in problem.detail
            with pytest.raises(RevisionsMissing, match="grant MongoDB's user the rights on flagsvc_definitions"):
                await store.definitions.moment("default", AsOf(1))
            client[DATABASE].command({"updateRole": "older", "privileges": privileges})
            async with asyncio.timeout(20):  # MongoDB keeps a user's rights for a moment
                while True:
                    with suppress(StoreForbidden):
                        await store.definitions.sweep(0)
                        break
                    await asyncio.sleep(0.1)
            assert store.problems() == []
            with pytest.raises(RevisionOutOfRange):
                await store.definitions.moment("default", AsOf(1))
            moment = await store.definitions.moment("default", AsOf(4))
            assert set(await store.definitions.newest("default", ["a", "b"], moment)) == {"a", "b"}
        client.admin.command("dropUser", "older")
        client[DATABASE].command("dropRole", "older")
