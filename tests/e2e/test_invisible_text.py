"""Invisible characters through the service: refused in what is new, served, toggled and deleted where stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, put
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, detail_of, replica, until_serving

ODD = "off\u202effo\u200b"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A server whose store has a flag with an odd key, from before such keys were refused."""
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    flag = Flag(key=ODD, name=ODD, status=Status.ENABLED, owner=ODD)
    await store.write(FlagId("default", ODD), put(flag, Author(datetime.now(UTC), actor=ODD, reason="a\x1b[2J")))
    await store.close()
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        await until_serving(client)
        yield client


async def test_a_stored_flag_is_served_changed_and_deleted(client: Client) -> None:
    assert (await client.evaluate(ODD)).enabled
    await client.toggle(ODD, False)
    assert (await client.evaluate(ODD)).reason == types.REASON_DISABLED
    request = pb.UpdateFlagRequest(flag=types.Flag(key=ODD, category="core"))
    request.update_mask.paths.append("category")
    assert (await client.stub.UpdateFlag(request)).flag.owner == ODD
    history = await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key=ODD))
    assert history.entries[-1].actor == ODD
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key=ODD))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.stub.GetFlag(pb.GetFlagRequest(flag_key=ODD))
    assert caught.value.details() == 'Feature flag with key "off\\u202effo\\u200b" not found'


@pytest.mark.parametrize("char", ["\x1b", "\n", "\x7f", "\x85", "\u202e", "\u200b", "\u2066"], ids=ascii)
async def test_new_texts_are_refused_with_code_point_and_place(client: Client, char: str) -> None:
    bad, place = f"ab{char}", f"U+{ord(char):04X} (character 3)"
    toggle = {"flag_key": ODD, "enabled": True}
    calls = {
        "flag.key": client.stub.CreateFlag(pb.CreateFlagRequest(flag=types.Flag(key=bad, name="x"))),
        "flag.name": client.stub.CreateFlag(pb.CreateFlagRequest(flag=types.Flag(key="x", name=bad))),
        "flag.owner": client.stub.CreateFlag(pb.CreateFlagRequest(flag=types.Flag(key="x", owner=bad))),
        "actor": client.stub.ToggleFlag(pb.ToggleFlagRequest(**toggle, actor=bad)),
        "reason": client.stub.ToggleFlag(pb.ToggleFlagRequest(**toggle, reason=bad)),
    }
    for field, call in calls.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        [violation] = detail_of(caught.value, "BadRequest").field_violations
        assert violation.field == field
        assert place in violation.description
        assert char not in str(caught.value.details())
