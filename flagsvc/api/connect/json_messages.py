"""Messages in JSON, as protobuf defines it, within the limits that hold for their binary form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message

from flagsvc.api.common.answers import MAX_ANSWER_BYTES
from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES, MAX_WRITE_VALUES, too_large
from flagsvc.core.errors import AnswerTooLarge, InvalidRequest, Violation
from flagsvc.core.json_values import NotJson, has_more_values, strict_loads, with_whole_numbers
from flagsvc.core.shown_text import visible
from flagsvc.core.validation import MAX_BATCH, MAX_CONTEXT_VALUES
from flagsvc.turns import Turns, off_loop

MAX_VALUES = MAX_CONTEXT_VALUES + MAX_BATCH + 100
"""Most fields and list elements of a request that is no write: a full context and a full batch of keys."""
MAX_DEPTH = 32
"""Objects and lists within one another; in binary form the parser's limit of 100 messages is reached there."""
PIECE_BYTES = 2_048
"""Bytes of JSON, or of a message, that are converted on the event loop in one go: that takes up to 2 ms."""
_SHOWN = 200


async def parsed(data: bytes, message_type: type[Message], method: str) -> Message:
    """Return a request's message. Raises FlagsvcError for what is no JSON, no such message, or over the limits."""
    if len(data) > PIECE_BYTES:
        return await off_loop(_parsed, data, message_type, method)
    return _parsed(data, message_type, method)


def _parsed(data: bytes, message_type: type[Message], method: str) -> Message:
    is_write = len(data) > MAX_EVALUATION_BYTES  # only writes may be so large
    if is_write and data.count(b",") > 2 * MAX_WRITE_VALUES:  # before they are objects
        raise too_large(method)
    try:
        fields = strict_loads(data.decode())
    except NotJson as error:
        raise _invalid(f"not JSON: {error}") from None
    except UnicodeDecodeError:
        raise _invalid("not JSON: it is not UTF-8") from None
    if not isinstance(fields, dict):
        raise _invalid("it must be a JSON object")
    if has_more_values(fields, MAX_WRITE_VALUES if is_write else MAX_VALUES):
        raise too_large(method)
    if _is_deeper(fields, MAX_DEPTH):
        raise _invalid(f"nested more than {MAX_DEPTH} deep")
    try:
        return json_format.ParseDict(fields, message_type(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise _invalid(str(error)) from None
    except Exception:  # noqa: BLE001  no other text of the parser reaches the caller
        raise _invalid("not a message of the method's type") from None


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest([Violation("request", visible(problem[:_SHOWN]))], "INVALID_REQUEST")


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        children = (child for item in level for child in (item.values() if item.__class__ is dict else item))
        level = [child for child in children if child.__class__ in (dict, list)]
        if not level:
            return False
    return True


async def encoded(data: bytes, message_type: type[Message]) -> bytes:
    """Return a message, given in binary form, as JSON; fields that are not set are in it where they have no presence.

    A large one is converted in turns, field by field. Raises AnswerTooLarge: such a message comes in parts or binary.
    """
    if len(data) <= PIECE_BYTES:
        return dumped(_as_dict(message_type.FromString(data)))
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerTooLarge(MAX_ANSWER_BYTES, "ask for pages, or for the binary form instead of JSON")
    found: dict[str, _Parts] = {}
    turns = Turns()
    for piece in _pieces(data):
        large = len(piece) > 2 * PIECE_BYTES
        fields = await off_loop(_fields, piece, message_type) if large else _fields(piece, message_type)
        for name, parts in fields.items():
            found.setdefault(name, _Parts(parts.brackets, [])).texts.extend(parts.texts)
        if turns.is_over():
            await turns.next()
    texts = [dumped(name) + b":" + parts.joined() for name, parts in found.items()]
    texts += [
        dumped(name) + b":" + dumped(value) for name, value in _as_dict(message_type()).items() if name not in found
    ]
    return b"".join((b"{", b",".join(texts), b"}"))


class _Parts(NamedTuple):
    """The JSON of a field: of a list or map one text for each element, and what surrounds all of them."""

    brackets: bytes
    texts: list[bytes]

    def joined(self) -> bytes:
        return self.brackets[:1] + b",".join(self.texts) + self.brackets[1:] if self.brackets else self.texts[-1]


def _fields(data: bytes, message_type: type[Message]) -> dict[str, _Parts]:
    """Return the JSON of a message's set fields, by name."""
    message = message_type.FromString(data)
    values, found = _as_dict(message), {}
    for field, _ in message.ListFields():
        value = values[field.json_name]
        if isinstance(value, list):
            found[field.json_name] = _Parts(b"[]", list(map(dumped, value)))
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            texts = [dumped(key) + b":" + dumped(each) for key, each in value.items()]
            found[field.json_name] = _Parts(b"{}", texts)
        else:
            found[field.json_name] = _Parts(b"", [dumped(value)])
    return found


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield a message in pieces of about PIECE_BYTES, each of which is such a message with whole fields."""
    began = at = 0
    while at < len(data):
        at = _field_end(data, at)
        if at - began >= PIECE_BYTES or at >= len(data):
            yield data[began:at]
            began = at


def _field_end(data: bytes, at: int) -> int:
    """Return where the field that begins at `at` ends."""
    tag, at = _varint(data, at)
    match tag & 7:
        case 0:
            return _varint(data, at)[1]
        case 1:
            return at + 8
        case 2:
            size, at = _varint(data, at)
            return at + size
        case _:
            return at + 4


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004  the bit that says that more follows
            return value, at


def _as_dict(message: Message) -> dict[str, Any]:
    fields = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return {name: with_whole_numbers(value) for name, value in fields.items()}


def dumped(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
