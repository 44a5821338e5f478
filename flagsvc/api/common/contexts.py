"""Evaluation contexts from the wire: read field by field, when a rule asks, with what the server itself adds.

What is added wins over what a caller sends, as in flagd: headers over configured values over the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flagsvc.api.common.values import from_value
from flagsvc.core.errors import EvaluationFailed, invalid
from flagsvc.core.model import Attributes, JsonValue
from flagsvc.core.validation import MAX_CONTEXT_BYTES
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

TARGETING_KEY = "targetingKey"
Metadata = Iterable[Any] | None
"""A call's metadata: (lower-case name, value) pairs."""
_EXACT = 2.0**63


class View(Mapping[str, JsonValue]):
    """A context's fields, each converted when it is first asked for. `known` has what is converted already."""

    __slots__ = ("_convert", "_fields", "_known")

    def __init__(
        self, fields: Mapping[str, Any], convert: Callable[[str, Any], JsonValue], known: dict[str, JsonValue]
    ) -> None:
        self._fields, self._convert, self._known = fields, convert, known

    def get(self, name: str, default: Any = None) -> Any:
        """Give a field, or the default."""
        known = self._known
        if name in known:
            return known[name]
        message = self._fields.get(name)
        if message is None:
            return default
        value = known[name] = self._convert(name, message)
        return value

    def __getitem__(self, name: str) -> JsonValue:
        if name not in self._known and name not in self._fields:
            raise KeyError(name)
        return self.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._fields, *self._known)))

    def __len__(self) -> int:
        return len(self._known.keys() | self._fields.keys())


class Contexts:
    """Makes contexts of requests. `values`: configured fields; `headers`: fields by lower-case header name."""

    def __init__(self, values: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.values = dict(values or {})
        self._headers = {header.lower(): name for header, name in (headers or {}).items()}
        self._adds = bool(self.values or self._headers)

    def of_message(self, message: types.EvaluationContext, metadata: Callable[[], Metadata]) -> Attributes:
        """Read FlagService's context. Raises InvalidRequest for one over the limit.

        The call's metadata, which costs a copy, are asked for only where headers are configured.
        """
        size = message.ByteSize()
        if not size and not self._adds:
            return {}
        _check_size(size)
        known: dict[str, JsonValue] = {TARGETING_KEY: message.targeting_key} if message.targeting_key else {}
        return View(message.attributes, _from_message, self._added(known, metadata() if self._headers else None))

    def of_struct(self, message: Any, metadata: Metadata, *, with_headers: bool = True) -> Attributes:
        """Read flagd's context, a google.protobuf.Struct. Raises EvaluationFailed for one over the limit."""
        if message.ByteSize() > MAX_CONTEXT_BYTES:
            raise EvaluationFailed("INVALID_CONTEXT")
        return View(message.fields, _from_struct, self._added({}, metadata if with_headers else None))

    def of_json(self, fields: Mapping[str, JsonValue], metadata: Metadata) -> Attributes:
        """Read OFREP's context, whose size its reader has checked."""
        return self._added(dict(fields), metadata)

    def _added(self, known: dict[str, JsonValue], metadata: Metadata) -> dict[str, JsonValue]:
        known.update(self.values)
        if self._headers and metadata:
            for header, value in metadata:
                if value and isinstance(value, str) and header in self._headers:
                    known[self._headers[header]] = value
        return known


def _check_size(size: int) -> None:
    if size > MAX_CONTEXT_BYTES:
        raise invalid("context", f"{size} bytes", f"at most {MAX_CONTEXT_BYTES} bytes serialized", "INVALID_CONTEXT")


def _from_message(name: str, message: types.Value) -> JsonValue:
    return from_value(message, f"context.attributes[{name}]")


def _from_struct(_name: str, message: Any) -> JsonValue:
    return struct_value(message)


def struct_value(message: Any) -> JsonValue:
    """Give a google.protobuf.Value as JSON; its whole numbers, which come as doubles, become whole."""
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() and abs(number) < _EXACT else number
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return {name: struct_value(value) for name, value in message.struct_value.fields.items()}
        case "list_value":
            return [struct_value(value) for value in message.list_value.values]
        case _:
            return None
