"""JSON values to and from protobuf messages. Integers stay integers."""

from __future__ import annotations

from typing import Any

from flagsvc.core import json_values
from flagsvc.core.errors import invalid
from flagsvc.core.model import JsonValue
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

_MAX_WHOLE = 2.0**63


def to_value(value: JsonValue) -> types.Value:
    """Pack a JSON value. Raises TypeError for a value that JSON does not have."""
    message = types.Value()
    put_value(message, value)
    return message


def put_value(message: types.Value, value: JsonValue) -> None:
    """Set a message in place, which is faster than to copy one into another. Raises TypeError like `to_value`."""
    match value:
        case str():
            message.string_value = value
        case bool():
            message.boolean_value = value
        case int():
            message.integer_value = value
        case float():
            message.float_value = value
        case None:
            message.null_value = types.NULL_VALUE_UNSPECIFIED
        case dict():
            message.object_value.SetInParent()
            fields = message.object_value.fields
            for name, item in value.items():
                put_value(fields[name], item)
        case list():
            message.list_value.SetInParent()
            values = message.list_value.values
            for item in value:
                put_value(values.add(), item)
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")


def from_value(message: types.Value, field: str, depth: int = 0) -> JsonValue:
    """Unpack a JSON value. Raises InvalidRequest, naming `field`, if it is unset or nested too deep."""
    if depth > json_values.MAX_DEPTH:
        raise invalid(field, "nested deeper", f"nested at most {json_values.MAX_DEPTH} deep")
    match message.WhichOneof("kind"):
        case None:
            raise invalid(field, "unset", "a value")
        case "null_value":
            return None
        case "list_value":
            return [from_value(v, f"{field}[{i}]", depth + 1) for i, v in enumerate(message.list_value.values)]
        case "object_value":
            fields = message.object_value.fields
            return {name: from_value(fields[name], f"{field}.{name}", depth + 1) for name in sorted(fields)}
        case kind:
            return getattr(message, kind)


def from_struct_value(message: Any, _field: str = "") -> JsonValue:
    """Unpack a google.protobuf.Value. A whole number, which arrives as a double, becomes an integer."""
    match message.WhichOneof("kind"):
        case None | "null_value":
            return None
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() and abs(number) < _MAX_WHOLE else number
        case "struct_value":
            return {name: from_struct_value(value) for name, value in message.struct_value.fields.items()}
        case "list_value":
            return [from_struct_value(value) for value in message.list_value.values]
        case kind:  # a string or a boolean
            return getattr(message, kind)
