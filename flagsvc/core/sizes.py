"""Sizes of flags: as JSON, which the limits on writes count, and about what one takes in memory."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import AnswerTooLarge
from .json_values import compact
from .model import Flag, JsonValue

MAX_SERVED_BYTES = 4_194_304
"""A stored flag that is larger is not evaluated: it answers GENERAL. It can still be toggled and deleted."""
MAX_HISTORY_BYTES = 16_777_216
"""What one call may read of a history, as it is stored. Each entry can have a flag of 512 kB before and after."""
_FLAG_BYTES = 1_500
"""What a flag without values and rule takes, with its entry."""
_PER_RULE_BYTE = 12
"""A compiled rule is a tree of objects, many times its text."""
_PER_VALUE = 64
_PER_ROLLOUT_BYTE = 10
"""A point of a rollout is a split in the compiled rule; a slow line is some more."""
_SCALARS = frozenset({bool, int, float, type(None)})


class HistorySize:
    """Counts what is read of a history, so that one call does not fill the memory."""

    def __init__(self) -> None:
        self._read = 0

    def add(self, size: int) -> None:
        """Count an entry of this many bytes. Raises AnswerTooLarge."""
        self._read += size
        if self._read > MAX_HISTORY_BYTES:
            raise AnswerTooLarge(MAX_HISTORY_BYTES, "send a smaller page_size")


def json_bytes(value: JsonValue) -> int:
    """Return the size of a value as compact JSON in UTF-8."""
    return len(compact(value).encode(errors="replace"))


def flag_bytes(flag: Flag) -> int:
    """Return about the size of a flag as JSON: the sizes of what callers write, without names of fields and times."""
    texts = (flag.key, flag.name, flag.description, flag.targeting, *flag.evaluators.values())
    size = sum(len(text.encode(errors="replace")) for text in texts if text)
    return size + sum(json_bytes(value) for value in _values(flag) if value)


def _values(flag: Flag) -> tuple[JsonValue, ...]:
    return flag.config, flag.variants, flag.metadata, flag.rollout, flag.prerequisites


def estimated_memory(flag: Flag | None) -> int:
    """Return about how many bytes of memory a held flag takes. It is called for each flag of a load, so it is cheap."""
    if flag is None:
        return _FLAG_BYTES // 3
    size = _FLAG_BYTES + len(flag.description or "")
    if flag.targeting:
        rule = len(flag.targeting) + sum(map(len, flag.evaluators.values()))
        size += rule * _PER_RULE_BYTE
    if flag.rollout:
        size += _memory(flag.rollout) * _PER_ROLLOUT_BYTE
    for values in (flag.variants, flag.metadata, flag.config, flag.prerequisites):
        if values:
            size += _memory(values)
    return size


def is_too_large(flag: Flag) -> bool:
    """Whether a flag is over MAX_SERVED_BYTES. What is clearly smaller is not measured exactly."""
    return estimated_memory(flag) > MAX_SERVED_BYTES and flag_bytes(flag) > MAX_SERVED_BYTES


def without_large(document: Mapping[str, JsonValue], limit: int) -> dict[str, JsonValue]:
    """Return a document for a history entry: a field over `limit` bytes is replaced by its size.

    Otherwise the history of a deleted flag could be larger than the store can take, and the flag could not be deleted.
    """
    return {name: _size_if_large(value, limit) for name, value in document.items()}


def _size_if_large(value: JsonValue, limit: int) -> JsonValue:
    if not isinstance(value, str | dict) or _memory(value) <= limit or (size := json_bytes(value)) <= limit:
        return value
    return f"left out: {size} bytes"


def _memory(value: JsonValue) -> int:
    if value.__class__ in _SCALARS:  # first, because an instance check of Mapping takes many times as long
        return _PER_VALUE // 2
    if isinstance(value, str):
        return _PER_VALUE + len(value) * (1 if value.isascii() else 4)
    if value.__class__ is dict or isinstance(value, Mapping):
        return _PER_VALUE + sum(_PER_VALUE + len(name) + _memory(item) for name, item in value.items())
    if isinstance(value, list):
        return _PER_VALUE + sum(map(_memory, value))
    return _PER_VALUE // 2
