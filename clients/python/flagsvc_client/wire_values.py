"""Packs and unpacks JSON values; integers stay integers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flagsvc_client.details import JsonValue
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1


def to_value(value: JsonValue, field: str = "value") -> types.Value:
    """Pack a JSON value. Raises TypeError or ValueError with the field if it is not JSON."""
    message = types.Value()
    put_value(message, value, field)
    return message


def put_value(message: types.Value, value: JsonValue, field: str) -> None:  # noqa: C901  a table
    """Set a message in place. Raises TypeError or ValueError with the field if the value is not JSON."""
    match value:
        case None:
            message.null_value = types.NULL_VALUE_UNSPECIFIED
        case bool():
            message.boolean_value = value
        case int():
            _check_size(value, field)
            message.integer_value = value
        case float():
            _check_finite(value, field)
            message.float_value = value
        case str():
            message.string_value = value
        case Mapping():
            message.object_value.SetInParent()
            for name, item in value.items():
                if not isinstance(name, str):
                    raise TypeError(f"{field} has the key {name!r}; keys must be str")
                put_value(message.object_value.fields[name], item, f"{field}[{name}]")
        case list() | tuple():
            message.list_value.SetInParent()
            for number, item in enumerate(value):
                put_value(message.list_value.values.add(), item, f"{field}[{number}]")
        case _:
            raise TypeError(
                f"{field} is a {type(value).__name__}; it must be null, bool, int, float, str, list or dict"
            )


def from_value(message: types.Value) -> JsonValue:
    """Unpack a value; None for a kind added by a newer release."""
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "object_value":
        return {name: from_value(item) for name, item in message.object_value.fields.items()}
    if kind == "list_value":
        return [from_value(item) for item in message.list_value.values]
    return getattr(message, kind)


def _check_size(number: int, field: str) -> None:
    if not _MIN_INTEGER <= number <= _MAX_INTEGER:
        raise ValueError(f"{field} is {number}; an integer must fit into 64 bits")


def _check_finite(number: float, field: str) -> None:
    if not math.isfinite(number):
        raise ValueError(f"{field} is {number}; a number must be finite")
