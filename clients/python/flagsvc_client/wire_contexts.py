"""Checks the evaluation contexts that callers pass, alike for calls and for local evaluation, and packs them.

A context is plain JSON, or it is refused with INVALID_CONTEXT and the name of the field: whatever a caller's own
classes do, nothing else is raised. What the server would refuse is refused here with the server's words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import grpc

from flagsvc_client.context_scope import scoped_fields
from flagsvc_client.details import NOTHING, TARGETING_KEY, Context, ErrorCode, EvaluationContext, JsonValue
from flagsvc_client.errors import FlagServiceError, failure
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_values import put_value

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_OVERHEAD = 32
"""Most bytes of a field or element in a message, besides its texts."""
_MAX_UTF8 = 4
_MAX_QUOTED = 80


class Limits(NamedTuple):
    """The server's limits of a context: bytes as a message, fields and list elements, nesting of an attribute."""

    size: int
    values: int
    depth: int


LIMITS = Limits(size=65_536, values=5_000, depth=24)


class _Wrong(Exception):
    """Why a part of a context is refused, or (`whole`) all of it; `path` leads to it, the innermost name first."""

    def __init__(self, why: str, *, whole: bool = False) -> None:
        super().__init__(why)
        self.why, self.whole, self.path = why, whole, list[object]()


def put_context(request: Any, context: Context) -> None:
    """Pack a request's context, if there is one. Raises FlagServiceError, INVALID_CONTEXT, if it is not valid."""
    fields = fields_of(context)
    if fields is not NOTHING:
        _put_fields(request.context, fields)


def fields_of(context: Context, limits: Limits = LIMITS) -> Mapping[str, JsonValue]:
    """Return a context as rules read it: plain JSON with the targeting key as a field. Raises FlagServiceError.

    What the caller passes takes precedence over the fields of the surrounding `context_scope`.
    """
    scoped = scoped_fields()
    if context is None and not scoped:
        return NOTHING
    try:
        reading = _Reading(limits)
        fields = reading.context(context if context is not None else {})
        if scoped:
            reading = _Reading(limits)
            fields = reading.context({**scoped, **fields})
    except _Wrong as wrong:
        path = "" if wrong.whole else "".join(f"[{_shown(name)}]" for name in reversed(wrong.path))
        raise _invalid(f"context{path} {wrong.why}") from None
    if reading.size > limits.size:  # at most that: only then is it worth to measure
        message = types.EvaluationContext()
        _put_fields(message, fields)
        if (size := message.ByteSize()) > limits.size:
            raise _invalid(f"context is '{size} bytes'; it must be at most {limits.size} bytes serialized")
    return fields


class _Reading:
    """One context. `size`: an upper bound of its size as a message."""

    __slots__ = ("_limits", "_values", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits, self._values, self.size = limits, 0, 0

    def context(self, context: Any) -> dict[str, JsonValue]:
        """Read the whole context. Raises _Wrong."""
        key: Any = None
        try:
            if isinstance(context, EvaluationContext):
                key, attributes = context.targeting_key, context.attributes
            else:
                attributes = context
                if context.__class__ is dict or isinstance(context, Mapping):
                    key = context.get(TARGETING_KEY)
            fields = self._object(attributes, 0, skipped=TARGETING_KEY)
        except _Wrong:
            raise
        except Exception as error:  # noqa: BLE001  a caller's class may raise anything
            raise _unreadable(error) from None
        if key is not None and key.__class__ is not str:
            key = self._named(TARGETING_KEY, key, 0)
            if key.__class__ is not str:
                raise _at(TARGETING_KEY, _Wrong(f"is a {_kind(key)}; it must be a str"))
        if key:
            fields[TARGETING_KEY] = self._named(TARGETING_KEY, key, 0)
        return fields

    def _object(self, fields: Any, depth: int, skipped: str | None = None) -> dict[str, JsonValue]:
        if fields.__class__ is not dict and not isinstance(fields, Mapping):
            raise _Wrong(f"is a {_kind(fields)}; it must be an EvaluationContext or a dict of attributes")
        read: dict[str, JsonValue] = {}
        for name, value in fields.items():
            if name.__class__ is not str and not isinstance(name, str):
                raise _Wrong(f"has the key {_shown(name)}; keys must be str")
            if name == skipped:
                continue
            self._count(depth)
            read[self._named(name, name, 0)] = self._named(name, value, depth)
        return read

    def _list(self, items: Any, depth: int) -> list[JsonValue]:
        read: list[JsonValue] = []
        for number, item in enumerate(items):
            self._count(depth)
            read.append(self._named(number, item, depth))
        return read

    def _named(self, name: object, value: Any, depth: int) -> Any:
        """Read a field or an element. Raises _Wrong with the name in its path."""
        if value is True or value is False or value is None:
            self.size += _OVERHEAD
            return value
        if value.__class__ is str and value.isascii():
            self.size += _OVERHEAD + len(value)
            return value
        try:
            return self._value(value, depth)
        except _Wrong as wrong:
            raise _at(name, wrong) from None
        except Exception as error:  # noqa: BLE001  as above
            raise _at(name, _unreadable(error)) from None

    def _value(self, value: Any, depth: int) -> JsonValue:
        self.size += _OVERHEAD
        match value:
            case str():
                return self._text(str.__str__(value))
            case int():
                number = int.__int__(value)
                if not _MIN_INTEGER <= number <= _MAX_INTEGER:
                    raise _Wrong(f"is {_shown(number)}; an integer must fit into 64 bits")
                return number
            case float():
                real = float.__float__(value)
                if not math.isfinite(real):
                    raise _Wrong(f"is {real}; a number must be finite")
                return real
            case datetime():
                return self._text(value.isoformat())
            case Mapping():
                fields = self._object(value, depth + 1)
                return {name: fields[name] for name in sorted(fields)}  # a message keeps no order: the server sorts
            case list() | tuple():
                return self._list(value, depth + 1)
            case _:
                raise _Wrong(f"is a {_kind(value)}; it must be null, bool, int, float, str, datetime, list or dict")

    def _text(self, text: str) -> str:
        self.size += _MAX_UTF8 * len(text)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Wrong("contains a lone surrogate, which UTF-8 cannot encode") from None
        return text

    def _count(self, depth: int) -> None:
        """Count a field or an element. Raises _Wrong if it is one too many, or nested too deeply."""
        self._values += 1
        if depth > self._limits.depth:
            raise _Wrong(f"is 'nested deeper'; it must be nested at most {self._limits.depth} deep")
        if self._values > self._limits.values:
            limit = self._limits.values
            raise _Wrong(f"is 'more fields'; it must be at most {limit} fields and list elements", whole=True)


def _put_fields(message: types.EvaluationContext, fields: Mapping[str, JsonValue]) -> None:
    for name, value in fields.items():
        if name == TARGETING_KEY:
            message.targeting_key = value
        else:
            put_value(message.attributes[name], value, name)


def _at(name: object, wrong: _Wrong) -> _Wrong:
    wrong.path.append(name)
    return wrong


def _unreadable(error: Exception) -> _Wrong:
    return _Wrong(f"cannot be read: {type(error).__name__}")


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(name: object) -> str:
    """Return a name for a message: a text as it is, cut and without lone surrogates; of other types the type too."""
    try:
        text = name if isinstance(name, str) else repr(name)
    except Exception:  # noqa: BLE001  a caller's class may raise anything
        text = f"of type {_kind(name)}"
    short = str.__str__(text)[:_MAX_QUOTED]
    return short.encode(errors="backslashreplace").decode()


def _invalid(message: str) -> FlagServiceError:
    return failure(grpc.StatusCode.INVALID_ARGUMENT, message, ErrorCode.INVALID_CONTEXT)
