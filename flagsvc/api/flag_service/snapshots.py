"""The snapshot that begins a watch: rendered once, in turns, for all streams that begin while one of them sends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from flagsvc.api.common.answers import MAX_SET_BYTES, AnswerSize
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.needs import needs_of
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Entry
from flagsvc.serving.reader import Reader
from flagsvc.turns import in_turns, off_loop
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

PAGE_BYTES = 262_144
"""About the size of one page of a snapshot."""
MAX_LATER = 256
"""Changes that follow a shared snapshot; after more of them, the next stream gets a new snapshot."""


class Rendered:
    """A set as it was at one moment, as encoded messages, and the changes since."""

    def __init__(self, watermark: int, full_loads: int) -> None:
        self.pages: list[bytes] = []
        self.needs: set[str] = set()
        """What the flags need that not every client knows."""
        self.later: dict[FlagId, tuple[Entry, int]] = {}
        self.watermark, self.full_loads, self.began_at = watermark, full_loads, time.monotonic()
        self.is_rendered = False
        self._whole: bytes | None = None

    async def whole(self) -> bytes:
        """Return the snapshot as one message: encoded messages of one type, joined, are one with all their fields.

        Raises AnswerTooLarge: gRPC copies a message in one go.
        """
        if self._whole is None:
            size = AnswerSize("set paged_snapshots", MAX_SET_BYTES)
            for page in self.pages:
                size.add(len(page))
            self._whole = await off_loop(b"".join, self.pages)  # from 1 MB on, this releases the interpreter
        return self._whole

    def add_page(self, page: pb.FlagSnapshot, *, more: bool) -> None:
        """Encode a page. `more` is set on the last one too, so that it is false in all pages put together."""
        page.more = more
        self.pages.append(_encoded(page, self.watermark))

    def note(self, entry: Entry, watermark: int, _kind: ChangeKind) -> None:
        """Keep a change for the streams that are sent this snapshot: of each flag the last one.

        While it is rendered none is left out, for the stream that waits for it gets all of them.
        """
        self.later.pop(entry.id, None)
        if len(self.later) <= MAX_LATER or not self.is_rendered:
            self.later[entry.id] = entry, watermark


class SetSnapshot:
    """One set's snapshot for all streams that begin. `settings`: an encoded message whose fields its first page has."""

    def __init__(self, flag_set: str, near: NearCache, reader: Reader, settings: bytes) -> None:
        self._flag_set, self._near, self._reader, self._settings = flag_set, near, reader, settings
        self._newest: Rendered | None = None
        self._lock = asyncio.Lock()

    async def newest(self, *, in_pages: bool) -> tuple[list[bytes], list[tuple[Entry, int]]]:
        """Return a snapshot's messages and the changes that follow it up to this moment. Raises StoreUnavailable."""
        asked_at = time.monotonic()
        async with self._lock:
            found = self._newest
            if found is None or not self._is_usable(found, asked_at):
                found = await self._render()
            messages = found.pages if in_pages else [await found.whole()]
            found.is_rendered = True  # before the lock is released, and in one step with the list of changes
            return messages, list(found.later.values())

    def close(self) -> None:
        """Keep no more changes."""
        if self._newest is not None:
            self._near.changelogs.unlisten(self._flag_set, self._newest.note)
            self._newest = None

    def _is_usable(self, found: Rendered, asked_at: float) -> bool:
        """Whether a snapshot with the changes since is the set as it is now, as far as this replica knows."""
        if len(found.later) > MAX_LATER or found.full_loads != self._near.full_loads:
            return False
        return self._near.complete or found.began_at >= asked_at  # changes may be missed while it is not complete

    async def _render(self) -> Rendered:
        self.close()
        flags = await self._reader.flags(self._flag_set)
        rendered = Rendered(self._near.changelogs.watermark(self._flag_set), self._near.full_loads)
        self._near.changelogs.listen(self._flag_set, rendered.note)  # in one step with the list and its watermark
        self._newest = rendered
        try:
            page, size = pb.FlagSnapshot(), 0
            async for flag in in_turns(flags):
                rendered.needs.update(needs_of(flag))
                if self._near.is_large(flag):
                    if page.flags:
                        rendered.add_page(page, more=True)
                        page, size = pb.FlagSnapshot(), 0
                    rendered.pages.append(await off_loop(_page_of, flag, rendered.watermark))
                    continue
                message = flag_to_message(flag)
                size += message.ByteSize()
                page.flags.append(message)
                if size >= PAGE_BYTES:
                    rendered.add_page(page, more=True)
                    page, size = pb.FlagSnapshot(), 0
            rendered.add_page(page, more=False)
            rest = needing(sorted(rendered.needs)).SerializeToString() if rendered.needs else b""
            rendered.pages[0] = self._settings + rest + rendered.pages[0]
        except BaseException:
            self.close()
            raise
        return rendered


def needing(needs: Iterable[str]) -> pb.WatchFlagsResponse:
    """Return what the settings have besides those of all where flags need something that not every client knows."""
    names = list(needs)
    return pb.WatchFlagsResponse(evaluation=pb.EvaluationSettings(requires=names, flag_needs=names))


def _page_of(flag: Flag, watermark: int) -> bytes:
    """Return a page with one flag, which is not the last page."""
    return _encoded(pb.FlagSnapshot(flags=[flag_to_message(flag)], more=True), watermark)


def _encoded(page: pb.FlagSnapshot, watermark: int) -> bytes:
    return pb.WatchFlagsResponse(snapshot=page, resume_revision=watermark).SerializeToString()
