"""Answers that are kept of a definition are what would be encoded for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from flagsvc.api.common.replies import MAX_KEPT
from flagsvc.api.flag_service import messages
from flagsvc.core.evaluation import Outcome, Reason
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import Source
from tests.replicas import Client, replica, until_serving

VALUES = {
    "a": types.Value(string_value="x"),
    "b": types.Value(string_value="y" * 300),
    "n": types.Value(string_value="7"),
}
RULE = '{"if":[{"==":[{"var":"plan"},"b"]},"b",{"==":[{"var":"plan"},"n"]},"n"]}'
Served = tuple[Client, Server]


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    url = f"sqlite:///{tmp_path_factory.mktemp('kept')}/flags.db"
    async with replica(store_url=url, cache_url="none") as (client, server):
        await until_serving(client)
        yield client, server


async def created(client: Client, key: str, **fields: Any) -> types.Flag:
    return await client.create(key, status=types.FLAG_STATUS_ENABLED, **fields)


def replies_of(server: Server, key: str) -> dict[Any, tuple[bytes, ...]]:
    held = server.replica.near.peek(FlagId("default", key))
    assert held is not None
    return held.replies


async def resolved(client: Client, key: str, name: str, messages_of: Any, **headers: str) -> Any:
    service = messages_of.DESCRIPTOR.services_by_name["Service"].full_name
    call = client.channel.unary_unary(
        f"/{service}/Resolve{name}",
        getattr(messages_of, f"Resolve{name}Request").SerializeToString,
        getattr(messages_of, f"Resolve{name}Response").FromString,
    )
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return await call(getattr(messages_of, f"Resolve{name}Request")(flag_key=key), metadata=metadata, timeout=5)


async def test_a_kept_answer_is_the_first_one_again(served: Served) -> None:
    client, server = served
    flag = await created(client, "static", metadata={"team": types.Value(string_value="core")})
    first, second = await client.evaluate("static"), await client.evaluate("static")
    for found in (first, second):
        found.ClearField("age_ms")
    assert first == second
    assert (first.revision, first.status, first.enabled) == (flag.revision, types.FLAG_STATUS_ENABLED, True)
    assert first.flag_metadata["team"].string_value == "core"
    assert len(replies_of(server, "static")) == 1


async def test_each_variant_has_its_own(served: Served) -> None:
    client, server = served
    await created(client, "ruled", variants=VALUES, default_variant="a", targeting=RULE)
    for _ in range(2):
        for plan, variant in (("none", "a"), ("b", "b"), ("n", "n")):
            context = types.EvaluationContext(attributes={"plan": types.Value(string_value=plan)})
            found = await client.evaluate("ruled", context=context)
            assert (found.variant, found.value) == (variant, VALUES[variant])
    assert {variant for _, variant, _ in replies_of(server, "ruled")} == {"a", "n"}, "b is too large to be kept"


async def test_each_type_and_protocol_has_its_own(served: Served) -> None:
    client, server = served
    await created(client, "seven", variants={"n": types.Value(integer_value=7)}, default_variant="n")
    for _ in range(2):
        assert (await client.evaluate("seven")).value.integer_value == 7
        as_float = await client.evaluate("seven", expected_type=types.VALUE_TYPE_FLOAT)
        assert as_float.value.float_value == 7.0
        for protocol in (v1, v2):
            assert (await resolved(client, "seven", "Int", protocol)).value == 7
            assert (await resolved(client, "seven", "Float", protocol)).value == 7.0
            selected = await resolved(client, "seven", "Int", protocol, flagd_selector="flagSetId=default")
            assert selected.metadata["flagSetId"] == "default"
    assert len(replies_of(server, "seven")) == MAX_KEPT


async def test_a_change_is_answered_at_once(served: Served) -> None:
    client, _ = served
    await created(client, "switch")
    for enabled in (False, True, False):
        assert (await client.evaluate("switch")).enabled is not enabled
        flag = await client.toggle("switch", enabled)
        found = await client.evaluate("switch")
        assert (found.enabled, found.revision) == (enabled, flag.revision)
        if enabled:
            assert (await resolved(client, "switch", "Boolean", v1)).reason == "STATIC"
        else:
            assert (await resolved(client, "switch", "Boolean", v1)).reason == "DISABLED"


async def test_an_error_is_not_kept(served: Served) -> None:
    client, server = served
    await created(client, "text", variants={"a": VALUES["a"]}, default_variant="a")
    for _ in range(2):
        found = await client.evaluate("text", expected_type=types.VALUE_TYPE_BOOLEAN)
        assert found.error_code == types.ERROR_CODE_TYPE_MISMATCH
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resolved(client, "text", "Boolean", v1)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not replies_of(server, "text")


def evaluations() -> Iterator[Evaluation]:
    flag = Flag(key="k", status=Status.ENABLED, metadata={"a": [1.5, None]}, revision=2**40)
    for outcome in (
        Outcome(Reason.STATIC, "on", True),
        Outcome(Reason.DEFAULT, "v", "x" * 200),
        Outcome(Reason.DISABLED),
    ):
        for age_s in (-0.5, 0.0, 0.0009, 0.001, 0.127, 0.128, 16.383, 16.384, 3600.0):
            yield Evaluation(FlagId("default", "k"), outcome, flag, flag.revision, Source.NEAR, age_s)


@pytest.mark.parametrize("evaluation", tuple(evaluations()))
async def test_an_answer_around_its_age_is_the_encoded_message(evaluation: Evaluation) -> None:
    message = pb.EvaluateFlagResponse()
    messages.put_evaluation(message.evaluation, evaluation)
    message.evaluation.age_ms = max(0, message.evaluation.age_ms)  # a moment of proof may be a hair ahead
    assert messages.with_age(messages.around_age(evaluation), evaluation.age_s) == message.SerializeToString()
