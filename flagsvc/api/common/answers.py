"""Limits on the size of answers, checked while an answer is built: before it takes memory, and before it is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import Message

from flagsvc.core.errors import AnswerTooLarge
from flagsvc.core.json_values import has_more_values
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.serving.reader import Evaluation
from flagsvc.turns import free_in_turns, off_loop

M = TypeVar("M", bound=Message)

MAX_ANSWER_BYTES = 4_194_304
"""An answer to a unary call: what gRPC's clients accept unless they are configured otherwise."""
MAX_SET_BYTES = 33_554_432
"""A whole flag set in one message or body, in protocols that cannot page: flagd's sync and OFREP's bulk evaluation."""

FEWER_KEYS = "send fewer flag_keys in one call"
SMALLER_PAGE = "send a smaller page_size"
ONE_BY_ONE = "evaluate flags one by one, or split the flag set"
SPLIT_SET = "split the flag set"

MAX_INLINE_BYTES = 1_048_576
"""Size of an answer whose parts are joined on the event loop."""
MAX_INLINE_VALUES = 500
"""Fields and list elements of a value that is packed on the event loop, where that takes up to 1 ms."""

PIECE_BYTES = 16_384
"""About the size of one piece of a long answer."""
_REST_BYTES = 262_144
"""Room for the other fields of an answer that has a flag."""


def is_long_work(evaluation: Evaluation) -> bool:
    """Whether an evaluation's value or metadata has so many fields and elements that a thread has to pack it."""
    value, flag = evaluation.outcome.value, evaluation.flag
    if value.__class__ in (dict, list) and has_more_values(value, MAX_INLINE_VALUES):
        return True
    return flag is not None and bool(flag.metadata) and has_more_values(flag.metadata, MAX_INLINE_VALUES)


class AnswerSize:
    """The size of one answer while it is built."""

    __slots__ = ("_advice", "_limit", "_size")

    def __init__(self, advice: str, limit: int = MAX_ANSWER_BYTES) -> None:
        self._advice, self._limit, self._size = advice, limit, 0

    def add(self, size: int) -> None:
        """Count a part of the answer. Raises AnswerTooLarge once all parts together are over the limit."""
        self._size += size
        if self._size > self._limit:
            raise AnswerTooLarge(self._limit, self._advice)

    async def joined(self, parts: list[bytes]) -> bytes:
        """Return the parts as one answer. Large ones are joined in a thread, which releases the interpreter."""
        if self._size < MAX_INLINE_BYTES:
            return b"".join(parts)
        try:
            return await off_loop(b"".join, parts)
        finally:
            free_in_turns(parts)


class Pieces:
    """The parts of a long answer, joined to pieces as they are added.

    Many small objects of calls at the same time would leave the memory in shreds, which does not come back.
    """

    __slots__ = ("_parts", "_pieces", "_separator", "_size")

    def __init__(self, separator: bytes = b"") -> None:
        self._separator, self._size = separator, 0
        self._parts: list[bytes] = []
        self._pieces: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Add a part behind the others."""
        self._parts.append(part)
        self._size += len(part)
        if self._size >= PIECE_BYTES:
            self._join()

    def all(self) -> list[bytes]:
        """Return the pieces; joined with the separator, they are all parts joined with it."""
        if self._parts:
            self._join()
        return self._pieces

    def _join(self) -> None:
        self._pieces.append(self._separator.join(self._parts))
        self._parts, self._size = [], 0


def within_limit(messages: Iterable[M], advice: str) -> Iterator[M]:
    """Yield the messages of an answer. Raises AnswerTooLarge before the answer is over its limit."""
    size = AnswerSize(advice)
    for message in messages:
        size.add(message.ByteSize())
        yield message


def sendable(flag: types.Flag) -> types.Flag:
    """Return a written flag for the answer to its writer; one that is too large to be sent is without its values.

    The change is stored by then, so the answer cannot be refused.
    """
    if flag.ByteSize() > MAX_ANSWER_BYTES - _REST_BYTES:
        flag.ClearField("config")
        flag.ClearField("variants")
        flag.ClearField("metadata")
        flag.ClearField("targeting")
        flag.ClearField("evaluators")
    return flag
