"""The caller's default: it decides which type a flag's value must have."""

from __future__ import annotations

from collections.abc import Mapping

from flagsvc_client.details import JsonValue
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types

ANY_TYPE = types.VALUE_TYPE_UNSPECIFIED
_VALUE_TYPES = {
    bool: types.VALUE_TYPE_BOOLEAN,
    str: types.VALUE_TYPE_STRING,
    int: types.VALUE_TYPE_INTEGER,
    float: types.VALUE_TYPE_FLOAT,
    dict: types.VALUE_TYPE_OBJECT,
}


def expected_type(default: object) -> types.ValueType.ValueType:
    """Return the value type of a default. Raises TypeError if no flag can have that type."""
    value_type = _VALUE_TYPES.get(default.__class__)
    if value_type is None and isinstance(default, Mapping):
        value_type = types.VALUE_TYPE_OBJECT
    if value_type is None:
        raise TypeError(f"default is {default!r}; it must be a bool, str, int, float or dict")
    return value_type


def check_default(default: object, expected: type) -> None:
    """Raise TypeError unless the default has the type that the method returns; an int is accepted as a float."""
    if default.__class__ is expected or (expected is dict and isinstance(default, Mapping)):
        return
    if expected is float and default.__class__ is int:
        return
    raise TypeError(f"default is {default!r}, a {type(default).__name__}; it must be a {expected.__name__}")


def as_float(default: float) -> float:
    """Return a default that may be a whole number as a float."""
    return default + 0.0


def same_type(value: JsonValue, default: object) -> bool:
    """Whether a value has the default's type; True is no integer, and 1 no float."""
    if isinstance(default, Mapping):
        return isinstance(value, dict)
    return value.__class__ is default.__class__
