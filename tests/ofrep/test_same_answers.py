"""OFREP's answers are the same as FlagService's, for every flag and many contexts."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from flagsvc.api.common.values import from_value, to_value
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.ofrep.asking import Asked
from tests.providers.cases import CASES

CONTEXTS: list[dict[str, Any]] = [
    {},
    *({"targetingKey": f"user-{number}"} for number in range(12)),
    *({"targetingKey": case.targeting_key} | case.attributes for case in CASES if case.targeting_key),
    *(dict(case.attributes) for case in CASES if case.attributes),
    {"country": ["CH"], "version": 2.1, "email": None, "choice": {"a": 1}},
    {"country": "CH", "version": "2.1.0", "email": "ü@flagsvc.example", "choice": 1.0, "tier": "gold"},
]


@pytest.mark.parametrize("flag_set", ["default", "tenant-a"])
async def test_answers_are_those_of_flag_service(asked: Asked, flag_set: str) -> None:
    reasons = set()
    for context in CONTEXTS:
        expected = await of_flag_service(asked, context, flag_set)
        found = (await asked.all(context, Flagd_Selector=f"flagSetId={flag_set}")).json()["flags"]
        assert {each["key"]: summary(each) for each in found} == expected
        reasons |= {answer[0] for answer in expected.values()}
    if flag_set == "default":
        assert reasons == {"STATIC", "TARGETING_MATCH", "DEFAULT", "DISABLED", "GENERAL"}


async def of_flag_service(asked: Asked, context: dict[str, Any], flag_set: str) -> dict[str, tuple[Any, ...]]:
    attributes = {name: to_value(value) for name, value in context.items() if name != "targetingKey"}
    message = types.EvaluationContext(targeting_key=context.get("targetingKey", ""), attributes=attributes)
    request = pb.BatchEvaluateFlagsRequest(flag_set=flag_set, context=message)
    answer = await asked.grpc.stub.BatchEvaluateFlags(request, timeout=10)
    return {each.flag_key: of(each) for each in answer.evaluations}


def of(evaluation: Any) -> tuple[Any, ...]:
    named = MessageToDict(evaluation)
    if "errorCode" in named:
        return (named["errorCode"].removeprefix("ERROR_CODE_"),)
    reason = named["reason"].removeprefix("REASON_")
    value = from_value(evaluation.value, "value") if evaluation.variant else None
    return reason, evaluation.variant, value


def summary(answer: dict[str, Any]) -> tuple[Any, ...]:
    if "errorCode" in answer:
        return (answer["errorCode"],)
    return answer["reason"], answer["variant"] or "", answer.get("value")
