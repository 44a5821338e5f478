"""The actor of a change is the caller; on whose behalf it acts, it may say only with the right to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest

from flagsvc.adapters.build import store_for
from flagsvc.api.common.callers import CALLER
from flagsvc.api.flag_service.authors import author_of
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.errors import PermissionDenied
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.access.callers import bearer, made, stored
from tests.replicas import replica, until_serving

TOKEN = Identity(Kind.TOKEN, "abc", "console", Role.TOGGLE, EVERY_SET)
USER = "65f0a1b2c3d4e5f601234567"


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    before = CALLER.set(UNCHECKED)
    yield
    CALLER.reset(before)


def author(caller: Identity, actor: str) -> tuple[str, str]:
    CALLER.set(caller)
    found = author_of(pb.ToggleFlagRequest(actor=actor))
    return found.caller, found.actor


def test_without_authentication_the_request_says_it() -> None:
    assert author(UNCHECKED, "ann") == ("", "ann")
    assert author(UNCHECKED, "") == ("", "")


def test_a_known_caller_is_the_actor_and_needs_a_right_to_name_another() -> None:
    assert author(TOKEN, "") == ("token:abc", "")
    with pytest.raises(PermissionDenied, match="actor is set, and the caller token:abc has no right"):
        author(TOKEN, "ann")
    assert author(replace(TOKEN, may_act_for_others=True), "ann") == ("token:abc", "ann")
    assert author(replace(TOKEN, role=Role.ADMIN), "ann") == ("token:abc", "ann")


async def test_older_readers_of_mongodb_find_the_user(mongo_database_url: str) -> None:
    store = store_for(mongo_database_url)
    await store.open()
    for key, named in (("a", USER), ("b", "ann"), ("c", "")):
        flag = Flag(key=key)
        await store.write(flag.id, create_only(put(flag, Author(datetime.now(UTC), named, "", "token:abc"))))
    await store.close()
    with pymongo.MongoClient(mongo_database_url) as client:
        database = client.get_default_database()
        for collection in ("feature_flag_history", "audit_logs"):
            rows: list[dict[str, Any]] = list(database[collection].find().sort("_id"))
            assert [row["userId"] for row in rows] == [bson.ObjectId(USER), "ann", "token:abc"]
            assert [row["caller"] for row in rows] == ["token:abc"] * 3


async def test_a_toggle_over_the_wire(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/flags.db"
    (plain, plain_text), (console, console_text), (admin, admin_text) = made("toggle"), made("toggle"), made("write")
    await stored(store_url, plain, replace(console, for_others=True), admin)
    async with replica(store_url=store_url, auth="required") as (client, _):
        await until_serving(client)
        stub = client.stub
        flag = pb.CreateFlagRequest()
        flag.flag.key = "a"
        await stub.CreateFlag(flag, metadata=bearer(admin_text))
        toggle = pb.ToggleFlagRequest(flag_key="a", enabled=True, actor="ann")
        with pytest.raises(Exception, match="has no right to act for others"):
            await stub.ToggleFlag(toggle, metadata=bearer(plain_text))
        await stub.ToggleFlag(toggle, metadata=bearer(console_text))
        request = pb.ListFlagHistoryRequest(flag_key="a")
        entries = (await stub.ListFlagHistory(request, metadata=bearer(admin_text))).entries
    assert [(entry.actor, entry.on_behalf_of) for entry in entries] == [
        (f"token:{console.id}", "ann"),
        (f"token:{admin.id}", ""),
    ]
