"""Evaluations as OFREP's JSON. Error texts are flagd's, followed by the cause."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.json_values import with_whole_numbers
from flagsvc.core.model import JsonValue
from flagsvc.serving.reader import Evaluation

STATUSES = {ErrorCode.FLAG_NOT_FOUND: 404, ErrorCode.PROVIDER_NOT_READY: 503}
"""HTTP status for each error code of an evaluation; 400 for all others."""
_DETAILS = {
    ErrorCode.FLAG_NOT_FOUND: "flag `{}` does not exist",
    ErrorCode.PARSE_ERROR: "error parsing the flag `{}`",
    ErrorCode.PROVIDER_NOT_READY: "the flag `{}` cannot be read yet; retry",
}
_MARKS_OF_WHOLE_FLOATS = (".0", "e+")
"""What Python writes in every float without a fraction; texts may have it too."""
_OTHER_DETAILS = "error processing the flag for evaluation"


def status_of(evaluation: Evaluation) -> int:
    """Return the HTTP status of a single evaluation."""
    code = evaluation.outcome.error_code
    return 200 if code is None else STATUSES.get(code, 400)


def evaluation_body(
    evaluation: Evaluation, selected: Mapping[str, str], *, for_public: bool = False
) -> dict[str, JsonValue]:
    """Return one evaluation's JSON. `selected`: the selector as metadata. Without a value a client uses its default.

    `for_public`: for a caller who must not see which flags there are besides public ones.
    """
    outcome, flag, key = evaluation.outcome, evaluation.flag, evaluation.flag_id.key
    metadata = flag.metadata if for_public and flag is not None else evaluation.metadata
    if outcome.error_code is not None:
        details = _DETAILS.get(outcome.error_code, _OTHER_DETAILS).format(key)
        names_others = for_public and flag is not None and flag.prerequisites
        if flag is not None and outcome.message and not names_others:
            details = f"{details}: {outcome.message}"
        return error_body(outcome.error_code, details, key, {**selected, **metadata})
    body: dict[str, JsonValue] = {"key": key, "reason": outcome.reason}
    if outcome.variant is not None:
        body |= {"variant": outcome.variant, "value": outcome.value}
    else:
        # The Python provider requires the field, and only these reasons make a client use its own default.
        reason = Reason.DISABLED if evaluation.is_disabled else Reason.DEFAULT
        body |= {"reason": reason, "variant": None}
    body["metadata"] = {**selected, **metadata}
    return body


def bulk_body(bodies: Sequence[bytes], selected: Mapping[str, str], event_streams: list[JsonValue]) -> bytes:
    """Return the JSON of a set from its flags' JSON, with the event streams that announce their changes."""
    others = encode({"metadata": dict(selected), "eventStreams": event_streams})
    return b"".join((b'{"flags":[', b",".join(bodies), b"],", others[1:]))  # joins of 1 MB release the interpreter


def not_found_body(key: str, selected: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the error for a flag that does not exist."""
    details = _DETAILS[ErrorCode.FLAG_NOT_FOUND].format(key)
    return error_body(ErrorCode.FLAG_NOT_FOUND, details, key, selected)


def error_body(
    code: str, details: str, key: str | None = None, metadata: Mapping[str, JsonValue] | None = None
) -> dict[str, JsonValue]:
    """Return an error's JSON, with the flag's key if the request was for one flag."""
    flag = {} if key is None else {"key": key}
    return {**flag, "errorCode": code, "errorDetails": details, "metadata": dict(metadata or {})}


def encode(value: JsonValue) -> bytes:
    """Encode as JSON in UTF-8, whole numbers as flagd writes them. An unpaired surrogate is escaped."""
    text = _dumped(value)
    if any(mark in text for mark in _MARKS_OF_WHOLE_FLOATS):
        text = _dumped(with_whole_numbers(value))
    return text.encode("utf-8", "backslashreplace")


def _dumped(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
