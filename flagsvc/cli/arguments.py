"""Turns command-line arguments into evaluation contexts and flags."""

from __future__ import annotations

import argparse
import json
from typing import Any

from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.cli.usage import UsageError
from flagsvc.core.documents import WORDS, from_document, times_from_json
from flagsvc.core.model import STORED_NAMES, WRITABLE
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

_FIELDS = {STORED_NAMES[field]: field for field in WRITABLE} | {field: field for field in WRITABLE}
_TEXT_FIELDS = {"name", "description", "category", "status", "icon", "badge", "default_variant", "owner"}
_TEXT_FIELDS |= {"expires_at", "targeting", "exposure"}


def read_context(args: argparse.Namespace) -> types.EvaluationContext:
    """Read --context, --attribute and --targeting-key. Raises UsageError."""
    attributes = _parse_json(args.context, "--context") if args.context else {}
    if not isinstance(attributes, dict):
        raise UsageError("--context must be a JSON object")
    for pair in args.attribute:
        name, value = _split_pair(pair, "NAME=VALUE")
        attributes[name] = _json_or_text(value)
    key = args.targeting_key or attributes.pop("targetingKey", "")
    return types.EvaluationContext(
        targeting_key=str(key), attributes={name: to_value(value) for name, value in attributes.items()}
    )


def read_flag(args: argparse.Namespace) -> tuple[types.Flag, list[str]]:
    """Read FIELD=VALUE arguments into a flag and the names of the fields given. Raises UsageError."""
    document: dict[str, Any] = {"key": args.key, "flagSet": args.flag_set}
    fields = []
    for pair in args.fields:
        name, value = _split_pair(pair, "FIELD=VALUE")
        field = _FIELDS.get(name)
        if field is None:
            raise UsageError(f"unknown field {name!r}; known fields: {', '.join(STORED_NAMES[f] for f in WRITABLE)}")
        fields.append(field)
        stored = STORED_NAMES[field]
        if stored in WORDS and value and value not in WORDS[stored].__members__:
            raise UsageError(f"{name} is {value[:60]!r}; it must be one of {', '.join(WORDS[stored])}")
        if value != "":
            document[stored] = value if field in _TEXT_FIELDS else _parse_json(value, name)
    document = times_from_json(document)
    if "expiresAt" in document and document["expiresAt"] is None:
        raise UsageError("expiresAt must be a time such as 2030-01-31T12:00:00Z, or empty")
    flag = from_document(document)
    if flag.problem:
        fields_in_error = flag.problem.partition(": ")[2]
        raise UsageError(f"invalid value for {fields_in_error}; see: flagsvc set --help")
    return flag_to_message(flag), fields


def _split_pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} must be {what}: a name, an equals sign and a value")
    return name, value


def _parse_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{what} is not valid JSON at character {error.pos + 1}: {text[:60]!r}") from None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
