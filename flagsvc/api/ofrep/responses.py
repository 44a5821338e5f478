"""Evaluations as OFREP's JSON. Texts of errors are flagd's; nothing of a rule is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.model import Flag, JsonValue
from flagsvc.serving.reader import Evaluation

STATUSES = {ErrorCode.FLAG_NOT_FOUND: 404, ErrorCode.PROVIDER_NOT_READY: 503}
"""HTTP's status for an error code; 400 for all others."""
_DETAILS = {
    ErrorCode.FLAG_NOT_FOUND: "flag `{}` does not exist",
    ErrorCode.PARSE_ERROR: "error parsing the flag `{}`",
    ErrorCode.PROVIDER_NOT_READY: "the flag `{}` cannot be read yet; try again",
}
_OTHER_DETAILS = "error processing the flag for evaluation"


def status_of(evaluation: Evaluation) -> int:
    """Give HTTP's status for the answer to a single evaluation."""
    code = evaluation.outcome.error_code
    return 200 if code is None else STATUSES.get(code, 400)


def answer(evaluation: Evaluation, selected: Mapping[str, str]) -> dict[str, JsonValue]:
    """Give one evaluation. Without a value the caller's default stands; `selected`: the selector as metadata."""
    outcome, flag, key = evaluation.outcome, evaluation.flag, evaluation.flag_id.key
    if outcome.error_code is not None:
        return failure(outcome.error_code, _DETAILS.get(outcome.error_code, _OTHER_DETAILS).format(key), key)
    told: dict[str, JsonValue] = {"key": key, "reason": outcome.reason}
    if outcome.variant is not None:
        told |= {"variant": outcome.variant, "value": _typed(outcome.value, flag)}
    else:
        # The Python provider cannot do without a variant, and only these reasons mean the caller's default.
        reason = Reason.DISABLED if evaluation.is_disabled else Reason.DEFAULT
        told |= {"reason": reason, "variant": ""}
    if metadata := {**selected, **(flag.metadata if flag else {})}:
        told["metadata"] = metadata
    return told


def bulk(
    evaluations: Iterable[Evaluation], selected: Mapping[str, str], streams: list[JsonValue]
) -> dict[str, JsonValue]:
    """Give all flags of a set, with where their changes are told."""
    told: dict[str, Any] = {"flags": [answer(evaluation, selected) for evaluation in evaluations]}
    if selected:
        told["metadata"] = dict(selected)
    return {**told, "eventStreams": streams}


def unknown(key: str) -> dict[str, JsonValue]:
    """Give the error for a flag that there is not."""
    return failure(ErrorCode.FLAG_NOT_FOUND, _DETAILS[ErrorCode.FLAG_NOT_FOUND].format(key), key)


def failure(code: str, details: str, key: str | None = None) -> dict[str, JsonValue]:
    """Give an error, of a flag where one was asked for."""
    named = {} if key is None else {"key": key}
    return {**named, "errorCode": code, "errorDetails": details}


def encoded(value: JsonValue) -> bytes:
    """Write JSON; half a surrogate pair has no UTF-8 but is JSON when escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _typed(value: JsonValue, flag: Flag | None) -> JsonValue:
    """Write a whole number of a flag that has fractions with a point: callers tell types apart by it."""
    if value.__class__ is int and flag is not None:
        return float(value) if any(other.__class__ is float for other in flag.effective_variants.values()) else value
    return value
