"""FlagService on the embedded store: every call, what the existing system uses, and every kind of bad input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from flagsvc.api.flag_service import watch as watching
from flagsvc.api.flag_service.paging import to_page_token
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, detail_of, info_of, reason_of, replica, until_serving

V = types.Value


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        await until_serving(client)
        yield client


def obj(**fields: types.Value) -> types.Value:
    return V(object_value=types.ObjectValue(fields=fields))


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_a_switch_evaluates_to_its_status(client: Client) -> None:
    await client.create("a", status=types.FLAG_STATUS_ENABLED)
    on = await client.evaluate("a")
    assert (on.value.boolean_value, on.variant, on.reason, on.enabled) == (True, "on", types.REASON_STATIC, True)
    flag = await client.toggle("a", False)
    off = await client.evaluate("a")
    assert (off.HasField("value"), off.variant, off.reason) == (False, "", types.REASON_DISABLED)
    assert off.revision == flag.revision == 2
    assert off.source == types.DEFINITION_SOURCE_NEAR_CACHE


@pytest.mark.parametrize("status", [types.FLAG_STATUS_DISABLED, types.FLAG_STATUS_BETA, types.FLAG_STATUS_DEPRECATED])
async def test_only_enabled_is_on(client: Client, status: types.FlagStatus) -> None:
    await client.create("a", status=status)
    found = await client.evaluate("a")
    assert (found.reason, found.enabled, found.status) == (types.REASON_DISABLED, False, status)


async def test_an_unknown_flag_is_reported_and_not_enabled(client: Client) -> None:
    found = await client.evaluate("nope")
    assert (found.reason, found.error_code) == (types.REASON_ERROR, types.ERROR_CODE_FLAG_NOT_FOUND)
    assert not found.enabled
    assert not found.HasField("value")


async def test_values_keep_their_types(client: Client) -> None:
    big = 9_007_199_254_740_993
    config = obj(maxFileSize=V(integer_value=52428800), big=V(integer_value=big), ratio=V(float_value=2.0))
    await client.create("a", config=config, metadata={"n": V(integer_value=big)})
    flag = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"))).flag
    assert flag.config == config
    assert flag.metadata["n"].integer_value == big
    assert (await client.evaluate("a")).flag_metadata["n"].integer_value == big


async def test_another_type_than_the_flags_is_a_mismatch(client: Client) -> None:
    variants = {"small": V(integer_value=1), "large": V(integer_value=2**53 + 1)}
    await client.create("n", status=types.FLAG_STATUS_ENABLED, variants=variants, default_variant="large")
    wrong = await client.evaluate("n", expected_type=types.VALUE_TYPE_BOOLEAN)
    assert wrong.error_code == types.ERROR_CODE_TYPE_MISMATCH
    assert (await client.evaluate("n", expected_type=types.VALUE_TYPE_INTEGER)).value.integer_value == 2**53 + 1
    assert (await client.evaluate("n", expected_type=types.VALUE_TYPE_FLOAT)).value.float_value == 2.0**53


async def test_a_batch_has_an_entry_for_each_key(client: Client) -> None:
    await client.create("a", status=types.FLAG_STATUS_ENABLED)
    await client.create("b", sort_order=-1)
    asked = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=["a", "nope", "b"]))
    assert [e.error_code for e in asked.evaluations] == [0, types.ERROR_CODE_FLAG_NOT_FOUND, 0]
    everything = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest())
    assert [e.flag_key for e in everything.evaluations] == ["b", "a"]


async def test_lists_are_ordered_by_sort_order_and_paged(client: Client) -> None:
    for key, order in (("c", 1), ("b", 1), ("a", 2), ("d", 0)):
        await client.create(key, sort_order=order)
    keys, token = [], ""
    while True:
        page = await client.stub.ListFlags(pb.ListFlagsRequest(page_size=3, page_token=token))
        keys += [flag.key for flag in page.flags]
        token = page.next_page_token
        if not token:
            break
    assert keys == ["d", "b", "c", "a"]


async def test_an_update_replaces_the_whole_config_and_nothing_else(client: Client) -> None:
    await client.create("a", description="words", config=obj(x=V(integer_value=1), y=V(integer_value=2)))
    request = pb.UpdateFlagRequest(flag=types.Flag(key="a", config=obj(z=V(integer_value=3))), actor="me")
    request.update_mask.paths.append("config")
    flag = (await client.stub.UpdateFlag(request)).flag
    assert flag.config == obj(z=V(integer_value=3))
    assert flag.description == "words"
    [entry, _] = (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a"))).entries
    assert (entry.action, entry.actor) == ("UPDATED", "me")
    assert entry.new_value == obj(config=obj(z=V(integer_value=3)))


async def test_history_returns_the_newest_fifty_first(client: Client) -> None:
    await client.create("a")
    for number in range(55):
        await client.toggle("a", number % 2 == 0, reason=str(number))
    entries = (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a"))).entries
    assert [entry.reason for entry in entries] == [str(n) for n in range(54, 4, -1)]
    assert not (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="nope"))).entries


async def test_toggling_to_the_same_state_is_still_a_change(client: Client) -> None:
    await client.create("a", status=types.FLAG_STATUS_ENABLED)
    flag = await client.toggle("a", True)
    assert flag.revision == 2
    assert flag.status == types.FLAG_STATUS_ENABLED


async def test_a_deleted_flag_can_be_created_again_with_a_larger_revision(client: Client) -> None:
    await client.create("a", status=types.FLAG_STATUS_ENABLED)
    deleted = (await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"))).revision
    assert (await client.evaluate("a")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
    assert (await client.create("a")).revision > deleted


async def test_flag_sets_are_separate(client: Client) -> None:
    await client.create("a", flag_set="one", status=types.FLAG_STATUS_ENABLED)
    await client.create("a", flag_set="two")
    assert (await client.evaluate("a", flag_set="one")).enabled
    assert not (await client.evaluate("a", flag_set="two")).enabled
    assert (await client.evaluate("a")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND


async def test_a_watch_sends_a_snapshot_then_every_change_and_resumes(client: Client) -> None:
    await client.create("a")
    stream = client.stub.WatchFlags(pb.WatchFlagsRequest())
    first = await stream.read()
    assert [flag.key for flag in first.snapshot.flags] == ["a"]
    for number in range(5):
        await client.toggle("a", number % 2 == 0)
    await client.create("b")
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="b"))
    seen = [await stream.read() for _ in range(7)]
    assert [m.change.revision for m in seen] == [2, 3, 4, 5, 6, 7, 8]
    assert not seen[-1].change.HasField("flag")
    stream.cancel()
    resumed = client.stub.WatchFlags(pb.WatchFlagsRequest(resume_revision=seen[2].resume_revision))
    again = [await resumed.read() for _ in range(4)]
    assert [m.change.revision for m in again] == [5, 6, 7, 8]
    resumed.cancel()


async def test_a_resume_from_before_the_replica_started_gets_a_snapshot(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=url) as (client, _):
        for key in "abc":
            await client.create(key)
        await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="c"))
    async with replica(store_url=url) as (client, _):
        stream = client.stub.WatchFlags(pb.WatchFlagsRequest(resume_revision=3))
        assert [f.key for f in (await stream.read()).snapshot.flags] == ["a", "b"]
        current = client.stub.WatchFlags(pb.WatchFlagsRequest(resume_revision=4))
        quiet = await current.read()
        assert (quiet.WhichOneof("event"), quiet.resume_revision) == ("heartbeat", 4), "nothing was missed"
        await client.toggle("a", True)
        assert (await current.read()).change.revision == 5
        stream.cancel()
        current.cancel()


async def test_a_watch_ends_at_the_age_of_connections_and_resumes_on_another(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", connection_age_s=0.3) as (client, _):
        await until_serving(client)
        revision = (await client.create("a")).revision
        async with asyncio.timeout(10):
            watched = [message async for message in client.stub.WatchFlags(pb.WatchFlagsRequest())]
        assert watched[0].resume_revision == revision
        await client.toggle("a", True)
        resumed = client.stub.WatchFlags(pb.WatchFlagsRequest(resume_revision=revision))
        assert (await resumed.read()).change.flag_key == "a"


@pytest.mark.grpcio
async def test_a_watcher_that_does_not_read_blocks_nobody_and_ends_with_the_newest_state(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "QUEUE_LENGTH", 16)
    await client.create("a", variants={"v": types.Value(string_value="x" * 60_000)})
    lazy = client.stub.WatchFlags(pb.WatchFlagsRequest())
    quick = client.stub.WatchFlags(pb.WatchFlagsRequest())
    await quick.read()
    await lazy.read()
    for number in range(100):
        await client.toggle("a", number % 2 == 0)
        assert (await quick.read()).change.revision == number + 2
    revision = messages = 0
    while revision < 101:
        messages += 1
        message = await asyncio.wait_for(lazy.read(), 5)
        flags = message.snapshot.flags if message.HasField("snapshot") else [message.change.flag]
        assert flags[0].revision >= revision
        revision = flags[0].revision
    assert messages < 100, "every change waited for it"
    lazy.cancel()
    quick.cancel()


def _toggle(**fields: object) -> tuple[str, object]:
    return "ToggleFlag", pb.ToggleFlagRequest(**fields)  # type: ignore[arg-type]


def _update(mask: list[str], **fields: object) -> tuple[str, object]:
    request = pb.UpdateFlagRequest(flag=types.Flag(key="known", **fields))  # type: ignore[arg-type]
    request.update_mask.paths.extend(mask)
    return "UpdateFlag", request


def _create(**fields: object) -> tuple[str, object]:
    return "CreateFlag", pb.CreateFlagRequest(flag=types.Flag(**fields))  # type: ignore[arg-type]


BAD = {
    "empty key": (("EvaluateFlag", pb.EvaluateFlagRequest()), "INVALID_FLAG_KEY", "flag_key"),
    "long key": (("EvaluateFlag", pb.EvaluateFlagRequest(flag_key="k" * 256)), "INVALID_FLAG_KEY", "flag_key"),
    "control character": (("GetFlag", pb.GetFlagRequest(flag_key="a\nb")), "INVALID_FLAG_KEY", "flag_key"),
    "bad set": (("ListFlags", pb.ListFlagsRequest(flag_set="a\0")), "INVALID_FLAG_SET", "flag_set"),
    "huge context": (
        (
            "EvaluateFlag",
            pb.EvaluateFlagRequest(flag_key="known", context=types.EvaluationContext(targeting_key="x" * 70_000)),
        ),
        "INVALID_CONTEXT",
        "context",
    ),
    "unknown type": (
        ("EvaluateFlag", pb.EvaluateFlagRequest(flag_key="known", expected_type=77)),  # type: ignore[arg-type]
        "INVALID_ARGUMENT",
        "expected_type",
    ),
    "too many keys": (
        ("BatchEvaluateFlags", pb.BatchEvaluateFlagsRequest(flag_keys=["k"] * 1_001)),
        "INVALID_ARGUMENT",
        "flag_keys",
    ),
    "negative page": (("ListFlags", pb.ListFlagsRequest(page_size=-1)), "INVALID_PAGE_SIZE", "page_size"),
    "negative history": (
        ("ListFlagHistory", pb.ListFlagHistoryRequest(flag_key="known", page_size=-5)),
        "INVALID_PAGE_SIZE",
        "page_size",
    ),
    "foreign token": (("ListFlags", pb.ListFlagsRequest(page_token="aGVsbG8")), "INVALID_PAGE_TOKEN", "page_token"),
    "no token at all": (("ListFlags", pb.ListFlagsRequest(page_token="é!")), "INVALID_PAGE_TOKEN", "page_token"),
    **{
        f"forged token {position!r}": (
            ("ListFlags", pb.ListFlagsRequest(page_token=to_page_token("default", position))),  # type: ignore[arg-type]
            "INVALID_PAGE_TOKEN",
            "page_token",
        )
        for position in (5, [], ["a", "b"], [2**63, "a"], [1, "\ud800"], [1, 2], None)
    },
    "bad etag": (_toggle(flag_key="known", etag="abc"), "INVALID_ETAG", "etag"),
    "no mask": (_update([], name="x"), "INVALID_UPDATE_MASK", "update_mask"),
    "mask of nothing": (_update(["nope"], name="x"), "INVALID_UPDATE_MASK", "update_mask"),
    "mask of output": (_update(["revision"]), "INVALID_UPDATE_MASK", "update_mask"),
    "long actor": (_toggle(flag_key="known", actor="a" * 256), "INVALID_ARGUMENT", "actor"),
    "mixed variants": (
        _create(key="new", variants={"a": V(boolean_value=True), "b": V(string_value="x")}),
        "INVALID_FLAG",
        "flag.variants[b]",
    ),
    "list variant": (
        _create(key="new", variants={"a": V(list_value=types.ListValue())}),
        "INVALID_FLAG",
        "flag.variants[a]",
    ),
    "NaN": (_create(key="new", variants={"a": V(float_value=float("nan"))}), "INVALID_FLAG", "flag.variants[a]"),
    "default of nothing": (_create(key="new", default_variant="maybe"), "INVALID_FLAG", "flag.default_variant"),
    "config no object": (_create(key="new", config=V(integer_value=1)), "INVALID_FLAG", "flag.config"),
    "unset value": (_create(key="new", config=V()), "INVALID_ARGUMENT", "flag.config"),
    "unknown rule": (_create(key="new", targeting='{"!": {"nope": 1}}'), "INVALID_FLAG", 'flag.targeting["!"].nope'),
    "unknown status": (_create(key="new", status=9), "INVALID_ARGUMENT", "flag.status"),
    "create without key": (_create(name="x"), "INVALID_FLAG_KEY", "flag.key"),
}


@pytest.fixture(scope="module")
async def with_one_flag(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server for calls that change nothing; its flag is `known`."""
    async with replica(store_url=f"sqlite:///{tmp_path_factory.mktemp('known')}/flags.db") as (client, _):
        await until_serving(client)
        await client.create("known")
        yield client


@pytest.mark.parametrize(("call", "reason", "field"), BAD.values(), ids=BAD)
async def test_bad_input_is_refused_by_name_and_changes_nothing(
    with_one_flag: Client, call: tuple[str, object], reason: str, field: str
) -> None:
    client = with_one_flag
    before = await client.stub.ListFlags(pb.ListFlagsRequest())
    method, request = call
    error = await refused(getattr(client.stub, method)(request))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert detail_of(error, "BadRequest").field_violations[0].field == field
    assert await client.stub.ListFlags(pb.ListFlagsRequest()) == before
    assert len((await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="known"))).entries) == 1


async def test_a_token_of_another_set_is_refused(client: Client) -> None:
    for key in "ab":
        await client.create(key)
    token = (await client.stub.ListFlags(pb.ListFlagsRequest(page_size=1))).next_page_token
    error = await refused(client.stub.ListFlags(pb.ListFlagsRequest(flag_set="other", page_token=token)))
    assert reason_of(error) == "INVALID_PAGE_TOKEN"


async def test_a_value_nested_too_deep_is_refused(client: Client) -> None:
    value = V(integer_value=1)
    for _ in range(28):
        value = obj(x=value)
    error = await refused(client.create("deep", config=value))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stale_etag_error_has_the_current_one(client: Client) -> None:
    flag = await client.create("a")
    await client.toggle("a", True, etag=flag.etag)
    for call in (
        client.toggle("a", False, etag=flag.etag),
        client.stub.UpdateFlag(_update(["name"], name="x", etag='"99"')[1]),
        client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a", etag=flag.etag)),
    ):
        error = await refused(call)
        if "known" in (error.details() or ""):
            assert error.code() == grpc.StatusCode.NOT_FOUND
            continue
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.ABORTED, "FLAG_VERSION_CONFLICT")
        assert info_of(error).metadata["currentEtag"] == '"2"'
    assert (await client.evaluate("a")).revision == 2


async def test_unknown_and_taken_keys(client: Client) -> None:
    error = await refused(client.toggle("nope", True))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "FLAG_NOT_FOUND")
    assert error.details() == 'Feature flag with key "nope" not found'
    assert (await refused(client.stub.GetFlag(pb.GetFlagRequest(flag_key="nope")))).code() == grpc.StatusCode.NOT_FOUND
    await client.create("a")
    error = await refused(client.create("a"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "FLAG_ALREADY_EXISTS")


async def test_a_message_over_the_limit_is_refused_and_the_connection_stays(client: Client) -> None:
    request = pb.EvaluateFlagRequest(flag_key="a", context=types.EvaluationContext(targeting_key="x" * 5_000_000))
    error = await refused(client.stub.EvaluateFlag(request))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.evaluate("a")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
