"""Messages of any descriptor, encoded by hand: with values and bytes that the official encoder would refuse."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.fuzz.odd import Odd

_MAX_DEPTH = 6
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ZIGZAG = (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64)
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: ("<d", _FIXED64),
    FieldDescriptor.TYPE_FLOAT: ("<f", _FIXED32),
    FieldDescriptor.TYPE_FIXED32: ("<I", _FIXED32),
    FieldDescriptor.TYPE_SFIXED32: ("<i", _FIXED32),
    FieldDescriptor.TYPE_FIXED64: ("<Q", _FIXED64),
    FieldDescriptor.TYPE_SFIXED64: ("<q", _FIXED64),
}
_NEEDED = frozenset({"flag_key", "flag_keys", "key", "value", "flag", "paths", "update_mask", "config"})
"""Fields without which most calls are refused at once."""
_SUITED = {"config": "object_value", "variants": "boolean_value", "metadata": "string_value"}
"""The kind of values that a flag can have there."""
_OF_A_ONEOF = (1, 1, 1, 1, 1, 1, 1, 2)
_MAX_TWICE = 1_000
"""Bytes of an entry that is repeated: in a deep message each level would double its size."""
_SPARSE = 0.35
"""Share of a nested message's fields that are set."""


class Messages:
    """Encodes messages with random fields."""

    def __init__(self, odd: Odd) -> None:
        self._odd, self._random = odd, odd.random
        self._about = ""
        """The field above, if its values are restricted."""
        self._levels = 0
        """Levels of nesting that the message shall still get: only in a deep one."""

    def of(self, descriptor: Descriptor) -> bytes:
        """Return a message: plain, with some odd values, or with many; rarely a very deep one."""
        self._odd.begin()
        self._levels = self._random.choice((20, 60, 110, 300)) if self._random.random() < 0.02 else 0
        return self._message(descriptor, 0)

    def _message(self, descriptor: Descriptor, depth: int, share: float = 0.7) -> bytes:
        if self._levels > 0 and (inner := _recursive_field(descriptor)):
            self._levels -= 1
            return self._field(inner, depth + 1, 1)
        parts = []
        for field in self._chosen(descriptor, share):
            if depth > _MAX_DEPTH and field.message_type:
                continue
            parts.append(self._field(field, depth, self._count(field)))
        if self._odd.is_odd:
            parts.append(_unknown(self._random))
        return b"".join(parts)

    def _chosen(self, descriptor: Descriptor, share: float) -> list[FieldDescriptor]:
        """Return some of the fields; of a oneof a single one, as a rule."""
        odd, random = self._odd, self._random
        alone = [field for field in descriptor.fields if not field.containing_oneof]
        found = [each for each in alone if random.random() < share or (each.name in _NEEDED and not odd.is_odd)]
        for group in descriptor.oneofs:
            fields = list(group.fields)
            if suited := [field for field in fields if field.name == _SUITED.get(self._about)]:
                self._about = ""  # what it contains may be anything
                if not odd.is_odd:
                    found += suited
                    continue
            if random.random() < (share if len(fields) == 1 else 0.95):
                found += random.sample(fields, min(len(fields), random.choice(_OF_A_ONEOF)))
        if random.random() < 0.1:
            random.shuffle(found)
        return found

    def _count(self, field: FieldDescriptor) -> int:
        if not field.is_repeated:
            return 2 if self._random.random() < self._odd.share / 4 else 1  # of two, the last counts
        if self._odd.is_odd and not field.message_type:
            return self._random.choice((0, 200, 1_001))
        return self._random.choice((1, 1, 2) if field.name in _NEEDED else (0, 1, 2, 3))

    def _field(self, field: FieldDescriptor, depth: int, count: int) -> bytes:
        name = field.containing_type.name.removesuffix("Entry").lower() if _is_entry(field) else field.name
        found = []
        for _ in range(count):
            self._about = field.name if field.name in _SUITED else self._about
            kind, value = self._value(field, name, depth)
            if kind == _BYTES:
                value = varint(len(value)) + value
            found.append(varint(field.number << 3 | kind) + value)
        is_map = field.message_type and field.message_type.GetOptions().map_entry
        if found and is_map and len(found[0]) < _MAX_TWICE and self._odd.is_odd:
            found.append(found[0])  # the same key twice
        return b"".join(found)

    def _value(self, field: FieldDescriptor, name: str, depth: int) -> tuple[int, bytes]:
        odd, random = self._odd, self._random
        if field.type in _FIXED:
            form, kind = _FIXED[field.type]
            number: Any = odd.number() if form in ("<d", "<f") else odd.integer() % (2**31)
            return kind, struct.pack("<f", max(-3e38, min(number, 3e38))) if form == "<f" else struct.pack(form, number)
        if field.message_type:
            entry = field.message_type.GetOptions().map_entry
            return _BYTES, self._message(field.message_type, depth + 1, 1.0 if entry else _SPARSE)
        if field.type == FieldDescriptor.TYPE_STRING:
            data = (odd.text() if odd.is_odd else odd.plain_text(name)).encode("utf-8", "surrogatepass")
            if odd.is_odd and random.random() < 0.2:
                data += random.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"))
            return _BYTES, data
        if field.type == FieldDescriptor.TYPE_BYTES:
            return _BYTES, random.randbytes(random.choice((0, 1, 16, 300)))
        if field.enum_type and not odd.is_odd:
            return _VARINT, varint(random.choice(field.enum_type.values).number)
        number = random.randrange(2) if field.type == FieldDescriptor.TYPE_BOOL and not odd.is_odd else odd.integer()
        return _VARINT, varint((number << 1) ^ (number >> 63) if field.type in _ZIGZAG else number)


def varint(number: int) -> bytes:
    """Encode a number in 64 bits."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _is_entry(field: FieldDescriptor) -> bool:
    return bool(field.containing_type.GetOptions().map_entry)


def _unknown(random: Any) -> bytes:
    """Return a field that no descriptor has, of any wire type."""
    kind = random.randrange(8)
    tag = varint(random.choice((200, 19_000, 2**29 - 1)) << 3 | kind)
    return tag + {_FIXED64: b"\0" * 8, _BYTES: b"\x03abc", _FIXED32: b"\0" * 4}.get(kind, b"\x01")


@cache
def _recursive_field(descriptor: Descriptor) -> FieldDescriptor | None:
    """Return the field that leads back to the message's own type, otherwise one that leads to such a type."""
    fields = [field for field in descriptor.fields if field.message_type]
    for field in fields:
        if descriptor in _reached(field.message_type):
            return field
    return next(
        (field for field in fields if any(each in _reached(each) for each in _reached(field.message_type))), None
    )


@cache
def _reached(descriptor: Descriptor) -> frozenset[Descriptor]:
    """Return the types that a message of this type can contain, at any depth."""
    found: set[Descriptor] = set()
    waiting = [descriptor]
    while waiting:
        inner = {field.message_type for field in waiting.pop().fields if field.message_type} - found
        found |= inner
        waiting += inner
    return frozenset(found)
