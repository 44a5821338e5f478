"""Arguments of the command line as contexts and flags."""

from __future__ import annotations

import argparse
import json
from typing import Any

from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.cli.usage import UsageError
from flagsvc.core.documents import from_document, times_from_json
from flagsvc.core.model import STORED_NAMES, WRITABLE
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

_FIELDS = {STORED_NAMES[field]: field for field in WRITABLE} | {field: field for field in WRITABLE}
_TEXT_FIELDS = {"name", "description", "category", "status", "icon", "badge", "default_variant", "owner"}
_TEXT_FIELDS |= {"expires_at", "targeting"}


def context(args: argparse.Namespace) -> types.EvaluationContext:
    """Read --context, --attribute and --targeting-key. Raises UsageError."""
    attributes = _json(args.context, "--context") if args.context else {}
    if not isinstance(attributes, dict):
        raise UsageError("--context must be a JSON object")
    for pair in args.attribute:
        name, value = _pair(pair, "--attribute")
        attributes[name] = _lenient(value)
    key = args.targeting_key or attributes.pop("targetingKey", "")
    return types.EvaluationContext(
        targeting_key=str(key), attributes={name: to_value(value) for name, value in attributes.items()}
    )


def assigned(args: argparse.Namespace) -> tuple[types.Flag, list[str]]:
    """Read FIELD=VALUE arguments into a flag and the names of its set fields."""
    document: dict[str, Any] = {"key": args.key, "flagSet": args.flag_set}
    fields = []
    for pair in args.fields:
        name, value = _pair(pair, "FIELD=VALUE")
        field = _FIELDS.get(name)
        if field is None:
            known = ", ".join(STORED_NAMES[f] for f in WRITABLE)
            raise UsageError(f"unknown field {name!r}; known are {known}")
        fields.append(field)
        stored = STORED_NAMES[field]
        if value != "":
            document[stored] = value if field in _TEXT_FIELDS else _json(value, name)
    document = times_from_json(document)
    if "expiresAt" in document and document["expiresAt"] is None:
        raise UsageError("expiresAt must be a time such as 2030-01-31T12:00:00Z, or empty")
    flag = from_document(document)
    if flag.problem:
        wrong = flag.problem.partition(": ")[2]
        raise UsageError(f"wrong value for {wrong}; see: flagsvc set --help")
    message = flag_to_message(flag)
    return message, fields


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} must be {what} with an equals sign, such as name=value")
    return name, value


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{what} is no JSON at character {error.pos + 1}: {text[:60]!r}") from None


def _lenient(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
