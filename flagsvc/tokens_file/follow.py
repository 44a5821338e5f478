"""Follows the file while the server runs. A bad one changes nothing: what was read before it stays in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from flagsvc.access.compiled_tokens import Known, compiled
from flagsvc.adapters.files.followed_file import FollowedFile
from flagsvc.adapters.files.small_files import read_small
from flagsvc.background import BackgroundTasks, repeat
from flagsvc.ports import Problem
from flagsvc.replica import Replica
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.tokens_file.entries import MAX_BYTES, BadTokensFile, tokens_in

LOOK_S = 0.25
"""Seconds between two looks at the file: a token that is taken out is refused within a second."""
SETTING = "FLAGSVC_TOKENS_FILE"

log = structlog.get_logger(__name__)


def read(path: str, known: Known | None = None) -> Known:
    """Read the file; `known`: what was read before. Raises BadTokensFile, whose text is for its operator."""
    try:
        return compiled(tokens_in(path, read_small(path, MAX_BYTES)), known or {})
    except OSError as error:
        raise BadTokensFile(f"it cannot be read: {error.strerror or type(error).__name__}") from None


class TokensFile:
    """The tokens of a file. `use`: called with all of them when they have changed.

    Raises SettingsError if the file is not valid.
    """

    def __init__(self, path: str, use: Callable[[Known], None]) -> None:
        self._use, self._file = use, FollowedFile[Known](path, read, SETTING, "tokens_file_rejected")
        use(self._file.content)

    async def run(self) -> None:
        """Follow the file for ever."""
        await repeat(self.look, _pause, "tokens_file_failed")

    async def look(self) -> None:
        """Use the file's content if it has changed."""
        if await self._file.look():
            self._use(self._file.content)
            log.info("tokens_file_used", file=self._file.path, tokens=len(self._file.content))

    def problems(self) -> Iterator[Problem]:
        """Yield what does not work now."""
        if self._file.rejected:
            detail = f"the file of tokens is rejected; the one before it is used: {self._file.rejected}"
            yield Problem("tokens_file_rejected", detail, f"correct {self._file.path}; flagsvc doctor checks it")

    def samples(self) -> Iterator[Sample]:
        """Return the counts when Prometheus asks."""
        about = "1 while the newest content of the file of tokens is not valid and therefore not used."
        yield Sample("flagsvc_tokens_file_rejected", about, int(bool(self._file.rejected)))


class Following:
    """The file that the settings name, if they name one."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        self.file: TokensFile | None = None
        if not settings.tokens_file:
            return
        if replica.access is None:
            log.warning("tokens_file_not_used", detail=f"{SETTING} has no effect with FLAGSVC_AUTH=off.")
            return
        self.file = TokensFile(settings.tokens_file, replica.access.use_file)
        replica.more_problems.append(self.file.problems)

    def start(self, tasks: BackgroundTasks) -> None:
        """Begin to follow the file, as a task of the server's."""
        if self.file is not None:
            tasks.start(self.file.run(), "tokens-file")

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        if self.file is not None:
            yield from self.file.samples()


async def _pause() -> None:
    await asyncio.sleep(LOOK_S)
