"""Revisions through both forms of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flagsvc_client import ErrorCode, Flag, FlagConflict, FlagNotFound, FlagServiceError, Status

from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica, until


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("revisions")
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (_, server):
        await until(lambda: not server.replica.revision_sweep._is_first)
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Asked]:
    async with asked(request.param, target, timeout_s=5.0, flag_set=request.param) as client:
        yield client


async def test_what_was_answered_and_how_to_return_to_it(client: Asked) -> None:
    await client.create(Flag(key="a", status=Status.ENABLED))
    await client.create(Flag(key="b"))
    await client.toggle("a", False)
    [last, first] = await client.revisions("a")
    assert [(each.revision, each.action) for each in (first, last)] == [(1, "CREATED"), (3, "DISABLED")]
    assert [each.revision for each in await client.revisions("a", limit=1)] == [3]
    assert (await client.flag_at("a", 1)).status is Status.ENABLED
    assert (await client.details_at("a", 2, default=False)).value is True
    assert (await client.details_at("a", last.time, {"plan": "pro"}, default=True)).enabled is False
    then = await client.batch_at(2)
    assert {key: found.enabled for key, found in then.items()} == {"a": True, "b": False}
    assert (await client.details_at("b", 1, default=True)).error_code is ErrorCode.FLAG_NOT_FOUND
    with pytest.raises(FlagNotFound):
        await client.flag_at("b", 1)
    with pytest.raises(FlagServiceError, match="is not kept any more"):
        await client.flag_at("a", datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(ValueError, match="a time must have a zone"):
        await client.flag_at("a", datetime(2026, 1, 1))  # noqa: DTZ001  that is what is wrong
    planned = await client.rollback_set(1, validate_only=True)
    assert planned.written is None
    assert [(each.flag_key, each.action, each.fields) for each in planned.flags] == [
        ("a", "UPDATED", ("status",)),
        ("b", "DELETED", ()),
    ]
    with pytest.raises(FlagConflict):
        await client.rollback("a", 1, etag='"1"')
    assert (await client.rollback("a", 1, etag='"3"')).revision == 4
    [entry, *_] = await client.history("a")
    assert (entry.restored_revision, entry.via) == (1, "revision/1")
    done, again = [await client.rollback_set(1, request_id=f"set-{client.form}") for _ in range(2)]
    assert [each.revision for each in done.flags] == [each.revision for each in again.flags] == [5]
    assert done.written.revision == 5
    assert [flag.key for flag in await client.flags()] == ["a"]


async def test_a_write_that_is_sent_twice_is_made_once(client: Asked) -> None:
    first = await client.create(Flag(key="c"), request_id=f"r-{client.form}")
    again = await client.create(Flag(key="c"), request_id=f"r-{client.form}")
    assert first.flag == again.flag
