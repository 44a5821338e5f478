"""A writer killed inside its transaction delays the others for seconds, not for MongoDB's minute."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime

import pymongo
import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.changes import Author, create, toggle
from flagsvc.core.errors import StoreUnavailable
from flagsvc.core.model import Flag, FlagId
from tests.servers import Mongod
from tests.store_events import DRIVERS

AUTHOR = Author(datetime.now(UTC))
A = FlagId("default", "a")
KILLED = """
import os, sys, pymongo
client = pymongo.MongoClient(sys.argv[1], appname=sys.argv[2])
session = client.start_session()
session.start_transaction()
counters = client.get_default_database()["flagsvc_revisions"]
counters.update_one({"_id": "default"}, {"$inc": {"revision": 1}}, session=session)
os.kill(os.getpid(), 9)
"""


def killed_writer(url: str, name: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, url, name], check=False)


@pytest.mark.parametrize(("name", "driver"), [("flagsvc", "motor"), ("flagsvc:blue", "pymongo")])
async def test_a_killed_writers_transaction_is_ended(mongod: Mongod, name: str, driver: str) -> None:
    url = mongod.database_url("orphans")
    store = MongoStore(url, **DRIVERS[driver])
    await store.open()
    await store.write(A, create(Flag(key="a"), AUTHOR))
    killed_writer(url, name)
    began = time.monotonic()
    entry = await store.write(A, toggle("a", True, None, AUTHOR))
    assert entry is not None
    assert entry.revision == 2
    assert time.monotonic() - began < 5
    await store.close()


async def test_another_programs_transaction_is_left_alone(mongod: Mongod) -> None:
    url = mongod.database_url("orphans")
    store = MongoStore(url)
    await store.open()
    await store.write(A, create(Flag(key="a"), AUTHOR))
    killed_writer(url, "another")
    with pytest.raises(StoreUnavailable):
        await store.write(A, toggle("a", True, None, AUTHOR))
    with pymongo.MongoClient(url) as direct:
        operations = direct.admin.aggregate(
            [{"$currentOp": {"idleSessions": True}}, {"$match": {"appName": "another"}}]
        )
        assert len(list(operations)) == 1
    await store.close()
