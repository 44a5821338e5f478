"""JSON values into google.protobuf.Struct of flagd's messages, which live in a descriptor pool of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagsvc.core.model import JsonValue


def put_fields(struct: Any, values: Mapping[str, JsonValue]) -> None:
    """Set fields of a Struct, which is then set itself, also without any."""
    struct.SetInParent()
    fields = struct.fields
    for name, value in values.items():
        put(fields[name], value)


def put(message: Any, value: JsonValue) -> None:
    """Set a Value. Raises TypeError for what JSON does not have."""
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
                put(message.list_value.values.add(), item)
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")
