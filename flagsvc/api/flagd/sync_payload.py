"""A flag set as flagd's sync message, built once per change from definitions that are rendered once each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from flagsvc.api.common.answers import MAX_SET_BYTES, SPLIT_SET, AnswerSize
from flagsvc.api.common.waiting import is_set_within
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core.model import Flag, FlagId
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as pb
from flagsvc.ports import Entry
from flagsvc.serving.reader import Reader
from flagsvc.turns import free_in_turns, in_turns, off_loop
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

_CONFIGURATION_TAG = b"\x0a"
"""Begins `flag_configuration`, the first field, which is encoded by hand: megabytes are copied once, not four times."""
PIECE_BYTES = 262_144
"""Bytes of a message that are copied at once."""
_SEVEN_BITS, _MORE = 0x7F, 0x80


class Payload:
    """One set's message for all its streams. `version` counts changes.

    `render` returns a flag's definition as a member of a JSON object, encoded.
    """

    def __init__(
        self,
        flag_set: str,
        near: NearCache,
        reader: Reader,
        render: Callable[[Flag], Awaitable[bytes]],
        sync_context: Mapping[str, str],
    ) -> None:
        self._flag_set, self._near, self._reader, self._render = flag_set, near, reader, render
        self._sync_context = sync_context
        self._definitions: dict[str, bytes] | None = None
        self._loads_seen = -1
        self._changed: set[str] = set()
        self._built, self._message, self._configuration, self._length = -1, b"", b"", 0
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self.version = 0

    def close(self) -> None:
        """Free what nobody uses any more."""
        if self._definitions is not None:
            free_in_turns(self._definitions)

    def note(self, entry: Entry, _watermark: int, _kind: ChangeKind) -> None:
        """Note a change; it is rendered when the next message is built."""
        self.version += 1
        self._changed.add(entry.id.key)
        self.wake()

    def note_missed(self, flag_set: str) -> None:
        """Note that changes of a set were missed. A view that lacks flags renders the whole set each time."""
        if flag_set == self._flag_set:
            self.version += 1
            self.wake()

    def wake(self) -> None:
        """End every wait for a change."""
        self._woken.set()
        self._woken = asyncio.Event()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait at most `seconds` for a change or for `wake`."""
        await is_set_within(self._woken, seconds)

    async def newest(self) -> tuple[int, bytes]:
        """Return the newest version and its message. Raises StoreUnavailable, or AnswerTooLarge for a huge set."""
        if self._built != self.version:
            async with self._lock:
                if self._built != self.version:
                    await self._build()
        return self._built, self._message

    async def configuration(self) -> bytes:
        """Return the newest message without the sync context, the answer to FetchAllFlags. Raises like `newest`."""
        _, message = await self.newest()
        if self._configuration:
            return self._configuration
        rest, length = memoryview(message), self._length
        pieces = [bytes(rest[i : min(i + PIECE_BYTES, length)]) async for i in in_turns(range(0, length, PIECE_BYTES))]
        configuration = await off_loop(b"".join, pieces)
        if message is self._message:
            self._configuration = configuration
        return configuration

    async def _build(self) -> None:
        version = self.version
        if self._definitions is None or not self._near.complete or self._loads_seen != self._near.full_loads:
            definitions = await self._render_all()
        else:
            definitions = await self._render_changed(self._definitions)
        self._message = self._configuration = b""  # so that not more than two are in memory while one is built
        pieces = await _configuration(definitions)
        rest = pb.SyncFlagsResponse()
        put_fields(rest.sync_context, self._sync_context)
        size = sum(map(len, pieces))
        head = _CONFIGURATION_TAG + _varint(size)
        message = await off_loop(b"".join, (head, *pieces, rest.SerializeToString()))
        self._length, self._message, self._built = len(head) + size, message, version

    async def _render_all(self) -> dict[str, bytes]:
        """Render the whole set. Flags that change meanwhile are noted and rendered again next time."""
        if self._definitions is not None:
            free_in_turns(self._definitions)
        self._definitions, self._loads_seen = None, self._near.full_loads
        self._changed.clear()
        definitions: dict[str, bytes] = {}
        async for flag in in_turns(await self._reader.flags(self._flag_set)):
            definitions[flag.key] = await self._render(flag)
        self._definitions = definitions
        return definitions

    async def _render_changed(self, definitions: dict[str, bytes]) -> dict[str, bytes]:
        """Render the changed flags and all that depend on them. What changes meanwhile is rendered again next time.

        So a parent that changes after its children were rendered has them rendered again.
        """
        pending, self._changed = self._changed, set()
        pending |= {key async for key in in_turns(self._near.descendants(self._flag_set, tuple(pending)))}
        try:
            async for key in in_turns(tuple(pending)):
                held = self._near.get(FlagId(self._flag_set, key))
                if held is None or held.entry.flag is None:
                    definitions.pop(key, None)
                else:
                    definitions[key] = await self._render(held.entry.flag)
        except BaseException:
            self._changed |= pending  # a caller who left ends a build half way
            raise
        return definitions


async def _configuration(definitions: Mapping[str, bytes]) -> list[bytes]:
    """Return the definitions as one JSON object, in pieces that are made in turns. Raises AnswerTooLarge.

    Joining bytes of 1 MB and more releases the interpreter; adding to one text would not, and would copy it again.
    """
    pieces, size = [b'{"flags":{'], AnswerSize(SPLIT_SET, MAX_SET_BYTES)
    waiting: list[bytes] = []
    waiting_bytes = 0
    async for definition in in_turns(definitions.values()):
        size.add(len(definition) + 1)
        waiting.append(definition)
        waiting_bytes += len(definition)
        if waiting_bytes >= PIECE_BYTES:
            pieces += (b",".join(waiting), b",")
            waiting, waiting_bytes = [], 0
    if waiting:
        pieces.append(b",".join(waiting))
    elif len(pieces) > 1:
        pieces.pop()
    return [*pieces, b"}}"]


def _varint(number: int) -> bytes:
    """Encode a number as Protobuf does: seven bits in each byte, the lowest first."""
    encoded = bytearray()
    while number > _SEVEN_BITS:
        encoded.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    return bytes((*encoded, number))
