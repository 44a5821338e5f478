"""Large messages are converted in pieces: the JSON is the same as in one go."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from flagsvc.api.common.answers import MAX_ANSWER_BYTES
from flagsvc.api.common.values import to_value
from flagsvc.api.connect import json_messages
from flagsvc.api.connect.json_messages import PIECE_BYTES, encoded
from flagsvc.core.errors import AnswerTooLarge
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types


def _list() -> pb.ListFlagsResponse:
    flags = [types.Flag(key=f"k{n}", variants={"on": to_value({"n": n, "x": [0.5, None]})}) for n in range(200)]
    flags.append(types.Flag(key="large", description="ü" * 20_000, created_at={"seconds": 7}))
    return pb.ListFlagsResponse(flags=flags, next_page_token="next")


def _all() -> v1.ResolveAllResponse:
    response = v1.ResolveAllResponse()
    for number in range(500):
        flag = response.flags[f'key "{number}"']
        flag.reason, flag.variant, flag.double_value = "STATIC", "on", number
        flag.metadata.fields["team"].string_value = "web"
    return response


@pytest.mark.parametrize("message", [_list(), _all()], ids=["a list", "a map"])
async def test_pieces_are_the_whole(message: object) -> None:
    data = message.SerializeToString()  # type: ignore[attr-defined]
    assert len(data) > 4 * PIECE_BYTES
    whole = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)  # type: ignore[arg-type]
    assert json.loads(await encoded(data, type(message))) == whole  # type: ignore[arg-type]


async def test_every_kind_of_field_has_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_messages, "PIECE_BYTES", 1)
    evaluation = pb.FlagEvaluation(flag_key="k", revision=2**60, age_ms=300, enabled=True)
    evaluation.value.float_value = 0.1
    for message in (evaluation, types.Value(float_value=1.5), types.Value(integer_value=-1), pb.FlagEvaluation()):
        whole = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
        assert json.loads(await encoded(message.SerializeToString(), type(message))) == whole


async def test_whole_numbers_have_no_fraction_and_an_answer_has_a_limit() -> None:
    struct = v1.ResolveObjectResponse()
    struct.value.fields["ten"].number_value = 10
    assert b'"ten":10}' in await encoded(struct.SerializeToString(), v1.ResolveObjectResponse)
    data = v1.ResolveStringResponse(value="x" * MAX_ANSWER_BYTES).SerializeToString()
    with pytest.raises(AnswerTooLarge, match="binary form"):
        await encoded(data, v1.ResolveStringResponse)
