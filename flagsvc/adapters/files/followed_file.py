"""Follows a small file that others replace while the server runs. A bad one changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from flagsvc.adapters.files.small_files import Stamp, stamp_of
from flagsvc.turns import off_loop
from flagsvc.urls import SettingsError

Content = TypeVar("Content")

log = structlog.get_logger(__name__)


class BadFile(ValueError):
    """A file's content cannot be used. The text is for its operator."""


class FollowedFile(Generic[Content]):
    """What a file says. Raises SettingsError, which names `setting`, if the file is not valid at the start.

    `read`: returns what the file at this path says; it gets what was used before, None at first. Raises BadFile.
    `rejected_event`: the event of the log for a content that is not used.
    """

    def __init__(
        self, path: str, read: Callable[[str, Content | None], Content], setting: str, rejected_event: str
    ) -> None:
        self.path, self._read, self._rejected_event = path, read, rejected_event
        self._stamp: Stamp = stamp_of(path)
        self.rejected = ""
        """Why the file's newest content is not used; empty if it is."""
        try:
            self.content = read(path, None)
        except BadFile as error:
            raise SettingsError(f"{setting}: {path}: {error}") from None

    async def look(self) -> bool:
        """Read the file if it may have changed. Return whether `content` is another. A bad one is logged once."""
        stamp = await off_loop(stamp_of, self.path)
        if stamp == self._stamp:
            return False
        try:
            found = await off_loop(self._read, self.path, self.content)
        except BadFile as error:
            if str(error) != self.rejected:
                log.error(self._rejected_event, file=self.path, cause=str(error), using="the one before it")  # noqa: TRY400  the text is complete
            self.rejected, self._stamp = str(error), stamp
            return False
        self.rejected, self._stamp = "", stamp
        has_changed = found != self.content
        self.content = found
        return has_changed
