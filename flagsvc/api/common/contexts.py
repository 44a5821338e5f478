"""Evaluation contexts from requests, converted field by field when a rule reads them, plus the server's own fields.

The server's fields override the caller's, as in flagd: headers override configured values, which override the request.
What the caller's credential proves overrides all of them. Where callers are authenticated, headers count only of those
who are trusted with it, such as a gateway that sets them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from flagsvc.api.common.callers import CALLER, Metadata
from flagsvc.api.common.values import from_struct_value, from_value
from flagsvc.core.errors import EvaluationFailed, invalid
from flagsvc.core.model import Attributes, JsonValue
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES, SMALLEST_VALUE
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.turns import off_loop

TARGETING_KEY = "targetingKey"
PROVEN: ContextVar[Mapping[str, JsonValue] | None] = ContextVar("proven", default=None)
"""Fields that the credential of the call that runs now proves; None if it proves none."""
LARGE_BYTES = 8_192
"""A larger context is converted before it is evaluated."""
_FEW_VALUES_BYTES = MAX_CONTEXT_VALUES * SMALLEST_VALUE
"""Up to this size no context can have too many values."""


class LazyContext(Mapping[str, JsonValue]):
    """A context's fields, each converted when it is first read; `known` holds the converted ones."""

    __slots__ = ("_convert", "_fields", "_known", "is_large")

    def __init__(
        self,
        fields: Mapping[str, Any],
        convert: Callable[[Any, str], JsonValue],
        known: dict[str, JsonValue],
        *,
        is_large: bool,
    ) -> None:
        self._fields, self._convert, self._known = fields, convert, known
        self.is_large = is_large

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field's value, or the default without such a field."""
        known = self._known
        if name in known:
            return known[name]
        message = self._fields.get(name)
        if message is None:
            return default
        value = known[name] = self._convert(message, f"context.attributes[{name}]")
        return value

    def __getitem__(self, name: str) -> JsonValue:
        if name not in self._known and name not in self._fields:
            raise KeyError(name)
        return self.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._fields, *self._known)))

    def __len__(self) -> int:
        return len(self._known.keys() | self._fields.keys())


async def in_full(context: Attributes) -> Attributes:
    """Return a context with all fields converted. A large one is converted in the thread: one field can be all of it.

    So whoever reads it begins in a turn of its own.
    """
    if context.__class__ is not LazyContext or not context.is_large:
        return dict(context)
    return await off_loop(dict, context)


class Contexts:
    """Reads evaluation contexts from requests.

    `values`: fields that every context gets; `headers`: names of the fields that are read from headers, by header;
    `may_prove`: whether credentials can prove fields.
    """

    def __init__(
        self,
        values: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        may_prove: bool = False,
    ) -> None:
        self.values = dict(values or {})
        self._headers = {header.lower(): name for header, name in (headers or {}).items()}
        self._may_prove = may_prove
        self._adds = bool(self.values or self._headers or may_prove)

    def of_message(self, message: types.EvaluationContext, metadata: Callable[[], Metadata]) -> Attributes:
        """Read FlagService's context. Raises InvalidRequest when it is larger than MAX_CONTEXT_BYTES.

        `metadata` is called only if headers are configured, because gRPC copies the metadata.
        """
        size = message.ByteSize()
        if not size and not self._adds:
            return {}
        if size > MAX_CONTEXT_BYTES:
            wanted = f"at most {MAX_CONTEXT_BYTES} bytes serialized"
            raise invalid("context", f"{size} bytes", wanted, "INVALID_CONTEXT")
        if size > _FEW_VALUES_BYTES and _has_too_many(message.attributes, "object_value"):
            wanted = f"at most {MAX_CONTEXT_VALUES} fields and list elements"
            raise invalid("context", "more fields", wanted, "INVALID_CONTEXT")
        known: dict[str, JsonValue] = {TARGETING_KEY: message.targeting_key} if message.targeting_key else {}
        added = self._added(known, metadata() if self._headers and CALLER.get().sets_context_by_headers else None)
        return LazyContext(message.attributes, from_value, added, is_large=size > LARGE_BYTES)

    def of_struct(self, message: Any, metadata: Metadata, *, with_headers: bool = True) -> Attributes:
        """Read flagd's context, a google.protobuf.Struct. Raises EvaluationFailed if larger than MAX_CONTEXT_BYTES."""
        size = message.ByteSize()
        if size > MAX_CONTEXT_BYTES or (size > _FEW_VALUES_BYTES and _has_too_many(message.fields, "struct_value")):
            raise EvaluationFailed("INVALID_CONTEXT")
        added = self._added({}, metadata if with_headers else None)
        return LazyContext(message.fields, from_struct_value, added, is_large=size > LARGE_BYTES)

    def of_json(self, fields: Mapping[str, JsonValue], metadata: Metadata) -> Attributes:
        """Read OFREP's context; the caller has checked its size."""
        return self._added(dict(fields), metadata)

    def added(self, metadata: Callable[[], Metadata], *, with_headers: bool = True) -> str:
        """Return as one text what the server adds to this call's context; empty if it adds the same to every call's."""
        if not (self._headers or self._may_prove):
            return ""
        is_read = with_headers and self._headers and CALLER.get().sets_context_by_headers
        return json.dumps(self._added({}, metadata() if is_read else None), sort_keys=True)

    def _added(self, known: dict[str, JsonValue], metadata: Metadata) -> dict[str, JsonValue]:
        known.update(self.values)
        if self._headers and metadata and CALLER.get().sets_context_by_headers:
            for header, value in metadata:
                if value and isinstance(value, str) and header in self._headers:
                    known[self._headers[header]] = value
        if self._may_prove and (proven := PROVEN.get()) is not None:
            known.update(proven)
        return known


def _has_too_many(fields: Mapping[str, Any], objects: str) -> bool:
    """Whether a context has too many values. `objects`: the name of the field of a value that holds an object."""
    left = MAX_CONTEXT_VALUES
    pending: list[Any] = [fields]
    while pending:
        each = pending.pop()
        left -= len(each)
        if left < 0:
            return True
        for value in each.values() if hasattr(each, "values") else each:
            kind = value.WhichOneof("kind")
            if kind == "list_value":
                pending.append(value.list_value.values)
            elif kind == objects:
                pending.append(getattr(value, objects).fields)
    return False
