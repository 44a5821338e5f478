"""Servers for every test that asks: one MongoDB and one Redis for each process of a run, emptied for each test."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pymongo
import pytest
import redis
from hypothesis import settings

from flagsvc import collector
from tests.databases import Databases
from tests.rewriting import rewrite_share
from tests.servers import Mongod, RedisServer, versions

END_S = 60
"""After the last test a run has so long to end; then it says where its threads are, and ends."""

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")  # a case that a busy machine held up for 0.2 s has not failed


def pytest_report_header() -> str:
    return f"servers: {versions()}"


def pytest_configure() -> None:
    """Heed Ctrl-C: a shell's background jobs ignore it, and what they start does too, also where a test sends it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect thousands of tests, which all stay, without looking for garbage among them again and again."""
    with collector.paused():
        if worker := getattr(session.config, "workerinput", None):
            rewrite_share(session.config, int(worker["workerid"].removeprefix("gw")), worker["workercount"])
        found = yield
        gc.freeze()
    return found


@pytest.hookimpl(trylast=True)  # after pytest has written which tests failed
def pytest_sessionfinish(session: pytest.Session) -> None:
    """See to it that the run ends, whatever a test left behind; workers are ended by what started them.

    Tests that failed in a group are remembered without its name, so that `--last-failed` finds them without groups.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        faulthandler.dump_traceback_later(END_S, exit=True, file=sys.__stderr__)
        if cache := getattr(session.config, "cache", None):
            failed = cache.get("cache/lastfailed", {})
            cache.set("cache/lastfailed", {_without_group(nodeid): True for nodeid in failed})


FIRST = "much load or tight times"
"""The group of tests that load the machine or whose limits a loaded machine breaks: one at a time, from the start."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests of a parallel run: what one group shares is started once, and its tests run in one process.

    Groups come before single tests, which even out at the end what the groups leave uneven.
    """
    for item in items:
        if {"mongo_url", "mongod"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("mongod")
        if not item.get_closest_marker("xdist_group") and (place := _shares(item)):
            item.add_marker(pytest.mark.xdist_group(place))
    items.sort(key=lambda item: (FIRST not in _groups(item), not _groups(item)))


def _without_group(nodeid: str) -> str:
    """Return a test's identifier without `@` and the group; an `@` among its parameters stays."""
    return nodeid[: nodeid.rfind("@")] if nodeid.rfind("@") > nodeid.rfind("]") else nodeid


def _groups(item: pytest.Item) -> list[str]:
    return [mark.args[0] for mark in item.iter_markers("xdist_group")]


def _shares(item: pytest.Item) -> str:
    """Return the folder or module of which the test uses what lives longer than a test: servers mostly."""
    info = getattr(item, "_fixtureinfo", None)
    found = [definitions[-1] for definitions in info.name2fixturedefs.values()] if info else []
    places = [
        fixture.baseid
        for fixture in found
        if fixture.scope != "function" and not fixture._autouse and fixture.baseid.startswith("tests/")
    ]
    return min(places, key=len, default="")


def pytest_collection_finish(session: pytest.Session) -> None:
    """See that groups are heeded: pytest-xdist writes them into the names of tests, and not every pytest lets it.

    Unheeded, each process of a run starts the servers of every module again, and what has tight times runs beside load.
    """
    if not session.config.getoption("loadgroup", default=False):
        return
    grouped = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group")]
    if alone := [nodeid for nodeid in grouped if "@" not in nodeid]:
        raise pytest.UsageError(f"this pytest-xdist does not group tests with pytest {pytest.__version__}: {alone[0]}")


@pytest.fixture(scope="module", autouse=True)
def _short_pauses() -> None:
    """Spare servers in this process the pauses in which thousands of tests are searched for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mongo_url() -> Iterator[str]:
    """The URL of a replica set, without a database."""
    if given := os.environ.get("TEST_MONGO_URL"):
        yield given
        return
    with Mongod(durable=False) as mongod:
        _shared.append(mongod)
        yield mongod.url
        _shared.remove(mongod)


_shared: list[Mongod] = []
"""The replica set of this process, once a test has asked for it."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Freeze this process's replica set while no test can use it: an idle one takes a hundredth of a CPU."""
    for server in _shared if _may_use_mongodb(item) else ():
        server.resume()
    found = yield
    for server in () if nextitem and _may_use_mongodb(nextitem) else _shared:
        server.pause()
    return found


def _may_use_mongodb(item: pytest.Item) -> bool:
    """Whether a test, or a fixture that asks for others by name, may use it."""
    return bool({"mongo_url", "request"} & set(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
        return
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(mongo_url: str) -> Iterator[Databases]:
    """Databases for tests, which other tests may have used before them."""
    found = Databases(mongo_url)
    yield found
    if os.environ.get("TEST_MONGO_URL"):  # else they go with the server, which may be frozen
        found.drop()


@pytest.fixture
def mongo_database_url(databases: Databases) -> Iterator[str]:
    """The URL of a database that only this test has."""
    with databases.one() as url:
        yield url


@pytest.fixture
def fresh_database_url(databases: Databases) -> Iterator[str]:
    """The same of one on which flagsvc was never started: for tests of what it makes there, or that make it first."""
    with databases.fresh() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongod)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of each kind that takes writes."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flags.db"
    return str(request.getfixturevalue("mongo_database_url"))


@pytest.fixture
def redis_clean_url(redis_url: str) -> str:
    """The URL of a Redis without a single key."""
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    client.close()
    return redis_url


@pytest.fixture(scope="session")
def _stoppable_mongod() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@pytest.fixture
def mongod(_stoppable_mongod: Mongod) -> Iterator[Mongod]:
    """A replica set that only this test uses, for tests that stop or freeze it; empty. It is frozen between tests."""
    server = _stoppable_mongod
    server.resume()
    server.start()
    with pymongo.MongoClient(server.url) as client:
        for name in set(client.list_database_names()) - {"admin", "config", "local"}:
            client.drop_database(name)
    yield server
    if server.running:
        server.pause()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of its own, for tests that stop or freeze it."""
    with RedisServer() as server:
        yield server
