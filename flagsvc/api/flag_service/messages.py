"""Options of requests from messages; evaluations, explanations, history and write results to messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagsvc.api.common.values import put_value, to_value
from flagsvc.core import json_values
from flagsvc.core.errors import invalid, short_repr
from flagsvc.core.evaluation import ErrorCode, Explanation, Reason, ValueType
from flagsvc.core.json_values import json_path
from flagsvc.core.model import WRITABLE, HistoryEntry, Status
from flagsvc.core.revisions.model import restored_revision
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.replication.publish import WriteLevel
from flagsvc.serving.reader import Evaluation
from flagsvc.serving.writer import WaitFor, WriteResult
from flagsvc.view.entries import Source

SOURCES: Mapping[Source, types.DefinitionSource.ValueType] = {
    Source.NEAR: types.DEFINITION_SOURCE_NEAR_CACHE,
    Source.CACHE: types.DEFINITION_SOURCE_CACHE,
    Source.STORE: types.DEFINITION_SOURCE_STORE,
    Source.SNAPSHOT: types.DEFINITION_SOURCE_SNAPSHOT,
}
MAX_STEPS = 10_000
"""Steps of an explanation that are sent; the rest is left out."""
MAX_WAIT_S = 60
_EVALUATION, _AGE = b"\x0a", b"\x50"
"""Tags of the field `evaluation` or `evaluations` of the responses, and of `FlagEvaluation.age_ms`."""
_AGE_BYTES = 4
"""Bytes of an age of up to 35 minutes, longer than any staleness bound, with its tag."""
_MORE = 128
_SEVEN_BITS = tuple(bytes((number,)) for number in range(_MORE))
_LEVELS = {level: pb.WriteLevel.Value(f"WRITE_LEVEL_{level.name}") for level in WriteLevel}
_REASONS = {reason: types.Reason.Value(f"REASON_{reason}") for reason in Reason}
_ERRORS = {code: types.ErrorCode.Value(f"ERROR_CODE_{code}") for code in ErrorCode}
STATUSES = {status: types.FlagStatus.Value(f"FLAG_STATUS_{status}") for status in Status}
_TYPES: Mapping[int, ValueType] = {types.ValueType.Value(f"VALUE_TYPE_{kind.name}"): kind for kind in ValueType}


def put_evaluation(message: pb.FlagEvaluation, evaluation: Evaluation) -> None:
    """Pack one evaluation into a part of a response, where a large value is not copied again."""
    outcome, flag = evaluation.outcome, evaluation.flag
    message.flag_key = evaluation.flag_id.key
    message.reason = _REASONS[outcome.reason]
    message.revision = evaluation.revision
    message.source = SOURCES[evaluation.source]
    message.age_ms = int(evaluation.age_s * 1000)
    if outcome.variant is not None:
        message.variant = outcome.variant
        value = outcome.value
        if value is True or value is False:
            message.value.boolean_value = value
        else:
            put_value(message.value, value)
    if outcome.error_code is not None:
        message.error_code = _ERRORS[outcome.error_code]
        message.error_message = outcome.message
    if flag is not None:
        message.status = STATUSES[flag.status]
        message.enabled = flag.status is Status.ENABLED and outcome.value is True
        for name, item in evaluation.metadata.items():
            put_value(message.flag_metadata[name], item)


def encoded_evaluation(evaluation: Evaluation) -> bytes:
    """Return a batch's response with this evaluation alone. Joined, such responses are the response with all."""
    response = pb.BatchEvaluateFlagsResponse()
    put_evaluation(response.evaluations.add(), evaluation)
    return response.SerializeToString()


def around_age(evaluation: Evaluation) -> tuple[bytes, bytes]:
    """Return an encoded evaluation without its age, which is of the call: what is before the age, and behind it."""
    message = pb.FlagEvaluation()
    put_evaluation(message, evaluation)
    behind = pb.FlagEvaluation(enabled=message.enabled, status=message.status)
    for field in ("age_ms", "enabled", "status"):
        message.ClearField(field)
    return message.SerializeToString(), behind.SerializeToString()


def with_age(reply: tuple[bytes, ...], age_s: float) -> bytes:
    """Return the response to one evaluation, encoded. Joined, such responses are that to a batch."""
    before, behind = reply
    age_ms = int(age_s * 1000)
    body = before + _AGE + varint(age_ms) + behind if age_ms > 0 else before + behind
    return _EVALUATION + varint(len(body)) + body


def ageless(replies: list[tuple[bytes, ...]]) -> list[bytes]:
    """Return a batch's response in pieces: joined with the same `age_between`, they are the response."""
    pieces, last = [], b""
    for before, behind in replies:
        body = len(before) + _AGE_BYTES + len(behind)
        pieces.append(last + _EVALUATION + varint(body) + before)
        last = behind
    return [*pieces, last]


def age_between(age_s: float) -> bytes:
    """Return the field with the age. It always has the same length, for the length of each evaluation has it in it."""
    age_ms, encoded = int(age_s * 1000), bytearray(_AGE)
    for _ in range(_AGE_BYTES - 2):
        encoded.append(age_ms % _MORE + _MORE)
        age_ms //= _MORE
    encoded.append(age_ms)
    return bytes(encoded)


def varint(number: int) -> bytes:
    """Encode a number that is not negative, as Protocol Buffers do."""
    return _SEVEN_BITS[number] if number < _MORE else bytes((number % _MORE + _MORE,)) + varint(number // _MORE)


def encoded_response(evaluation: Evaluation, explained: Explanation | None) -> bytes:
    """Return the response to one evaluation, encoded."""
    explanation = explanation_to_message(explained) if explained is not None else None
    response = pb.EvaluateFlagResponse(explanation=explanation)
    put_evaluation(response.evaluation, evaluation)
    return response.SerializeToString()


def expected_type(value: int) -> ValueType | None:
    """Return the value type that the caller expects; None for any. Raises InvalidRequest."""
    if value == types.VALUE_TYPE_UNSPECIFIED:
        return None
    if value not in _TYPES:
        raise invalid("expected_type", value, "a value of ValueType")
    return _TYPES[value]


def explanation_to_message(explanation: Explanation) -> pb.Explanation:
    """Pack an explanation, up to MAX_STEPS steps."""
    context_read = {name: to_value(value) for name, value in explanation.read.items()}
    message = pb.Explanation(summary=explanation.summary, context_read=context_read, notes=explanation.notes)
    for step in explanation.steps[:MAX_STEPS]:
        result = to_value(step.result if json_values.problem(step.result) is None else short_repr(step.result))
        message.steps.add(
            path=json_path(step.path), operator=step.operator, result=result, note=step.note, depth=step.depth
        )
    return message


def history_to_message(entry: HistoryEntry) -> pb.HistoryEntry:
    """Pack one history entry."""
    message = pb.HistoryEntry(
        flag_key=entry.key,
        action=entry.action,
        previous_value=None if entry.previous is None else to_value(entry.previous),
        new_value=None if entry.new is None else to_value(entry.new),
        actor=entry.caller or entry.actor,
        on_behalf_of=entry.actor if entry.caller and entry.actor != entry.caller else "",
        reason=entry.reason,
        revision=entry.revision,
        restored_revision=restored_revision(entry.via),
        via=entry.via,
    )
    message.created_at.FromDatetime(entry.created_at)
    return message


def min_revision(value: int) -> int:
    """Return the consistency token: the revision that the response must contain. Raises InvalidRequest."""
    if value < 0:
        raise invalid("min_revision", value, "0 (no token) or a revision from a write's response")
    return value


def wait_for(request: Any) -> WaitFor:
    """Return the level a write waits for before its response, and for how long. Raises InvalidRequest."""
    levels = {number: level for level, number in _LEVELS.items()}
    if request.wait_for and request.wait_for not in levels:
        raise invalid("wait_for", request.wait_for, "a value of WriteLevel")
    if not request.HasField("wait_timeout"):
        return WaitFor(levels.get(request.wait_for))
    seconds = request.wait_timeout.seconds + request.wait_timeout.nanos / 1e9
    if not 0 <= seconds <= MAX_WAIT_S:
        raise invalid("wait_timeout", f"{seconds:g} s", f"0 to {MAX_WAIT_S} s")
    return WaitFor(levels.get(request.wait_for), seconds)


def spread_to_message(written: WriteResult) -> pb.WriteSpread:
    """Pack the level that a write reached, with the replicas that have applied it and those that lag."""
    return pb.WriteSpread(
        revision=written.entry.revision,
        reached=_LEVELS[written.reached],
        applied_by=written.applied_by,
        lagging=written.lagging,
    )


def masked(paths: list[str], field: str = "update_mask") -> list[str]:
    """Return the fields in a mask. Raises InvalidRequest if there are none or one cannot be written."""
    wanted = f"* or fields among {', '.join(WRITABLE)}"
    if paths == ["*"]:
        return list(WRITABLE)
    if not paths:
        raise invalid(field, "empty", wanted, "INVALID_UPDATE_MASK")
    for path in paths:
        if path not in WRITABLE:
            raise invalid(field, path, wanted, "INVALID_UPDATE_MASK")
    return list(dict.fromkeys(paths))
