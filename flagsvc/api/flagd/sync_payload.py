"""A flag set as flagd's sync message, built once per change from definitions that are rendered once each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from flagsvc.api.common.answers import MAX_SET_BYTES, SPLIT_SET
from flagsvc.api.common.waiting import is_set_within
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core.errors import AnswerTooLarge
from flagsvc.core.model import Flag, FlagId
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as pb
from flagsvc.ports import Entry
from flagsvc.serving.reader import Reader
from flagsvc.turns import in_turns
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

_CONFIGURATION_TAG = b"\x0a"
"""Begins `flag_configuration`, the first field, which is encoded by hand: megabytes are copied once, not four times."""
_SEVEN_BITS, _MORE = 0x7F, 0x80


class Payload:
    """One set's message for all its streams. `version` counts changes; `users` counts the streams and calls using it.

    `render` returns a flag's definition as a member of a JSON object.
    """

    def __init__(
        self,
        flag_set: str,
        near: NearCache,
        reader: Reader,
        render: Callable[[Flag], str],
        sync_context: Mapping[str, str],
    ) -> None:
        self._flag_set, self._near, self._reader, self._render = flag_set, near, reader, render
        self._sync_context = sync_context
        self._definitions: dict[str, str] | None = None
        self._loads_seen = -1
        self._changed: set[str] = set()
        self._built, self._message, self._configuration, self._length = -1, b"", b"", 0
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self.version = self.users = 0

    def note(self, entry: Entry, _watermark: int, _kind: ChangeKind) -> None:
        """Note a change; it is rendered when the next message is built."""
        self.version += 1
        self._changed.add(entry.id.key)
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
        await self.newest()
        if not self._configuration:
            self._configuration = self._message[: self._length]
        return self._configuration

    async def _build(self) -> None:
        version = self.version
        if self._definitions is None or not self._near.complete or self._loads_seen != self._near.full_loads:
            definitions = await self._render_all()
        else:
            definitions = await self._render_changed(self._definitions)
        self._message = self._configuration = b""  # so that not more than two are in memory while one is built
        configuration = await _configuration(definitions)
        rest = pb.SyncFlagsResponse()
        put_fields(rest.sync_context, self._sync_context)
        head = _CONFIGURATION_TAG + _varint(len(configuration))
        self._length = len(head) + len(configuration)
        self._message, self._built = b"".join((head, configuration, rest.SerializeToString())), version

    async def _render_all(self) -> dict[str, str]:
        """Render the whole set. Flags that change meanwhile are noted and rendered again next time."""
        self._definitions, self._loads_seen = None, self._near.full_loads
        self._changed.clear()
        definitions: dict[str, str] = {}
        async for flag in in_turns(await self._reader.flags(self._flag_set)):
            definitions[flag.key] = self._render(flag)
        self._definitions = definitions
        return definitions

    async def _render_changed(self, definitions: dict[str, str]) -> dict[str, str]:
        """Render the changed flags. A key leaves the changed ones just before its flag is read, so none is lost."""
        async for key in in_turns(tuple(self._changed)):
            self._changed.discard(key)
            held = self._near.get(FlagId(self._flag_set, key))
            if held is None or held.entry.flag is None:
                definitions.pop(key, None)
            else:
                definitions[key] = self._render(held.entry.flag)
        return definitions


async def _configuration(definitions: Mapping[str, str]) -> bytearray:
    """Return the definitions as one JSON object, put together in turns. Raises AnswerTooLarge."""
    text = bytearray(b'{"flags":{')
    async for definition in in_turns(definitions.values()):
        text += definition.encode()
        text += b","
        if len(text) > MAX_SET_BYTES:
            raise AnswerTooLarge(MAX_SET_BYTES, SPLIT_SET)
    if definitions:
        del text[-1:]
    text += b"}}"
    return text


def _varint(number: int) -> bytes:
    """Encode a number as Protobuf does: seven bits in each byte, the lowest first."""
    encoded = bytearray()
    while number > _SEVEN_BITS:
        encoded.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    return bytes((*encoded, number))
