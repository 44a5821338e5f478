"""Values of many fields are packed outside the event loop, small ones on it; the answers are the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import struct_pb2

from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service import messages
from flagsvc.api.flagd import evaluation as flagd_evaluation
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as flagd_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import replica, until_serving

LARGE = {f"{number:x}": number for number in range(4_900)}
SMALL = {"a": 1}


async def test_many_fields_are_packed_in_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[int, bool]] = []
    put_evaluation, put_fields = messages.put_evaluation, flagd_evaluation.put_fields

    def note(size: int) -> None:
        if size:
            packed.append((size, threading.current_thread().name.startswith("off-loop")))

    def counted(message: Any, evaluation: Any) -> None:
        note(len(evaluation.outcome.value))
        put_evaluation(message, evaluation)

    def counted_fields(struct: Any, values: Any) -> None:
        note(len(values))
        put_fields(struct, values)

    monkeypatch.setattr(messages, "put_evaluation", counted)
    monkeypatch.setattr(flagd_evaluation, "put_fields", counted_fields)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        await until_serving(client)
        for key, value in (("large", LARGE), ("small", SMALL)):
            variants = {"on": to_value(value)}
            await client.create(key, status=types.FLAG_STATUS_ENABLED, variants=variants, default_variant="on")
        stub = flagd_grpc.ServiceStub(client.channel)
        for key, value in (("large", LARGE), ("small", SMALL)):
            one = await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key=key))
            batch = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=[key] * 3))
            resolved = await stub.ResolveObject(flagd.ResolveObjectRequest(flag_key=key))
            assert one.evaluation.value == to_value(value)
            assert [each.value for each in batch.evaluations] == [to_value(value)] * 3
            assert struct_pb2.Struct.FromString(resolved.value.SerializeToString()) == struct_of(value)
        everything = await stub.ResolveAll(flagd.ResolveAllRequest())
        assert set(everything.flags) == {"large", "small"}
        assert everything.flags["large"].object_value == resolved_all(everything, LARGE)
        explained = await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="small", explain=True))
        assert explained.evaluation.value == to_value(SMALL)
        assert explained.explanation.summary
    # Of the small one the batch sends what is kept of the evaluation before.
    wanted = [(4_900, True)] * 3 + [(1, False)] * 2
    assert packed[:5] == wanted
    assert sorted(packed[5:]) == [(1, False), (1, True), (4_900, True)]


def struct_of(value: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(value)
    return struct


def resolved_all(answer: flagd.ResolveAllResponse, value: dict[str, Any]) -> Any:
    wanted = type(answer.flags["small"].object_value)()
    for name, number in value.items():
        wanted.fields[name].number_value = number
    return wanted
