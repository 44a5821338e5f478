"""JSON values to the google.protobuf.Struct of flagd's messages, which have a descriptor pool of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagsvc.core.model import JsonValue


def put_fields(struct: Any, values: Mapping[str, JsonValue]) -> None:
    """Set fields of a Struct. The Struct itself becomes set even without fields."""
    struct.SetInParent()
    fields = struct.fields
    for name, value in values.items():
        put_value(fields[name], value)


def put_value(message: Any, value: JsonValue) -> None:
    """Set a google.protobuf.Value. Raises TypeError for a value that JSON does not have."""
    match value:
        case str():
            message.string_value = value
        case bool():
            message.bool_value = value
        case int() | float():
            message.number_value = value
        case None:
            message.null_value = 0
        case dict():
            put_fields(message.struct_value, value)
        case list():
            message.list_value.SetInParent()
            for item in value:
                put_value(message.list_value.values.add(), item)
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")
