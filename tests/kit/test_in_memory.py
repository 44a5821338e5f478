"""Clients whose flags are in memory: what they are made of, how they evaluate, and all that a client can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client import (
    Change,
    ErrorCode,
    Evaluated,
    Flag,
    FlagClient,
    FlagConflict,
    FlagExists,
    FlagNotFound,
    FlagServiceError,
    InvalidArgument,
    Reason,
    Snapshot,
    Status,
    WriteLevel,
    context_scope,
)
from flagsvc_client.testing import AsyncInMemoryFlagClient, InMemoryFlagClient, InMemoryFlags, StrictError

from tests.client.forms import FORMS, Asked
from tests.replicas import replica

RULE = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
DEFINITION = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off", "targeting": RULE}
VALUES = {"new": True, "old": False, "gone": None, "text": "blue", "limit": 7, "ratio": 0.5, "box": {"a": [1]}}


class Kept(Asked):
    """An in-memory client of either form, called as the others are."""

    def __init__(self, form: str, source: Any, **options: Any) -> None:
        self.form = form
        self.client = (AsyncInMemoryFlagClient if form == "aio" else InMemoryFlagClient)(source, **options)


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    client = Kept(request.param, {**VALUES, "pro": DEFINITION})
    yield client
    await client.close()


async def test_values_by_key(client: Kept) -> None:
    assert await client.is_enabled("new") is True
    assert await client.is_enabled("old", default=True) is False
    assert await client.is_enabled("gone") is False
    assert await client.get_bool("old", default=True) is False
    assert await client.get_bool("gone", default=True) is True, "a flag that is off leaves the default"
    assert await client.get_str("text", default="") == "blue"
    assert await client.get_int("limit", default=0) == 7
    assert await client.get_float("ratio", default=0.0) == 0.5
    assert await client.get_object("box", default={}) == {"a": [1]}
    assert {key: found.value for key, found in (await client.batch()).items()} == {**VALUES, "pro": False}
    unknown = await client.details("nope", default=1)
    assert (unknown.value, unknown.error_code) == (1, ErrorCode.FLAG_NOT_FOUND)


async def test_rules_are_evaluated_by_the_engine_also_with_a_scope(client: Kept) -> None:
    found = await client.details("pro", {"plan": "pro"}, default=False)
    assert (found.value, found.variant, found.reason) == (True, "on", Reason.TARGETING_MATCH)
    with context_scope({"plan": "pro"}):
        assert await client.is_enabled("pro") is True
    assert await client.is_enabled("pro") is False
    bad = await client.details("pro", {"a": object()}, default=True)
    assert (bad.value, bad.error_code) == (True, ErrorCode.INVALID_CONTEXT)


async def test_it_is_ready_closes_and_opens_again(client: Kept) -> None:
    assert (await client.wait_ready(0), client.state, client.ready) == (True, "ready", True)
    await client.close()
    assert (await client.wait_ready(0), client.state) == (False, "closed")
    with pytest.raises(FlagServiceError, match="it is closed"):
        await client.flag("new")
    await client.open()
    assert (await client.flag("new")).key == "new"


async def test_definitions_writes_and_history_as_with_a_server(client: Kept) -> None:
    written = await client.toggle("new", False, reason="stop", on_behalf_of="anna", wait_for=WriteLevel.APPLIED)
    assert (written.flag.status, written.reached, written.applied_by) == (
        Status.DISABLED,
        WriteLevel.APPLIED,
        ("in-memory",),
    )
    assert await client.is_enabled("new") is False
    assert [flag.key for flag in await client.flags()] == sorted([*VALUES, "pro"])
    created = await client.create(Flag(key="fresh", status=Status.ENABLED))
    assert (await client.flag("fresh")) == created.flag
    assert (await client.set("fresh", status="BETA", name="Fresh")).flag.status is Status.BETA
    deleted = await client.delete("fresh")
    assert (deleted.flag, deleted.revision) == (None, created.revision + 2)
    [entry] = await client.history("new")
    assert (entry.action, entry.actor, entry.reason, entry.new) == ("DISABLED", "anna", "stop", {"status": "DISABLED"})
    with pytest.raises(FlagNotFound) as missing:
        await client.flag("fresh")
    assert missing.value.metadata == {"flagKey": "fresh"}
    with pytest.raises(FlagExists):
        await client.create(Flag(key="text"))
    with pytest.raises(FlagConflict):
        await client.toggle("text", True, etag='"0"')
    with pytest.raises(InvalidArgument) as bad:
        await client.set("text", targeting={"iff": [1]})
    assert [violation.field for violation in bad.value.violations] == ["flag.targeting.iff"]


async def test_a_watch_sees_writes_and_overrides(client: Kept) -> None:
    events = client.watched()
    first = await anext(events)
    assert isinstance(first, Snapshot)
    assert len(first.flags) == 8
    written = await client.toggle("new", False)
    assert await anext(events) == Change("new", written.flag, written.revision)
    with client.client.override("text", "red"):
        assert (await client.get_str("text", default=""), (await anext(events)).key) == ("red", "text")
    assert (await client.get_str("text", default=""), (await anext(events)).flag.default_variant) == ("blue", "value")
    await client.close()
    assert [event async for event in events] == []


async def test_hooks_and_events(client: Kept) -> None:
    del client
    seen: list[Evaluated] = []
    changed: list[frozenset[str]] = []
    with InMemoryFlagClient({"a": 1}, hooks=[seen.append]) as counted:
        counted.listen(lambda event: changed.append(event.keys))
        counted.get_int("a", default=0)
        counted.in_memory.set("a", 2)
    assert [each.details.value for each in seen] == [1]
    assert changed == [frozenset({"a"})]


def test_an_override_ends_also_with_an_exception_and_nests() -> None:
    with InMemoryFlagClient({"a": 1}) as client:
        with client.override("a", 2), client.override("new", True):
            with client.override("a", 3):
                assert client.get_int("a", default=0) == 3
            assert (client.get_int("a", default=0), client.is_enabled("new")) == (2, True)
        with pytest.raises(KeyError), client.override("a", 4):
            raise KeyError
        assert (client.get_int("a", default=0), client.in_memory.keys()) == (1, ["a"])


async def test_clients_of_both_forms_share_flags() -> None:
    flags = InMemoryFlags({"a": 1})
    one, two = InMemoryFlagClient(flags), AsyncInMemoryFlagClient(flags)
    flags.set("a", 5)
    assert (one.get_int("a", default=0), await two.get_int("a", default=0)) == (5, 5)


def test_an_asyncio_client_of_a_module_lives_through_several_loops() -> None:
    client = AsyncInMemoryFlagClient({"a": 1})

    async def once() -> int:
        async with client:
            return await client.get_int("a", default=0)

    assert [asyncio.run(once()), asyncio.run(once())] == [1, 1]


async def test_files_of_every_kind(tmp_path: Path) -> None:
    flagd = {"flags": {"pro": DEFINITION}, "$evaluators": {}}
    (tmp_path / "flags.json").write_text(json.dumps(flagd))
    (tmp_path / "flags.yaml").write_text(
        "flags:\n  pro: {state: ENABLED, variants: {on: true, off: false}, defaultVariant: off, "
        'targeting: {if: [{"==": [{var: plan}, pro]}, on, off]}}\n'.replace("on", '"on"').replace("off", '"off"')
    )
    (tmp_path / "flags.ndjson").write_text(
        json.dumps({"key": "pro", "status": "ENABLED", "targeting": json.dumps(RULE)})
    )
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (stub, server):
        await stub.create("pro", status=1, targeting=json.dumps(RULE))
        snapshot = tmp_path / "flags.snapshot"
        with FlagClient(f"127.0.0.1:{server.port}", local=True, snapshot_file=snapshot) as saving:
            assert await asyncio.to_thread(saving.wait_ready)
            await asyncio.to_thread(saving.close)
    for source in (flagd, *(tmp_path / f"flags.{kind}" for kind in ("json", "yaml", "ndjson", "snapshot"))):
        with InMemoryFlagClient(source) as client:
            assert client.is_enabled("pro", {"plan": "pro"}) is True, source
            assert client.is_enabled("pro", {"plan": "free"}) is False, source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"a": object()}, "flag 'a': its value cannot be sent"),
        ({"a": {"variants": {"on": True}, "state": 5}}, r"flag 'a' cannot be used:\n\$\.flags\.a\.state: "),
        ({"flags": {"a": []}}, r"the flags cannot be used:\n\$\.flags\.a: a list; a flag must be an object"),
    ],
)
def test_a_bad_source_says_what_is_wrong(source: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InMemoryFlagClient(source)


@pytest.mark.parametrize("form", FORMS)
async def test_strict_mode_raises_what_would_be_a_default(form: str) -> None:
    client = Kept(form, VALUES, strict=True)
    assert await client.is_enabled("new") is True
    with pytest.raises(StrictError, match=r"flag 'txt' cannot be evaluated: FLAG_NOT_FOUND.*; did you mean 'text'\?"):
        await client.is_enabled("txt")
    with pytest.raises(StrictError, match=r"flag 'zzz'.*; the flags are \['box', 'gone'"):
        await client.get_str("zzz", default="")
    with pytest.raises(StrictError, match="flag 'text' cannot be evaluated: TYPE_MISMATCH"):
        await client.get_int("text", default=1)
    assert len(client.client.in_memory.strict_errors) == 3
