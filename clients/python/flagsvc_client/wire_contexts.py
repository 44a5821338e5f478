"""Checks and packs the evaluation contexts that callers pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import grpc

from flagsvc_client.details import (
    NOTHING,
    TARGETING_KEY,
    Context,
    ErrorCode,
    EvaluationContext,
    JsonValue,
)
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_values import plain, to_value

_PLAIN = frozenset({str, bool})


def put_context(message: types.EvaluationContext, context: Context) -> None:
    """Pack a context. Raises FlagServiceError, reason INVALID_CONTEXT, if it is not one."""
    key, attributes = parts_of(context)
    try:
        message.targeting_key = key
        for name, value in attributes.items():
            if name != TARGETING_KEY:
                message.attributes[name].CopyFrom(to_value(value, f"context[{name}]"))
    except (TypeError, ValueError) as error:
        raise _invalid(str(error)) from None


def parts_of(context: Context) -> tuple[str, Mapping[str, JsonValue]]:
    """Return targeting key and attributes. Raises FlagServiceError, reason INVALID_CONTEXT, if it is not a context."""
    if isinstance(context, EvaluationContext):
        key, attributes = context.targeting_key, context.attributes
    elif _is_mapping(context):
        key, attributes = context.get(TARGETING_KEY) or "", context
    elif context is None:
        return "", NOTHING
    else:
        key, attributes = "", None
    if isinstance(key, str) and _is_mapping(attributes):
        return key, attributes
    expected = "an EvaluationContext or a dict, and its targeting key a str"
    raise _invalid(f"context is {type(context).__name__} with targeting key {key!r}; it must be {expected}")


def fields_of(context: Context) -> Mapping[str, JsonValue]:
    """Return a context as rules read it: plain JSON with the targeting key as a field. Raises FlagServiceError."""
    if not context:
        return NOTHING
    key, attributes = parts_of(context)
    try:
        fields = {
            name: value if value.__class__ in _PLAIN else plain(value, name)
            for name, value in attributes.items()
            if name != TARGETING_KEY
        }
    except (TypeError, ValueError) as error:
        raise _invalid(str(error)) from None
    if key:
        fields[TARGETING_KEY] = key
    return fields


def _is_mapping(value: object) -> TypeGuard[Mapping[str, JsonValue]]:
    return value.__class__ is dict or isinstance(value, Mapping)  # the second test takes ten times as long


def _invalid(message: str) -> FlagServiceError:
    return FlagServiceError(grpc.StatusCode.INVALID_ARGUMENT, message, ErrorCode.INVALID_CONTEXT)
